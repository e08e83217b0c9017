/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * lazy-population: a mapping reserves addresses; pages come with the first touch.
 *
 * 64 MiB are mapped (nothing becomes resident), half of it is touched (32 MiB become resident), MADV_DONTNEED
 * gives the pages back while the mapping stays, and MAP_POPULATE shows the exception: resident at once.
 * "rss_bytes" is the process's (statm, which the kernel may keep a few pages vague), "resident_bytes" is this
 * mapping's own by mincore(2).
 *
 * To see: the mapped size jumps at mmap, the resident size does not; and that madvise is no munmap.
 *
 * Behind it: kernel do_anonymous_page(), zap_page_range_single() (MADV_DONTNEED), __mm_populate().
 */
#define _GNU_SOURCE
#include "calls.h"

#define LENGTH (64UL << 20)
#define PAGE 4096UL

static unsigned char present[LENGTH / PAGE];

static uint64_t resident_bytes(char *map)
{
    uint64_t pages = 0;

    account_require(mincore(map, LENGTH, present) == 0, "mincore answers");
    for (size_t i = 0; i < LENGTH / PAGE; i++)
        pages += present[i] & 1;
    return pages * PAGE;
}

/* Tells {"what": "moment", "at", "vm_bytes", "rss_bytes", "map_bytes", "resident_bytes"}; map may be NULL. */
static uint64_t moment(const char *at, char *map)
{
    char text[256];
    char *rest;
    int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    ssize_t n;
    uint64_t size, rss, resident = map ? resident_bytes(map) : 0;
    struct account a;

    account_require(fd >= 0, "/proc/self/statm opens");
    n = read(fd, text, sizeof text - 1);
    close(fd);
    account_require(n > 0, "/proc/self/statm reads");
    text[n] = '\0';
    size = strtoul(text, &rest, 10);
    rss = strtoul(rest, NULL, 10);

    account_open(&a, "moment");
    account_text(&a, "at", at);
    account_uint(&a, "vm_bytes", size * PAGE);
    account_uint(&a, "rss_bytes", rss * PAGE);
    account_uint(&a, "map_bytes", map ? LENGTH : 0);
    account_uint(&a, "resident_bytes", resident);
    account_close(&a);
    return resident;
}

int main(void)
{
    const int rw = PROT_READ | PROT_WRITE;
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS;
    bool expected = true;
    uint64_t half;
    char *map;

    account_begin("lazy-population");
    memset(present, 1, sizeof present); /* the sample's own pages are in before the first look */
    moment("before", NULL);
    map = must_mmap("lazy", NULL, LENGTH, rw, flags, -1);
    expected &= moment("mapped", map) == 0;
    for (size_t at = 0; at < LENGTH / 2; at += PAGE)
        ((volatile char *)map)[at] = 1;
    half = moment("half-touched", map);
    expected &= half >= LENGTH / 2 && half <= LENGTH / 2 + (2UL << 20); /* a huge page may reach over the middle */
    account_require(told_madvise("gives pages back", map, LENGTH, MADV_DONTNEED) == 0, "madvise");
    expected &= moment("dontneed", map) == 0;
    account_require(told_munmap("lazy", map, LENGTH) == 0, "munmap");
    moment("unmapped", NULL);
    map = must_mmap("populated", NULL, LENGTH, rw, flags | MAP_POPULATE, -1);
    expected &= moment("populated", map) == LENGTH;
    account_require(told_munmap("populated", map, LENGTH) == 0, "munmap");
    moment("after", NULL);
    account_end(expected);
    return 0;
}
