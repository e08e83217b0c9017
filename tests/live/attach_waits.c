/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * attach_waits quiet [MS] | ignored [MS] | signalled: one thread for each system call that waits, in it again and again.
 *
 * quiet: every call times out, or gets what a partner gives it every now and then. No signal has a handler, so none may
 * fail with EINTR, and none may end before its time: that is told as "odd", with the call and its result. A transfer that
 * ends with a part done is told as "short"; no byte may be lost for that.
 *
 * ignored: the same, and every thread is sent a signal again and again that the program ignores: sooner than a call's
 * time limit is reached, which must be reached all the same.
 *
 * signalled: the calls with a signal mask wait without a limit, for a signal that is blocked elsewhere: each signal must
 * end exactly one call, with EINTR. A call that misses its signal never ends.
 *
 * Like attach_worker it tells "count" with the rounds of the slowest thread, lives until the end of its stdin, and then
 * tells "end".
 */
#define _GNU_SOURCE
#include "account.h"

#include <linux/aio_abi.h>
#include <mqueue.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>

enum { TELL_MS = 20, LARGE = 1 << 20, PIECE = 1 << 16 };

static _Atomic bool over;
static sigset_t with_usr1_open;
static long limit_ms = 70;
static struct timespec limit;
static struct timeval limit_us;

static long now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000L + t.tv_nsec / 1000;
}

static long result_of(long ret)
{
    return ret == -1 ? -errno : ret;
}

/* ---- calls that time out: each returns its result, or -errno ---- */

static long do_nanosleep(void)
{
    return result_of(nanosleep(&limit, NULL));
}

