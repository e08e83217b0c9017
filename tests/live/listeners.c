/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * listeners CASE: a child with a seccomp filter that asks a listener (SECCOMP_RET_USER_NOTIF), which is this process and
 * lets all calls go on. What must be seen is told: `expects`, so many mmaps and munmaps of so many pages.
 */
#define _GNU_SOURCE
#include "own-maps.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#ifndef SECCOMP_FILTER_FLAG_TSYNC_ESRCH
#define SECCOMP_FILTER_FLAG_TSYNC_ESRCH (1UL << 4)
#endif

enum { PAGE = 4096, ROUNDS = 40, THREADS = 3 };

static int ends[2];
static unsigned long marks;

/* For mmap and two calls more. */
static long set_filter(unsigned long flags, unsigned action, unsigned second, unsigned third)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mmap, 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, second, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, third, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, action),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};

    account_require(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "no_new_privs");
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}

static void pass(int fd)
{
    char room[CMSG_SPACE(sizeof fd)] = {0}, byte = 0;
    struct iovec data = {&byte, 1};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);

    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(head), &fd, sizeof fd);
    account_require(sendmsg(ends[1], &message, 0) == 1, "sendmsg");
    close(fd);
}

static void listen_from_here_on(unsigned long flags)
{
    long fd = set_filter(SECCOMP_FILTER_FLAG_NEW_LISTENER | flags, SECCOMP_RET_USER_NOTIF, SYS_munmap, SYS_mprotect);

    account_require(fd >= 0, "a listener");
    pass((int)fd);
}

/* Until nobody is left who could ask. */
static void serve(void)
{
    char room[CMSG_SPACE(sizeof(int))], byte;
    struct iovec data = {&byte, 1};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
    struct pollfd asked = {.events = POLLIN};

    account_require(recvmsg(ends[0], &message, 0) == 1, "recvmsg");
    memcpy(&asked.fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof asked.fd);
    while (poll(&asked, 1, -1) > 0 && !(asked.revents & POLLHUP)) {
        struct seccomp_notif question = {0};
        struct seccomp_notif_resp answer = {.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};

        if (ioctl(asked.fd, SECCOMP_IOCTL_NOTIF_RECV, &question) != 0)
            continue; /* the call was broken off */
        answer.id = question.id;
        ioctl(asked.fd, SECCOMP_IOCTL_NOTIF_SEND, &answer);
    }
}

static void expects(size_t pages, long count)
{
    struct account a;

    account_open(&a, "expects");
    account_uint(&a, "pages", pages);
    account_int(&a, "count", count);
    account_close(&a);
}

/* What leaves no trace of itself in any later map. */
static void come_and_go(size_t pages)
{
    for (int i = 0; i < ROUNDS; i++) {
        char *p = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        account_require(p != MAP_FAILED, "mmap");
        p[0] = 1;
        account_require(munmap(p, pages * PAGE) == 0, "munmap");
    }
}

static void *in_a_thread(void *pages)
{
    come_and_go((size_t)pages);
    return NULL;
}

static void wait_for(pid_t pid)
{
    int status = -1;

    account_require(pid > 0, "a child");
    while (waitpid(pid, &status, 0) < 0)
        account_require(errno == EINTR, "waitpid");
    account_require(status == 0, "the child ended well");
}

/* All that inherits the filter: a thread, a child, another program. */
static void heirs(void)
{
    char *const again[] = {"listeners", "heir", NULL}, *const nothing[] = {NULL};
    pthread_t thread;
    pid_t pid;

    own_maps_mark(++marks, 0);
    /* As libseccomp asks whether the kernel knows a flag; and one that is refused. */
    account_require(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, NULL) == -1, "asks");
    listen_from_here_on(0);
    account_require(set_filter(SECCOMP_FILTER_FLAG_NEW_LISTENER, SECCOMP_RET_ALLOW, 0, 0) == -1 && errno == EBUSY, "one only");
    come_and_go(11);
    expects(11, ROUNDS);
    own_maps_mark(++marks, 0);
    account_require(pthread_create(&thread, NULL, in_a_thread, (void *)12) == 0, "a thread");
    pthread_join(thread, NULL);
    expects(12, ROUNDS);
    own_maps_mark(++marks, 0);
    pid = fork();
    if (pid == 0) {
        come_and_go(13);
        expects(13, ROUNDS);
        own_maps_mark(++marks, 0);
        execve("/proc/self/exe", again, nothing);
        _exit(1);
    }
    wait_for(pid);
    own_maps_mark(++marks, 0);
}

