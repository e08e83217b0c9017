/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * rare_mallocs assert|free: a program that libc ends with a message.
 * rare_mallocs no-arena: a thread whose malloc can open no arena, for RLIMIT_DATA.
 * rare_mallocs gives-up: a request that nothing can serve, between such that the heap serves.
 * rare_mallocs wall: malloc's first growth of the heap runs into a mapping, later ones do not.
 */
#define _GNU_SOURCE
#include <assert.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

enum { PAGE = 4096, STACK = 256 << 10, ROOM = 64 << 10 };

static void *volatile kept;

static long data_of_now(void)
{
    char line[256];
    long kib = 0;
    FILE *status = fopen("/proc/self/status", "r");

    while (status != NULL && fgets(line, sizeof line, status) != NULL)
        if (strncmp(line, "VmData:", 7) == 0)
            kib = atol(line + 7);
    if (status != NULL)
        fclose(status);
    return kib << 10;
}

static void *ask(void *unused)
{
    for (int i = 0; i < 3; i++)
        kept = malloc(1000);
    return unused;
}

static void no_arena(void)
{
    pthread_attr_t attributes;
    pthread_t thread;
    struct rlimit limit = {0, 0};

    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK);
    limit.rlim_cur = limit.rlim_max = (rlim_t)(data_of_now() + STACK + ROOM);
    setrlimit(RLIMIT_DATA, &limit);
    if (pthread_create(&thread, &attributes, ask, NULL) == 0)
        pthread_join(thread, NULL);
}

static void grow(int times)
{
    for (int i = 0; i < times; i++)
        kept = malloc(60000);
}

static void wall(void)
{
    char *above = (char *)(((uintptr_t)sbrk(0) + 2 * PAGE - 1) & -(uintptr_t)PAGE);
    void *page = mmap(above, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);

    kept = malloc(100);
    munmap(page, PAGE);
    grow(30);
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    char *volatile inside;
    volatile size_t most = (size_t)1 << 46;

    if (strcmp(what, "wall") == 0)
        wall();
    kept = malloc(10);
    if (strcmp(what, "assert") == 0)
        assert(argc > 2);
    if (strcmp(what, "free") == 0) {
        inside = (char *)kept + 8;
        free(inside);
    }
    if (strcmp(what, "no-arena") == 0)
        no_arena();
    if (strcmp(what, "gives-up") == 0) {
        grow(10);
        kept = malloc(most);
        grow(5);
    }
    return 0;
}
