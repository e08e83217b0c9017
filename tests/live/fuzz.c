/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fuzz SEED THREADS ROUNDS CALLS [MARK_EVERY]: threads and forks that map at random, in memory they all share.
 *
 * In each round each thread makes CALLS random memory calls, good and bad ones, in one region of 256 pages, and on
 * what the kernel placed for it elsewhere; now and then one of them forks while the others go on, and waits. The
 * child makes such calls alone, forks once more, and then has two threads of its own fight. Others have a process
 * that shares their memory (CLONE_VM) make calls, or start a program (vfork). When all threads have ended
 * their round, and none touches the memory, one marks the moment (own-maps.h): every MARK_EVERY rounds (default 1). ROUNDS 0: until the end of stdin; each round is told as {"what": "count", "n": N}.
 */
#define _GNU_SOURCE
#include "account.h"
#include "own-maps.h"
#include "seeded.h"

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/wait.h>

enum { PAGES = 256, FILE_PAGES = 64, KEPT = 12, THREADS_MAX = 64, CHILDS_CALLS = 60, CHILDS_THREADS = 2,
       STACK = 32768 };
#define PAGE 4096UL
#define HEAP_LIMIT (4UL << 20)

/* One thread's part. */
struct fuzzer {
    uint64_t random;
    unsigned long index;
    struct {
        char *at;
        unsigned long pages;
    } kept[KEPT]; /* what the kernel placed */
};

static char *region, *heap;
static int memfd, exe, segment;
static unsigned long threads, rounds, calls, mark_every;
static pthread_barrier_t ready, done;
static bool over;
static unsigned long marks; /* of this process; a child goes on counting */
static int depth;

static unsigned long below(struct fuzzer *f, unsigned long limit)
{
    return seeded_below(&f->random, limit);
}

/* A random range inside the region. */
static char *spot(struct fuzzer *f, unsigned long *pages)
{
    unsigned long first = below(f, PAGES);

    *pages = 1 + below(f, below(f, 4) ? 8 : 64);
    if (*pages > PAGES - first)
        *pages = PAGES - first;
    return region + first * PAGE;
}

static int some_prot(struct fuzzer *f)
{
    static const int prots[] = {PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE,
                                PROT_READ | PROT_EXEC};

    return prots[below(f, 5)];
}

static char *some_map(struct fuzzer *f, char *at, unsigned long pages, int how)
{
    int prot = some_prot(f);

    switch (below(f, 6)) {
    case 0:
        return mmap(at, pages * PAGE, prot, MAP_SHARED | MAP_ANONYMOUS | how, -1, 0);
    case 1:
        return mmap(at, pages * PAGE, prot & ~PROT_EXEC, MAP_SHARED | how, memfd, (off_t)(below(f, FILE_PAGES) * PAGE));
    case 2:
        return mmap(at, pages * PAGE, prot & ~PROT_EXEC, MAP_PRIVATE | how, memfd, (off_t)(below(f, FILE_PAGES) * PAGE));
    case 3:
        return mmap(at, pages * PAGE, prot, MAP_PRIVATE | how, exe, (off_t)(below(f, 4) * PAGE));
    case 4:
        return mmap(at, pages * PAGE, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | how, -1, 0);
    default:
        return mmap(at, pages * PAGE - below(f, 2) * 100, prot, MAP_PRIVATE | MAP_ANONYMOUS | how, -1, 0);
    }
}

static void keep(struct fuzzer *f, char *at, unsigned long pages)
{
    unsigned long i = below(f, KEPT);

    if (at == MAP_FAILED)
        return;
    if (f->kept[i].at)
        munmap(f->kept[i].at, f->kept[i].pages * PAGE);
    f->kept[i].at = at;
    f->kept[i].pages = pages;
}

