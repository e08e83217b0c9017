/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * attach_signals: every signal is delivered once, in its order, as it was sent; every timer keeps its time.
 *
 * A child sends four real-time signals with consecutive values, in bursts: one handled at once, one by a
 * thread that blocks it most of the time, one taken by sigwaitinfo, one that comes to a thread of its own (tgkill). The
 * parent checks sender, code and value of each. SIGUSR1 is sent while it is blocked, before every "count": it has to be
 * pending then, and be delivered once. An interval timer's signals with their overruns, and a timerfd's expirations,
 * must add up to the time that has gone by.
 *
 * Like attach_worker it tells "count" with the least of what was received, lives until the end of its stdin, and then
 * tells "end". What is wrong is told as "failed".
 */
#define _GNU_SOURCE
#include "account.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>

enum { KINDS = 4, HANDLED = 0, BLOCKED = 1, WAITED = 2, DIRECTED = 3, BURST = 30, TICK_MS = 5, TELL_MS = 20 };

/* Shared with the child: the next value of each signal, as it was received. */
static _Atomic int *received;
static pid_t sender;
static _Atomic bool over;
static _Atomic unsigned long usr1, alarms, ticks, slept;
static timer_t timer;
static long begun;

static int number_of(int kind)
{
    return SIGRTMIN + kind;
}

static long now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000L + t.tv_nsec / 1000000;
}

/* Only from one thread or handler for each kind. */
static void take(int kind, const siginfo_t *info)
{
    account_require(info->si_signo == number_of(kind), "the signal's number");
    account_require(info->si_code == SI_QUEUE, "the signal's code");
    account_require(info->si_pid == sender && info->si_uid == getuid(), "the signal's sender");
    account_require(info->si_value.sival_int == received[kind], "each value once, and in order");
    received[kind]++;
}

static void on_queued(int number, siginfo_t *info, void *context)
{
    (void)context;
    take(number - SIGRTMIN, info);
}

static void on_usr1(int number)
{
    (void)number;
    usr1++;
}

static void on_alarm(int number)
{
    (void)number;
    alarms++;
}

static void on_tick(int number, siginfo_t *info, void *context)
{
    (void)number, (void)context;
    account_require(info->si_code == SI_TIMER && info->si_value.sival_int == 77, "the timer's siginfo");
    ticks += 1 + (unsigned long)info->si_overrun;
}

/* A thread's mask: everything blocked but these. */
static void open_only(int a, int b)
{
    sigset_t set;

    sigfillset(&set);
    if (a)
        sigdelset(&set, a);
    if (b)
        sigdelset(&set, b);
    pthread_sigmask(SIG_SETMASK, &set, NULL);
}

static void *now_and_then(void *unused)
{
    const struct timespec moment = {0, 2000000};

    while (!over) {
        open_only(0, 0);
        nanosleep(&moment, NULL);
        open_only(number_of(BLOCKED), 0);
    }
    return unused;
}

static void *wait_for(void *unused)
{
    sigset_t set;
    siginfo_t info;

    open_only(0, 0);
    sigemptyset(&set);
    sigaddset(&set, number_of(WAITED));
    while (!over) {
        int number = sigwaitinfo(&set, &info);

        account_require(number == number_of(WAITED), "sigwaitinfo is not interrupted");
        take(WAITED, &info);
    }
    return unused;
}

static _Atomic pid_t directed;

static void *take_directed(void *unused)
{
    open_only(number_of(DIRECTED), 0);
    directed = (pid_t)syscall(SYS_gettid);
    while (!over)
        pause();
    return unused;
}

/* Handlers of SA_RESTART interrupt no read and no futex, but every sleep. */
static void *sleep_through(void *unused)
{
    const struct timespec moment = {0, 3000000};

    open_only(0, 0);
    while (!over) {
        account_require(nanosleep(&moment, NULL) == 0, "a sleep of a thread without signals");
        slept++;
    }
    return unused;
}

static void send_all(pid_t to, pid_t thread)
{
    int sent[KINDS] = {0};
    siginfo_t info = {0};

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    info.si_code = SI_QUEUE;
    info.si_pid = getpid();
    info.si_uid = getuid();
    /* In bursts: handlers that are traced take longer than it takes to send, and would never come to an end. */
    for (int burst = BURST;; burst += BURST) {
        for (bool all = false; !all; usleep(500)) {
            all = true;
            for (int kind = 0; kind < KINDS; kind++) {
                while (sent[kind] < burst) {
                    info.si_value.sival_int = sent[kind];
                    if (kind == DIRECTED ? syscall(SYS_rt_tgsigqueueinfo, to, thread, number_of(kind), &info)
                                         : syscall(SYS_rt_sigqueueinfo, to, number_of(kind), &info))
                        break; /* EAGAIN: RLIMIT_SIGPENDING */
                    sent[kind]++;
                }
                all = all && received[kind] == burst;
            }
        }
    }
}

