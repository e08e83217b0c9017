/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * own-maps.h: a program reads its own map (by thread-self: a process whose first thread has ended shows none)
 * and marks the spot.
 *
 * The mark is munmap(N << 12, 0), which fails with EINVAL and changes nothing: whoever traces the program can
 * find the moment and must then know the same map. Between the read and the mark no memory call happens, no
 * memory is allocated and the stack does not grow; the account is written after the mark.
 */
#ifndef SAMPLES_OWN_MAPS_H
#define SAMPLES_OWN_MAPS_H

#include "account.h"

static char own_maps_text[1 << 20];
static char own_maps_line[(1 << 20) + (1 << 19)];

/* Reads, marks as number `mark`, tells {"what": "mark", "mark": N, "maps": [line, ...]}. */
static inline void own_maps_mark(unsigned long mark, unsigned long calls_so_far)
{
    struct account a;
    size_t used = 0;
    ssize_t n;
    long ret;
    int fd = open("/proc/thread-self/maps", O_RDONLY | O_CLOEXEC);

    account_require(fd >= 0, "/proc/thread-self/maps opens");
    while ((n = read(fd, own_maps_text + used, sizeof own_maps_text - used)) > 0)
        used += (size_t)n;
    account_require(n == 0 && used < sizeof own_maps_text, "/proc/thread-self/maps fits");
    close(fd);
    errno = 0;
    ret = syscall(SYS_munmap, mark << 12, 0L);
    account_require(ret == -1 && errno == EINVAL, "the mark fails with EINVAL");

    account_open_in(&a, own_maps_line, sizeof own_maps_line, "mark");
    account_uint(&a, "mark", mark);
    account_uint(&a, "calls", calls_so_far);
    account_key(&a, "maps");
    account_char(&a, '[');
    for (size_t at = 0; at < used;) {
        const char *newline = memchr(own_maps_text + at, '\n', used - at);
        size_t end = newline ? (size_t)(newline - own_maps_text) : used;

        if (at > 0)
            account_char(&a, ',');
        account_string(&a, own_maps_text + at, end - at);
        at = end + 1;
    }
    account_char(&a, ']');
    account_close(&a);
}

#endif