static long do_clock_nanosleep_until(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_nsec += limit.tv_nsec;
    t.tv_sec += t.tv_nsec / 1000000000;
    t.tv_nsec %= 1000000000;
    return -clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

static void soon(struct timespec *t)
{
    clock_gettime(CLOCK_REALTIME, t);
    t->tv_nsec += limit.tv_nsec;
    t->tv_sec += t->tv_nsec / 1000000000;
    t->tv_nsec %= 1000000000;
}

static long do_cond_timedwait(void)
{
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    static pthread_cond_t never = PTHREAD_COND_INITIALIZER;
    struct timespec t;
    long ret;

    soon(&t);
    pthread_mutex_lock(&mutex);
    ret = -pthread_cond_timedwait(&never, &mutex, &t);
    pthread_mutex_unlock(&mutex);
    return ret;
}

static long do_sem_timedwait(void)
{
    static sem_t never;
    struct timespec t;

    soon(&t);
    return result_of(sem_timedwait(&never, &t));
}

static long do_mq_timedreceive(void)
{
    static mqd_t mq = -1;
    struct mq_attr attr = {.mq_maxmsg = 1, .mq_msgsize = 8};
    char name[64], text[8];
    struct timespec t;

    if (mq == -1) {
        snprintf(name, sizeof name, "/attach_waits.%d", getpid());
        mq = mq_open(name, O_RDWR | O_CREAT | O_EXCL, 0600, &attr);
        account_require(mq != -1, "mq_open");
        mq_unlink(name);
    }
    soon(&t);
    return result_of(mq_timedreceive(mq, text, sizeof text, NULL, &t));
}

static long do_poll(void)
{
    return result_of(poll(NULL, 0, (int)limit_ms));
}

static long do_ppoll(void)
{
    return result_of(ppoll(NULL, 0, &limit, NULL));
}

static long do_select(void)
{
    struct timeval t = limit_us;

    return result_of(select(0, NULL, NULL, NULL, &t));
}

static long do_pselect(void)
{
    return result_of(pselect(0, NULL, NULL, NULL, &limit, NULL));
}

static int an_epoll(void)
{
    int fd = epoll_create1(0);

    account_require(fd != -1, "epoll_create1");
    return fd;
}

static long do_epoll_wait(void)
{
    static int fd;
    struct epoll_event e;

    fd = fd ? fd : an_epoll();
    return result_of(epoll_wait(fd, &e, 1, (int)limit_ms));
}

static long do_epoll_pwait(void)
{
    static int fd;
    struct epoll_event e;
    sigset_t mask;

    fd = fd ? fd : an_epoll();
    sigfillset(&mask);
    return result_of(epoll_pwait(fd, &e, 1, (int)limit_ms, &mask));
}

static long do_epoll_pwait2(void)
{
    static int fd;
    struct epoll_event e;

    fd = fd ? fd : an_epoll();
    return result_of(syscall(441, fd, &e, 1, &limit, NULL, 0));
}

static int semaphores, queue;

static long do_semtimedop(void)
{
    struct sembuf take = {0, -1, 0};

    return result_of(semtimedop(semaphores, &take, 1, &limit));
}

static long do_sigtimedwait(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    return result_of(sigtimedwait(&set, NULL, &limit));
}

static long do_io_getevents(void)
{
    static aio_context_t context;
    struct timespec t = limit;
    struct io_event e;

    if (!context)
        account_require(syscall(SYS_io_setup, 4, &context) == 0, "io_setup");
    return result_of(syscall(SYS_io_getevents, context, 1, 1, &e, &t));
}

static void a_pair(int pair[2], int option)
{
    account_require(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0, "socketpair");
    account_require(setsockopt(pair[0], SOL_SOCKET, option, &limit_us, sizeof limit_us) == 0, "setsockopt");
}

static long do_recv(void)
{
    static int pair[2];
    char text[8];

    if (!pair[1])
        a_pair(pair, SO_RCVTIMEO);
    return result_of(recv(pair[0], text, sizeof text, 0));
}

static long do_read_socket(void)
{
    static int pair[2];
    char text[8];

    if (!pair[1])
        a_pair(pair, SO_RCVTIMEO);
    return result_of(read(pair[0], text, sizeof text));
}

static long do_recvmmsg(void)
{
    static int pair[2];
    char text[8];
    struct iovec part = {text, sizeof text};
    struct mmsghdr message = {.msg_hdr = {.msg_iov = &part, .msg_iovlen = 1}};

    if (!pair[1])
        a_pair(pair, SO_RCVTIMEO);
    return result_of(recvmmsg(pair[0], &message, 1, 0, NULL));
}

static long do_send(void)
{
    static int pair[2];
    char text[4096] = "";

    if (!pair[1])
        a_pair(pair, SO_SNDTIMEO);
    while (send(pair[0], text, sizeof text, MSG_DONTWAIT) > 0)
        ;
    return result_of(send(pair[0], text, sizeof text, 0));
}

static long do_accept(void)
{
    static int fd;
    struct sockaddr_un any = {.sun_family = AF_UNIX};

    if (!fd) {
        fd = socket(AF_UNIX, SOCK_STREAM, 0);
        account_require(bind(fd, (struct sockaddr *)&any, sizeof(sa_family_t)) == 0 && listen(fd, 1) == 0, "listen");
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit_us, sizeof limit_us);
    }
    return result_of(accept(fd, NULL, NULL));
}

