// SPDX-License-Identifier: GPL-2.0-or-later
/* A library that defines malloc, and what jemalloc defines and says besides, and passes all on. */
#include <stddef.h>

const char said[] = "<jemalloc>: ";

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void __libc_free(void *);

void *malloc(size_t n)
{
	return __libc_malloc(n);
}

void *calloc(size_t n, size_t size)
{
	return __libc_calloc(n, size);
}

void *realloc(void *p, size_t n)
{
	return __libc_realloc(p, n);
}

void free(void *p)
{
	__libc_free(p);
}

void *mallocx(size_t n, int flags)
{
	(void)flags;
	return __libc_malloc(n);
}

int mallctl(void)
{
	return 0;
}