static void a_thread(void *(*body)(void *))
{
    pthread_t thread;

    account_require(pthread_create(&thread, NULL, body, NULL) == 0, "pthread_create");
}

static void handle(int number, void (*simple)(int), void (*with_info)(int, siginfo_t *, void *))
{
    struct sigaction action = {.sa_flags = SA_RESTART | (with_info ? SA_SIGINFO : 0)};

    if (with_info)
        action.sa_sigaction = with_info;
    else
        action.sa_handler = simple;
    account_require(sigaction(number, &action, NULL) == 0, "sigaction");
}

/* `count` periods since `since`, counted up to a moment between `earliest` and now. */
static void check_time(unsigned long count, long since, long earliest, const char *claim)
{
    account_require((long)count >= (earliest - since) / TICK_MS - 2, claim);
    account_require((long)count <= (now_ms() - since) / TICK_MS + 2, claim);
}

static void start_timers(void)
{
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR2};
    struct itimerspec every = {{0, TICK_MS * 1000000L}, {0, TICK_MS * 1000000L}};
    struct itimerval often = {{0, TICK_MS * 1000L}, {0, TICK_MS * 1000L}};

    event.sigev_value.sival_int = 77;
    account_require(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0, "timer_create");
    begun = now_ms();
    account_require(timer_settime(timer, 0, &every, NULL) == 0, "timer_settime");
    account_require(setitimer(ITIMER_REAL, &often, NULL) == 0, "setitimer");
}

static int a_timerfd(long *since)
{
    struct itimerspec every = {{0, TICK_MS * 1000000L}, {0, TICK_MS * 1000000L}};
    int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);

    *since = now_ms();
    account_require(fd != -1 && timerfd_settime(fd, 0, &every, NULL) == 0, "timerfd");
    return fd;
}

int main(void)
{
    struct pollfd in = {.fd = 0, .events = POLLIN};
    unsigned long expected_usr1 = 0, expirations = 0;
    long timerfd_begun, earliest;
    sigset_t pending, only_usr1;
    struct account a;
    int fd;

    account_begin("attach_signals");
    received = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    account_require(received != MAP_FAILED, "mmap");
    handle(number_of(HANDLED), NULL, on_queued);
    handle(number_of(BLOCKED), NULL, on_queued);
    handle(number_of(DIRECTED), NULL, on_queued);
    handle(SIGUSR1, on_usr1, NULL);
    handle(SIGUSR2, NULL, on_tick);
    handle(SIGALRM, on_alarm, NULL);
    open_only(0, 0);
    a_thread(now_and_then);
    a_thread(wait_for);
    a_thread(take_directed);
    a_thread(sleep_through);
    while (!directed)
        usleep(1000);
    sender = fork();
    if (sender == 0)
        send_all(getppid(), directed);
    start_timers();
    fd = a_timerfd(&timerfd_begun);
    sigemptyset(&only_usr1);
    sigaddset(&only_usr1, SIGUSR1);
    for (int ready = 0; ready <= 0;) {
        int least = received[0];
        uint64_t count = 0;

        /* The handled signals and the timers' are this thread's while it waits; SIGUSR1 stays blocked. */
        open_only(number_of(HANDLED), SIGUSR2);
        pthread_sigmask(SIG_UNBLOCK, &(sigset_t){{1UL << (SIGALRM - 1)}}, NULL);
        kill(getpid(), SIGUSR1);
        ready = poll(&in, 1, TELL_MS);
        open_only(0, 0);
        sigpending(&pending);
        account_require(sigismember(&pending, SIGUSR1) == 1, "a blocked signal stays pending");
        account_require(usr1 == expected_usr1, "a blocked signal is not delivered");
        pthread_sigmask(SIG_UNBLOCK, &only_usr1, NULL);
        pthread_sigmask(SIG_BLOCK, &only_usr1, NULL);
        account_require(usr1 == ++expected_usr1, "and delivered once when it is unblocked");
        earliest = now_ms();
        if (read(fd, &count, sizeof count) == sizeof count)
            expirations += count;
        check_time(expirations, timerfd_begun, earliest, "a timerfd's expirations add up to the time");
        for (int kind = 1; kind < KINDS; kind++)
            least = received[kind] < least ? received[kind] : least;
        account_open(&a, "count");
        account_int(&a, "n", least);
        account_uint(&a, "alarms", alarms);
        account_uint(&a, "ticks", ticks);
        account_uint(&a, "slept", slept);
        account_close(&a);
    }
    over = true;
    earliest = now_ms();
    usleep(2 * TICK_MS * 1000);
    open_only(SIGUSR2, 0); /* now comes the last one, with its overruns */
    check_time(ticks, begun, earliest, "a timer's signals add up to the time");
    kill(sender, SIGKILL);
    account_require(waitpid(sender, NULL, 0) == sender, "waitpid");
    account_open(&a, "end");
    account_close(&a);
    _exit(0);
}
