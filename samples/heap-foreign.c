/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * heap-foreign: the program calls sbrk beside malloc.
 *
 * malloc, then sbrk(4096) by the program, then malloc again: the heap has a foreign page in its middle. glibc closes
 * its own part with two small fence chunks and begins anew above, with two growths in a row.
 *
 * To see: a growth, one of 4096 bytes that is not malloc's, and two growths, the second one alignment.
 *
 * Behind it: glibc sysmalloc() (foreign sbrk; correction).
 */
#define _GNU_SOURCE
#include "where.h"

enum { SIZE = 100000, FOREIGN = 4096 };

int main(void)
{
    void *before, *foreign, *after;
    struct account a;

    account_begin("heap-foreign");
    where_begin();
    before = told_malloc("before", SIZE);
    foreign = sbrk(FOREIGN);
    account_require(foreign != (void *)-1, "sbrk");
    after = told_malloc("after", SIZE);
    account_open(&a, "foreign");
    account_ptr(&a, "start", foreign);
    account_uint(&a, "bytes", FOREIGN);
    account_close(&a);
    account_end((uintptr_t)before < (uintptr_t)foreign && (uintptr_t)after > (uintptr_t)foreign);
    return 0;
}
