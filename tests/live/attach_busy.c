/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * attach_busy FILE THREADS: each thread makes system calls without a pause and counts them in FILE, one long per
 * thread, until the end of stdin.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static void *busy(void *count)
{
    for (;;) {
        syscall(SYS_getppid);
        ++*(volatile long *)count;
    }
    return NULL;
}

int main(int argc, char **argv)
{
    int fd = open(argc > 2 ? argv[1] : "", O_RDWR | O_CREAT | O_TRUNC, 0600);
    long *counts, threads = argc > 2 ? strtol(argv[2], NULL, 10) : 0;
    pthread_t thread;
    char c;

    if (fd < 0 || ftruncate(fd, 4096) != 0)
        return 1;
    counts = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (counts == MAP_FAILED)
        return 1;
    for (long i = 0; i < threads; i++)
        if (pthread_create(&thread, NULL, busy, counts + i) != 0)
            return 1;
    while (read(0, &c, 1) > 0)
        ;
    return 0;
}
