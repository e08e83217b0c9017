/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * attach_busy calls FILE THREADS: each thread makes system calls without a pause and counts them in FILE, one long
 * per thread, until the end of stdin.
 * attach_busy spawn: starts children that share its memory until they exec, one after the other, for ever.
 * attach_busy exec: replaces itself from a thread beside others, again and again, for ever.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void *busy(void *count)
{
    for (;;) {
        syscall(SYS_getppid);
        ++*(volatile long *)count;
    }
    return NULL;
}

static void *standing(void *unused)
{
    pause();
    return unused;
}

static void *replace(void *argv)
{
    execv("/proc/self/exe", argv);
    _exit(1);
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "";
    int fd;
    long *counts, threads;
    pthread_t thread;
    char c;

    if (strcmp(mode, "exec") == 0) {
        for (int i = 0; i < 8; i++)
            if (pthread_create(&thread, NULL, standing, NULL) != 0)
                return 1;
        if (pthread_create(&thread, NULL, replace, argv) != 0)
            return 1;
        standing(NULL);
    }
    while (strcmp(mode, "spawn") == 0) {
        char *child[] = {"true", NULL};
        pid_t pid;

        if (posix_spawn(&pid, "/bin/true", NULL, NULL, child, child + 1) != 0 || waitpid(pid, NULL, 0) != pid)
            return 1;
    }
    fd = open(argc > 3 ? argv[2] : "", O_RDWR | O_CREAT | O_TRUNC, 0600);
    threads = argc > 3 ? strtol(argv[3], NULL, 10) : 0;

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
