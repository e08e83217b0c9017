/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * thread-arenas [THREADS [together|in-turn]]: threads do not allocate from the heap (default 4, together).
 *
 * Each thread allocates small blocks. Together: every thread, alive at the same time, gets an arena of its own, up
 * to 8 per CPU, after which they share. In turn: each thread ends before the next starts, and the arena of the
 * dead one is used again; all tell the same base.
 *
 * To see: per thread one reservation of 128 MiB PROT_NONE, cut down to one 64 MiB piece aligned to 64 MiB, of which
 * mprotect opens 132 KiB and then single pages; next to it the stack (8 MiB and a guard). The heap stays small.
 *
 * Behind it: glibc arena_get2() -> _int_new_arena() -> new_heap(), grow_heap(); allocate_stack() in nptl.
 */
#define _GNU_SOURCE
#include "where.h"

#include <pthread.h>

enum { THREADS_MAX = 64, BLOCKS = 300, SIZE = 1000 };
#define ARENA_BYTES (64UL << 20)

static pthread_barrier_t all_ready, all_done;
static bool together;
static uintptr_t bases[THREADS_MAX];

static void *run(void *argument)
{
    unsigned long index = (unsigned long)(uintptr_t)argument;
    pthread_attr_t attributes;
    void *stack, *first = NULL, *last = NULL;
    size_t stack_bytes, guard_bytes;
    struct account a;

    if (together)
        pthread_barrier_wait(&all_ready);
    for (int i = 0; i < BLOCKS; i++) {
        last = malloc(SIZE);
        account_require(last != NULL, "malloc gives a block");
        memset(last, 1, SIZE);
        if (i == 0)
            first = last;
    }
    bases[index] = (uintptr_t)first & ~(ARENA_BYTES - 1);
    account_require(pthread_getattr_np(pthread_self(), &attributes) == 0, "the thread's attributes");
    account_require(pthread_attr_getstack(&attributes, &stack, &stack_bytes) == 0, "the thread's stack");
    account_require(pthread_attr_getguardsize(&attributes, &guard_bytes) == 0, "the thread's guard");
    pthread_attr_destroy(&attributes);

    account_open(&a, "thread");
    account_uint(&a, "index", index);
    account_ptr(&a, "ptr", first);
    account_ptr(&a, "last_ptr", last);
    account_uint(&a, "bytes", (uint64_t)BLOCKS * SIZE);
    account_text(&a, "where", where_is(first));
    account_uint(&a, "arena_base", bases[index]);
    account_ptr(&a, "stack_start", stack);
    account_uint(&a, "stack_end", (uintptr_t)stack + stack_bytes);
    account_uint(&a, "guard_bytes", guard_bytes);
    account_ptr(&a, "local", &attributes);
    account_close(&a);
    if (together)
        pthread_barrier_wait(&all_done);
    return NULL;
}

int main(int argc, char **argv)
{
    unsigned long count = account_argument(argc, argv, 1, 4);
    unsigned long distinct = 0;
    pthread_t threads[THREADS_MAX];
    struct account a;

    account_begin("thread-arenas");
    account_require(count >= 1 && count <= THREADS_MAX, "1 to 64 threads");
    account_require(argc < 3 || strcmp(argv[2], "together") == 0 || strcmp(argv[2], "in-turn") == 0,
                    "the second argument is together or in-turn");
    together = argc < 3 || strcmp(argv[2], "together") == 0;
    where_begin();
    pthread_barrier_init(&all_ready, NULL, (unsigned)count);
    pthread_barrier_init(&all_done, NULL, (unsigned)count);

    for (unsigned long i = 0; i < count; i++) {
        account_require(pthread_create(&threads[i], NULL, run, (void *)(uintptr_t)i) == 0, "a thread starts");
        if (!together)
            pthread_join(threads[i], NULL);
    }
    for (unsigned long i = 0; together && i < count; i++)
        pthread_join(threads[i], NULL);

    for (unsigned long i = 0; i < count; i++) {
        bool seen = false;

        for (unsigned long j = 0; j < i; j++)
            seen |= bases[j] == bases[i];
        distinct += !seen;
    }
    account_open(&a, "total");
    account_uint(&a, "threads", count);
    account_bool(&a, "together", together);
    account_uint(&a, "distinct_arenas", distinct);
    account_uint(&a, "heap_start", where_heap_start);
    account_uint(&a, "heap_end", where_break());
    account_close(&a);
    account_end(together ? distinct > 1 || count == 1 : distinct == 1);
    return 0;
}
