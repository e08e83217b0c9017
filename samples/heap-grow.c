/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * heap-grow [COUNT [SIZE]]: the heap grows by many small mallocs (default 2000 of 1000 bytes).
 *
 * To see: hundreds of mallocs, few brk calls. The first brk makes a heap of 132 KiB, each later one adds what is
 * missing plus the padding M_TOP_PAD (128 KiB), rounded up to a page; the mallocs between are served from the top
 * chunk without any system call. Nothing is freed: the heap stays at its peak until exit.
 *
 * Behind it: glibc sysmalloc() -> sbrk() -> brk(2) -> kernel do_brk_flags().
 */
#define _GNU_SOURCE
#include "account.h"

int main(int argc, char **argv)
{
    unsigned long count = account_argument(argc, argv, 1, 2000);
    size_t size = account_argument(argc, argv, 2, 1000);
    uintptr_t start = (uintptr_t)sbrk(0);
    uintptr_t end = start;
    unsigned long growths = 0;
    struct account a;

    account_begin("heap-grow");
    account_open(&a, "start");
    account_uint(&a, "break", start);
    account_uint(&a, "count", count);
    account_uint(&a, "request", size);
    account_close(&a);

    for (unsigned long i = 0; i < count; i++) {
        volatile char *block = malloc(size);
        uintptr_t now = (uintptr_t)sbrk(0);

        account_require(block != NULL, "malloc gives a block");
        if (size > 0)
            block[0] = 1;
        if (now == end)
            continue;
        account_open(&a, "break");
        account_text(&a, "phase", "grow");
        account_uint(&a, "index", i);
        account_ptr(&a, "ptr", block);
        account_uint(&a, "before", end);
        account_uint(&a, "after", now);
        account_close(&a);
        end = now;
        growths++;
    }

    account_open(&a, "total");
    account_uint(&a, "growths", growths);
    account_uint(&a, "grown_bytes", end - start);
    account_uint(&a, "final_break", end);
    account_close(&a);
    account_end(growths > 0 && growths < count);
    return 0;
}
