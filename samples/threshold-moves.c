/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * threshold-moves: freeing one mapped block changes where all later ones go.
 *
 * Act 1: 40 blocks of 10000 bytes: three growths of the heap.
 * Act 2: three blocks of 200000 bytes: above the threshold of 128 KiB, three mappings.
 * Act 3: one of them is freed: munmap, and glibc learns from it: the threshold rises to that chunk's size
 *        (200704), the trim threshold to twice as much.
 * Act 4: three more blocks of 200000 bytes, the same request as before: three growths, no mapping.
 * Act 5: a block of 300000 bytes is still above: a mapping. Freed, it raises the threshold once more (303104).
 * Act 6: the three heap blocks of act 4 are freed, newest first: the heap shrinks once the free top reaches the
 *        trim threshold, which is no longer 128 KiB but 606208.
 *
 * To see: that "above 128 KiB malloc calls mmap" is true in act 2, false in act 4, and what lies between.
 *
 * Behind it: glibc __libc_free() (mp_.mmap_threshold, mp_.trim_threshold), sysmalloc(), systrim().
 */
#define _GNU_SOURCE
#include "where.h"

enum { SMALL_COUNT = 40, SMALL = 10000, BIG = 200000, BIGGER = 300000, THRESHOLD_MAX = 32 << 20 };

static size_t threshold = 128 << 10;

/* Whether a setting of the environment froze the threshold (glibc ptmalloc_init, tunables): then it is not told. */
static bool frozen(void)
{
    return getenv("MALLOC_MMAP_THRESHOLD_") || getenv("MALLOC_TRIM_THRESHOLD_") || getenv("MALLOC_TOP_PAD_") ||
           getenv("MALLOC_MMAP_MAX_") || getenv("GLIBC_TUNABLES");
}

/* The rule of __libc_free(): the size field, flags included, is held against the threshold. */
static void told_free(const char *note, void *block)
{
    uintptr_t ptr = (uintptr_t)block;
    uintptr_t before = where_break();
    size_t field = where_size_field(block);
    size_t chunk = where_chunk_size(block);
    const char *where = where_is(block);
    size_t old = threshold;
    struct account a;

    if (where_is_mapped(block) && field > threshold && field <= THRESHOLD_MAX)
        threshold = chunk;
    free(block);

    account_open(&a, "free");
    account_text(&a, "note", note);
    account_uint(&a, "ptr", ptr);
    account_text(&a, "where", where);
    account_uint(&a, "chunk_size", chunk);
    if (frozen()) {
        account_null(&a, "threshold_before");
        account_null(&a, "threshold_after");
    } else {
        account_uint(&a, "threshold_before", old);
        account_uint(&a, "threshold_after", threshold);
    }
    account_uint(&a, "break_before", before);
    account_uint(&a, "break_after", where_break());
    account_close(&a);
}

static void *touched(const char *note, size_t size)
{
    return memset(told_malloc(note, size), 1, size);
}

int main(void)
{
    void *first[3], *second[3], *bigger;
    bool expected = true;
    uintptr_t peak;

    account_begin("threshold-moves");
    where_begin();

    for (int i = 0; i < SMALL_COUNT; i++)
        touched("small", SMALL);
    for (int i = 0; i < 3; i++) {
        first[i] = touched("before the threshold moved", BIG);
        expected &= where_is_mapped(first[i]);
    }
    told_free("moves the threshold", first[0]);
    for (int i = 0; i < 3; i++) {
        second[i] = touched("after the threshold moved", BIG);
        expected &= !where_is_mapped(second[i]);
    }
    bigger = touched("above the new threshold", BIGGER);
    expected &= where_is_mapped(bigger);
    told_free("moves the threshold again", bigger);
    peak = where_break();
    for (int i = 3; i-- > 0;)
        told_free("heap block, newest first", second[i]);
    expected &= where_break() < peak;

    /* first[1] and first[2] stay: two mapped chunks are alive at exit. */
    account_end(expected);
    return 0;
}