static long do_waitpid(void)
{
    int status;
    pid_t child = fork();

    if (child == 0) {
        nanosleep(&limit, NULL);
        _exit(9);
    }
    if (waitpid(child, &status, 0) != child)
        return -errno;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static long do_timerfd(void)
{
    static int fd;
    struct itimerspec t = {{0, 0}, limit};
    uint64_t count = 0;

    fd = fd ? fd : timerfd_create(CLOCK_MONOTONIC, 0);
    account_require(timerfd_settime(fd, 0, &t, NULL) == 0, "timerfd_settime");
    return read(fd, &count, sizeof count) == sizeof count ? (long)count : -errno;
}

/* ---- calls that a partner lets go on ---- */

static int eventfd_fd, inotify_fd, slow_pipe[2], slow_pair[2], whole_pair[2];

/* Streams of which each byte tells its place: what is cut short must be gone on with at the right one. */
enum { PERIOD = 251 };
static unsigned char pattern[LARGE + PERIOD];

struct stream {
    unsigned long at;
};

static void check_stream(struct stream *s, const unsigned char *piece, long length)
{
    if (length > 0) {
        account_require(memcmp(piece, pattern + s->at % PERIOD, (size_t)length) == 0, "no byte is lost, none comes twice");
        s->at += (unsigned long)length;
    }
}

static struct stream from_pipe, from_pair, to_pipe, to_pair, to_whole, from_whole;

static long gone_on(struct stream *s, long length)
{
    s->at += length > 0 ? (unsigned long)length : 0;
    return length;
}

static void *give(void *unused)
{
    unsigned char *piece = malloc(PIECE);
    struct {
        long type;
        char text[8];
    } message = {1, ""};
    uint64_t one = 1;

    while (!over) {
        nanosleep(&limit, NULL);
        (void)!write(eventfd_fd, &one, sizeof one);
        msgsnd(queue, &message, sizeof message.text, IPC_NOWAIT);
        close(open("/dev/null", O_RDONLY)); /* watched */
        /* In pieces: the other side has waited in the middle of its call. */
        for (int i = 0; i < 4; i++) {
            check_stream(&from_pipe, piece, read(slow_pipe[0], piece, PIECE));
            check_stream(&from_pair, piece, recv(slow_pair[0], piece, PIECE, MSG_DONTWAIT));
            gone_on(&to_whole, send(whole_pair[0], pattern + to_whole.at % PERIOD, PIECE / 4, MSG_DONTWAIT));
        }
    }
    return unused;
}

static long do_eventfd(void)
{
    uint64_t count;

    return result_of(read(eventfd_fd, &count, sizeof count));
}

static long do_inotify(void)
{
    char text[4096];
    long n = result_of(read(inotify_fd, text, sizeof text));

    return n > 0 ? 1 : n;
}

static long do_msgrcv(void)
{
    struct {
        long type;
        char text[8];
    } message;

    return result_of(msgrcv(queue, &message, sizeof message.text, 0, 0));
}

static long do_write_pipe(void)
{
    return gone_on(&to_pipe, result_of(write(slow_pipe[1], pattern + to_pipe.at % PERIOD, LARGE / 2)));
}

static long do_send_large(void)
{
    return gone_on(&to_pair, result_of(send(slow_pair[1], pattern + to_pair.at % PERIOD, LARGE, 0)));
}

static long do_recv_whole(void)
{
    static unsigned char into[PIECE * 2];
    long n = result_of(recv(whole_pair[1], into, sizeof into, MSG_WAITALL));

    check_stream(&from_whole, into, n);
    return n;
}

struct call {
    const char *name;
    long (*wait)(void);
    long expected;
    bool timed; /* it ends when the limit is reached, not before */
    bool parts; /* it may do a part, as after any signal: told as "short" */
};

struct waiter {
    const struct call *call;
    _Atomic unsigned long rounds;
    _Atomic unsigned long signals; /* signalled: how many the handler saw */
    pthread_t thread;
};

static struct waiter waiters[32];
static size_t count;

static const struct call quiet[] = {
    {"nanosleep", do_nanosleep, 0, true, false},
    {"clock_nanosleep", do_clock_nanosleep_until, 0, true, false},
    {"pthread_cond_timedwait", do_cond_timedwait, -ETIMEDOUT, false, false},
    {"sem_timedwait", do_sem_timedwait, -ETIMEDOUT, false, false},
    {"mq_timedreceive", do_mq_timedreceive, -ETIMEDOUT, false, false},
    {"poll", do_poll, 0, true, false},
    {"ppoll", do_ppoll, 0, true, false},
    {"select", do_select, 0, true, false},
    {"pselect", do_pselect, 0, true, false},
    {"epoll_wait", do_epoll_wait, 0, true, false},
    {"epoll_pwait", do_epoll_pwait, 0, true, false},
    {"epoll_pwait2", do_epoll_pwait2, 0, true, false},
    {"semtimedop", do_semtimedop, -EAGAIN, true, false},
    {"rt_sigtimedwait", do_sigtimedwait, -EAGAIN, true, false},
    {"io_getevents", do_io_getevents, 0, true, false},
    {"recv", do_recv, -EAGAIN, true, false},
    {"read of a socket", do_read_socket, -EAGAIN, true, false},
    {"recvmmsg", do_recvmmsg, -EAGAIN, true, false},
    {"send", do_send, -EAGAIN, true, false},
    {"accept", do_accept, -EAGAIN, true, false},
    {"waitpid", do_waitpid, 9, true, false},
    {"read of a timerfd", do_timerfd, 1, true, false},
    {"read of an eventfd", do_eventfd, 8, false, false},
    {"read of an inotify", do_inotify, 1, false, false},
    {"msgrcv", do_msgrcv, 8, false, false},
    {"write to a pipe", do_write_pipe, LARGE / 2, false, true},
    {"send of a large block", do_send_large, LARGE, false, true},
    {"recv of a whole block", do_recv_whole, PIECE * 2, false, true},
};

static void *wait_quietly(void *argument)
{
    struct waiter *w = argument;
    const struct call *c = w->call;

    while (!over) {
        long begun = now_us();
        long ret = c->wait();
        long took = now_us() - begun;

        /* poll counts in whole milliseconds; epoll and select may round to the timer's slack, never down by one. */
        if (over)
            break; /* what it waited for is taken away */
        if (ret != c->expected || (c->timed && took < (limit_ms - 1) * 1000L)) {
            struct account a;

            account_open(&a, c->parts && ret > 0 ? "short" : "odd");
            account_text(&a, "call", c->name);
            account_int(&a, "ret", ret);
            account_int(&a, "us", took);
            account_close(&a);
        }
        w->rounds++;
    }
    return NULL;
}

static void *send_ignored(void *unused)
{
    const struct timespec pause = {0, 10000000};

    while (!over) {
        for (size_t i = 0; i < count; i++)
            pthread_kill(waiters[i].thread, SIGURG);
        nanosleep(&pause, NULL);
    }
    return unused;
}

/* ---- signalled ---- */

static __thread struct waiter *self;

static void on_usr1(int number)
{
    (void)number;
    self->signals++;
}

static long wait_epoll_pwait(void)
{
    static int fd;
    struct epoll_event e;

    fd = fd ? fd : an_epoll();
    return result_of(epoll_pwait(fd, &e, 1, -1, &with_usr1_open));
}

static long wait_epoll_pwait2(void)
{
    static int fd;
    struct epoll_event e;

    fd = fd ? fd : an_epoll();
    return result_of(syscall(441, fd, &e, 1, NULL, &with_usr1_open, 8));
}

static long wait_ppoll(void)
{
    return result_of(ppoll(NULL, 0, NULL, &with_usr1_open));
}

static long wait_pselect(void)
{
    return result_of(pselect(0, NULL, NULL, NULL, NULL, &with_usr1_open));
}

static long wait_sigsuspend(void)
{
    return result_of(sigsuspend(&with_usr1_open));
}

static long wait_io_pgetevents(void)
{
    static aio_context_t context;
    struct io_event e;
    struct {
        const sigset_t *mask;
        size_t size;
    } mask = {&with_usr1_open, 8};

    if (!context)
        account_require(syscall(SYS_io_setup, 4, &context) == 0, "io_setup");
    return result_of(syscall(333, context, 1, 1, &e, NULL, &mask));
}

static const struct call signalled[] = {
    {"epoll_pwait", wait_epoll_pwait, -EINTR, false, false},
    {"epoll_pwait2", wait_epoll_pwait2, -EINTR, false, false},
    {"ppoll", wait_ppoll, -EINTR, false, false},
    {"pselect", wait_pselect, -EINTR, false, false},
    {"rt_sigsuspend", wait_sigsuspend, -EINTR, false, false},
    {"io_pgetevents", wait_io_pgetevents, -EINTR, false, false},
};

static void *wait_for_signals(void *argument)
{
    struct waiter *w = self = argument;

    while (!over) {
        long ret = w->call->wait();

        if (over)
            break;
        w->rounds++;
        if (ret != w->call->expected || w->rounds != w->signals) {
            struct account a;

            account_open(&a, "odd");
            account_text(&a, "call", w->call->name);
            account_int(&a, "ret", ret);
            account_uint(&a, "rounds", w->rounds);
            account_uint(&a, "signals", w->signals);
            account_close(&a);
            w->rounds = w->signals;
        }
    }
    return NULL;
}

/* Each thread gets its next signal a moment after it has had the last. */
static void *send_signals(void *unused)
{
    unsigned long sent[sizeof waiters / sizeof *waiters] = {0};
    const struct timespec moment = {0, 200000};

    while (!over) {
        for (size_t i = 0; i < count; i++) {
            if (waiters[i].rounds == sent[i]) {
                sent[i]++;
                pthread_kill(waiters[i].thread, SIGUSR1);
            }
        }
        nanosleep(&moment, NULL);
    }
    for (size_t i = 0; i < count; i++)
        pthread_kill(waiters[i].thread, SIGUSR1);
    return unused;
}

int main(int argc, char **argv)
{
    bool is_quiet = argc < 2 || strcmp(argv[1], "signalled") != 0;
    struct pollfd in = {.fd = 0, .events = POLLIN};
    struct sigaction action = {.sa_handler = on_usr1};
    struct account a;
    pthread_t partner;
    sigset_t blocked;

    account_begin("attach_waits");
    limit_ms = (long)account_argument(argc, argv, 2, 70);
    limit.tv_nsec = limit_ms * 1000000;
    limit_us.tv_usec = limit_ms * 1000;
    sigprocmask(SIG_SETMASK, NULL, &with_usr1_open);
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    sigaddset(&blocked, SIGUSR2);
    pthread_sigmask(SIG_BLOCK, &blocked, NULL);
    sigaction(SIGUSR1, &action, NULL);
    for (size_t i = 0; i < sizeof pattern; i++)
        pattern[i] = (unsigned char)(i % PERIOD);
    eventfd_fd = eventfd(0, 0);
    inotify_fd = inotify_init();
    inotify_add_watch(inotify_fd, "/dev/null", IN_OPEN);
    queue = msgget(IPC_PRIVATE, 0600);
    semaphores = semget(IPC_PRIVATE, 1, 0600);
    account_require(queue != -1 && semaphores != -1, "msgget, semget");
    account_require(pipe(slow_pipe) == 0, "pipe");
    account_require(socketpair(AF_UNIX, SOCK_STREAM, 0, slow_pair) == 0, "socketpair");
    account_require(socketpair(AF_UNIX, SOCK_STREAM, 0, whole_pair) == 0, "socketpair");
    count = is_quiet ? sizeof quiet / sizeof *quiet : sizeof signalled / sizeof *signalled;
    for (size_t i = 0; i < count; i++) {
        struct waiter *w = &waiters[i];

        w->call = is_quiet ? &quiet[i] : &signalled[i];
        account_require(pthread_create(&w->thread, NULL, is_quiet ? wait_quietly : wait_for_signals, w) == 0,
                        "pthread_create");
    }
    account_require(pthread_create(&partner, NULL, is_quiet ? give : send_signals, NULL) == 0, "pthread_create");
    if (is_quiet && argc > 1 && strcmp(argv[1], "ignored") == 0)
        account_require(pthread_create(&partner, NULL, send_ignored, NULL) == 0, "pthread_create");
    for (;;) {
        unsigned long least = waiters[0].rounds;
        const char *slowest = waiters[0].call->name;
        int ready = poll(&in, 1, TELL_MS);

        for (size_t i = 1; i < count; i++) {
            if (waiters[i].rounds < least) {
                least = waiters[i].rounds;
                slowest = waiters[i].call->name;
            }
        }
        account_open(&a, "count");
        account_uint(&a, "n", least);
        account_text(&a, "slowest", slowest);
        account_close(&a);
        if (ready != 0)
            break;
    }
    over = true;
    msgctl(queue, IPC_RMID, NULL);
    semctl(semaphores, 0, IPC_RMID);
    account_open(&a, "end");
    account_close(&a);
    _exit(0); /* those that wait for their partner would wait for ever */
}
