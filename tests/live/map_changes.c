/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * map_changes CASE: each case is one way in which a map changes, or is kept from changing. After every step the program
 * reads its own map and marks the spot (own-maps.h); a child does so too where what it inherits is the point.
 *
 * A step that must succeed, or fail in a certain way, is required to: a case cannot be passed by doing nothing. What a
 * kernel may lack is told ("lacks", with the errno) and marked all the same.
 */
#define _GNU_SOURCE
#include "own-maps.h"

#include <elf.h>
#include <linux/aio_abi.h>
#include <linux/perf_event.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/uio.h>
#include <sys/wait.h>

enum { PAGE = 4096, HUGE = 2 << 20 };
#define RW (PROT_READ | PROT_WRITE)
#define ANON (MAP_PRIVATE | MAP_ANONYMOUS)
#define AT(p, page) ((char *)(p) + (ptrdiff_t)(page) * PAGE)

#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 8
#endif
#ifndef SYS_mseal
#define SYS_mseal 462
#endif
#ifndef SYS_map_shadow_stack
#define SYS_map_shadow_stack 453
#endif

static unsigned long marks;
static volatile char *touched;

static void mark(void)
{
    own_maps_mark(++marks, 0);
}

static void lacks(const char *what)
{
    struct account a;
    int error = errno;

    account_open(&a, "lacks");
    account_text(&a, "call", what);
    account_int(&a, "errno", error);
    account_close(&a);
}

static void does(bool holds, const char *claim)
{
    account_require(holds, claim);
    mark();
}

static void fails(int error, long ret, const char *claim)
{
    does(ret == -1 && errno == error, claim);
}

static char *map(void *at, size_t pages, int prot, int flags)
{
    char *p = mmap(at, pages * PAGE, prot, flags | MAP_ANONYMOUS, -1, 0);

    account_require(p != MAP_FAILED, "mmap");
    return p;
}

/* A window of one's own in which to put mappings; PROT_NONE, so that no neighbour merges. */
static char *window(size_t pages)
{
    return map(NULL, pages, PROT_NONE, MAP_PRIVATE | MAP_NORESERVE);
}

static int file_of(size_t pages)
{
    static char name[] = "/tmp/map-changes-XXXXXX";
    int fd;

    memcpy(name + sizeof name - 7, "XXXXXX", 6);
    fd = mkostemp(name, O_CLOEXEC);
    account_require(fd >= 0 && ftruncate(fd, (off_t)pages * PAGE) == 0, "a file");
    account_require(unlink(name) == 0, "unlink");
    return fd;
}

static void wait_for(pid_t pid)
{
    int status = -1;

    account_require(pid > 0, "a child");
    while (waitpid(pid, &status, __WALL) < 0)
        account_require(errno == EINTR, "waitpid");
    account_require(status == 0, "the child ended well");
}

/* A child that shows what it has inherited, changes it all over, and shows that. */
static void child_shows(char *base, size_t pages)
{
    pid_t pid = fork();

    if (pid == 0) {
        mark();
        mprotect(base, pages * PAGE, PROT_READ);
        mark();
        _exit(0);
    }
    wait_for(pid);
}

/* -- mmap ------------------------------------------------------------------------------------------------------- */

