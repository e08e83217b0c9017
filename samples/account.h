/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * account.h: a sample tells what it did, as JSON lines on file descriptor 3.
 *
 *     build/samples/heap-grow 3>&1          read the account on the terminal
 *     build/samples/heap-grow 3>account     keep it
 *
 * If descriptor 3 is not open when the program starts, nothing is written. One line is one write(2), so that
 * processes and threads may share the descriptor. Nothing here calls malloc or stdio: the account must not
 * disturb the heap it speaks about. Every line carries "pid", "tid" and "what"; addresses are decimal numbers.
 *
 * Include it after `#define _GNU_SOURCE`.
 */
#ifndef SAMPLES_ACCOUNT_H
#define SAMPLES_ACCOUNT_H

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { ACCOUNT_FD = 3 };

struct account {
    char *text;
    size_t size;
    size_t used;
    char own[1024];
};

/* Whether descriptor 3 was open at the first question; asked before the sample opens any file of its own. */
static inline bool account_wanted(void)
{
    static int state; /* 0 not asked yet, 1 open for writing, 2 not */

    if (state == 0) {
        int flags = fcntl(ACCOUNT_FD, F_GETFL);

        state = flags != -1 && (flags & O_ACCMODE) != O_RDONLY ? 1 : 2;
    }
    return state == 1;
}

static inline void account_write(int fd, const char *text, size_t length)
{
    while (length > 0) {
        ssize_t n = write(fd, text, length);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return;
        text += n;
        length -= (size_t)n;
    }
}

static inline void account_char(struct account *a, char c)
{
    if (a->used + 1 >= a->size)
        abort(); /* the sample's buffer is too small: a bug in the sample */
    a->text[a->used++] = c;
}

static inline void account_raw(struct account *a, const char *text)
{
    while (*text)
        account_char(a, *text++);
}

static inline void account_number(struct account *a, uint64_t value)
{
    char digits[20];
    int n = 0;

    do
        digits[n++] = (char)('0' + value % 10);
    while ((value /= 10) != 0);
    while (n > 0)
        account_char(a, digits[--n]);
}

static inline void account_signed(struct account *a, int64_t value)
{
    if (value < 0)
        account_char(a, '-');
    account_number(a, value < 0 ? 0 - (uint64_t)value : (uint64_t)value);
}

/* A JSON string of the `length` bytes at `text`. */
static inline void account_string(struct account *a, const char *text, size_t length)
{
    static const char hex[] = "0123456789abcdef";

    account_char(a, '"');
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];

        if (c == '"' || c == '\\') {
            account_char(a, '\\');
            account_char(a, (char)c);
        } else if (c < 0x20) {
            account_raw(a, "\\u00");
            account_char(a, hex[c >> 4]);
            account_char(a, hex[c & 15]);
        } else {
            account_char(a, (char)c);
        }
    }
    account_char(a, '"');
}

static inline void account_key(struct account *a, const char *key)
{
    if (a->used > 1)
        account_char(a, ',');
    account_string(a, key, strlen(key));
    account_char(a, ':');
}

static inline void account_uint(struct account *a, const char *key, uint64_t value)
{
    account_key(a, key);
    account_number(a, value);
}

static inline void account_int(struct account *a, const char *key, int64_t value)
{
    account_key(a, key);
    account_signed(a, value);
}

static inline void account_ptr(struct account *a, const char *key, const volatile void *value)
{
    account_uint(a, key, (uintptr_t)value);
}

static inline void account_text(struct account *a, const char *key, const char *value)
{
    account_key(a, key);
    account_string(a, value, strlen(value));
}

static inline void account_bool(struct account *a, const char *key, bool value)
{
    account_key(a, key);
    account_raw(a, value ? "true" : "false");
}

static inline void account_null(struct account *a, const char *key)
{
    account_key(a, key);
    account_raw(a, "null");
}

/* Starts a line in a buffer of the caller's (for lines longer than 1 KiB). */
static inline void account_open_in(struct account *a, char *text, size_t size, const char *what)
{
    a->text = text;
    a->size = size;
    a->used = 0;
    account_char(a, '{');
    account_int(a, "pid", getpid());
    account_int(a, "tid", syscall(SYS_gettid));
    account_text(a, "what", what);
}

static inline void account_open(struct account *a, const char *what)
{
    account_open_in(a, a->own, sizeof a->own, what);
}

static inline void account_close(struct account *a)
{
    account_char(a, '}');
    account_char(a, '\n');
    if (account_wanted())
        account_write(ACCOUNT_FD, a->text, a->used);
}

/* The first line of every sample. */
static inline void account_begin(const char *sample)
{
    struct account a;

    (void)account_wanted();
    account_open(&a, "begin");
    account_text(&a, "sample", sample);
    account_close(&a);
}

/*
 * The last line of a process. `expected` says whether the behaviour the sample is about was seen: settings such
 * as MALLOC_TOP_PAD_ or another allocator may change it, which is no failure of the sample.
 */
static inline void account_end(bool expected)
{
    struct account a;

    account_open(&a, "end");
    account_bool(&a, "expected", expected);
    account_close(&a);
}

/* A call that must succeed for the sample to mean anything. */
static inline void account_require(bool holds, const char *claim)
{
    struct account a;
    int error = errno;

    if (holds)
        return;
    account_open(&a, "failed");
    account_text(&a, "claim", claim);
    account_int(&a, "errno", error);
    account_close(&a);
    account_write(2, "sample failed: ", 15);
    account_write(2, claim, strlen(claim));
    account_write(2, "\n", 1);
    _exit(1);
}

/* A non-negative number from the command line, or `otherwise` if the argument is absent. */
static inline unsigned long account_argument(int argc, char **argv, int index, unsigned long otherwise)
{
    char *end;
    unsigned long value;

    if (index >= argc)
        return otherwise;
    errno = 0;
    value = strtoul(argv[index], &end, 0);
    account_require(errno == 0 && *end == '\0' && end != argv[index], "the argument is a number");
    return value;
}

#endif
