/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * mallocs.h: a program tells the truth about what malloc did, without malloc, stdio or a traced system call.
 *
 * Of glibc's malloc (malloc/malloc.c, struct malloc_chunk) a block tells by itself what it is: the word before it
 * is the size field (bit 0 PREV_INUSE, bit 1 IS_MMAPPED, bit 2 NON_MAIN_ARENA), and of a mapped chunk the word
 * before that says how far into its mapping the chunk lies. The break is read from __curbrk, which sbrk(0) returns:
 * calling that could ask the kernel.
 *
 * With -DPORTABLE the program, built with a glibc of 2.34 or newer, runs with an older one too: it asks for the
 * old versions of what moved into libc.so.6 then (link with -nostartfiles).
 */
#ifndef TESTS_MALLOCS_H
#define TESTS_MALLOCS_H

#include "account.h"

#include <malloc.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/uio.h>

#ifdef PORTABLE
__asm__(".symver pthread_create,pthread_create@GLIBC_2.2.5");
__asm__(".symver pthread_join,pthread_join@GLIBC_2.2.5");
__asm__(".symver pthread_attr_setstacksize,pthread_attr_setstacksize@GLIBC_2.2.5");
__asm__(".symver __libc_start_main,__libc_start_main@GLIBC_2.2.5");
/* crt1.o would ask for the newest __libc_start_main. Since 2.34 that one runs constructors itself; there are none. */
__asm__(".text\n"
        ".globl _start\n"
        ".type _start,@function\n"
        "_start:\n"
        "	endbr64\n"
        "	xorl %ebp, %ebp\n"
        "	mov %rdx, %r9\n"
        "	pop %rsi\n"
        "	mov %rsp, %rdx\n"
        "	and $-16, %rsp\n"
        "	push %rax\n"
        "	push %rsp\n"
        "	xorl %r8d, %r8d\n"
        "	xorl %ecx, %ecx\n"
        "	mov main@GOTPCREL(%rip), %rdi\n"
        "	call *__libc_start_main@GOTPCREL(%rip)\n"
        "	hlt\n");
#endif

#ifdef __GLIBC__
extern void *__curbrk __attribute__((weak));
extern const char *gnu_get_libc_version(void);
#endif

enum { PREV_INUSE = 1, IS_MMAPPED = 2, NON_MAIN_ARENA = 4 };

/* What the words before a block say; all 0 if they cannot be read. */
struct chunk {
    size_t size_field;
    size_t size;
    size_t map_start;
    size_t map_length;
};

/* The break as the C library last saw it; 0 while it is not known. */
static inline uintptr_t mallocs_break(void)
{
#ifdef __GLIBC__
    return &__curbrk ? (uintptr_t)__curbrk : 0;
#else
    return 0;
#endif
}

/* Bytes after a mapped chunk that its size does not count: since 2.43 there is room for a chunk header. */
static inline size_t mallocs_uncounted(void)
{
#ifdef __GLIBC__
    const char *v = gnu_get_libc_version();
    int minor = 0;

    if (v[0] != '2' || v[1] != '.')
        return 0;
    for (v += 2; *v >= '0' && *v <= '9'; v++)
        minor = minor * 10 + (*v - '0');
    return minor >= 43 ? 2 * sizeof(size_t) : 0;
#else
    return 0;
#endif
}

static inline struct chunk mallocs_chunk(const volatile void *block)
{
    struct chunk c = {0, 0, 0, 0};
    size_t words[2] = {0, 0};
    struct iovec here = {words, sizeof words};
    struct iovec there = {(char *)(uintptr_t)block - sizeof words, sizeof words};

    /* Another malloc's block may have nothing before it: the kernel answers EFAULT, where we would die of it. */
    if (!block || process_vm_readv(getpid(), &here, 1, &there, 1, 0) != (ssize_t)sizeof words)
        return c;
    c.size_field = words[1];
    c.size = words[1] & ~(size_t)7;
    if (words[1] & IS_MMAPPED) {
        size_t before = words[0] & ~(size_t)7; /* 2.43 keeps a flag there */

        c.map_start = (uintptr_t)block - sizeof words - before;
        c.map_length = before + c.size + mallocs_uncounted();
    }
    return c;
}

static inline void mallocs_tell_chunk(struct account *a, const char *prefix, struct chunk c)
{
    char key[32];
    const char *names[] = {"size_field", "chunk", "map_start", "map_length"};
    size_t values[] = {c.size_field, c.size, c.map_start, c.map_length};

    for (int i = 0; i < 4; i++) {
        size_t n = strlen(prefix);

        memcpy(key, prefix, n);
        memcpy(key + n, names[i], strlen(names[i]) + 1);
        if (c.size_field && (i < 2 || c.map_length))
            account_uint(a, key, values[i]);
        else
            account_null(a, key);
    }
}

static inline void mallocs_tell_break(struct account *a, const char *key, uintptr_t at)
{
    if (at)
        account_uint(a, key, at);
    else
        account_null(a, key);
}

/* The facts about a block: "ptr", "usable", "mapped", "size_field", "chunk", "map_start", "map_length". */
static inline void mallocs_tell_block(struct account *a, void *block)
{
    struct chunk c = mallocs_chunk(block);

    account_ptr(a, "ptr", block);
    account_uint(a, "usable", block ? malloc_usable_size(block) : 0);
    account_bool(a, "mapped", (c.size_field & IS_MMAPPED) != 0);
    mallocs_tell_chunk(a, "", c);
}

#endif
