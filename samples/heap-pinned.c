/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * heap-pinned: one small live block at the top keeps the whole heap.
 *
 * The same 400 blocks of 1000 bytes as in heap-shrink, freed in the same order, but a block of 24 bytes was
 * allocated after them. The freed chunks merge into one below it and cannot reach the top chunk; the break does
 * not move. The memory is free for the program, not for the system.
 *
 * To see: growths and not a single shrink, although 400,000 bytes were freed.
 *
 * Behind it: glibc _int_free() trims only when the merged chunk borders the top (systrim()).
 */
#define _GNU_SOURCE
#include "account.h"

#include <malloc.h>

enum { COUNT = 400, SIZE = 1000, PIN = 24 };

int main(void)
{
    static void *blocks[COUNT];
    uintptr_t start = (uintptr_t)sbrk(0);
    uintptr_t end = start;
    uintptr_t after;
    uint64_t requested = 0, chunk_bytes = 0;
    void *volatile pin;
    struct account a;

    account_begin("heap-pinned");
    account_open(&a, "start");
    account_uint(&a, "break", start);
    account_close(&a);

    for (unsigned long i = 0; i <= COUNT; i++) {
        void *block = malloc(i < COUNT ? SIZE : PIN);
        uintptr_t now = (uintptr_t)sbrk(0);

        account_require(block != NULL, "malloc gives a block");
        if (i < COUNT) {
            memset(block, 1, SIZE);
            blocks[i] = block;
        } else {
            pin = block;
        }
        if (now == end)
            continue;
        account_open(&a, "break");
        account_text(&a, "phase", "grow");
        account_uint(&a, "index", i);
        account_uint(&a, "before", end);
        account_uint(&a, "after", now);
        account_close(&a);
        end = now;
    }

    for (unsigned long i = 0; i < COUNT; i++) {
        requested += SIZE;
        chunk_bytes += malloc_usable_size(blocks[i]) + sizeof(size_t);
        free(blocks[i]);
    }
    after = (uintptr_t)sbrk(0);

    account_open(&a, "pinned");
    account_uint(&a, "blocks_freed", COUNT);
    account_uint(&a, "bytes_freed", requested);
    account_uint(&a, "chunk_bytes_freed", chunk_bytes);
    account_ptr(&a, "pin", pin);
    account_uint(&a, "pin_request", PIN);
    account_uint(&a, "before", end);
    account_uint(&a, "after", after);
    account_close(&a);
    account_end(after == end);
    return 0;
}
