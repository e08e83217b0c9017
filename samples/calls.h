/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * calls.h: the memory system calls, each one told in the account as
 *
 *     {"pid", "tid", "what": "call", "note": why, "call": name, "args": [...], "ret": the kernel's signed return}
 *
 * They go through syscall(2) with whole 64-bit arguments, so that "args" is what the kernel got (a -1 for a file
 * descriptor is 2^64-1; the C library's mmap() may pass 2^32-1), and "ret" is an address or -errno.
 */
#ifndef SAMPLES_CALLS_H
#define SAMPLES_CALLS_H

#include "account.h"

#include <sys/mman.h>

static inline long calls_told(const char *note, const char *name, long number, int count, const unsigned long *args)
{
    struct account a;
    long ret = syscall(number, args[0], args[1], args[2], args[3], args[4], args[5]);

    if (ret == -1) /* no call used here returns -1 in earnest */
        ret = -errno;
    account_open(&a, "call");
    account_text(&a, "note", note);
    account_text(&a, "call", name);
    account_key(&a, "args");
    for (int i = 0; i < count; i++) {
        account_char(&a, i ? ',' : '[');
        account_number(&a, args[i]);
    }
    account_char(&a, ']');
    account_int(&a, "ret", ret);
    account_close(&a);
    return ret;
}

static inline bool calls_failed(long ret)
{
    return ret < 0 && ret > -4096;
}

#define CALLS_ARGS(...) ((const unsigned long[6]){__VA_ARGS__})

static inline long told_mmap(const char *note, const volatile void *addr, size_t length, int prot, int flags, int fd,
                             unsigned long offset)
{
    return calls_told(note, "mmap", SYS_mmap, 6,
                      CALLS_ARGS((uintptr_t)addr, length, (unsigned long)prot, (unsigned long)flags,
                                 (unsigned long)(long)fd, offset));
}

static inline long told_munmap(const char *note, const volatile void *addr, size_t length)
{
    return calls_told(note, "munmap", SYS_munmap, 2, CALLS_ARGS((uintptr_t)addr, length));
}

static inline long told_mprotect(const char *note, const volatile void *addr, size_t length, int prot)
{
    return calls_told(note, "mprotect", SYS_mprotect, 3, CALLS_ARGS((uintptr_t)addr, length, (unsigned long)prot));
}

static inline long told_mremap(const char *note, const volatile void *addr, size_t old_length, size_t new_length,
                               int flags, const volatile void *to)
{
    return calls_told(note, "mremap", SYS_mremap, 5,
                      CALLS_ARGS((uintptr_t)addr, old_length, new_length, (unsigned long)flags, (uintptr_t)to));
}

static inline long told_madvise(const char *note, const volatile void *addr, size_t length, int advice)
{
    return calls_told(note, "madvise", SYS_madvise, 3, CALLS_ARGS((uintptr_t)addr, length, (unsigned long)advice));
}

/* The bare system call: returns the break there is afterwards, never an error. */
static inline long told_brk(const char *note, unsigned long end)
{
    return calls_told(note, "brk", SYS_brk, 1, CALLS_ARGS(end));
}

/* A mapping of the sample's own that must succeed. */
static inline char *must_mmap(const char *note, const volatile void *addr, size_t length, int prot, int flags, int fd)
{
    long ret = told_mmap(note, addr, length, prot, flags, fd, 0);

    account_require(!calls_failed(ret), note);
    return (char *)ret;
}

#endif
