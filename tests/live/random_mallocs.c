/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * random_mallocs SEED COUNT THREADS [TUNES [FORKS [MOST [ALIGNED]]]]: asks malloc for COUNT things at random in each of its threads,
 * and tells each as drv.c does ({"what": "op", "op": "m", ...}). The threads share their blocks, so that one frees
 * what another has asked for. TUNES times the first thread calls mallopt in between; FORKS times it forks, and the
 * child goes on alone for a while.
 *
 * Most requests are small; many lie around the threshold; some are large, and larger the longer it runs, up to MOST
 * bytes (default 4 MiB). ALIGNED of 100 requests are memalign's.
 */
#define _GNU_SOURCE
#include "mallocs.h"

#include <sys/wait.h>

enum { SLOTS = 96, THREADS = 16, LONGEST = 1 << 20 };

static void *volatile slots[SLOTS];
static unsigned long count, tunes, forks, most, aligned;
static uint64_t seed;

/* What one thread draws from (xorshift64*). */
struct dice {
    uint64_t state;
    unsigned long steps; /* so far */
};

static uint64_t drawn(struct dice *d)
{
    d->state ^= d->state >> 12;
    d->state ^= d->state << 25;
    d->state ^= d->state >> 27;
    return d->state * 2685821657736338717ULL;
}

static uint64_t below(struct dice *d, uint64_t limit)
{
    return (drawn(d) >> 11) % limit;
}

static size_t size_of(struct dice *d)
{
    uint64_t kind = below(d, 100);

    if (kind < 40)
        return below(d, 2000);
    if (kind < 60)
        return below(d, 128 << 10);
    if (kind < 75) /* around the default threshold and its page */
        return (128 << 10) - 64 + below(d, 8192);
    return (100 << 10) + below(d, most / 16 + most / 16 * 15 / count * d->steps);
}

struct telling {
    struct account a;
    uintptr_t before;
};

static void begin(struct telling *t, const char *op)
{
    account_open(&t->a, "op");
    account_text(&t->a, "op", op);
    t->before = mallocs_break();
}

static void done(struct telling *t)
{
    mallocs_tell_break(&t->a, "break_before", t->before);
    mallocs_tell_break(&t->a, "break_after", mallocs_break());
}

static void tell_asked(struct telling *t, size_t size, size_t align, void *block)
{
    account_uint(&t->a, "request", size);
    if (align)
        account_uint(&t->a, "align", align);
    mallocs_tell_block(&t->a, block);
    account_close(&t->a);
}

static void tell_old(struct telling *t, uintptr_t block, struct chunk c)
{
    account_uint(&t->a, "old_ptr", block);
    mallocs_tell_chunk(&t->a, "old_", c);
}

/* Of a block's bytes the ends only: large ones need not be there. */
static void write_ends(char *block, size_t size)
{
    if (block && size) {
        block[0] = 1;
        block[size - 1] = 1;
    }
}

static void release(void *block)
{
    struct telling t;
    uintptr_t old = (uintptr_t)block;
    struct chunk c = mallocs_chunk(block);

    begin(&t, "f");
    free(block);
    done(&t);
    tell_old(&t, old, c);
    account_close(&t.a);
}

static void *take(struct dice *d)
{
    return __atomic_exchange_n(&slots[below(d, SLOTS)], NULL, __ATOMIC_SEQ_CST);
}

static void put(struct dice *d, void *block)
{
    void *before = __atomic_exchange_n(&slots[below(d, SLOTS)], block, __ATOMIC_SEQ_CST);

    if (before)
        release(before);
}

static void ask(struct dice *d)
{
    static const char *names[] = {"m", "c", "a"};
    uint64_t which = below(d, 100);
    int op = which < aligned ? 2 : which % 8 ? 0 : 1;
    size_t size = size_of(d);
    size_t align = op == 2 ? (size_t)1 << below(d, 22) : 0;
    struct telling t;
    void *block;

    begin(&t, names[op]);
    block = op == 0 ? malloc(size) : op == 1 ? calloc(1, size) : memalign(align, size);
    done(&t);
    tell_asked(&t, size, align, block);
    write_ends(block, size);
    if (block)
        put(d, block);
}

