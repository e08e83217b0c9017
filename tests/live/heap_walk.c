/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * heap_walk: fills malloc's heaps in some way, tells what malloc itself says of them, and ends with no call in
 * between that could change them.
 *
 *   heap_walk MODE [NUMBER...]
 *
 * "info" has the fields of mallinfo2(3), all arenas together; "at" places that a walk has to find.
 */
#define _GNU_SOURCE
#include "account.h"

#include <malloc.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/resource.h>

enum { PAGE = 4096, MOST = 4096 };

static uint64_t state = 88172645463325252u;

static uint64_t next(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static void *own[MOST];

/* As programs do: many small blocks, some large ones, freed in no order. */
static void shuffle(void **blocks, unsigned long times, size_t largest)
{
    uint64_t s = next();

    for (unsigned long i = 0; i < times; i++) {
        void **block;
        size_t size;

        s ^= s << 13;
        s ^= s >> 7;
        s ^= s << 17;
        block = &blocks[s >> 8 & (MOST - 1)];
        size = s >> 20 & 15 ? (s >> 24) % 500 : (s >> 24) % largest;
        if (s & 1) {
            free(*block);
            *block = NULL;
        } else if (s & 2) {
            void *grown = realloc(*block, size + 1);

            account_require(grown != NULL, "realloc gives a block");
            *block = grown;
        } else if (*block == NULL) {
            *block = s & 4 ? malloc(size) : s & 8 ? calloc(1, size) : memalign(64, size);
        }
    }
}

static void tell(const char *what)
{
    struct mallinfo2 m = mallinfo2();
    struct account a;

    account_open(&a, what);
    account_uint(&a, "arena", m.arena);
    account_uint(&a, "ordblks", m.ordblks);
    account_uint(&a, "smblks", m.smblks);
    account_uint(&a, "fsmblks", m.fsmblks);
    account_uint(&a, "uordblks", m.uordblks);
    account_uint(&a, "fordblks", m.fordblks);
    account_uint(&a, "keepcost", m.keepcost);
    account_close(&a);
}

static void at(const char *name, uintptr_t value)
{
    struct account a;

    account_open(&a, "at");
    account_text(&a, "name", name);
    account_uint(&a, "value", value);
    account_close(&a);
}

static pthread_barrier_t ready;

static void *worker(void *arg)
{
    unsigned long times = (unsigned long)arg;
    void **blocks = calloc(MOST, sizeof *blocks);

    shuffle(blocks, times, 60000);
    pthread_barrier_wait(&ready);
    pause();
    return NULL;
}

/* Enough for a second heap of 64 MiB, behind which the first has its fences. */
static void *hog(void *arg)
{
    for (unsigned long i = 0; i < (unsigned long)arg; i++)
        own[i % MOST] = malloc(100000);
    pthread_barrier_wait(&ready);
    pause();
    return NULL;
}

/* Never still, until the barrier. */
static void *busy(void *arg)
{
    void **blocks = calloc(MOST, sizeof *blocks);

    for (unsigned long i = 0; i < (unsigned long)arg; i++)
        shuffle(blocks, 2000, 60000);
    pthread_barrier_wait(&ready);
    pause();
    return NULL;
}

static void threads(void *(*run)(void *), unsigned long count, unsigned long arg)
{
    pthread_barrier_init(&ready, NULL, (unsigned)count + 1);
    for (unsigned long i = 0; i < count; i++) {
        pthread_t t;

        account_require(pthread_create(&t, NULL, run, (void *)arg) == 0, "a thread begins");
    }
    if (run == busy)
        shuffle(own, 20 * arg * count, 200000);
    pthread_barrier_wait(&ready);
}

static unsigned long number(char **argv, int i)
{
    return strtoul(argv[i], NULL, 10);
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "random";

    account_begin("heap_walk");
    if (strcmp(mode, "random") == 0) {
        state += number(argv, 2) * 7919;
        shuffle(own, number(argv, 3), 100000);
    } else if (strcmp(mode, "threads") == 0) {
        shuffle(own, 3000, 60000);
        threads(worker, number(argv, 2), number(argv, 3));
    } else if (strcmp(mode, "busy") == 0) {
        mallopt(M_ARENA_MAX, 2); /* others are at work in the main arena, too */
        threads(busy, 3, number(argv, 2));
    } else if (strcmp(mode, "hog") == 0) {
        threads(hog, 1, number(argv, 2));
    } else if (strcmp(mode, "foreign") == 0) {
        /* Before malloc, in mid-life, and at the end. */
        unsigned long times = number(argv, 2);

        at("before", (uintptr_t)sbrk(5000));
        shuffle(own, times, 60000);
        memset(sbrk(3 * PAGE + 24), 0x21, 3 * PAGE + 24);
        shuffle(own, 4 * times, 90000);
        at("behind", (uintptr_t)sbrk(2 * PAGE));
    } else if (strcmp(mode, "scribble") == 0) {
        shuffle(own, 3000, 60000);
        for (unsigned i = 0; i < MOST; i++)
            if (own[i] != NULL && malloc_usable_size(own[i]) < 400) {
                at("scribbled", (uintptr_t)own[i] - 2 * sizeof(size_t));
                ((size_t *)own[i])[-1] = number(argv, 2);
                break;
            }
        _exit(0);
    } else if (strcmp(mode, "hole") == 0) {
        uintptr_t start = (uintptr_t)sbrk(0);

        shuffle(own, 3000, 60000);
        at("hole", start + 16 * PAGE);
        munmap((void *)(start + 16 * PAGE), 8 * PAGE);
        _exit(0);
    } else if (strcmp(mode, "none") == 0) {
        /* A heap that is nobody's malloc's. */
        char *area = sbrk(40 * PAGE);

        for (int i = 0; i < 40 * PAGE; i++)
            area[i] = (char)next();
        _exit(0);
    } else if (strcmp(mode, "wait") == 0) {
        /* For an attach: pages that nobody has touched, in the top and behind it. */
        char byte;

        mallopt(M_TOP_PAD, 8 << 20);
        shuffle(own, 3000, 60000);
        if (argc == 2)
            at("behind", (uintptr_t)sbrk(1 << 20));
        tell("info");
        while (read(0, &byte, 1) == 1)
            ;
        _exit(0);
    } else {
        return 2;
    }
    tell("info");
    _exit(0);
}
