/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * mid_life: a program with a past. It tells what each piece of its memory is, waits for a byte on stdin, goes on, and
 * tells what has become of it.
 *
 * Past: the threshold of malloc has risen to 200704 (a block of 200000 was mapped and freed), blocks are mapped, some
 * of them in a row that the kernel shows as one line, others are mapped by the program itself; somebody else's sbrk
 * leaves the break in the middle of a page; a thread has a stack and an arena of its own.
 * After the byte: 180000 bytes come from the heap (the threshold had risen, which an observer of the rest of its life
 * cannot know), 300000 are mapped, freed (the threshold: 303104), and served by the heap from then on.
 */
#define _GNU_SOURCE
#include "account.h"

#include <pthread.h>
#include <semaphore.h>
#include <sys/mman.h>

enum { PAGE = 4096, BIG = 200000, BIGGER = 300000, BELOW = 180000, ROW = 4, OWN = 132 << 10 };

static sem_t started, go, done;

/* A page without access, so that what is mapped next is not shown in one line with what was mapped last. */
static void fence(void)
{
    account_require(mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED, "mmap");
}

/* What [at, at + bytes) is. */
static void is(const char *kind, const void *at, size_t bytes)
{
    struct account a;

    account_open(&a, "is");
    account_text(&a, "kind", kind);
    account_uint(&a, "at", (uintptr_t)at);
    account_uint(&a, "bytes", bytes);
    account_close(&a);
}

static void state(const char *when, size_t threshold)
{
    struct account a;

    account_open(&a, when);
    account_uint(&a, "threshold", threshold);
    account_uint(&a, "break", (uintptr_t)sbrk(0));
    account_close(&a);
}

static void is_chunk(void *block)
{
    size_t field = ((size_t *)block)[-1];

    account_require((field & 7) == 2, "the block has a mapping of its own");
    is("malloc-chunk", (char *)block - 16, field & ~(size_t)7);
}

static void *thread(void *unused)
{
    volatile char here = 0;
    char *block = malloc(1000);

    (void)unused;
    is("thread-stack", (const void *)&here, 1);
    is("arena", (void *)((uintptr_t)block & ~(uintptr_t)((64 << 20) - 1)), 64 << 20);
    sem_post(&started);
    sem_wait(&go);
    for (int i = 0; i < 200; i++)
        account_require(malloc(4000) != NULL, "malloc");
    sem_post(&done);
    pause();
    return NULL;
}

int main(void)
{
    char *row[ROW], *own[2], *hidden, *block, byte;
    pthread_t other;

    account_begin("mid_life");
    free(malloc(1));
    hidden = malloc(BIG);
    for (int i = 0; i < 2; i++) { /* below it, in one line with it */
        own[i] = mmap(NULL, OWN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        memset(own[i], 'x', OWN);
        is("anon", own[i], OWN);
    }
    fence();
    block = malloc(BIG);
    for (int i = 0; i < ROW; i++) {
        row[i] = malloc(BIG);
        is_chunk(row[i]);
    }
    fence();
    is("hidden-chunk", hidden - 16, 200704);
    free(block); /* the threshold rises to its size */
    account_require(pthread_create(&other, NULL, thread, NULL) == 0, "pthread_create");
    sem_wait(&started);
    account_require(sbrk(0x123) != (void *)-1, "sbrk");
    state("ready", 200704);

    account_require(read(0, &byte, 1) == 1, "a byte on stdin");
    for (int i = 0; i < 6; i++)
        account_require(malloc(BELOW) != NULL, "malloc");
    free(row[1]);
    free(hidden);
    is("freed", row[1] - 16, 200704);
    block = malloc(BIGGER);
    is_chunk(block);
    account_require(malloc(1) != NULL, "malloc");
    free(block); /* the threshold rises to 303104 */
    for (int i = 0; i < 3; i++)
        account_require(malloc(BIGGER) != NULL, "malloc");
    sem_post(&go);
    sem_wait(&done);
    state("now", 303104);

    account_require(read(0, &byte, 1) == 1, "a byte on stdin");
    account_end(true);
    return 0;
}
