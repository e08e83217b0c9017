// SPDX-License-Identifier: GPL-2.0-or-later
/* Opens a second C library (argv[1]) in a namespace of its own, and asks both mallocs for memory:
   each has a threshold of its own, and the inner one never moves the break. Prints the addresses. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

static char *touch(char *p)
{
	*(volatile char *)p = 1;
	return p;
}

int main(int argc, char **argv)
{
	setbuf(stdout, 0);
	free(touch(malloc(200000)));
	void *inner = argc > 1 ? dlmopen(LM_ID_NEWLM, argv[1], RTLD_NOW) : 0;
	if (!inner) {
		puts(argc > 1 ? dlerror() : "no library");
		return 1;
	}
	void *(*get)(size_t) = (void *(*)(size_t))dlsym(inner, "malloc");
	void (*give)(void *) = (void (*)(void *))dlsym(inner, "free");
	printf("main %p\n", (void *)touch(get(100)));
	printf("chunk %p\n", (void *)touch(get(1500000)));
	char *large = touch(get(3000000));
	printf("freed %p\n", (void *)large);
	give(large); /* the inner threshold is 3,000,000 and some now, the outer one 200,704 */
	printf("chunk %p\n", (void *)touch(get(5000000)));
	printf("outer %p\n", (void *)touch(malloc(300000)));
	return 0;
}
