/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * threshold-edge: one byte decides between brk and mmap.
 *
 * After a first malloc(100000), malloc(131048) makes the heap grow and malloc(131049) gets a mapping of its own.
 * The limit M_MMAP_THRESHOLD (131072) is compared with the chunk, not with the request: request + 8 bytes of
 * header, rounded up to 16. 131048 needs a chunk of 131056, 131049 one of 131072. It is compared only when the
 * free top of the heap cannot serve the request: therefore the top is used up before each of the two.
 *
 * To see: a growth without a mapping, then a mapping of 135168 bytes (chunk + 8, rounded up to a page) without a
 * growth.
 *
 * Behind it: glibc checked_request2size(), _int_malloc() (use_top), sysmalloc(), sysmalloc_mmap().
 */
#define _GNU_SOURCE
#include "where.h"

int main(void)
{
    void *newest, *below, *above;

    account_begin("threshold-edge");
    where_begin();

    newest = told_malloc("first", 100000);
    newest = where_drain_top(newest, 131000);
    below = told_malloc("below-edge", 131048);
    newest = where_is_mapped(below) ? newest : below;
    where_drain_top(newest, 131000);
    above = told_malloc("above-edge", 131049);

    memset(below, 1, 131048);
    memset(above, 1, 131049);
    account_end(!where_is_mapped(below) && where_is_mapped(above));
    return 0;
}
