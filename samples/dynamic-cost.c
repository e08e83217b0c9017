/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * dynamic-cost: what the moving threshold costs in resident memory.
 *
 * One block of 8 MiB is allocated, freed and forgotten. From then on the threshold is 8 MiB: ten blocks of 4 MiB,
 * each touched, come from the heap, not from mappings. Nine of them are freed, newest first but for the very last: it
 * lies at the top, and everything below it stays resident. With MALLOC_MMAP_THRESHOLD_=131072 each of the nine would
 * have gone back to the system at its free.
 *
 * To see: one mapping of 8 MiB, its munmap, about 40 MiB of heap growth, no shrink; 40 MiB resident at the end
 * though 4 MiB are in use. With the threshold fixed: 4 MiB.
 *
 * Behind it: glibc __libc_free() (mp_.mmap_threshold), _int_free() (systrim() only at the top).
 */
#define _GNU_SOURCE
#include "where.h"

enum { FIRST = 8 << 20, COUNT = 10, SIZE = 4 << 20 };

/* Resident bytes of the process, from statm, read without malloc. */
static uint64_t resident(void)
{
    char text[128] = "";
    int fd = open("/proc/self/statm", O_RDONLY);
    char *end;

    account_require(fd != -1 && read(fd, text, sizeof text - 1) > 0, "statm can be read");
    close(fd);
    (void)strtoul(text, &end, 10);
    return strtoul(end, NULL, 10) * 4096;
}

static void told_rss(const char *at)
{
    struct account a;

    account_open(&a, "rss");
    account_text(&a, "at", at);
    account_uint(&a, "bytes", resident());
    account_uint(&a, "break", where_break());
    account_close(&a);
}

int main(void)
{
    void *blocks[COUNT];
    unsigned in_heap = 0;
    struct account a;
    void *big;

    account_begin("dynamic-cost");
    where_begin();
    free(told_malloc("makes the heap", 1000));
    big = told_malloc("the one that moves the threshold", FIRST);
    free(big);
    for (int i = 0; i < COUNT; i++) {
        blocks[i] = memset(told_malloc("half the new threshold", SIZE), 1, SIZE);
        in_heap += !where_is_mapped(blocks[i]);
    }
    told_rss("all in use");
    for (int i = COUNT - 1; i-- > 0;)
        free(blocks[i]);
    told_rss("one in use");
    account_open(&a, "cost");
    account_uint(&a, "in_use", SIZE);
    account_uint(&a, "in_heap", in_heap);
    account_uint(&a, "heap_bytes", where_break() - where_heap_start);
    account_close(&a);
    account_end(in_heap == COUNT);
    return 0;
}