static void mmap_flags(void)
{
    static const int flags[] = {
        MAP_NORESERVE, MAP_LOCKED, MAP_POPULATE, MAP_STACK, MAP_32BIT, MAP_GROWSDOWN, MAP_POPULATE | MAP_NONBLOCK,
        MAP_DENYWRITE, MAP_EXECUTABLE,
    };
    int fd = file_of(16), other = open("/proc/self/exe", O_RDONLY | O_CLOEXEC), zero = open("/dev/zero", O_RDWR);
    char *at = window(64), *p;

    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        does(map(NULL, 3, RW, MAP_PRIVATE | flags[i]) != NULL, "private memory");
    for (int prot = 0; prot < 8; prot++)
        does(map(AT(at, 3 * prot), 2, prot, MAP_PRIVATE | MAP_FIXED) == AT(at, 3 * prot), "every protection");
    does(map(NULL, 5, RW, MAP_SHARED) != NULL, "shared memory");
    p = mmap(NULL, 5 * PAGE, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 7 * PAGE);
    does(p != MAP_FAILED, "shared memory whose offset is of no meaning");
    p = mmap(NULL, 3 * PAGE, RW, MAP_DROPPABLE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        lacks("MAP_DROPPABLE");
    mark();

    does(mmap(NULL, 3 * PAGE, RW, MAP_PRIVATE, fd, 2 * PAGE) != MAP_FAILED, "a private file");
    does(mmap(NULL, 3 * PAGE, RW, MAP_SHARED, fd, 5 * PAGE) != MAP_FAILED, "a shared file");
    does(mmap(NULL, 3 * PAGE, PROT_READ, MAP_SHARED_VALIDATE, fd, 0) != MAP_FAILED, "MAP_SHARED_VALIDATE");
    fails(EOPNOTSUPP, (long)mmap(NULL, PAGE, RW, MAP_SHARED_VALIDATE | MAP_SYNC, fd, 0), "MAP_SYNC without DAX");
    does(mmap(AT(at, 30), 30 * PAGE, RW, MAP_PRIVATE | MAP_FIXED, fd, 0) == AT(at, 30), "past the end of the file");
    does(mmap(AT(at, 40), 100, PROT_READ, MAP_SHARED | MAP_FIXED, fd, PAGE) == AT(at, 40), "a part of a page");
    does(mmap(NULL, 2 * PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE, other, 0) != MAP_FAILED, "a program");
    does(mmap(NULL, 2 * PAGE, RW, MAP_PRIVATE, zero, PAGE) != MAP_FAILED, "/dev/zero, private");
    does(mmap(NULL, 2 * PAGE, RW, MAP_SHARED, zero, PAGE) != MAP_FAILED, "/dev/zero, shared");
    fails(EACCES, (long)mmap(NULL, PAGE, RW, MAP_SHARED, other, 0), "what may not be written");
    fails(EINVAL, (long)mmap(NULL, PAGE, RW, MAP_PRIVATE, fd, 7), "half a page of offset");
    fails(EOVERFLOW, (long)mmap(NULL, 2 * PAGE, RW, MAP_PRIVATE, fd, (off_t)-PAGE), "beyond all offsets");
}

/* Over anything, and where something lies. */
static void map_fixed(void)
{
    int fd = file_of(16);
    char *at = window(64), *brk = sbrk(0), *p;

    map(AT(at, 4), 4, RW, MAP_PRIVATE | MAP_FIXED);
    mmap(AT(at, 8), 4 * PAGE, RW, MAP_SHARED | MAP_FIXED, fd, 0);
    map(AT(at, 12), 4, PROT_READ, MAP_SHARED | MAP_FIXED);
    munmap(AT(at, 18), 2 * PAGE);
    mark();
    does(map(AT(at, 6), 15, RW, MAP_PRIVATE | MAP_FIXED) == AT(at, 6), "over memory, files and a hole");
    does(mmap(AT(at, 9), 2 * PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 3 * PAGE) == AT(at, 9), "a file in it");
    does(mmap(AT(at, 11), 2 * PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 5 * PAGE) == AT(at, 11), "it goes on");

    account_require(sbrk(8 * PAGE) == brk, "sbrk");
    brk = (char *)(((uintptr_t)brk + PAGE - 1) & -(uintptr_t)PAGE);
    does(mmap(AT(brk, 2), 2 * PAGE, RW, MAP_SHARED | MAP_FIXED, fd, 0) == AT(brk, 2), "over the heap");

    fails(EEXIST, (long)mmap(AT(at, 30), PAGE, RW, ANON | MAP_FIXED_NOREPLACE, -1, 0), "MAP_FIXED_NOREPLACE, taken");
    munmap(AT(at, 40), 4 * PAGE);
    p = mmap(AT(at, 41), 2 * PAGE, RW, ANON | MAP_FIXED_NOREPLACE, -1, 0);
    does(p == AT(at, 41), "MAP_FIXED_NOREPLACE, free");
    fails(EEXIST, (long)mmap(AT(at, 40), 2 * PAGE, RW, ANON | MAP_FIXED_NOREPLACE, -1, 0), "half of it taken");
    p = mmap(AT(at, 50), PAGE, RW, ANON, -1, 0);
    does(p != MAP_FAILED && p != AT(at, 50), "a hint that is taken");
    p = mmap(AT(at, 40), PAGE, RW, ANON, -1, 0);
    does(p == AT(at, 40), "a hint that is free");
}

static int perf_event(void)
{
    struct perf_event_attr event = {
        .type = PERF_TYPE_SOFTWARE,
        .size = sizeof event,
        .config = PERF_COUNT_SW_DUMMY,
        .exclude_kernel = 1,
        .disabled = 1,
    };
    int fd = (int)syscall(SYS_perf_event_open, &event, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);

    account_require(fd >= 0, "perf_event_open");
    return fd;
}

/* A driver that refuses does so after what was there is gone; and one whose mapping no child inherits. */
static void drivers(void)
{
    int perf = perf_event();
    char *at = window(32), *ring;

    fails(EINVAL, (long)mmap(AT(at, 4), 4 * PAGE, RW, MAP_SHARED | MAP_FIXED, perf, 0), "no power of two, and one");
    fails(EINVAL, (long)mmap(AT(at, 12), 3 * PAGE, RW, MAP_PRIVATE | MAP_FIXED, perf, 0), "a private ring");
    ring = mmap(NULL, 3 * PAGE, RW, MAP_SHARED, perf, 0);
    does(ring != MAP_FAILED, "a ring");
    child_shows(at, 32);
    does(mremap(ring, 3 * PAGE, PAGE, 0) == MAP_FAILED || true, "a ring, cut");
    child_shows(at, 32);
}

/* Huge pages: as many as the test has had reserved, or the calls fail. `argument` is where a hugetlbfs is mounted. */
static void hugetlb(const char *mounted)
{
    char name[256], *p, *q, *base = window(4 * HUGE / PAGE);
    int fd = memfd_create("huge", MFD_HUGETLB | MFD_CLOEXEC);
    char *aligned = (char *)(((uintptr_t)base + HUGE - 1) & -(uintptr_t)HUGE);

    p = mmap(NULL, HUGE, RW, ANON | MAP_HUGETLB, -1, 0);
    if (p == MAP_FAILED) {
        lacks("MAP_HUGETLB");
        mark();
        fails(ENOMEM, (long)mmap(aligned, HUGE, RW, ANON | MAP_HUGETLB | MAP_FIXED, -1, 0), "none is reserved");
        return;
    }
    mark();
    does((q = mmap(NULL, 5000, RW, ANON | MAP_HUGETLB, -1, 0)) != MAP_FAILED, "a part of a huge page");
    fails(EINVAL, munmap(q, PAGE), "a part of one cannot go");
    does(munmap(q, HUGE) == 0, "a whole one can");
    does(mprotect(p, HUGE, PROT_READ) == 0, "mprotect");
    fails(EINVAL, mprotect(p, PAGE, PROT_NONE), "mprotect of a part");
    q = mmap(aligned, 5000, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB | MAP_FIXED, -1, 0);
    does(q == aligned, "shared, fixed");
    does(madvise(aligned, HUGE, MADV_DONTFORK) == 0, "MADV_DONTFORK");
    child_shows(p, HUGE / PAGE);
    does(mremap(p, PAGE, HUGE, MREMAP_MAYMOVE | MREMAP_FIXED, aligned + HUGE) == aligned + HUGE, "mremap of a part");
    account_require(fd >= 0, "memfd_create");
    does((p = mmap(NULL, 5000, RW, MAP_SHARED, fd, 0)) != MAP_FAILED, "a memfd of huge pages");
    does(munmap(p, HUGE) == 0, "munmap of it");
    if (mounted != NULL) {
        snprintf(name, sizeof name, "%s/file", mounted);
        fd = open(name, O_RDWR | O_CREAT, 0600);
        account_require(fd >= 0, name);
        does((p = mmap(NULL, 2 * HUGE - 1, RW, MAP_SHARED, fd, 0)) != MAP_FAILED, "a file of hugetlbfs");
        does((q = mmap(NULL, 100, PROT_READ, MAP_PRIVATE, fd, HUGE)) != MAP_FAILED, "and its second page");
        does(munmap(p, HUGE) == 0, "half of it");
        unlink(name);
        mark();
    }
    fd = shmget(IPC_PRIVATE, HUGE, IPC_CREAT | SHM_HUGETLB | 0600);
    account_require(fd >= 0, "a segment of huge pages");
    does((p = shmat(fd, NULL, 0)) != (void *)-1, "shmat of it");
    does(shmdt(p) == 0 && shmctl(fd, IPC_RMID, NULL) == 0, "shmdt of it");
}

/* -- munmap, brk ------------------------------------------------------------------------------------------------ */

static void munmap_holes(void)
{
    char *at = AT(window(48), 8);

    does(munmap(AT(at, 4), 2 * PAGE) == 0, "a hole");
    does(munmap(AT(at, 2), 8 * PAGE) == 0, "more, over the hole");
    does(munmap(AT(at, 4), 2 * PAGE) == 0, "where nothing is");
    does(munmap(AT(at, 12), 1) == 0, "one byte is a page");
    does(munmap(AT(at, 14), PAGE + 1) == 0, "and one more two");
    fails(EINVAL, munmap(at + 1, PAGE), "not the start of a page");
    fails(EINVAL, munmap(at, 0), "nothing");
    fails(EINVAL, munmap(at, (size_t)-1), "everything");
    fails(EINVAL, munmap(at, 1UL << 62), "too much");
    does(munmap(AT(at, -1), 34 * PAGE) == 0, "nearly all");
}

static char *sys_brk(char *end)
{
    return (char *)syscall(SYS_brk, end);
}

static void brk_rules(void)
{
    struct rlimit limit, data = {0, RLIM_INFINITY};
    char *start = sys_brk(NULL), *page = (char *)(((uintptr_t)start + PAGE - 1) & -(uintptr_t)PAGE);
    int fd = file_of(4);

    does(sys_brk(AT(page, 20)) == AT(page, 20), "growth");
    does(sys_brk(AT(page, 20) - 5) == AT(page, 20) - 5, "inside a page");
    does(sys_brk(AT(page, 21) + 7) == AT(page, 21) + 7, "into one more");
    does(sys_brk((char *)1) == AT(page, 21) + 7, "below its start");
    does(sys_brk((char *)~0UL) == AT(page, 21) + 7, "beyond everything");
    /* Somebody else's, a guard's distance above (check_brk_limits, vma_merge: stack_guard_gap is of stacks). */
    map(AT(page, 30), 1, RW, MAP_PRIVATE | MAP_FIXED);
    does(sys_brk(AT(page, 29)) == AT(page, 29), "up to a mapping, less a page");
    does(sys_brk(AT(page, 31)) != AT(page, 31), "refused: a mapping in the way");
    does(sys_brk(AT(page, 50)) != AT(page, 50), "refused: a mapping inside");
    munmap(AT(page, 30), PAGE);
    does(sys_brk(AT(page, 60)) == AT(page, 60), "it is gone");
    /* Foreign mappings lie in the heap; shrinking takes them along. */
    mmap(AT(page, 40), 4 * PAGE, RW, MAP_SHARED | MAP_FIXED, fd, 0);
    map(AT(page, 50), 2, PROT_READ, MAP_SHARED | MAP_FIXED);
    mark();
    does(sys_brk(AT(page, 42)) == AT(page, 42), "shrink over foreign mappings");
    munmap(AT(page, 30), 4 * PAGE);
    does(sys_brk(AT(page, 32)) == AT(page, 32), "shrink into a hole");
    does(sys_brk(AT(page, 31)) != AT(page, 31), "refused: nothing is mapped there");
    does(sys_brk(AT(page, 36)) == AT(page, 36), "growth over a hole");
    does(sys_brk(AT(page, 10)) == AT(page, 10), "shrink");
    getrlimit(RLIMIT_DATA, &limit);
    data.rlim_max = limit.rlim_max;
    account_require(setrlimit(RLIMIT_DATA, &data) == 0, "RLIMIT_DATA");
    does(sys_brk(AT(page, 40)) == AT(page, 10), "refused: RLIMIT_DATA");
    does(sys_brk(AT(page, 5)) == AT(page, 10), "refused, though it would shrink");
    account_require(setrlimit(RLIMIT_DATA, &limit) == 0, "RLIMIT_DATA as it was");
    does(mprotect(page, 2 * PAGE, PROT_READ) == 0 && sys_brk(AT(page, 8)) == AT(page, 8), "protected in part");
    does(sys_brk(start) == start, "all of it");
    does(sys_brk(AT(page, 3)) == AT(page, 3), "and anew");
}

/* -- mremap ----------------------------------------------------------------------------------------------------- */

static void mremap_forms(void)
{
    int fd = file_of(64);
    char *at = window(128), *p, *q, *shared;

    p = map(AT(at, 10), 8, RW, MAP_PRIVATE | MAP_FIXED);
    does(mremap(p, 8 * PAGE, 6 * PAGE, 0) == p, "shrink in place");
    does(mremap(p, 6 * PAGE, 8 * PAGE, 0) == p, "grow in place");
    does(mremap(p, 8 * PAGE, 8 * PAGE, 0) == p, "as it is");
    fails(ENOMEM, (long)mremap(p, 8 * PAGE, 12 * PAGE, 0), "no room, and it must not move");
    does((q = mremap(p, 8 * PAGE, 12 * PAGE, MREMAP_MAYMOVE)) != MAP_FAILED && q != p, "grow and move");
    does(mremap(q, 12 * PAGE, 12 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, AT(at, 20)) == AT(at, 20), "to a place");
    does(mremap(AT(at, 20), 12 * PAGE, 5 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, AT(at, 40)) == AT(at, 40), "smaller");
    does(mremap(AT(at, 40), 5 * PAGE, 9 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, AT(at, 60)) == AT(at, 60), "larger");
    does(mremap(AT(at, 60), 9 * PAGE, 9 * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL) != MAP_FAILED, "DONTUNMAP");
    does(mremap(AT(at, 62), 3 * PAGE, 3 * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP | MREMAP_FIXED, AT(at, 80)) ==
             AT(at, 80), "DONTUNMAP to a place");
    fails(EINVAL, (long)mremap(AT(at, 60), 2 * PAGE, 3 * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL),
          "DONTUNMAP is of one size");
    p = mremap(AT(at, 60), 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, AT(at, 62));
    fails(EINVAL, (long)p, "overlapping");

    mmap(AT(at, 90), 8 * PAGE, RW, MAP_SHARED | MAP_FIXED, fd, 5 * PAGE);
    does(mremap(AT(at, 92), 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, AT(at, 100)) == AT(at, 100),
         "the middle of a file: its offset moves along");
    does(mremap(AT(at, 100), 0, 6 * PAGE, MREMAP_MAYMOVE) != MAP_FAILED, "old_size 0: once more");
    does(mremap(AT(at, 101), 0, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, AT(at, 110)) == AT(at, 110), "to a place");
    shared = map(NULL, 4, RW, MAP_SHARED);
    does(mremap(AT(shared, 1), 0, 3 * PAGE, MREMAP_MAYMOVE) != MAP_FAILED, "shared memory once more");
    p = map(NULL, 4, RW, MAP_PRIVATE);
    fails(EINVAL, (long)mremap(p, 0, 3 * PAGE, MREMAP_MAYMOVE), "private memory there is once");
    does(mremap(p, 4 * PAGE - 1, PAGE + 1, 0) == p, "sizes are rounded up");
    fails(EFAULT, (long)mremap(window(1) - PAGE * 100000UL, PAGE, 2 * PAGE, MREMAP_MAYMOVE), "where nothing is");

    /* Over several mappings with gaps: since 6.17 they move, the gaps stay gaps, and what lies under those stays. */
    p = window(16), q = window(16);
    map(p, 2, RW, MAP_PRIVATE | MAP_FIXED);
    mmap(AT(p, 2), 2 * PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0);
    munmap(AT(p, 4), 3 * PAGE);
    map(AT(p, 7), 3, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED);
    map(AT(q, 3), 3, RW, MAP_SHARED | MAP_FIXED);
    mark();
    if (mremap(p, 10 * PAGE, 10 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, q) == MAP_FAILED)
        lacks("mremap of several mappings");
    mark();
    fails(EFAULT, (long)mremap(q, 10 * PAGE, 12 * PAGE, MREMAP_MAYMOVE), "several do not grow");
    does(mremap(q, 10 * PAGE, 3 * PAGE, 0) == q, "but shrink");
}

/* -- mprotect --------------------------------------------------------------------------------------------------- */

static void protections(void)
{
    int fd = file_of(8), key;
    char *at = window(40), *file;

    for (int i = 0; i < 10; i++)
        map(AT(at, 2 * i), 2, i % 8, MAP_PRIVATE | MAP_FIXED);
    does(mprotect(AT(at, 1), 9 * PAGE, PROT_READ) == 0, "over several");
    does(mprotect(AT(at, 3), 1, PROT_NONE) == 0, "one byte is a page");
    munmap(AT(at, 12), PAGE);
    fails(ENOMEM, mprotect(AT(at, 9), 8 * PAGE, RW), "up to a hole");
    fails(ENOMEM, mprotect(AT(at, 12), 4 * PAGE, PROT_EXEC), "from a hole");
    fails(EINVAL, mprotect(AT(at, 14), PAGE, 0x40000000), "no protection");
    fails(EINVAL, mprotect(AT(at, 14), PAGE, PROT_GROWSDOWN | PROT_READ), "it does not grow");
    fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    file = mmap(AT(at, 30), 2 * PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0);
    account_require(file != MAP_FAILED, "a file");
    fails(EACCES, mprotect(AT(at, 28), 4 * PAGE, RW), "part-way: the file may not be written");

    key = (int)syscall(SYS_pkey_alloc, 0, 0);
    if (key < 0)
        lacks("pkey_alloc");
    does(syscall(SYS_pkey_mprotect, AT(at, 20), 3 * PAGE, PROT_READ, key < 0 ? -1 : key) == 0, "pkey_mprotect");
    fails(ENOMEM, syscall(SYS_pkey_mprotect, AT(at, 9), 8 * PAGE, PROT_READ, -1), "pkey_mprotect up to a hole");
    fails(EINVAL, syscall(SYS_pkey_mprotect, AT(at, 20), PAGE, PROT_READ, 14), "no such key");
}

/* PROT_GROWSDOWN means from where the mapping has grown to. */
static void growing_protections(void)
{
    char *tail = map(NULL, 600, PROT_NONE, MAP_PRIVATE), *down;

    munmap(tail, 600 * PAGE);
    down = map(AT(tail, 580), 8, RW, MAP_PRIVATE | MAP_FIXED | MAP_GROWSDOWN);
    mark();
    for (int i = 1; i <= 20; i++)
        *(volatile char *)AT(down, -i) = 1; /* no call tells it */
    does(mprotect(AT(down, -12), 4 * PAGE, PROT_READ) == 0, "a part of what has grown");
    for (int i = 21; i <= 30; i++)
        *(volatile char *)AT(down, -i) = 1;
    does(mprotect(AT(down, -26), PAGE, PROT_READ | PROT_GROWSDOWN) == 0, "down to where it has grown");
    does(munmap(AT(down, -24), 2 * PAGE) == 0, "a hole in what has grown");
    does(mprotect(AT(down, 2), PAGE, PROT_READ | PROT_GROWSDOWN) == 0, "the upper part");
    fails(ENOMEM, mprotect(AT(down, 6), 4 * PAGE, PROT_EXEC | PROT_GROWSDOWN), "from its start up to a hole");
    child_shows(down, 8);
}

__attribute__((noinline)) static int deep(int depth)
{
    volatile char frame[64 * 1024];

    for (size_t i = 0; i < sizeof frame; i += PAGE)
        frame[i] = (char)depth;
    touched = frame;
    return depth == 0 ? frame[0] : deep(depth - 1) + frame[0];
}

static void stack_growth(void)
{
    volatile char here = 0;
    char *page = (char *)((uintptr_t)&here & -(uintptr_t)PAGE);

    mark();
    deep(30);
    mark();
    deep(40); /* and at once a call on what has grown: */
    does(mprotect(AT(page, -600), PAGE, PROT_READ) == 0, "a guard in the stack");
    does(madvise(AT(page, -602), PAGE, MADV_DONTFORK) == 0, "a page of it no child gets");
    does(munmap(AT(page, -604), PAGE) == 0, "a hole in it");
    child_shows(AT(page, -600), 1);
    does(mprotect(page, PAGE, RW | PROT_GROWSDOWN) == 0, "PROT_GROWSDOWN, as _dl_make_stack_executable");
}

/* Flags that no map shows divide a stack, and PROT_GROWSDOWN begins where they do. */
static void divided_stack(void)
{
    volatile char here = 0;
    char *page = (char *)((uintptr_t)&here & -(uintptr_t)PAGE);

    deep(2);
    account_require(mlock(AT(page, -20), 4 * PAGE) == 0, "mlock of a part");
    does(mprotect(AT(page, -18), PAGE, PROT_READ | PROT_GROWSDOWN) == 0, "from the start of what is locked");
    does(mprotect(AT(page, -18), PAGE, RW | PROT_GROWSDOWN) == 0, "and back");
    account_require(madvise(AT(page, -30), PAGE, MADV_DONTDUMP) == 0, "MADV_DONTDUMP of a page");
    does(syscall(SYS_pkey_mprotect, AT(page, -26), 2 * PAGE, PROT_READ | PROT_GROWSDOWN, -1) == 0, "from behind it");
    does(mprotect(AT(page, -26), 0, PROT_READ | PROT_GROWSDOWN) == 0, "nothing");
}

/* Each time the stack has grown, and the call changes that, though its first argument lies elsewhere. */
static void grown_elsewhere(void)
{
    volatile char here = 0;
    char *page = (char *)((uintptr_t)&here & -(uintptr_t)PAGE), *p = map(NULL, 1, RW, MAP_PRIVATE);
    int segment = shmget(IPC_PRIVATE, PAGE, IPC_CREAT | 0600);

    deep(30);
    p = mremap(p, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, AT(page, -400));
    does(p == AT(page, -400), "mremap to a place in the stack");
    deep(50);
    p = shmat(segment, AT(page, -700), SHM_REMAP);
    shmctl(segment, IPC_RMID, NULL);
    does(p == AT(page, -700), "shmat at another");
    deep(70);
    if (prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, AT(page, -1000), PAGE, "in the stack") != 0)
        lacks("PR_SET_VMA");
    mark();
    deep(90);
    does(munmap(AT(page, -17000), 15600 * PAGE) == 0, "from far below the stack up into it");
}

