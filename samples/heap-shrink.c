/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * heap-shrink: the heap grows and is given back by free.
 *
 * Phase 1: 400 blocks of 1000 bytes, freed oldest first. The first seven stay in the tcache at the bottom, the
 * others merge; only the last one touches the top chunk, which is then far above M_TRIM_THRESHOLD (128 KiB): one
 * free, one large shrink. Phase 2: 20 blocks of 100000 bytes (too large for the tcache), freed newest first: each
 * merges into the top at once, and the heap comes down in steps.
 *
 * To see: brk calls that lower the break; 128 KiB and up to a page more (M_TOP_PAD) stay for the next growth.
 *
 * Behind it: glibc _int_free() (_int_free_merge_chunk) -> systrim() -> sbrk(-n) -> brk(2) -> the kernel unmaps.
 */
#define _GNU_SOURCE
#include "account.h"

enum { SMALL_COUNT = 400, SMALL = 1000, LARGE_COUNT = 20, LARGE = 100000 };

static uintptr_t end;
static unsigned long growths, shrinks;
static uint64_t grown, shrunk;

/* Compares the break with the last one seen and tells a change. */
static void look(const char *phase, unsigned long index)
{
    uintptr_t now = (uintptr_t)sbrk(0);
    struct account a;

    if (now == end)
        return;
    account_open(&a, "break");
    account_text(&a, "phase", phase);
    account_uint(&a, "index", index);
    account_uint(&a, "before", end);
    account_uint(&a, "after", now);
    account_close(&a);
    if (now > end) {
        growths++;
        grown += now - end;
    } else {
        shrinks++;
        shrunk += end - now;
    }
    end = now;
}

static void fill(void **blocks, unsigned long count, size_t size, const char *phase)
{
    for (unsigned long i = 0; i < count; i++) {
        blocks[i] = malloc(size);
        account_require(blocks[i] != NULL, "malloc gives a block");
        memset(blocks[i], 1, size);
        look(phase, i);
    }
}

int main(void)
{
    static void *blocks[SMALL_COUNT];
    uintptr_t start = (uintptr_t)sbrk(0);
    unsigned long after_first_phase;
    struct account a;

    end = start;
    account_begin("heap-shrink");
    account_open(&a, "start");
    account_uint(&a, "break", start);
    account_close(&a);

    fill(blocks, SMALL_COUNT, SMALL, "grow-small");
    for (unsigned long i = 0; i < SMALL_COUNT; i++) {
        free(blocks[i]);
        look("free-oldest-first", i);
    }
    after_first_phase = shrinks;

    fill(blocks, LARGE_COUNT, LARGE, "grow-large");
    for (unsigned long i = LARGE_COUNT; i-- > 0;) {
        free(blocks[i]);
        look("free-newest-first", i);
    }

    account_open(&a, "total");
    account_uint(&a, "growths", growths);
    account_uint(&a, "shrinks", shrinks);
    account_uint(&a, "grown_bytes", grown);
    account_uint(&a, "shrunk_bytes", shrunk);
    account_uint(&a, "final_break", end);
    account_close(&a);
    account_end(after_first_phase > 0 && shrinks > after_first_phase);
    return 0;
}
