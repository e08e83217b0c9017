/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * hidden_changes CASE: what changes a map, or what a child inherits, without a memory call.
 *
 *     ring        madvise(MADV_DONTFORK) made by the kernel for an io_uring; then a fork
 *     ring-twice  the same, taken back in the same way
 *     probed      runs into the function whose place it tells ("probe", the offset in its file): where a uprobe stands
 *                 there, the kernel maps a page ([uprobes]) at the first hit
 *     nop         the same, of a function that begins with the nop that newer kernels replace by a jump
 */
#define _GNU_SOURCE
#include "own-maps.h"

#include <linux/io_uring.h>
#include <sched.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>

enum { PAGE = 4096 };

static unsigned long marks;

static void mark(void)
{
    own_maps_mark(++marks, 0);
}

static int ring;
static struct io_uring_params setup;
static char *queue;
static struct io_uring_sqe *entries;

static void open_ring(void)
{
    ring = (int)syscall(SYS_io_uring_setup, 4, &setup);
    account_require(ring >= 0, "io_uring_setup (kernel.io_uring_disabled?)");
    account_require(setup.features & IORING_FEAT_SINGLE_MMAP, "one mapping for both rings");
    queue = mmap(NULL, setup.sq_off.array + setup.sq_entries * sizeof(unsigned) + 4096, PROT_READ | PROT_WRITE,
                 MAP_SHARED, ring, IORING_OFF_SQ_RING);
    entries = mmap(NULL, setup.sq_entries * sizeof *entries, PROT_READ | PROT_WRITE, MAP_SHARED, ring,
                   (off_t)IORING_OFF_SQES);
    account_require(queue != MAP_FAILED && (void *)entries != MAP_FAILED, "the rings are mapped");
}

static void madvise_by_ring(void *at, unsigned length, int advice)
{
    unsigned *tail = (unsigned *)(queue + setup.sq_off.tail), mask = *(unsigned *)(queue + setup.sq_off.ring_mask);
    unsigned *head = (unsigned *)(queue + setup.cq_off.head), place = *tail & mask;
    struct io_uring_cqe *done = (struct io_uring_cqe *)(queue + setup.cq_off.cqes);

    memset(&entries[place], 0, sizeof entries[place]);
    entries[place].opcode = IORING_OP_MADVISE;
    entries[place].addr = (unsigned long)at;
    entries[place].len = length;
    entries[place].fadvise_advice = (unsigned)advice;
    ((unsigned *)(queue + setup.sq_off.array))[place] = place;
    __atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
    account_require(syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) == 1, "io_uring_enter");
    account_require(done[*head & *(unsigned *)(queue + setup.cq_off.ring_mask)].res == 0, "the advice is taken");
    __atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
}

static void by_ring(bool twice)
{
    char *at = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct account a;
    int status;
    pid_t pid;

    account_require(at != MAP_FAILED, "mmap");
    open_ring();
    madvise_by_ring(at + 4 * PAGE, 8 * PAGE, MADV_DONTFORK);
    if (twice)
        madvise_by_ring(at + 4 * PAGE, 8 * PAGE, MADV_DOFORK);
    account_open(&a, "advised");
    account_ptr(&a, "at", at + 4 * PAGE);
    account_uint(&a, "bytes", 8 * PAGE);
    account_close(&a);
    mark();
    pid = fork();
    if (pid == 0) {
        mark();
        _exit(0);
    }
    account_require(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0, "the child ended well");
    mark();
}

__attribute__((noinline, noclone)) static int probed(int n)
{
    __asm__ volatile("" : "+r"(n));
    return n + 1;
}

__asm__(".text\n.globl with_nop\n.type with_nop, @function\n.balign 16\n"
        "with_nop: .byte 0x0f, 0x1f, 0x44, 0x00, 0x00\n"
        "mov %edi, %eax\nret\n.size with_nop, . - with_nop\n");
extern int with_nop(int n);

/* The place of code in the file that it is mapped from. */
static unsigned long offset_of(const void *code)
{
    char line[512];
    unsigned long from, to, offset, found = 0, at = (unsigned long)code;
    FILE *maps = fopen("/proc/self/maps", "r");

    account_require(maps != NULL, "maps");
    while (fgets(line, sizeof line, maps) != NULL)
        if (sscanf(line, "%lx-%lx %*s %lx", &from, &to, &offset) == 3 && from <= at && at < to)
            found = at - from + offset;
    fclose(maps);
    return found;
}

static void by_probe(int (*function)(int))
{
    struct account a;

    account_open(&a, "probe");
    account_uint(&a, "offset", offset_of((const void *)(uintptr_t)function));
    account_close(&a);
    mark();
    for (int i = 0; i < 100; i++)
        function(i);
    mark();
    account_require(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED, "mmap");
    mark();
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";

    account_begin("hidden_changes");
    if (!strncmp(what, "ring", 4))
        by_ring(!strcmp(what, "ring-twice"));
    else
        by_probe(!strcmp(what, "nop") ? with_nop : probed);
    return 0;
}