static void some_mremap(struct fuzzer *f)
{
    unsigned long pages, others, i = below(f, KEPT);
    char *from = spot(f, &pages), *to = spot(f, &others), *moved;
    unsigned long fitting = pages < others ? pages : others;

    switch (below(f, 7)) {
    case 0:
        mremap(from, pages * PAGE, (1 + below(f, pages)) * PAGE, 0);
        break;
    case 1: /* never beyond the region: there are the stacks */
        mremap(from, pages * PAGE, pages * PAGE, 0);
        break;
    case 2:
        mremap(from, pages * PAGE, others * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to);
        break;
    case 3:
        mremap(from, fitting * PAGE, fitting * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to);
        break;
    case 4:
        mremap(from, 0, others * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to);
        break;
    case 5:
        mremap(from, fitting * PAGE, fitting * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, to);
        break;
    default:
        if (!f->kept[i].at)
            break;
        pages = 1 + below(f, 64);
        moved = mremap(f->kept[i].at, f->kept[i].pages * PAGE, pages * PAGE, MREMAP_MAYMOVE);
        if (moved != MAP_FAILED) {
            f->kept[i].at = moved;
            f->kept[i].pages = pages;
        }
    }
}

static void some_advice(struct fuzzer *f)
{
    static const int advice[] = {MADV_DONTNEED, MADV_FREE, MADV_WILLNEED, MADV_SEQUENTIAL, MADV_RANDOM,
                                 MADV_NORMAL, MADV_DONTFORK, MADV_DONTFORK, MADV_DOFORK, MADV_DONTDUMP,
                                 MADV_DODUMP, MADV_HUGEPAGE, MADV_NOHUGEPAGE};
    unsigned long pages, i = below(f, KEPT);
    char *at = spot(f, &pages);

    if (f->kept[i].at && below(f, 3) == 0) {
        at = f->kept[i].at;
        pages = 1 + below(f, f->kept[i].pages);
    }
    madvise(at, pages * PAGE, advice[below(f, sizeof advice / sizeof advice[0])]);
}

