/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * where.h: a sample finds out by itself where malloc put a block, and tells it.
 *
 * Two witnesses, both independent of any tracer: sbrk(0), the break as the C library last saw it, and the size
 * field malloc keeps in the word before each block (malloc/malloc.c, struct malloc_chunk): bit 1 (IS_MMAPPED) set
 * says that the block is a mapping of its own, bit 2 (NON_MAIN_ARENA) that it lies in a thread's arena. The rest
 * of the field is the chunk's size; for a mapping this is the mapping's length (16 bytes less since glibc 2.43).
 */
#ifndef SAMPLES_WHERE_H
#define SAMPLES_WHERE_H

#include "account.h"

#include <malloc.h>

static uintptr_t where_heap_start; /* the break before the first malloc */

/* To be called before the first malloc. */
static inline void where_begin(void)
{
    struct account a;

    where_heap_start = (uintptr_t)sbrk(0);
    account_open(&a, "start");
    account_uint(&a, "break", where_heap_start);
    account_close(&a);
}

static inline uintptr_t where_break(void)
{
    return (uintptr_t)sbrk(0);
}

static inline size_t where_size_field(const void *block)
{
    const void *volatile hidden = block; /* the compiler knows malloc, and that nothing of ours lies before a block */

    return ((const volatile size_t *)hidden)[-1];
}

/* Bytes of the chunk: the block, its header and padding. */
static inline size_t where_chunk_size(const void *block)
{
    return where_size_field(block) & ~(size_t)7;
}

static inline bool where_is_mapped(const void *block)
{
    return (where_size_field(block) & 2) != 0;
}

static inline const char *where_is(const void *block)
{
    uintptr_t p = (uintptr_t)block;

    if (p >= where_heap_start && p < where_break())
        return "heap";
    if (where_is_mapped(block))
        return "mapped";
    return where_size_field(block) & 4 ? "arena" : "other";
}

/* The extent of the mapping a mapped block lives in (not for memalign). */
static inline uintptr_t where_map_start(const void *block)
{
    return (uintptr_t)block & ~(uintptr_t)4095;
}

static inline size_t where_map_length(const void *block)
{
    return (where_chunk_size(block) + 4095) & ~(size_t)4095;
}

/* Free bytes of the heap above `newest`, the block most recently cut from the top chunk; 0 if it is elsewhere. */
static inline size_t where_top(const void *newest)
{
    if (strcmp(where_is(newest), "heap") != 0)
        return 0;
    return where_break() - ((uintptr_t)newest - 16 + where_chunk_size(newest));
}

/* malloc(size), told as {"what": "malloc", ...}; every sample's account of a block has these fields. */
static inline void *told_malloc(const char *note, size_t size)
{
    uintptr_t before = where_break();
    void *block = malloc(size);
    struct account a;
    bool mapped;

    account_require(block != NULL, "malloc gives a block");
    mapped = where_is_mapped(block);
    account_open(&a, "malloc");
    account_text(&a, "note", note);
    account_uint(&a, "request", size);
    account_ptr(&a, "ptr", block);
    account_text(&a, "where", where_is(block));
    account_uint(&a, "size_field", where_size_field(block));
    account_uint(&a, "chunk_size", where_chunk_size(block));
    if (mapped) {
        account_uint(&a, "map_start", where_map_start(block));
        account_uint(&a, "map_length", where_map_length(block));
    } else {
        account_null(&a, "map_start");
        account_null(&a, "map_length");
    }
    account_uint(&a, "break_before", before);
    account_uint(&a, "break_after", where_break());
    account_close(&a);
    return block;
}

/*
 * Uses the free top of the heap up until less than `limit` bytes are left. Only then does the size of a request
 * decide: sysmalloc() holds it against the threshold after the top chunk could not serve it.
 */
static inline void *where_drain_top(void *newest, size_t limit)
{
    while (where_top(newest) >= limit)
        newest = told_malloc("uses up the free top", 20000);
    return newest;
}

#endif