/* -- what a child inherits -------------------------------------------------------------------------------------- */

static void dontfork(void)
{
    int fd = file_of(16), self = (int)syscall(SYS_pidfd_open, getpid(), 0);
    char *at = window(64), *p;
    struct iovec parts[3];

    map(AT(at, 8), 8, RW, MAP_PRIVATE | MAP_FIXED);
    mmap(AT(at, 16), 8 * PAGE, RW, MAP_SHARED | MAP_FIXED, fd, 0);
    does(madvise(AT(at, 10), 8 * PAGE, MADV_DONTFORK) == 0, "MADV_DONTFORK over two");
    child_shows(at, 64);
    does(madvise(AT(at, 12), 2 * PAGE, MADV_DOFORK) == 0, "MADV_DOFORK of a part");
    does(syscall(SYS_madvise, AT(at, 14), PAGE, MADV_DOFORK | 1L << 32) == 0, "advice is an int");
    p = mremap(AT(at, 10), 2 * PAGE, 5 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, AT(at, 40));
    does(p == AT(at, 40), "it moves along, and grows");
    child_shows(at, 64);
    munmap(AT(at, 30), PAGE);
    fails(ENOMEM, madvise(AT(at, 28), 5 * PAGE, MADV_DONTFORK), "over a hole: all the rest");
    child_shows(at, 64);
    does(mmap(AT(at, 28), 2 * PAGE, PROT_READ, ANON | MAP_FIXED, -1, 0) != MAP_FAILED, "mapped anew: a child gets it");
    does(mprotect(AT(at, 31), PAGE, RW) == 0, "protected anew: it does not");
    child_shows(at, 64);
    madvise(AT(at, 50), PAGE, MADV_WIPEONFORK);
    child_shows(at, 64);

    /* Since 6.13 a process may give itself any advice so (process_madvise_remote_valid). */
    parts[0] = (struct iovec){AT(at, 52), 2 * PAGE};
    parts[1] = (struct iovec){AT(at, 56), PAGE};
    if (self < 0 || syscall(SYS_process_madvise, self, parts, 2L, MADV_DONTFORK, 0) < 0)
        lacks("process_madvise(MADV_DONTFORK)");
    mark();
    child_shows(at, 64);
    munmap(AT(at, 60), PAGE);
    parts[1] = (struct iovec){AT(at, 59), 3 * PAGE};
    parts[2] = (struct iovec){AT(at, 48), PAGE};
    syscall(SYS_process_madvise, self, parts, 3L, MADV_DONTFORK, 0); /* stops at the second, which is done */
    syscall(SYS_process_madvise, self, parts, 1L, MADV_COLD, 0);
    mark();
    child_shows(at, 64);
    parts[0] = (struct iovec){AT(at, 2), SYS_process_madvise}; /* bytes: its result is its own number */
    syscall(SYS_process_madvise, self, parts, 1L, MADV_DONTFORK, 0);
    child_shows(at, 64);
}

