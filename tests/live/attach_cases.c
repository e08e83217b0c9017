/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * attach_cases CASE: a program that stands in one state, waits on stdin, and goes on byte by byte.
 *
 * It tells "ready" when it stands there; each byte on stdin lets it take the next step, told as "step". Every case
 * ends with a mark of its own map (own-maps.h) and exit status 0.
 */
#define _GNU_SOURCE
#include "own-maps.h"

#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

enum { PAGE = 4096 };
#define RW (PROT_READ | PROT_WRITE)

static unsigned long marks;
static char *program;

static void tell(const char *what)
{
    struct account a;

    account_open(&a, what);
    account_close(&a);
}

/* Waits for a byte; the end of stdin ends the program. */
static void step(void)
{
    char c;
    ssize_t n = read(0, &c, 1);

    account_require(n == 1, "a byte on stdin, and no EINTR");
    tell("step");
}

static void ready(void)
{
    tell("ready");
    step();
}

static char *map(size_t pages)
{
    char *p = mmap(NULL, pages * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    account_require(p != MAP_FAILED, "mmap");
    return p;
}

static void mark(void)
{
    own_maps_mark(++marks, 0);
}

/* The simplest: something before, something after. */
static void plain(void)
{
    char *old = map(16);
    void *small = malloc(100);

    ready();
    munmap(old + PAGE, 2 * PAGE);
    free(malloc(3 << 20));
    free(small);
    mark();
}

/* Forks after the attach: what MADV_DONTFORK took out before is not in the child; a child grows its stack. */
static void flags(void)
{
    char *kept = map(8), *dropped = map(8);
    char *grows = mmap((void *)0x200000000, 4 * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED, -1, 0);
    int status;
    pid_t pid;

    kept[0] = 1;
    madvise(dropped + 2 * PAGE, 3 * PAGE, MADV_DONTFORK);
    ready();
    pid = fork();
    if (pid == 0) {
        mark();
        _exit(0);
    }
    waitpid(pid, &status, 0);
    account_require(status == 0, "the child ends well");
    grows[-1] = 1; /* expand_downwards */
    marks = 1;
    mark();
}

/* Chunks that malloc mapped before, some next to each other, freed after. */
static void chunks(void)
{
    struct account a;
    char *blocks[8];

    for (int i = 0; i < 8; i++) {
        blocks[i] = malloc(200000 + 10000 * i);
        blocks[i][0] = 1;
        account_open(&a, "chunk");
        account_ptr(&a, "start", blocks[i] - 16);
        account_uint(&a, "length", *(size_t *)(blocks[i] - 8) & ~7UL);
        account_close(&a);
    }
    ready();
    for (int i = 0; i < 8; i += 2)
        free(blocks[i]);
    mark();
}

/* The break stands in the middle of a page. */
static void broken_page(void)
{
    struct account a;
    long now = syscall(SYS_brk, 0L);
    long at = syscall(SYS_brk, now + 5 * PAGE + 1234);

    account_open(&a, "break");
    account_uint(&a, "start", (uint64_t)now);
    account_uint(&a, "end", (uint64_t)at);
    account_close(&a);
    ready();
    account_require(syscall(SYS_brk, at + 10 * PAGE) == at + 10 * PAGE, "brk grows");
    account_require(syscall(SYS_brk, at - PAGE) == at - PAGE, "brk shrinks");
    mark();
}

static void moves_the_break(char *to)
{
    account_require(syscall(SYS_brk, to) == (long)to, "the break moves");
    mark();
}

/* A heap of 16 pages; its end is told. */
static char *heap(void)
{
    struct account a;
    uintptr_t now = (uintptr_t)syscall(SYS_brk, 0L);
    char *end = (char *)(((now + PAGE - 1) & -(uintptr_t)PAGE) + 16 * PAGE);

    account_require(syscall(SYS_brk, end) == (long)end, "a heap");
    account_open(&a, "break");
    account_uint(&a, "end", (uint64_t)(uintptr_t)end);
    account_close(&a);
    return end;
}

/* Right above it lies what is alike, which the kernel shows as one line with it. */
static char *heap_with_neighbour(void)
{
    char *end = heap();

    account_require(mmap(end, 40 * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == end, "mmap");
    return end;
}

static void heap_shrinks_below_a_neighbour(void)
{
    char *end = heap_with_neighbour();

    ready();
    moves_the_break(end - 8 * PAGE);
    moves_the_break(end - 4 * PAGE + 5);
    munmap(end + 4 * PAGE, 2 * PAGE);
    mark();
}

/* Inside its last page, where nothing comes or goes; and refused, because the neighbour is in the way. */
static void heap_stays_below_a_neighbour(void)
{
    char *end = heap_with_neighbour();

    ready();
    account_require(syscall(SYS_brk, end + 8 * PAGE) == (long)end, "the neighbour is in the way");
    mark();
    moves_the_break(end - 5);
    moves_the_break(end - 2 * PAGE);
}

static void heap_moves_below_a_neighbour(void)
{
    char *end = heap_with_neighbour();

    ready();
    moves_the_break(end - 5);
    moves_the_break(end - 2 * PAGE);
}

/* The end of the heap is not mapped any more: the break stands above its line. */
static void heap_grows_over_a_hole(void)
{
    char *end = heap();

    munmap(end - 2 * PAGE, 2 * PAGE);
    ready();
    moves_the_break(end + 8 * PAGE);
    moves_the_break(end - PAGE);
}

static void heap_shrinks_over_a_hole(void)
{
    char *end = heap();

    munmap(end - 2 * PAGE, 2 * PAGE);
    ready();
    moves_the_break(end - 6 * PAGE);
    moves_the_break(end);
}

/* Nothing of it is mapped, and no line bears the label. */
static void heap_is_gone(void)
{
    char *end = heap();
    uintptr_t start = (uintptr_t)end - 16 * PAGE;

    munmap((char *)start, 16 * PAGE);
    ready();
    moves_the_break(end + 3 * PAGE);
    moves_the_break(end - 3 * PAGE);
}

/* Whoever moves it first, parent or child. */
static void heap_of_a_child(void)
{
    char *end = heap_with_neighbour();
    pid_t pid;
    int status;

    ready();
    pid = fork();
    if (pid == 0) {
        marks = 100;
        moves_the_break(end - 3 * PAGE);
        _exit(0);
    }
    waitpid(pid, &status, 0);
    account_require(status == 0, "the child ends well");
    moves_the_break(end - 7 * PAGE);
    moves_the_break(end - PAGE);
}

static void *steps_in_thread(void *unused)
{
    (void)unused;
    ready();
    free(malloc(5 << 20));
    map(3);
    mark();
    exit(0);
}

/* The leader has ended: a zombie with a living thread. */
static void zombie_leader(void)
{
    pthread_t t;

    pthread_create(&t, NULL, steps_in_thread, NULL);
    pthread_exit(NULL);
}

static void *execs(void *unused)
{
    (void)unused;
    ready();
    execl(program, program, "plain", (char *)NULL);
    return NULL;
}

/* A thread that is not the leader calls execve. */
static void exec_from_thread(void)
{
    pthread_t t;

    pthread_create(&t, NULL, execs, NULL);
    pthread_join(t, NULL);
    exit(1);
}

static int in_parents_memory(void *unused)
{
    (void)unused;
    ready();
    map(7);
    return 0;
}

/* The parent waits for a vfork child, in uninterruptible sleep, and the child changes the map of both. */
static void vfork_parent(void)
{
    char *stack = map(64);
    int status;
    pid_t pid = clone(in_parents_memory, stack + 64 * PAGE, CLONE_VM | CLONE_VFORK | SIGCHLD, NULL);

    waitpid(pid, &status, 0);
    map(5);
    mark();
}

/* Two processes with one memory; the child goes on when the parent has been attached to. */
static int beside(void *unused)
{
    (void)unused;
    for (int i = 0; i < 200; i++)
        munmap(map(3), 3 * PAGE);
    return 0;
}

static int waits_beside(void *unused)
{
    step();
    beside(unused);
    map(9);
    return 0;
}

static void clone_vm(void)
{
    char *stack = map(64);
    int status;
    pid_t pid = clone(waits_beside, stack + 64 * PAGE, CLONE_VM | SIGCHLD, NULL);

    tell("ready");
    account_require(waitpid(pid, &status, 0) == pid, "the child is waited for without EINTR");
    beside(NULL);
    mark();
}

static void *churns(void *unused)
{
    (void)unused;
    for (;;) {
        char *p = malloc(300000);

        p[0] = 1;
        free(p);
        munmap(map(4), 4 * PAGE);
    }
    return NULL;
}

static void *joined(void *unused)
{
    (void)unused;
    free(malloc(1000));
    return NULL;
}

/* Threads churn, others are born and die all the time. */
static void threads(void)
{
    pthread_t t;

    for (int i = 0; i < 6; i++)
        pthread_create(&t, NULL, churns, NULL);
    tell("ready");
    for (;;) {
        pthread_create(&t, NULL, joined, NULL);
        pthread_join(t, NULL);
    }
}

/* A filter of its own, that lets a tracer decide (nobody does: ENOSYS) on one call and forbids another. */
static void filter(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mremap, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog prog = { sizeof code / sizeof *code, code };
    char *old = map(2);

    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    account_require(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) == 0, "the filter");
    ready();
    account_require(syscall(SYS_getppid) == -1 && errno == ENOSYS, "RET_TRACE without a tracer is ENOSYS");
    account_require(mremap(old, PAGE, 4 * PAGE, MREMAP_MAYMOVE) == MAP_FAILED && errno == EPERM, "RET_ERRNO");
    munmap(old, PAGE);
    mark();
}

/* A child that asks not to be traced, by clone and by clone3; and one that is refused. */
static void escapes(void)
{
    struct clone_args fork_like = { .flags = CLONE_UNTRACED, .exit_signal = SIGCHLD };

    ready();
    for (int i = 0; i < 2; i++) {
        pid_t pid = (pid_t)(i == 0 ? syscall(SYS_clone, CLONE_UNTRACED | SIGCHLD, 0, 0, 0, 0)
                                   : syscall(SYS_clone3, &fork_like, sizeof fork_like));

        if (pid == 0) {
            map(5);
            _exit(0);
        }
        account_require(pid > 0 && waitpid(pid, NULL, 0) == pid, "a child");
        mark();
    }
    account_require(syscall(SYS_clone, CLONE_UNTRACED | CLONE_SIGHAND | SIGCHLD, 0, 0, 0, 0) == -1, "refused");
    mark();
}

static volatile sig_atomic_t handled;

static void handler(int number)
{
    (void)number;
    handled++;
}

/* Sleeps until signals come; tells how many. */
static void signals(void)
{
    struct account a;
    sigset_t all, old;

    signal(SIGUSR1, handler);
    sigfillset(&all);
    sigdelset(&all, SIGTERM);
    sigprocmask(SIG_BLOCK, &all, &old);
    tell("ready");
    for (int i = 0; i < 3; i++) {
        sigsuspend(&old);
        account_open(&a, "handled");
        account_int(&a, "count", handled);
        account_close(&a);
    }
    map(2);
    mark();
}

/* Signals that nobody handles break off no call: SIGCHLD and SIGWINCH by default, SIGUSR1 by SIG_IGN. */
static void ignored(void)
{
    struct epoll_event event;
    int fd = epoll_create1(0), status;
    pid_t pid;

    signal(SIGUSR1, SIG_IGN);
    pid = fork();
    if (pid == 0) {
        usleep(20000);
        kill(getppid(), SIGWINCH);
        usleep(20000);
        kill(getppid(), SIGUSR1);
        usleep(20000);
        _exit(0);
    }
    account_require(epoll_wait(fd, &event, 1, 200) == 0, "epoll_wait takes its time");
    account_require(waitpid(pid, &status, 0) == pid, "the child");
    mark();
}

enum { VFORKERS = 8, VFORKS = 25 };

static int maps_and_exits(void *unused)
{
    (void)unused;
    map(3);
    return 0;
}

static void *vforking(void *stack)
{
    for (int i = 0; i < VFORKS; i++) {
        char *top = (char *)stack + 16 * PAGE;
        pid_t pid = clone(maps_and_exits, top, CLONE_VM | (i % 2 ? CLONE_VFORK : 0) | SIGCHLD, NULL);

        account_require(waitpid(pid, NULL, 0) == pid, "the child is waited for");
        pid = fork();
        if (pid == 0)
            _exit(0);
        account_require(waitpid(pid, NULL, 0) == pid, "the copy is waited for");
    }
    return NULL;
}

/* Threads that make processes, half of them in their own memory, half with a copy. */
static void vforks(void)
{
    pthread_t t[VFORKERS];

    for (int i = 0; i < VFORKERS; i++)
        pthread_create(&t[i], NULL, vforking, map(16));
    for (int i = 0; i < VFORKERS; i++)
        pthread_join(t[i], NULL);
    mark();
}

static const struct {
    const char *name;
    void (*act)(void);
} cases[] = {
    { "plain", plain },
    { "flags", flags },
    { "chunks", chunks },
    { "broken-page", broken_page },
    { "heap-shrinks", heap_shrinks_below_a_neighbour },
    { "heap-stays", heap_stays_below_a_neighbour },
    { "heap-moves", heap_moves_below_a_neighbour },
    { "heap-grows-over-a-hole", heap_grows_over_a_hole },
    { "heap-shrinks-over-a-hole", heap_shrinks_over_a_hole },
    { "heap-gone", heap_is_gone },
    { "heap-of-a-child", heap_of_a_child },
    { "zombie-leader", zombie_leader },
    { "exec-from-thread", exec_from_thread },
    { "vfork-parent", vfork_parent },
    { "clone-vm", clone_vm },
    { "threads", threads },
    { "filter", filter },
    { "escapes", escapes },
    { "signals", signals },
    { "ignored", ignored },
    { "vforks", vforks },
};

int main(int argc, char **argv)
{
    program = argv[0];
    for (size_t i = 0; argc == 2 && i < sizeof cases / sizeof *cases; i++)
        if (strcmp(cases[i].name, argv[1]) == 0) {
            cases[i].act();
            return 0;
        }
    return 2;
}
