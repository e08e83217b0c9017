/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * odd_calls [seed]: rare and failing memory calls, each followed by a mark (own-maps.h). What a kernel does not offer
 * fails with an error of its own, which is a case too.
 */
#define _GNU_SOURCE
#include "own-maps.h"

#include <linux/aio_abi.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/wait.h>

#ifndef MFD_HUGETLB
#define MFD_HUGETLB 4U
#endif

enum { PAGE = 4096 };
static unsigned long marks;
static char *volatile deepest;

static void mark(void)
{
    own_maps_mark(++marks, 0);
}

static char *map(void *at, size_t pages, int prot, int flags)
{
    void *p = mmap(at, pages * PAGE, prot, flags | MAP_ANONYMOUS, -1, 0);

    return p == MAP_FAILED ? NULL : p;
}

__attribute__((noinline)) static int deep(int depth)
{
    volatile char frame[64 * 1024];

    frame[0] = (char)depth;
    deepest = (char *)frame;
    return depth == 0 ? frame[0] : deep(depth - 1) + frame[0];
}

int main(void)
{
    const int rw = PROT_READ | PROT_WRITE;
    char *base, *down, *shared, *tail;
    aio_context_t context = 0;
    int fd, segment, status;
    struct rlimit limit;
    pid_t pid;

    account_begin("odd-calls");
    mark();

    /* MAP_FIXED over three mappings, and where it must not go. */
    base = map(NULL, 64, PROT_NONE, MAP_PRIVATE);
    account_require(base != NULL, "a window");
    map(base + 8 * PAGE, 4, rw, MAP_PRIVATE | MAP_FIXED);
    map(base + 12 * PAGE, 4, PROT_READ, MAP_SHARED | MAP_FIXED);
    map(base + 6 * PAGE, 8, rw, MAP_PRIVATE | MAP_FIXED);
    mark();
    map(base + 1, 4, rw, MAP_PRIVATE | MAP_FIXED);
    map((void *)0, 1, rw, MAP_PRIVATE | MAP_FIXED_NOREPLACE);
    map(base, 4, rw, MAP_PRIVATE | MAP_FIXED_NOREPLACE);
    map((void *)(~0UL << 20), 1, rw, MAP_PRIVATE | MAP_FIXED);
    mark();

    /* A file that cannot be mapped, over what is there: it is unmapped before the file refuses. */
    fd = open("/", O_RDONLY | O_DIRECTORY);
    mmap(base + 20 * PAGE, 4 * PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0);
    close(fd);
    mark();
    fd = open("/proc/self/maps", O_RDONLY);
    mmap(base + 24 * PAGE, 4 * PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0);
    close(fd);
    mmap(base + 28 * PAGE, 4 * PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0);
    mark();

    /* Failures half way: over holes, past the end of the map count, with a bad flag. */
    munmap(base + 40 * PAGE, 2 * PAGE);
    mprotect(base + 36 * PAGE, 8 * PAGE, PROT_READ);
    mark();
    mprotect(base + 36 * PAGE, 2 * PAGE, 0x40000000);
    munmap(base + 1, PAGE);
    munmap(base + 3 * PAGE, 0);
    mremap(base + 38 * PAGE, 4 * PAGE, 8 * PAGE, MREMAP_MAYMOVE);
    mremap(base, 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, base + 2 * PAGE);
    mremap(base, 4 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, base + 50 * PAGE);
    mremap(base + 8 * PAGE, 4 * PAGE, 400 * PAGE, 0);
    mremap((void *)(1UL << 40), PAGE, 2 * PAGE, MREMAP_MAYMOVE);
    mark();
    shared = map(NULL, 4, rw, MAP_SHARED);
    mremap(shared, 0, 2 * PAGE, MREMAP_MAYMOVE);
    mremap(base + 8 * PAGE, 0, PAGE, MREMAP_MAYMOVE);
    // EFAULT, and the page is gone: the target is unmapped before the source, the same, is looked at
    mremap(shared + PAGE, 0, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, shared + PAGE);
    mark();

    /* Mappings that grow by page faults, and the stack. */
    tail = map(NULL, 512, PROT_NONE, MAP_PRIVATE);
    munmap(tail, 512 * PAGE);
    down = map(tail + 500 * PAGE, 4, rw, MAP_PRIVATE | MAP_FIXED | MAP_GROWSDOWN);
    mark();
    if (down != NULL)
        *(volatile char *)(down - PAGE) = 1;
    mark();
    mprotect(tail + 503 * PAGE, PAGE, PROT_READ | PROT_GROWSDOWN);
    mark();
    getrlimit(RLIMIT_STACK, &limit);
    limit.rlim_cur = 16 << 20;
    setrlimit(RLIMIT_STACK, &limit);
    (void)deep(120);
    mark();
    munmap(base + 60 * PAGE, PAGE);
    mark();

    /* Huge pages, System V segments, asynchronous input and output. */
    map(NULL, 512, rw, MAP_PRIVATE | MAP_HUGETLB);
    fd = memfd_create("huge", MFD_HUGETLB);
    if (fd >= 0)
        mmap(NULL, 1000, rw, MAP_SHARED, fd, 0);
    mark();
    segment = shmget(IPC_PRIVATE, 5 * PAGE, IPC_CREAT | 0600);
    if (segment >= 0) {
        char *one = shmat(segment, NULL, 0), *two = shmat(segment, NULL, SHM_RDONLY);

        mark();
        shmat(segment, base + 50 * PAGE, SHM_REMAP);
        shmat(segment, base + 1, 0);
        mark();
        shmdt(one);
        shmdt(one + PAGE);
        mark();
        munmap(two + PAGE, PAGE);
        shmdt(two);
        shmctl(segment, IPC_RMID, NULL);
        mark();
    }
    syscall(SYS_io_setup, 64, &context);
    mark();
    if (context != 0)
        syscall(SYS_io_destroy, context);
    syscall(SYS_io_setup, -1, &context);
    mark();

    /* What a child does not inherit: whole mappings, parts, parts over a hole, and taken back. */
    madvise(base + 8 * PAGE, 2 * PAGE, MADV_DONTFORK);
    madvise(base + 38 * PAGE, 6 * PAGE, MADV_DONTFORK);
    madvise(base + 43 * PAGE, PAGE, MADV_DOFORK);
    madvise(base + 9 * PAGE, PAGE, MADV_WIPEONFORK);
    mremap(base + 8 * PAGE, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, base + 56 * PAGE);
    mark();
    pid = fork();
    if (pid == 0) {
        mark();
        mprotect(base, 64 * PAGE, PROT_READ);
        mark();
        account_end(true);
        _exit(0);
    }
    account_require(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0, "a child");

    /* The break, where something lies in its way. */
    tail = sbrk(0);
    map((char *)(((uintptr_t)tail + 20 * PAGE) & -(uintptr_t)PAGE), 1, rw, MAP_PRIVATE | MAP_FIXED);
    mark();
    sbrk(8 * PAGE);
    mark();
    sbrk(64 * PAGE);
    sbrk(-3 * PAGE);
    syscall(SYS_brk, 1);
    syscall(SYS_brk, ~0UL);
    mark();
    account_end(true);
    return 0;
}