/* -- locks, seals, policies, names: nothing to see, but what fails after ------------------------------------------ */

static void locks(void)
{
    struct rlimit all = {64 << 20, 64 << 20};
    char *at = window(32);

    setrlimit(RLIMIT_MEMLOCK, &all);
    map(AT(at, 4), 4, RW, MAP_PRIVATE | MAP_FIXED);
    munmap(AT(at, 10), PAGE);
    does(mlock(AT(at, 4), 2 * PAGE) == 0, "mlock");
    fails(ENOMEM, mlock(AT(at, 6), 8 * PAGE), "mlock over a hole");
    does(syscall(SYS_mlock2, AT(at, 5), PAGE, 1) == 0, "mlock2");
    does(munlock(AT(at, 4), PAGE) == 0, "munlock");
    does(mremap(AT(at, 6), 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL) != MAP_FAILED, "locked, moved");
    does(mlockall(MCL_FUTURE) == 0, "mlockall");
    does(map(NULL, 3, RW, MAP_PRIVATE) != NULL, "mapped and locked");
    does(sbrk(3 * PAGE) != (void *)-1, "and the heap");
    does(mmap(NULL, 3 * PAGE, PROT_NONE, ANON, -1, 0) != MAP_FAILED, "what cannot be populated");
    child_shows(at, 32);
    does(munlockall() == 0, "munlockall");
}

