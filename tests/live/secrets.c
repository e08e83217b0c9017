/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * secrets WORD FILE: has WORD wherever a program can have a name that the kernel shows in its map: its arguments, a
 * mapped file, the same file deleted, a memfd, System V shared memory, named anonymous memory; and again in a program
 * that it becomes. Meanwhile malloc grows the heap, maps chunks and moves its threshold. Waits for a byte on stdin
 * after "begin" and before "end", so that it can be attached to.
 */
#define _GNU_SOURCE
#include "account.h"

#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/wait.h>

enum { PAGE = 4096 };

static void wait_for_byte(void)
{
    char byte;

    account_require(read(0, &byte, 1) == 1, "a byte on stdin");
}

static void map(int fd, int flags)
{
    account_require(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, flags, fd, 0) != MAP_FAILED, "mmap");
}

int main(int argc, char **argv)
{
    void *volatile block;
    char *again[] = {argv[0], argv[1], NULL};
    char *area;
    int fd, segment;
    pid_t child;

    if (argc == 2) {
        wait_for_byte();
        account_end(true);
        return 0;
    }
    account_begin("secrets");
    wait_for_byte();

    block = malloc(200000);
    free(block);
    block = malloc(200000);
    block = malloc(1000000);

    fd = open(argv[2], O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    account_require(fd >= 0 && ftruncate(fd, PAGE) == 0, "a file");
    map(fd, MAP_PRIVATE);
    map(fd, MAP_SHARED);
    account_require(unlink(argv[2]) == 0, "unlink");
    map(fd, MAP_SHARED);

    fd = memfd_create(argv[1], MFD_CLOEXEC);
    account_require(fd >= 0 && ftruncate(fd, PAGE) == 0, "a memfd");
    map(fd, MAP_PRIVATE);
    map(fd, MAP_SHARED);
    map(-1, MAP_SHARED | MAP_ANONYMOUS);

    segment = shmget(0x5ec2e7, PAGE, IPC_CREAT | 0600);
    account_require(segment >= 0 && shmat(segment, NULL, 0) != (void *)-1, "shared memory");
    shmctl(segment, IPC_RMID, NULL);

    area = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    account_require(area != MAP_FAILED, "anonymous memory");
    /* Names with more than printable ASCII are refused, and kernels without CONFIG_ANON_VMA_NAME have none. */
    if (prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, area + PAGE, PAGE, argv[1]) == 0)
        prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, area + 2 * PAGE, PAGE, argv[1] + 1);

    child = fork();
    if (child == 0)
        _exit(block == NULL);
    account_require(waitpid(child, NULL, 0) == child, "a child");
    execv("/proc/self/exe", again);
    return 1;
}
