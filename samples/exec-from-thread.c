/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * exec-from-thread: a thread that is not the leader calls execve, and the process starts a second life.
 *
 * The kernel ends all other threads, gives the calling thread the leader's id and a new address space. To a tracer
 * the thread that made the call disappears and the leader, which was asleep, returns from execve.
 *
 * To see: one pid, two address spaces; the first ends with the exec, the second starts with fresh maps.
 *
 * Behind it: kernel begin_new_exec() -> de_thread() -> exec_mmap().
 */
#define _GNU_SOURCE
#include "account.h"

#include <pthread.h>
#include <sys/mman.h>

static char *first_map;

static void *leave(void *unused)
{
    char name[] = "exec-from-thread", argument[] = "second life";
    char *arguments[] = {name, argument, NULL};
    struct account a;

    (void)unused;
    account_open(&a, "exec");
    account_text(&a, "argument", argument);
    account_close(&a);
    execve("/proc/self/exe", arguments, environ);
    account_require(false, "execve does not return");
    return NULL;
}

static void tell_life(int life)
{
    struct account a;

    account_open(&a, "life");
    account_int(&a, "life", life);
    account_ptr(&a, "map_start", first_map);
    account_uint(&a, "map_length", first_map ? 1 << 20 : 0);
    account_uint(&a, "break", (uintptr_t)sbrk(0));
    account_close(&a);
}

int main(int argc, char **argv)
{
    pthread_t thread;
    void *map;

    account_begin("exec-from-thread");
    if (argc > 1 && strcmp(argv[1], "second life") == 0) {
        tell_life(2);
        account_end(getpid() == (pid_t)syscall(SYS_gettid));
        return 0;
    }
    map = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    account_require(map != MAP_FAILED, "a mapping for the first life");
    first_map = map;
    tell_life(1);
    account_require(pthread_create(&thread, NULL, leave, NULL) == 0, "a thread starts");
    pthread_join(thread, NULL);
    return 1; /* not reached: the join ends with the exec */
}