static void seals(void)
{
    char *at = window(32);

    map(AT(at, 4), 8, RW, MAP_PRIVATE | MAP_FIXED);
    if (syscall(SYS_mseal, AT(at, 8), 2L * PAGE, 0L) != 0) {
        lacks("mseal");
        mark();
        return;
    }
    mark();
    fails(EPERM, mprotect(AT(at, 6), 5 * PAGE, PROT_READ), "mprotect part-way");
    fails(EPERM, munmap(AT(at, 6), 5 * PAGE), "munmap");
    fails(EPERM, (long)mmap(AT(at, 5), 4 * PAGE, RW, ANON | MAP_FIXED, -1, 0), "mmap over it");
    fails(EPERM, (long)mremap(AT(at, 8), 2 * PAGE, PAGE, 0), "mremap");
    fails(EPERM, (long)mremap(AT(at, 12), PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, AT(at, 9)), "mremap onto it");
    fails(EPERM, syscall(SYS_pkey_mprotect, AT(at, 7), 2 * PAGE, PROT_NONE, -1), "pkey_mprotect part-way");
    does(madvise(AT(at, 8), PAGE, MADV_DONTFORK) == 0, "madvise");
    fails(ENOMEM, syscall(SYS_mseal, window(1) - PAGE * 100000UL, (long)PAGE, 0L), "mseal of nothing");
    child_shows(at, 32);
}

static void policies(void)
{
    unsigned long nodes = 1;
    char *at = window(32);

    map(AT(at, 4), 8, RW, MAP_PRIVATE | MAP_FIXED);
    if (syscall(SYS_mbind, AT(at, 5), 2 * PAGE, 1 /* MPOL_PREFERRED */, &nodes, 8, 0) != 0)
        lacks("mbind");
    mark();
    madvise(AT(at, 6), PAGE, MADV_NOHUGEPAGE);
    madvise(AT(at, 7), PAGE, MADV_DONTDUMP);
    madvise(AT(at, 8), PAGE, MADV_RANDOM);
    if (madvise(AT(at, 9), PAGE, 102 /* MADV_GUARD_INSTALL */) != 0)
        lacks("MADV_GUARD_INSTALL");
    mark();
    does(mprotect(AT(at, 4), 8 * PAGE, PROT_READ) == 0, "mprotect of all");
    does(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0, "PR_SET_THP_DISABLE");
    if (prctl(67 /* PR_SET_MEMORY_MERGE */, 1, 0, 0, 0) != 0)
        lacks("PR_SET_MEMORY_MERGE");
    mark();
    map(AT(at, 20), 4, RW, MAP_PRIVATE | MAP_FIXED);
    if (prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, AT(at, 20), 2 * PAGE, "a name") != 0)
        lacks("PR_SET_VMA");
    mark();
    prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, AT(at, 21), PAGE, NULL);
    prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, AT(at, 20), 2 * PAGE, "bad[name]");
    does(munmap(AT(at, 6), 2 * PAGE) == 0, "munmap");
}

static void faults_served_elsewhere(void)
{
    struct uffdio_api api = {.api = UFFD_API};
    struct uffdio_register all = {.mode = UFFDIO_REGISTER_MODE_MISSING};
    char *at = window(32);
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | 1 /* UFFD_USER_MODE_ONLY */);

    account_require(fd >= 0 && ioctl(fd, UFFDIO_API, &api) == 0, "userfaultfd");
    map(AT(at, 4), 8, RW, MAP_PRIVATE | MAP_FIXED);
    all.range.start = (unsigned long)AT(at, 6);
    all.range.len = 4 * PAGE;
    does(ioctl(fd, UFFDIO_REGISTER, &all) == 0, "UFFDIO_REGISTER");
    does(mprotect(AT(at, 5), 3 * PAGE, PROT_READ) == 0, "mprotect");
    does(munmap(AT(at, 7), PAGE) == 0, "munmap");
    all.range.start = (unsigned long)AT(at, 8);
    all.range.len = 2 * PAGE;
    does(ioctl(fd, UFFDIO_UNREGISTER, &all.range) == 0, "UFFDIO_UNREGISTER");
    close(fd);
    mark();
    child_shows(at, 32);
}