static void heir(void)
{
    marks = 100;
    come_and_go(14);
    expects(14, ROUNDS);
    own_maps_mark(++marks, 0);
}

static atomic_int round_of[THREADS], go_on;
static int idle, wake;

static void *busy(void *number)
{
    while (!go_on) {
        char *p = mmap(NULL, 3 * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        munmap(p, 3 * PAGE);
        getppid();
        round_of[(size_t)number]++;
    }
    come_and_go(20 + (size_t)number);
    return NULL;
}

static void *asleep(void *nothing)
{
    struct epoll_event event;

    (void)nothing;
    account_require(epoll_wait(idle, &event, 1, -1) == 1, "the interrupt does not show");
    come_and_go(30);
    return NULL;
}

/* The threads beside get the filter, while they are in calls, running or asleep. */
static void all_threads(bool later)
{
    struct epoll_event in = {.events = EPOLLIN};
    pthread_t threads[THREADS], sleeper;

    idle = epoll_create1(0);
    wake = eventfd(0, 0);
    account_require(epoll_ctl(idle, EPOLL_CTL_ADD, wake, &in) == 0, "epoll");
    for (size_t i = 0; i < THREADS; i++)
        account_require(pthread_create(&threads[i], NULL, busy, (void *)i) == 0, "a thread");
    account_require(pthread_create(&sleeper, NULL, asleep, NULL) == 0, "a thread");
    for (int i = 0; i < THREADS; i++)
        while (round_of[i] < 3)
            usleep(1000);
    if (later) {
        listen_from_here_on(0);
        /* Whoever takes over the newest filter of a thread takes over all that it has. */
        account_require(set_filter(SECCOMP_FILTER_FLAG_TSYNC, SECCOMP_RET_ALLOW, 0, 0) == 0, "TSYNC");
    } else {
        listen_from_here_on(SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_TSYNC_ESRCH);
    }
    go_on = 1;
    account_require(write(wake, &(uint64_t){1}, 8) == 8, "write");
    pthread_join(sleeper, NULL);
    expects(30, ROUNDS);
    for (size_t i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        expects(20 + i, ROUNDS);
    }
    own_maps_mark(++marks, 0);
}

/* Filters that have calls fail, and one that asks for a tracer, which is not there. */
static void beside_others(void)
{
    listen_from_here_on(0);
    account_require(set_filter(0, SECCOMP_RET_TRACE | 7, SYS_madvise, SYS_getppid) == 0, "a filter");
    account_require(madvise(&marks, PAGE, MADV_NORMAL) == -1 && errno == ENOSYS, "no tracer for madvise");
    account_require(syscall(SYS_getppid) == -1 && errno == ENOSYS, "nor for getppid");
    account_require(set_filter(0, SECCOMP_RET_ERRNO | ENOMEM, SYS_munmap, SYS_mremap) == 0, "a filter");
    account_require(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED, "mmap is refused");
    account_require(errno == ENOMEM, "ENOMEM");
    account_require(sbrk(3 * PAGE) != (void *)-1, "sbrk"); /* no filter of the program's is against it */
    account_require(mremap(NULL, PAGE, 2 * PAGE, 0) == MAP_FAILED && errno == ENOMEM, "mremap is refused");
}

int main(int argc, char **argv)
{
    pid_t pid;

    account_require(argc > 1, "a case is named");
    if (!strcmp(argv[1], "heir")) {
        heir();
        return 0;
    }
    account_begin("listeners");
    account_require(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0, "socketpair");
    pid = fork();
    if (pid == 0) {
        if (!strcmp(argv[1], "heirs"))
            heirs();
        else if (!strcmp(argv[1], "others"))
            beside_others();
        else
            all_threads(!strcmp(argv[1], "later"));
        _exit(0);
    }
    serve();
    wait_for(pid);
    return 0;
}
