/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * clone-vm: two processes, one address space.
 *
 * clone(CLONE_VM | SIGCHLD) makes a child with a pid of its own that shares the parent's memory. It maps a region,
 * writes to it, and unmaps one of the parent's. After it has ended, the parent reads what the child wrote and finds
 * its own region gone.
 *
 * To see: both pids under one address space, and a region that outlives the process that mapped it.
 *
 * Behind it: kernel copy_mm() (CLONE_VM shares mm_struct), exit_mm(); glibc clone().
 */
#define _GNU_SOURCE
#include "calls.h"

#include <sched.h>
#include <signal.h>
#include <sys/wait.h>

enum { PAGE = 4096, STACK = 64 * PAGE, LENGTH = 24 * PAGE };

static char *volatile by_child;
static char *by_parent;

/* Runs in the parent's memory, thread-local storage and errno included; the parent waits meanwhile. */
static int child(void *unused)
{
    struct account a;
    char *map;

    (void)unused;
    account_open(&a, "born");
    account_text(&a, "role", "child");
    account_int(&a, "ppid", getppid());
    account_close(&a);
    map = must_mmap("mapped by the child", NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    strcpy(map, "written by the child");
    account_require(told_munmap("parent's, unmapped by the child", by_parent, LENGTH) == 0, "munmap");
    by_child = map;
    account_end(true);
    return 0;
}

int main(void)
{
    const int rw = PROT_READ | PROT_WRITE;
    struct account a;
    unsigned char present;
    int status = 0;
    bool seen, gone;
    char *stack;
    pid_t pid;

    account_begin("clone-vm");
    stack = must_mmap("the child's stack", NULL, STACK, rw, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1);
    by_parent = must_mmap("mapped by the parent", NULL, LENGTH, rw, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    by_parent[0] = 1;
    pid = clone(child, stack + STACK, CLONE_VM | SIGCHLD, NULL);
    account_require(pid > 0, "clone");
    account_require(waitpid(pid, &status, 0) == pid && status == 0, "the child ends well");

    seen = by_child != NULL && strcmp(by_child, "written by the child") == 0;
    gone = mincore(by_parent, PAGE, &present) == -1 && errno == ENOMEM;
    account_open(&a, "shared");
    account_int(&a, "child", pid);
    account_ptr(&a, "by_child", by_child);
    account_ptr(&a, "by_parent", by_parent);
    account_uint(&a, "length", LENGTH);
    account_bool(&a, "parent_reads_what_child_wrote", seen);
    account_bool(&a, "parents_region_is_gone", gone);
    account_close(&a);
    account_require(seen && gone, "the address space is shared");
    account_require(told_munmap("child's, unmapped by the parent", by_child, LENGTH) == 0, "munmap");
    account_end(true);
    return 0;
}