static void ask_again(struct dice *d)
{
    void *block = take(d), *given;
    struct telling t;
    uintptr_t old = (uintptr_t)block;
    struct chunk c;
    size_t size = size_of(d);

    if (!block)
        return;
    size += size == 0; /* realloc to 0 is free */
    c = mallocs_chunk(block);
    begin(&t, "r");
    given = realloc(block, size);
    done(&t);
    account_bool(&t.a, "given", given != NULL);
    tell_old(&t, old, c);
    if (given)
        write_ends(given, size);
    else
        given = (void *)old;
    tell_asked(&t, size, 0, given);
    put(d, given);
}

static void step(struct dice *d)
{
    uint64_t what = below(d, 100);

    if (what < 45) {
        ask(d);
    } else if (what < 60) {
        ask_again(d);
    } else {
        void *block = take(d);

        if (block)
            release(block);
    }
}

static void tune(struct dice *d)
{
#ifdef __GLIBC__
    static const int names[] = {M_MMAP_THRESHOLD, M_MMAP_MAX, M_TOP_PAD, M_TRIM_THRESHOLD};
    static const int values[] = {0, 16, 4096, 65536, 1 << 20, 8 << 20};
    int name = names[below(d, 4)], value = values[below(d, 6)], answer;
    struct telling t;

    begin(&t, "o");
    answer = mallopt(name, value);
    done(&t);
    account_int(&t.a, "name", name);
    account_int(&t.a, "value", value);
    account_int(&t.a, "answer", answer);
    account_close(&t.a);
#else
    (void)d;
#endif
}

static void trim(struct dice *d)
{
#ifdef __GLIBC__
    struct telling t;
    size_t pad = below(d, 2) ? 0 : below(d, 1 << 20);
    int answer;

    begin(&t, "t");
    answer = malloc_trim(pad);
    done(&t);
    account_uint(&t.a, "pad", pad);
    account_int(&t.a, "answer", answer);
    account_close(&t.a);
#else
    (void)d;
#endif
}

static void child_of(struct dice *d, unsigned long steps)
{
    struct telling t;
    pid_t child;

    begin(&t, "fork");
    child = fork();
    account_require(child >= 0, "fork gives a child");
    if (child == 0) {
        for (unsigned long i = 0; i < steps; i++)
            step(d);
        account_end(true);
        _exit(0);
    }
    done(&t);
    account_int(&t.a, "child", child);
    account_close(&t.a);
}

/* Whether it is time for one more of `many` things that are spread over all of `count` steps. */
static bool due(unsigned long i, unsigned long many)
{
    return many && i % (count / many + 1) == count / many;
}

static void *run(void *argument)
{
    uintptr_t number = (uintptr_t)argument;
    struct dice d = {(seed + 1) * 0x9E3779B97F4A7C15ULL ^ (number + 1) * 0xD1B54A32D192ED03ULL, 0};

    for (int i = 0; i < 8; i++)
        (void)drawn(&d);
    for (unsigned long i = 0; i < count; i++) {
        d.steps = i;
        step(&d);
        if (number == 0 && due(i, tunes))
            tune(&d);
        if (number == 0 && due(i, 3))
            trim(&d);
        if (number == 0 && due(i, forks))
            child_of(&d, count / 4);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    unsigned long threads = account_argument(argc, argv, 3, 1);
    pthread_t others[THREADS];

    account_begin("random_mallocs");
    seed = account_argument(argc, argv, 1, 0);
    count = account_argument(argc, argv, 2, 1000);
    tunes = account_argument(argc, argv, 4, 0);
    forks = account_argument(argc, argv, 5, 0);
    most = account_argument(argc, argv, 6, 4 << 20);
    aligned = account_argument(argc, argv, 7, 0);
    account_require(threads >= 1 && threads <= THREADS && count >= 1 && count <= LONGEST, "not more than there is room for");
    for (uintptr_t i = 1; i < threads; i++)
        account_require(pthread_create(&others[i], NULL, run, (void *)i) == 0, "a thread starts");
    run(NULL);
    for (uintptr_t i = 1; i < threads; i++)
        pthread_join(others[i], NULL);
    while (waitpid(-1, NULL, 0) > 0)
        continue;
    account_end(true);
    _exit(0);
}
