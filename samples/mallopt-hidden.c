/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * mallopt-hidden: a setting that leaves no trace.
 *
 * mallopt(M_MMAP_MAX, 0) forbids malloc to map. It makes no system call. Then a block of 1,000,000 bytes: by the rule
 * it would be a mapping, and the heap grows by 1 MiB instead.
 *
 * To see: a growth that the threshold of 128 KiB excludes; that is a contradiction, and its cause is unknown to
 * whoever sees system calls only.
 *
 * Behind it: glibc mallopt() (do_set_mmaps_max), sysmalloc().
 */
#define _GNU_SOURCE
#include "where.h"

int main(void)
{
    void *volatile block;

    account_begin("mallopt-hidden");
    where_begin();
    account_require(mallopt(M_MMAP_MAX, 0) == 1, "mallopt");
    block = told_malloc("before", 100000);
    block = told_malloc("above the threshold", 1000000);
    account_end(!where_is_mapped(block));
    return 0;
}