static void some_call(struct fuzzer *f)
{
    unsigned long pages;
    char *at = spot(f, &pages);

    /* The kernel writes a byte where it can: pages of memory that was used merge differently. */
    for (unsigned long i = 0; i < pages; i += 3)
        if (pread(memfd, at + i * PAGE, 1, 0) < 0)
            continue;
    at = spot(f, &pages);
    switch (below(f, 20)) {
    case 0:
    case 1:
    case 2:
    case 3:
        some_map(f, at, pages, MAP_FIXED);
        break;
    case 4:
    case 5:
        keep(f, some_map(f, NULL, pages, 0), pages);
        break;
    case 6:
        some_map(f, at, pages, MAP_FIXED_NOREPLACE);
        break;
    case 7:
    case 8:
        munmap(at, pages * PAGE);
        break;
    case 9:
    case 10:
    case 11:
        mprotect(at, pages * PAGE, some_prot(f));
        break;
    case 12:
    case 13:
        some_mremap(f);
        break;
    case 14:
        some_advice(f);
        break;
    case 15: /* up or down, but never below what was there in the beginning */
        syscall(SYS_brk, heap + below(f, HEAP_LIMIT));
        break;
    case 16:
        if (below(f, 2))
            mlock(at, pages * PAGE);
        else
            munlock(at, pages * PAGE);
        break;
    case 17:
        if (below(f, 2))
            shmdt(at);
        else if (at + 16 * PAGE <= region + PAGES * PAGE)
            shmat(segment, at, below(f, 2) ? SHM_REMAP : SHM_REMAP | SHM_RDONLY);
        break;
    case 18:
        remap_file_pages(at, pages * PAGE, 0, below(f, FILE_PAGES), 0);
        break;
    default:
        if (below(f, 2))
            munmap(at + 1, pages * PAGE);
        else
            mmap(NULL, 0, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    }
}

static void fork_one(struct fuzzer *f);

/* A process of its own in our memory, beside the threads. */
static int sharer(void *fuzzer)
{
    for (int i = 0; i < 20; i++)
        some_call(fuzzer);
    return 0;
}

static void share_one(struct fuzzer *f)
{
    static char stacks[THREADS_MAX][STACK] __attribute__((aligned(16)));
    static char *program[] = {"true", NULL};
    int status = 0;
    pid_t child;

    if (below(f, 2)) {
        child = clone(sharer, stacks[f->index] + STACK, CLONE_VM | SIGCHLD, f);
        account_require(child > 0, "clone");
    } else {
        /* Not posix_spawn: its stack would come to lie in the region. */
        child = vfork();
        if (child == 0) {
            execve("/bin/true", program, program + 1);
            _exit(1);
        }
        account_require(child > 0, "vfork");
    }
    account_require(waitpid(child, &status, 0) == child && status == 0, "the process that shares ends well");
}

static void *fight(void *fuzzer)
{
    struct fuzzer *f = fuzzer;
    struct account a;
    struct pollfd input = {.fd = 0, .events = POLLIN};

    for (unsigned long round = 1;; round++) {
        unsigned long forks_at = below(f, 3 * calls), shares_at = below(f, 3 * calls);

        for (unsigned long i = 0; i < calls; i++) {
            some_call(f);
            if (i == forks_at && depth == 0)
                fork_one(f);
            if (i == shares_at)
                share_one(f);
        }
        pthread_barrier_wait(&done);
        if (f->index == 0) { /* all others wait: nobody maps */
            if (round % mark_every == 0)
                own_maps_mark(++marks, round * calls * threads);
            over = rounds ? round == rounds : poll(&input, 1, 0) == 1;
            if (depth == 0) {
                account_open(&a, "count");
                account_uint(&a, "n", round);
                account_close(&a);
            }
        }
        pthread_barrier_wait(&ready);
        if (over)
            break;
    }
    pthread_barrier_wait(&done); /* no stack is given back while others still map */
    return NULL;
}

/* Has `threads` threads fight to their end. The region is filled: no stack may come to lie in it. */
static void fight_all(unsigned long seed)
{
    static struct fuzzer fuzzers[THREADS_MAX];
    pthread_t started[THREADS_MAX];

    account_require(mmap(region, PAGES * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == region,
                    "the region");
    memset(fuzzers, 0, sizeof fuzzers);
    over = false;
    pthread_barrier_init(&ready, NULL, (unsigned)threads);
    pthread_barrier_init(&done, NULL, (unsigned)threads);
    for (unsigned long i = 0; i < threads; i++) {
        fuzzers[i].index = i;
        fuzzers[i].random = seed * 1000 + i;
        account_require(pthread_create(&started[i], NULL, fight, &fuzzers[i]) == 0, "a thread starts");
    }
    for (unsigned long i = 0; i < threads; i++)
        pthread_join(started[i], NULL);
}

static void fork_one(struct fuzzer *f)
{
    uint64_t seed = seeded_next(&f->random);
    int status = 0;
    pid_t child = fork();

    account_require(child >= 0, "fork");
    if (child > 0) {
        account_require(waitpid(child, &status, 0) == child && status == 0, "the child ends well");
        return;
    }
    depth++;
    f->random = seed;
    own_maps_mark(++marks, 0);
    for (unsigned long i = 1; i <= CHILDS_CALLS; i++) {
        some_call(f);
        if (i % 10 == 0)
            own_maps_mark(++marks, i);
    }
    if (depth == 1 && below(f, 2))
        fork_one(f);
    threads = CHILDS_THREADS;
    rounds = mark_every = 1;
    calls = CHILDS_CALLS;
    fight_all(seed);
    _exit(0);
}

int main(int argc, char **argv)
{
    unsigned long seed = account_argument(argc, argv, 1, 1);
    struct account a;

    threads = account_argument(argc, argv, 2, 8);
    rounds = account_argument(argc, argv, 3, 4);
    calls = account_argument(argc, argv, 4, 50);
    mark_every = account_argument(argc, argv, 5, 1);
    account_begin("fuzz");
    account_require(threads >= 1 && threads <= THREADS_MAX && calls && mark_every, "the arguments");
    memfd = memfd_create("fuzz", MFD_CLOEXEC);
    account_require(memfd >= 0 && ftruncate(memfd, FILE_PAGES * PAGE) == 0, "a memfd");
    exe = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    account_require(exe >= 0, "/proc/self/exe opens");
    /* Removed when the last that has it attached is gone; one attachment stays, out of the region. */
    segment = shmget(IPC_PRIVATE, 16 * PAGE, 0600);
    account_require(segment >= 0 && shmat(segment, NULL, 0) != (void *)-1, "a segment");
    account_require(shmctl(segment, IPC_RMID, NULL) == 0, "the segment is removed with us");
    account_require(malloc(1) != NULL, "malloc has its first heap"); /* all it needs for the threads */
    heap = sbrk(0);
    region = mmap(NULL, PAGES * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    account_require(region != MAP_FAILED, "the region");
    account_open(&a, "start");
    account_uint(&a, "seed", seed);
    account_uint(&a, "threads", threads);
    account_close(&a);
    fight_all(seed);
    account_end(true);
    return 0;
}
