// SPDX-License-Identifier: GPL-2.0-or-later
/* What no program should do to the heap that malloc has, by the first argument:
   raw     moves the break by the system call, once through libc's syscall() and once by itself
   unmap   unmaps most of its heap, grows it, unmaps the rest, maps its own memory there
   environ writes over its environment, with settings of malloc's that came too late */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

extern char **environ;

static char *touched(size_t n)
{
	char *p = malloc(n);
	if (p)
		*(volatile char *)p = 1;
	return p;
}

static int raw(void)
{
	touched(100);
	long now = syscall(SYS_brk, 0L);
	syscall(SYS_brk, now + 0x5000);
	long there;
	__asm__ volatile("syscall" : "=a"(there) : "a"((long)SYS_brk), "D"(now + 0x105000)
			 : "rcx", "r11", "memory");
	touched(120000);
	free(touched(200000));
	return touched(150000) == 0 || there != now + 0x105000;
}

static int unmap(void)
{
	char *start = (char *)((unsigned long)touched(100000) & -4096UL), *end = sbrk(0);
	munmap(start + 0x10000, (size_t)(end - start) - 0x10000);
	sbrk(0x40000);
	munmap(start, 0x10000);
	char *own = mmap(start, 0x8000, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	sbrk(-0x10000);
	_exit(own != start);
}

static int overwritten(void)
{
	static const char late[] = "MALLOC_MMAP_THRESHOLD_=4096";
	for (char **e = environ; *e; e++)
		if (strlen(*e) >= sizeof late) {
			strcpy(*e, late);
			break;
		}
	touched(1000);
	touched(100000);
	free(touched(200000));
	return touched(100000) == 0;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	if (!strcmp(what, "raw"))
		return raw();
	return strcmp(what, "unmap") ? overwritten() : unmap();
}