/* -- System V segments, remap_file_pages, memfds, aio rings ----------------------------------------------------- */

static void segments(void)
{
    int segment = shmget(IPC_PRIVATE, 5 * PAGE - 100, IPC_CREAT | 0600), fd = file_of(16);
    char *at = window(64), *one, *two;

    account_require(segment >= 0, "shmget");
    does((one = shmat(segment, NULL, 0)) != (void *)-1, "shmat");
    does((two = shmat(segment, NULL, SHM_RDONLY)) != (void *)-1, "once more, read only");
    does(shmat(segment, NULL, SHM_EXEC) != (void *)-1, "and executable");
    does(shmat(segment, AT(at, 8), SHM_REMAP) == AT(at, 8), "SHM_REMAP");
    does(shmat(segment, AT(at, 20) + 77, SHM_REMAP | SHM_RND) == AT(at, 20), "SHM_RND");
    fails(EINVAL, (long)shmat(segment, AT(at, 10), 0), "taken");
    fails(EINVAL, (long)shmat(segment, at + 1, 0), "not the start of a page");
    fails(EACCES, (long)syscall(SYS_mprotect, two, PAGE, RW) == -1 ? -1 : 0, "it may not be written");
    fails(EINVAL, shmdt(AT(one, 1)), "not its start");
    does(munmap(AT(one, 2), PAGE) == 0 && shmdt(one) == 0, "what is left of it");
    does(munmap(two, PAGE) == 0 && shmdt(two) == 0, "without its first page");
    /* Its first page gives way to a file that begins there as well. */
    mmap(AT(at, 8), PAGE, RW, MAP_SHARED | MAP_FIXED, fd, 0);
    does(shmdt(AT(at, 8)) == 0, "the file stays");
    does(mremap(AT(at, 20), 5 * PAGE, 5 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, AT(at, 30)) == AT(at, 30), "moved");
    fails(EINVAL, shmdt(AT(at, 20)), "it is not there any more");
    does(shmdt(AT(at, 30)) == 0, "but here");
    child_shows(at, 64);
    does(shmctl(segment, IPC_RMID, NULL) == 0, "removed: its name in maps changes");
}

static void file_pages(void)
{
    int fd = file_of(32);
    char *at = window(32);

    mmap(AT(at, 4), 8 * PAGE, RW, MAP_SHARED | MAP_FIXED, fd, 0);
    does(syscall(SYS_remap_file_pages, AT(at, 5), 2L * PAGE, 0L, 20L, 0L) == 0, "two other pages");
    does(syscall(SYS_remap_file_pages, AT(at, 8) + 5, PAGE + 100L, 0L, 10L, 0L) == 0, "a size is rounded down");
    does(syscall(SYS_remap_file_pages, AT(at, 4), 1L * PAGE, 0L, 30L, 0L) == 0, "a third");
    fails(EINVAL, syscall(SYS_remap_file_pages, AT(at, 20), 1L * PAGE, 0L, 0L, 0L), "no shared file");
    fails(EINVAL, syscall(SYS_remap_file_pages, AT(at, 4), 1L * PAGE, 1L, 0L, 0L), "a protection");
    does(munmap(AT(at, 6), 3 * PAGE) == 0, "munmap");
}

