/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * self-maps [SEED [COUNT [EVERY [fork]]]]: a program that knows its own map, call by call (default 1 400 10).
 *
 * A seeded series of COUNT random mmap, munmap, mprotect, mremap, brk and madvise calls, good and bad ones: fixed
 * mappings over others, partial unmaps, mprotect over holes (fails half way), mremap that shrinks, grows, moves and
 * lands on others, private and shared, anonymous and file. After every EVERY calls it reads /proc/self/maps and
 * marks the spot (own-maps.h): a tracer's replay up to the mark must give the same map. With `fork` a child is
 * forked half way that goes on with a series and marks of its own, without the mappings marked MADV_DONTFORK.
 *
 * To see: nothing in particular; this is the proof that a trace is exact.
 *
 * Behind it: all of the kernel's mm/mmap.c, mm/vma.c, mm/mprotect.c, mm/mremap.c.
 */
#define _GNU_SOURCE
#include "calls.h"
#include "own-maps.h"
#include "seeded.h"

#include <sys/wait.h>

enum { WINDOW_PAGES = 256, FLOATING = 32, MEMFD_PAGES = 64 };
#define PAGE 4096UL
#define HEAP_LIMIT (8UL << 20)

static struct {
    unsigned long address, pages;
} floating[FLOATING]; /* mappings the kernel placed, with the length asked for */

static uint64_t random_state;
static unsigned long window;
static int memfd, exe;
static unsigned long heap_start;

static unsigned long below(unsigned long limit)
{
    return seeded_below(&random_state, limit);
}

/* A random range of pages inside the window. */
static unsigned long spot(unsigned long *pages)
{
    unsigned long first = below(WINDOW_PAGES);

    *pages = 1 + below(below(4) ? 8 : 64);
    if (*pages > WINDOW_PAGES - first)
        *pages = WINDOW_PAGES - first;
    return window + first * PAGE;
}

static int some_prot(void)
{
    static const int prots[] = {PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE,
                                PROT_READ | PROT_EXEC};

    return prots[below(5)];
}

static void random_mmap(unsigned long address, unsigned long pages, int fixed)
{
    int prot = some_prot();
    long ret;

    switch (below(6)) {
    case 0:
        ret = told_mmap("shared-anonymous", (void *)address, pages * PAGE, prot,
                        MAP_SHARED | MAP_ANONYMOUS | fixed, -1, 0);
        break;
    case 1:
        ret = told_mmap("shared-memfd", (void *)address, pages * PAGE, prot & ~PROT_EXEC, MAP_SHARED | fixed, memfd,
                        below(MEMFD_PAGES) * PAGE);
        break;
    case 2:
        ret = told_mmap("private-memfd", (void *)address, pages * PAGE, prot & ~PROT_EXEC, MAP_PRIVATE | fixed, memfd,
                        below(MEMFD_PAGES) * PAGE);
        break;
    case 3:
        ret = told_mmap("private-exe", (void *)address, pages * PAGE, prot, MAP_PRIVATE | fixed, exe,
                        below(4) * PAGE);
        break;
    default:
        /* A length that is no multiple of the page size is rounded up by the kernel. */
        ret = told_mmap("private-anonymous", (void *)address, pages * PAGE - below(2) * 100, prot,
                        MAP_PRIVATE | MAP_ANONYMOUS | (below(8) ? 0 : MAP_NORESERVE) | fixed, -1, 0);
    }
    if (!fixed && !calls_failed(ret)) {
        unsigned long slot = below(FLOATING);

        if (floating[slot].address)
            told_munmap("floating", (void *)floating[slot].address, floating[slot].pages * PAGE);
        floating[slot].address = (unsigned long)ret;
        floating[slot].pages = pages;
    }
}

static void random_mremap(void)
{
    unsigned long pages, other_pages, slot = below(FLOATING);
    unsigned long from = spot(&pages);
    unsigned long to = spot(&other_pages);
    unsigned long fitting = pages < other_pages ? pages : other_pages; /* stays inside the window at both ends */
    long ret;

    switch (below(7)) {
    case 0:
        told_mremap("shrink", (void *)from, pages * PAGE, (1 + below(pages)) * PAGE, 0, NULL);
        break;
    case 1:
        told_mremap("grow in place", (void *)from, pages * PAGE, (pages + 1 + below(4)) * PAGE, 0, NULL);
        break;
    case 2:
        told_mremap("to a fixed place", (void *)from, pages * PAGE, other_pages * PAGE,
                    MREMAP_MAYMOVE | MREMAP_FIXED, (void *)to);
        break;
    case 3:
        told_mremap("same size, fixed", (void *)from, fitting * PAGE, fitting * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
                    (void *)to);
        break;
    case 4: /* a second view of shared memory; EINVAL for private memory */
        told_mremap("old size 0", (void *)from, 0, other_pages * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)to);
        break;
    case 5:
        told_mremap("leaves the old place", (void *)from, fitting * PAGE, fitting * PAGE,
                    MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, (void *)to);
        break;
    default:
        if (!floating[slot].address)
            break;
        pages = 1 + below(64);
        ret = told_mremap("may move", (void *)floating[slot].address, floating[slot].pages * PAGE, pages * PAGE,
                          MREMAP_MAYMOVE, NULL);
        if (!calls_failed(ret)) {
            floating[slot].address = (unsigned long)ret;
            floating[slot].pages = pages;
        }
    }
}

