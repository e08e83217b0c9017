/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * direct-mmap: two identical mmap calls, one by the program, one by malloc.
 *
 * The program maps 135168 bytes itself; then malloc(131049) maps 135168 bytes with the same arguments. The kernel
 * may merge the two into one line of /proc/self/maps. Only the caller of mmap, or the chunk header malloc writes
 * into its own, tells them apart: the shape proves nothing.
 *
 * To see: one region of kind anon and one of kind malloc-chunk, equal in size and neighbours.
 *
 * Behind it: glibc sysmalloc_mmap(); kernel vma_merge_new_range().
 */
#define _GNU_SOURCE
#include "where.h"

#include <sys/mman.h>

enum { LENGTH = 135168, REQUEST = 131049 };

static void tell(const char *by, uintptr_t start, size_t length)
{
    struct account a;

    account_open(&a, "mapping");
    account_text(&a, "by", by);
    account_uint(&a, "start", start);
    account_uint(&a, "length", length);
    account_close(&a);
}

int main(void)
{
    void *newest, *direct, *chunk;

    account_begin("direct-mmap");
    where_begin();
    newest = told_malloc("first", 100000);
    where_drain_top(newest, 131000);

    direct = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    account_require(direct != MAP_FAILED, "a mapping of the program's own");
    tell("program", (uintptr_t)direct, LENGTH);
    chunk = told_malloc("same length", REQUEST);
    if (where_is_mapped(chunk))
        tell("malloc", where_map_start(chunk), where_map_length(chunk));
    memset(direct, 1, LENGTH);
    memset(chunk, 1, REQUEST);

    /* Both stay until exit. */
    account_end(where_is_mapped(chunk) && where_map_length(chunk) == LENGTH);
    return 0;
}