static void names_of_files(void)
{
    char one[] = "/tmp/map-changes-XXXXXX", two[64];
    int fd = mkostemp(one, O_CLOEXEC), memory = memfd_create("a memfd", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    char *p, *q;

    snprintf(two, sizeof two, "%s moved", one);
    account_require(fd >= 0 && ftruncate(fd, 8 * PAGE) == 0, "a file");
    does((p = mmap(NULL, 4 * PAGE, RW, MAP_SHARED, fd, 0)) != MAP_FAILED, "a file");
    does(rename(one, two) == 0, "renamed");
    does(mmap(NULL, 4 * PAGE, PROT_READ, MAP_PRIVATE, fd, PAGE) != MAP_FAILED, "mapped by its new name");
    does(unlink(two) == 0, "unlinked");
    does(mprotect(p, PAGE, PROT_READ) == 0, "and protected");
    does(ftruncate(fd, PAGE) == 0, "truncated");
    account_require(memory >= 0 && ftruncate(memory, 4 * PAGE) == 0, "a memfd");
    does((q = mmap(NULL, 4 * PAGE, RW, MAP_SHARED, memory, 0)) != MAP_FAILED, "a memfd");
    does(munmap(AT(q, 1), 3 * PAGE) == 0, "a part of it");
    munmap(q, PAGE);
    account_require(fcntl(memory, F_ADD_SEALS, F_SEAL_WRITE) == 0, "sealed");
    fails(EPERM, (long)mmap(NULL, PAGE, RW, MAP_SHARED, memory, 0), "it may not be written");
    does(mmap(NULL, PAGE, RW, MAP_PRIVATE, memory, 0) != MAP_FAILED, "but copied");
}

/* Where the mapping that begins at an address ends. */
static char *end_of(const char *start)
{
    char line[512];
    uintptr_t from, to, end = 0;
    FILE *maps = fopen("/proc/self/maps", "r");

    account_require(maps != NULL, "maps");
    while (fgets(line, sizeof line, maps) != NULL)
        if (sscanf(line, "%lx-%lx", &from, &to) == 2 && from == (uintptr_t)start)
            end = to;
    fclose(maps);
    account_require(end != 0, "a mapping begins there");
    return (char *)end;
}

static void aio_rings(void)
{
    aio_context_t one = 0, two = 0;
    char *tail;

    does(syscall(SYS_io_setup, 64, &one) == 0, "a ring");
    does(syscall(SYS_io_setup, 4000, &two) == 0, "a larger one");
    fails(EINVAL, syscall(SYS_io_setup, 64, &two), "it is in use");
    does(syscall(SYS_io_destroy, one) == 0, "destroyed");
    fails(EINVAL, syscall(SYS_io_destroy, one), "twice");
    one = (aio_context_t)mremap((void *)two, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, window(1));
    does(one != (aio_context_t)-1, "moved");
    child_shows((char *)one, 1);
    syscall(SYS_io_destroy, two);
    mark();
    /* Somebody else's pages lie where its tail was, and behind it: the first go with it (kill_ioctx). */
    two = 0;
    does(syscall(SYS_io_setup, 512, &two) == 0, "one more ring");
    tail = end_of((char *)two) - PAGE;
    munmap(tail, PAGE);
    does(map(tail, 1, RW, MAP_PRIVATE | MAP_FIXED) == tail, "a page where its last was");
    does(syscall(SYS_io_destroy, two) == 0, "destroyed with it");
}

/* -- what the kernel maps for itself ----------------------------------------------------------------------------- */

/* Where [vdso] and what belongs to it lie; munmap them. */
static char *unmap_vdso(void)
{
    char line[512], *found = NULL;
    FILE *maps = fopen("/proc/self/maps", "r");
    uintptr_t from[8], to[8];
    int n = 0;

    account_require(maps != NULL, "maps");
    while (n < 8 && fgets(line, sizeof line, maps) != NULL)
        if (strstr(line, "[vdso]") || strstr(line, "[vvar"))
            n += sscanf(line, "%lx-%lx", &from[n], &to[n]) == 2;
    fclose(maps);
    account_require(n > 0, "there is a vdso");
    for (int i = 0; i < n; i++) {
        account_require(munmap((void *)from[i], to[i] - from[i]) == 0, "munmap of the vdso");
        found = (char *)from[i];
    }
    return found;
}

static void vdso(void)
{
    char *at;
    long ret;

    fails(EEXIST, syscall(SYS_arch_prctl, 0x2003, 0L), "one is there");
    unmap_vdso();
    mark();
    at = window(64);
    munmap(at, 64 * PAGE);
    ret = syscall(SYS_arch_prctl, 0x2003 /* ARCH_MAP_VDSO_64 */, AT(at, 8));
    if (ret < 0)
        lacks("ARCH_MAP_VDSO_64");
    mark();
    child_shows(at, 1);
    if (ret > 0)
        unmap_vdso();
    mark();
    if (syscall(SYS_arch_prctl, 0x2002 /* ARCH_MAP_VDSO_32 */, 0L) < 0)
        lacks("ARCH_MAP_VDSO_32");
    mark();
}

/* Where the CPU and the kernel have shadow stacks, and where not. */
static void shadow_stack(void)
{
    long at = syscall(SYS_map_shadow_stack, 0L, 8L * PAGE, 0L);

    if (at == -1)
        lacks("map_shadow_stack");
    mark();
}

/* The fields behind [heap] and [stack]; and where the next brk begins. One by one they take CAP_SYS_RESOURCE. */
static void mm_fields(void)
{
    struct prctl_mm_map map_now = {0};
    char *brk = sys_brk(NULL), *heap, line[1024], *field;
    unsigned long value[52] = {0};
    FILE *stat = fopen("/proc/self/stat", "r");

    account_require(stat != NULL && fgets(line, sizeof line, stat) != NULL, "stat");
    fclose(stat);
    field = strrchr(line, ')') + 2;
    for (int i = 3; i < 52 && field != NULL; i++) {
        if (i == 3)
            field++;
        else
            value[i] = strtoul(field, &field, 10);
    }
    heap = map(NULL, 64, RW, MAP_PRIVATE);
    munmap(heap, 64 * PAGE);
    map(heap, 8, RW, MAP_PRIVATE | MAP_FIXED);
    mark();
    if (prctl(PR_SET_MM, PR_SET_MM_START_BRK, heap, 0, 0) != 0)
        lacks("PR_SET_MM_START_BRK");
    else
        prctl(PR_SET_MM, PR_SET_MM_BRK, AT(heap, 8), 0, 0);
    mark();
    map_now.start_code = value[26], map_now.end_code = value[27];
    map_now.start_data = value[45], map_now.end_data = value[46];
    map_now.start_brk = (uintptr_t)heap, map_now.brk = (uintptr_t)AT(heap, 8) - 100;
    map_now.start_stack = value[28];
    map_now.arg_start = value[48], map_now.arg_end = value[49];
    map_now.env_start = value[50], map_now.env_end = value[51];
    map_now.exe_fd = (uint32_t)-1;
    if (prctl(PR_SET_MM, PR_SET_MM_MAP, &map_now, sizeof map_now, 0) != 0) {
        lacks("PR_SET_MM_MAP");
        mark();
        return;
    }
    mark();
    does(sys_brk(NULL) == AT(heap, 8) - 100 && brk != NULL, "the break is where it was put");
    does(sys_brk(AT(heap, 20)) == AT(heap, 20), "growth from there");
    does(sys_brk(AT(heap, 3)) == AT(heap, 3), "shrink");
    child_shows(heap, 1);
}

/* -- personality ------------------------------------------------------------------------------------------------- */

static void all_kinds(void)
{
    int fd = file_of(8);
    char *p, *at = window(16);

    map(NULL, 3, RW, MAP_PRIVATE);
    map(NULL, 3, PROT_WRITE, MAP_PRIVATE);
    map(NULL, 3, PROT_READ, MAP_SHARED);
    mark();
    p = map(AT(at, 4), 8, PROT_NONE, MAP_PRIVATE | MAP_FIXED);
    mprotect(AT(p, 2), 2 * PAGE, PROT_READ);
    mprotect(AT(p, 4), 2 * PAGE, PROT_NONE);
    munmap(AT(p, 7), PAGE);
    mprotect(AT(p, 6), 2 * PAGE, RW);
    mark();
    mmap(NULL, 3 * PAGE, RW, MAP_SHARED, fd, 0);
    p = mmap(NULL, 3 * PAGE, PROT_NONE, MAP_PRIVATE, fd, PAGE);
    mprotect(p, 2 * PAGE, PROT_READ);
    account_require(sbrk(3 * PAGE) != (void *)-1, "sbrk");
    mark();
    close(fd);
}

static void *in_a_thread(void *persona)
{
    all_kinds();
    if (persona != NULL)
        account_require(personality((unsigned long)persona) != -1, "personality in a thread");
    all_kinds();
    return NULL;
}

static void thread(unsigned long persona)
{
    pthread_t one;

    account_require(pthread_create(&one, NULL, in_a_thread, (void *)persona) == 0, "a thread");
    pthread_join(one, NULL);
}

/* READ_IMPLIES_EXEC belongs to a task: not to the process, and not to its memory. */
static void personalities(const char *noexec)
{
    unsigned long usual = (unsigned long)personality(0xffffffff);
    char *p = NULL;
    pid_t pid;
    int fd = -1;

    if (noexec != NULL) {
        fd = open(noexec, O_RDWR | O_TMPFILE, 0600);
        account_require(fd >= 0 && ftruncate(fd, 8 * PAGE) == 0, "a file where nothing is executable");
        p = mmap(NULL, 4 * PAGE, PROT_NONE, MAP_PRIVATE, fd, 0);
        account_require(p != MAP_FAILED, "it is mapped");
    }
    all_kinds();
    thread(READ_IMPLIES_EXEC);
    all_kinds();
    account_require(personality(usual | READ_IMPLIES_EXEC | ADDR_NO_RANDOMIZE) == (int)usual, "personality");
    all_kinds();
    if (fd >= 0) {
        does(mprotect(p, 2 * PAGE, PROT_READ) == 0, "mprotect of such a file");
        does(mmap(NULL, 2 * PAGE, PROT_READ, MAP_SHARED, fd, 0) != MAP_FAILED, "mmap of such a file");
    }
    thread(0);
    thread(usual | ADDR_NO_RANDOMIZE);
    pid = fork();
    if (pid == 0) {
        mark();
        all_kinds();
        personality(usual);
        all_kinds();
        _exit(0);
    }
    wait_for(pid);
    personality(usual);
    all_kinds();
}

/* The same in one thread, and with segments. */
static void one_personality(void)
{
    int segment;

    all_kinds();
    /* A result that is the call's own number, which rax is too where a filter has kept a call from being made. */
    account_require(personality(SYS_personality) != -1, "personality");
    account_require(personality(READ_IMPLIES_EXEC) == SYS_personality, "personality");
    all_kinds();
    segment = shmget(IPC_PRIVATE, 3 * PAGE, IPC_CREAT | 0600);
    does(segment >= 0 && shmat(segment, NULL, SHM_RDONLY) != (void *)-1, "shmat");
    does(shmctl(segment, IPC_RMID, NULL) == 0, "removed");
    personality(ADDR_NO_RANDOMIZE);
    all_kinds();
}

/* What an attach finds: flags that no map shows, a grown mapping, a thread with a personality of its own. */
static void *waits_in_a_thread(void *barrier)
{
    account_require(personality(READ_IMPLIES_EXEC) != -1, "personality in a thread");
    pthread_barrier_wait(barrier);
    pthread_barrier_wait(barrier);
    all_kinds();
    return NULL;
}

static void mid_life(void)
{
    int perf = perf_event();
    char *tail, *ring, *down, byte;
    pthread_barrier_t barrier;
    pthread_t other;
    struct account a;

    ring = mmap(NULL, 3 * PAGE, RW, MAP_SHARED, perf, 0);
    account_require(ring != MAP_FAILED, "a ring");
    pthread_barrier_init(&barrier, NULL, 2);
    account_require(pthread_create(&other, NULL, waits_in_a_thread, &barrier) == 0, "a thread");
    pthread_barrier_wait(&barrier);
    tail = map(NULL, 600, PROT_NONE, MAP_PRIVATE);
    munmap(tail, 600 * PAGE);
    down = map(AT(tail, 580), 8, RW, MAP_PRIVATE | MAP_FIXED | MAP_GROWSDOWN);
    account_open(&a, "ready");
    account_close(&a);
    account_require(read(0, &byte, 1) == 1, "a byte on stdin");
    for (int i = 1; i <= 20; i++)
        *(volatile char *)AT(down, -i) = 1;
    does(mprotect(AT(down, -12), 4 * PAGE, PROT_READ) == 0, "a part of what has grown");
    all_kinds();
    pthread_barrier_wait(&barrier);
    pthread_join(other, NULL);
    child_shows(down, 8);
    deep(30);
    fails(EINVAL, madvise(ring, 3 * PAGE, MADV_DOFORK), "MADV_DOFORK is not for such (VM_SPECIAL)");
    child_shows(down, 8);
}

/* Another life of the same process, by a file descriptor. */
static void another_life(void)
{
    int self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    char *const argv[] = {"map_changes", "second-life", NULL}, *const env[] = {"SECOND=1", NULL};

    all_kinds();
    fails(ENOENT, syscall(SYS_execveat, AT_FDCWD, "/no/such", argv, env, 0), "there is none");
    account_require(self >= 0, "the program opens");
    syscall(SYS_execveat, self, "", argv, env, AT_EMPTY_PATH);
    account_require(false, "execveat");
}

static void second_life(void)
{
    marks = 100;
    all_kinds();
}

static void by_personality(void)
{
    pid_t pid;

    all_kinds();
    pid = fork();
    if (pid == 0) {
        all_kinds();
        _exit(0);
    }
    wait_for(pid);
}

/* -- of a child, part-way, by a task ----------------------------------------------------------------------------- */

/* A child's stack grows in it, and a call changes at once what has grown. */
static void child_that_grows(void)
{
    volatile char here = 0;
    char *page = (char *)((uintptr_t)&here & -(uintptr_t)PAGE);
    pid_t pid = fork();

    if (pid == 0) {
        deep(40);
        does(munmap(AT(page, -600), PAGE) == 0, "a hole in what has grown");
        deep(20);
        does(mprotect(AT(page, -610), PAGE, PROT_READ) == 0, "and a guard below it");
        _exit(0);
    }
    wait_for(pid);
}

/* Advice that fails at a driver's mapping has been given to what lies before it. */
static void advice_part_way(void)
{
    int perf = perf_event();
    char *at = window(32), *ring;

    map(AT(at, 4), 4, RW, MAP_PRIVATE | MAP_FIXED);
    ring = mmap(AT(at, 8), 3 * PAGE, RW, MAP_SHARED | MAP_FIXED, perf, 0);
    does(ring == AT(at, 8), "a ring");
    does(madvise(AT(at, 4), 4 * PAGE, MADV_DONTFORK) == 0, "MADV_DONTFORK");
    child_shows(at, 32);
    fails(EINVAL, madvise(AT(at, 6), 4 * PAGE, MADV_DOFORK), "MADV_DOFORK, part-way");
    child_shows(at, 32);
}

/* What remap_file_pages maps anew is executable where reads imply it. */
static void file_pages_by_personality(void)
{
    int fd = memfd_create("executable", MFD_CLOEXEC);
    char *at = window(32);

    account_require(fd >= 0 && ftruncate(fd, 32 * PAGE) == 0, "a memfd");
    does(mmap(AT(at, 4), 8 * PAGE, RW, MAP_SHARED | MAP_FIXED, fd, 0) == AT(at, 4), "a shared file");
    account_require(personality(READ_IMPLIES_EXEC) != -1, "personality");
    does(syscall(SYS_remap_file_pages, AT(at, 5), 2L * PAGE, 0L, 20L, 0L) == 0, "two other pages");
    account_require(personality(0) != -1, "personality as it was");
    does(syscall(SYS_remap_file_pages, AT(at, 9), 1L * PAGE, 0L, 30L, 0L) == 0, "a third");
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } cases[] = {
        {"grown-child", child_that_grows}, {"advice-part-way", advice_part_way},
        {"file-pages-exec", file_pages_by_personality},
        {"mmap-flags", mmap_flags}, {"map-fixed", map_fixed}, {"drivers", drivers}, {"munmap", munmap_holes},
        {"brk", brk_rules}, {"mremap", mremap_forms}, {"mprotect", protections}, {"growing", growing_protections},
        {"stack", stack_growth}, {"divided", divided_stack}, {"dontfork", dontfork}, {"locks", locks},
        {"seals", seals}, {"policies", policies},
        {"userfaultfd", faults_served_elsewhere}, {"segments", segments}, {"file-pages", file_pages},
        {"file-names", names_of_files}, {"aio", aio_rings}, {"vdso", vdso}, {"shadow-stack", shadow_stack},
        {"mm-fields", mm_fields}, {"mid-life", mid_life}, {"execveat", another_life}, {"second-life", second_life},
        {"by-personality", by_personality}, {"one-personality", one_personality},
        {"grown-elsewhere", grown_elsewhere},
    };

    account_begin("map_changes");
    account_require(argc > 1, "a case is named");
    if (!strcmp(argv[1], "hugetlb")) {
        hugetlb(argc > 2 ? argv[2] : NULL);
        return 0;
    }
    if (!strcmp(argv[1], "personality")) {
        personalities(argc > 2 ? argv[2] : NULL);
        return 0;
    }
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (!strcmp(argv[1], cases[i].name)) {
            cases[i].run();
            mark();
            return 0;
        }
    account_require(false, "there is such a case");
}