static void random_brk(void)
{
    switch (below(6)) {
    case 0:
        told_brk("query", 0);
        break;
    case 1:
        told_brk("below the start", heap_start - PAGE);
        break;
    case 2:
        told_brk("absurd", 1UL << 46);
        break;
    default: /* up or down, to any byte */
        told_brk("move", heap_start + below(HEAP_LIMIT));
    }
}

static void random_madvise(void)
{
    static const int advice[] = {MADV_DONTNEED, MADV_DONTNEED, MADV_FREE, MADV_WILLNEED, MADV_SEQUENTIAL,
                                 MADV_RANDOM, MADV_NORMAL, MADV_DONTFORK, MADV_DONTFORK, MADV_DOFORK,
                                 MADV_DONTDUMP, MADV_DODUMP, MADV_HUGEPAGE, MADV_NOHUGEPAGE};
    unsigned long pages;
    unsigned long address = spot(&pages);

    told_madvise("random", (void *)address, pages * PAGE, advice[below(sizeof advice / sizeof advice[0])]);
}

/* The kernel writes a byte for us where it can: pages of memory that was used merge differently. */
static void touch(void)
{
    unsigned long pages;
    unsigned long address = spot(&pages);

    for (unsigned long i = 0; i < pages; i++)
        if (pread(memfd, (void *)(address + i * PAGE), 1, 0) < 0)
            continue;
}

static void random_call(void)
{
    unsigned long pages, address;

    touch();
    address = spot(&pages);
    switch (below(16)) {
    case 0:
    case 1:
    case 2:
    case 3:
        random_mmap(address, pages, MAP_FIXED);
        break;
    case 4:
        random_mmap(0, pages, 0);
        break;
    case 5:
        random_mmap(address, pages, MAP_FIXED_NOREPLACE);
        break;
    case 6:
    case 7:
        told_munmap("window", (void *)address, pages * PAGE);
        break;
    case 8:
    case 9:
    case 10:
        told_mprotect("window", (void *)address, pages * PAGE, some_prot());
        break;
    case 11:
    case 12:
        random_mremap();
        break;
    case 13:
        random_brk();
        break;
    case 14:
        random_madvise();
        break;
    default: /* refused at once: an address that is no page, a length of nothing */
        if (below(2))
            told_munmap("unaligned", (void *)(address + 1), pages * PAGE);
        else
            told_mmap("no length", NULL, 0, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    }
}

/* Calls number `from` to `count`; returns the last mark set. */
static unsigned long series(unsigned long from, unsigned long count, unsigned long every, unsigned long mark)
{
    for (unsigned long i = from; i <= count; i++) {
        random_call();
        if (i % every == 0)
            own_maps_mark(++mark, i);
    }
    return mark;
}

static void tell_total(unsigned long marks)
{
    struct account a;

    account_open(&a, "total");
    account_uint(&a, "marks", marks);
    account_close(&a);
    account_end(true);
}

int main(int argc, char **argv)
{
    unsigned long seed = account_argument(argc, argv, 1, 1);
    unsigned long count = account_argument(argc, argv, 2, 400);
    unsigned long every = account_argument(argc, argv, 3, 10);
    bool forks = argc > 4 && strcmp(argv[4], "fork") == 0;
    unsigned long marks = 0;
    struct account a;
    pid_t child = 0;

    account_begin("self-maps");
    account_require(every > 0, "EVERY is at least 1");
    account_require(argc <= 4 || forks, "the fourth argument is fork");
    random_state = seed;
    memfd = memfd_create("self-maps", MFD_CLOEXEC);
    account_require(memfd >= 0 && ftruncate(memfd, MEMFD_PAGES * PAGE) == 0, "a memfd");
    exe = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    account_require(exe >= 0, "/proc/self/exe opens");
    /* The bare calls: the C library's own idea of the break is not used, and malloc is never called. */
    heap_start = (unsigned long)told_brk("query", 0);
    window = (unsigned long)must_mmap("window", NULL, WINDOW_PAGES * PAGE, PROT_READ | PROT_WRITE,
                                      MAP_PRIVATE | MAP_ANONYMOUS, -1);
    account_open(&a, "start");
    account_uint(&a, "seed", seed);
    account_uint(&a, "count", count);
    account_uint(&a, "every", every);
    account_uint(&a, "window_start", window);
    account_uint(&a, "window_end", window + WINDOW_PAGES * PAGE);
    account_uint(&a, "break", heap_start);
    account_close(&a);

    if (forks) {
        marks = series(1, count / 2, every, marks);
        child = fork();
        account_require(child >= 0, "fork");
        if (child == 0) {
            account_open(&a, "born");
            account_text(&a, "role", "child");
            account_int(&a, "ppid", getppid());
            account_close(&a);
            random_state ^= 0x5eed;
            own_maps_mark(++marks, count / 2);
            tell_total(series(count / 2 + 1, count, every, marks));
            _exit(0);
        }
        account_open(&a, "fork");
        account_text(&a, "how", "fork");
        account_int(&a, "child", child);
        account_close(&a);
    }
    marks = series(forks ? count / 2 + 1 : 1, count, every, marks);
    if (child) {
        int status = 0;

        account_require(waitpid(child, &status, 0) == child && status == 0, "the child ends well");
    }
    tell_total(marks);
    return 0;
}
