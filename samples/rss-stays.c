/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * rss-stays: everything is freed, and nothing goes back.
 *
 * A block of 16 MiB is freed, which sets the trim threshold to 32 MiB. Then 10 MiB of small blocks, each touched, are
 * allocated and all freed, oldest first, so that they merge into the top of the heap. The top is 10 MiB, which is
 * less than the trim threshold: free gives nothing back. malloc_trim(0) at the end shows that it could have.
 *
 * To see: about 80 growths, no shrink by free; with an argument ("trim") one shrink, by malloc_trim.
 *
 * Behind it: glibc __libc_free() (mp_.trim_threshold = 2 * mp_.mmap_threshold), _int_free(), systrim().
 */
#define _GNU_SOURCE
#include "where.h"

enum { FIRST = 16 << 20, COUNT = 10240, SIZE = 1000 };

int main(int argc, char **argv)
{
    static void *blocks[COUNT];
    uintptr_t peak, after;
    struct account a;

    account_begin("rss-stays");
    account_require(argc < 2 || strcmp(argv[1], "trim") == 0, "the argument is trim");
    where_begin();
    free(told_malloc("makes the heap", 1000));
    free(told_malloc("raises both thresholds", FIRST));
    for (int i = 0; i < COUNT; i++) {
        blocks[i] = malloc(SIZE);
        account_require(blocks[i] != NULL, "malloc gives a block");
        memset(blocks[i], 1, SIZE);
    }
    peak = where_break();
    for (int i = 0; i < COUNT; i++)
        free(blocks[i]);
    after = where_break();
    if (argc > 1)
        malloc_trim(0);
    account_open(&a, "freed");
    account_uint(&a, "blocks", COUNT);
    account_uint(&a, "bytes", (uint64_t)COUNT * SIZE);
    account_uint(&a, "heap_start", where_heap_start);
    account_uint(&a, "peak", peak);
    account_uint(&a, "after", after);
    account_uint(&a, "at_end", where_break());
    account_close(&a);
    account_end(after == peak && (argc < 2 || where_break() < after));
    return 0;
}
