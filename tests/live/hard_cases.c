/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * hard_cases CASE: programs that make it hard to trace them. Each tells what came of it, sets a mark of its own map
 * (own-maps.h) in each process that lives to do so, and ends with status 0 unless the case is about its death.
 *
 * `kinds` is the ordinary one; it is there to be built static, static-PIE and so on.
 */
#define _GNU_SOURCE
#include "own-maps.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>

enum { PAGE = 4096 };
#define RW (PROT_READ | PROT_WRITE)
#define ANON (MAP_PRIVATE | MAP_ANONYMOUS)

static unsigned long marks;

static void tell(const char *what, const char *key, long value)
{
    struct account a;

    account_open(&a, what);
    account_int(&a, key, value);
    account_close(&a);
}

static char *map(size_t pages)
{
    char *p = mmap(NULL, pages * PAGE, RW, ANON, -1, 0);

    account_require(p != MAP_FAILED, "mmap");
    return p;
}

/* Something of everything, and a mark. */
static void work(void)
{
    char *p = map(7);

    account_require(mprotect(p + PAGE, PAGE, PROT_READ) == 0, "mprotect");
    account_require(munmap(p + 3 * PAGE, PAGE) == 0, "munmap");
    p = mremap(p + 5 * PAGE, PAGE, 20 * PAGE, MREMAP_MAYMOVE);
    account_require(p != MAP_FAILED, "mremap");
    account_require(sbrk(3 * PAGE) != (void *)-1, "sbrk");
    own_maps_mark(++marks, 0);
}

static int wait_for(pid_t pid, int options)
{
    int status = -1;

    while (waitpid(pid, &status, options) < 0)
        account_require(errno == EINTR, "waitpid");
    return status;
}

static void kinds(void)
{
    work();
    *(volatile char *)malloc(200000) = 1;
    free(malloc(300000));
    work();
}

/* -- CLONE_UNTRACED -------------------------------------------------------------------------------------------- */

/* rdi, rsi, rdx, r10, r8, r9 as child and parent find them after the call: the kernel leaves all six alone. */
static volatile unsigned long found[2][6];
static unsigned long in[6];
static struct clone_args given, given_copy;

static void of_a_child(void)
{
    account_require(memcmp((void *)found[0], in, sizeof in) == 0, "the child's registers are untouched");
    account_require(memcmp(&given, &given_copy, sizeof given) == 0, "clone_args are untouched in the child");
    work();
    syscall(SYS_exit, 5);
}

/* A clone whose child runs of_a_child, on the stack that it gives it or on a copy of ours. */
static long raw_clone(long nr)
{
    register long ret __asm__("rax") = nr;
    register unsigned long r10 __asm__("r10") = in[3], r8 __asm__("r8") = in[4], r9 __asm__("r9") = in[5];
    register volatile void *into __asm__("r12") = found;
    register void (*child)(void) __asm__("r13") = of_a_child;

    __asm__ volatile("syscall\n\t"
                     "test %%rax, %%rax\n\t"
                     "jz 1f\n\t"
                     "add $48, %%r12\n"
                     "1: mov %%rdi, (%%r12)\n\t"
                     "mov %%rsi, 8(%%r12)\n\t"
                     "mov %%rdx, 16(%%r12)\n\t"
                     "mov %%r10, 24(%%r12)\n\t"
                     "mov %%r8, 32(%%r12)\n\t"
                     "mov %%r9, 40(%%r12)\n\t"
                     "test %%rax, %%rax\n\t"
                     "jnz 2f\n\t"
                     "and $-16, %%rsp\n\t"
                     "call *%%r13\n"
                     "2:"
                     : "+r"(ret), "+r"(into)
                     : "D"(in[0]), "S"(in[1]), "d"(in[2]), "r"(r10), "r"(r8), "r"(r9), "r"(child)
                     : "rcx", "r11", "memory", "cc");
    return ret;
}

static void untraced(unsigned long flags, bool with_stack, bool clone3)
{
    unsigned long size = with_stack ? 64 * PAGE : 0, stack = with_stack ? (unsigned long)map(64) : 0;
    long pid;

    memset((void *)found, 0, sizeof found);
    given = (struct clone_args){
        .flags = flags & ~0xffUL, .exit_signal = flags & 0xff, .stack = stack, .stack_size = size};
    given_copy = given;
    /* parent_tid, child_tid and tls are of no meaning with these flags */
    in[0] = clone3 ? (unsigned long)&given : flags;
    in[1] = clone3 ? sizeof given : stack + size;
    in[2] = 0x11, in[3] = 0x22, in[4] = 0x33, in[5] = 0x44;
    pid = raw_clone(clone3 ? SYS_clone3 : SYS_clone);
    account_require(memcmp((void *)found[1], in, sizeof in) == 0, "the parent's registers are untouched");
    if (pid < 0) {
        tell("refused", "errno", -pid);
        return;
    }
    tell("child", "child", pid);
    account_require(WEXITSTATUS(wait_for((pid_t)pid, __WALL)) == 5, "the child ended by itself");
    account_require(memcmp(&given, &given_copy, sizeof given) == 0, "clone_args are untouched in the parent");
}

static void untraced_all(void)
{
    const unsigned long alone = CLONE_UNTRACED, shared = CLONE_UNTRACED | CLONE_VM;

    for (int clone3 = 0; clone3 < 2; clone3++) {
        untraced(shared | CLONE_FS | CLONE_FILES, true, clone3); /* LeakSanitizer's */
        untraced(shared | CLONE_VFORK | SIGCHLD, true, clone3);
        untraced(alone | SIGCHLD, false, clone3);
        untraced(alone | CLONE_SIGHAND | SIGCHLD, false, clone3); /* EINVAL */
        untraced(shared | CLONE_THREAD | SIGCHLD, true, clone3);  /* EINVAL */
    }
    work();
}

/* -- programs that use ptrace ---------------------------------------------------------------------------------- */

static void traces_its_child(void)
{
    pid_t pid = fork();
    int status;

    if (pid == 0) {
        long r = ptrace(PTRACE_TRACEME, 0, 0, 0);

        tell("traceme", "errno", r < 0 ? errno : 0);
        work();
        execl("/bin/true", "true", (char *)NULL);
        _exit(9);
    }
    for (;;) { /* as a debugger does: whoever stops is let on */
        status = wait_for(pid, 0);
        if (!WIFSTOPPED(status))
            break;
        ptrace(PTRACE_CONT, pid, 0, WSTOPSIG(status) == SIGTRAP ? 0 : WSTOPSIG(status));
    }
    account_require(status == 0, "the child ended well");
    work();
}

static void attaches_to_its_child(void)
{
    int lives[2];
    pid_t pid;
    char c;

    account_require(pipe(lives) == 0, "pipe");
    pid = fork();
    if (pid == 0) {
        close(lives[1]);
        work();
        _exit(read(lives[0], &c, 1) == 1 ? 6 : 7);
    }
    tell("seize", "errno", ptrace(PTRACE_SEIZE, pid, 0, 0) < 0 ? errno : 0);
    tell("attach", "errno", ptrace(PTRACE_ATTACH, pid, 0, 0) < 0 ? errno : 0);
    account_require(write(lives[1], "x", 1) == 1, "write");
    account_require(WEXITSTATUS(wait_for(pid, 0)) == 6, "the child goes on");
    work();
}

/* -- programs with a seccomp filter of their own --------------------------------------------------------------- */

static void filter(unsigned nr, unsigned action)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, action),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};

    account_require(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "no_new_privs");
    account_require(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0, "the filter");
}

static long raw_mmap(void)
{
    long ret = syscall(SYS_mmap, 0, PAGE, RW, ANON, -1, 0);

    return ret == -1 ? -errno : ret;
}

static void filter_errno(void)
{
    filter(SYS_mmap, SECCOMP_RET_ERRNO | ENOMEM);
    tell("mmap", "ret", raw_mmap());
    account_require(sbrk(PAGE) != (void *)-1, "sbrk");
    own_maps_mark(++marks, 0);
}

/* RET_TRACE: what is under no tracer that knows of it fails with ENOSYS, memory call or not. */
static void filter_trace(void)
{
    filter(SYS_mmap, SECCOMP_RET_TRACE | 7);
    filter(SYS_getppid, SECCOMP_RET_TRACE);
    tell("mmap", "ret", raw_mmap());
    tell("getppid", "ret", syscall(SYS_getppid) == -1 ? -errno : 0);
    account_require(sbrk(PAGE) != (void *)-1, "sbrk");
    own_maps_mark(++marks, 0);
}

static volatile sig_atomic_t trapped;

static void on_sigsys(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)context;
    trapped = info->si_syscall == SYS_mmap && info->si_code == 1 /* SYS_SECCOMP */;
}

static void filter_trap(void)
{
    struct sigaction action = {.sa_sigaction = on_sigsys, .sa_flags = SA_SIGINFO};

    sigaction(SIGSYS, &action, NULL);
    filter(SYS_mmap, SECCOMP_RET_TRAP);
    raw_mmap();
    tell("trapped", "by", trapped);
    account_require(sbrk(PAGE) != (void *)-1, "sbrk");
    own_maps_mark(++marks, 0);
}

static void filter_kill(void)
{
    work();
    filter(SYS_mmap, SECCOMP_RET_KILL_PROCESS);
    raw_mmap();
}

static void *maps_once(void *argument)
{
    sprintf(argument, "/proc/self/task/%ld", syscall(SYS_gettid));
    raw_mmap();
    return argument;
}

static void filter_kill_thread(void)
{
    pthread_t thread;
    char *stack = map(64), task[64];
    pthread_attr_t attributes;

    work();
    pthread_attr_init(&attributes);
    pthread_attr_setstack(&attributes, stack, 64 * PAGE);
    filter(SYS_mmap, SECCOMP_RET_KILL_THREAD);
    account_require(pthread_create(&thread, &attributes, maps_once, task) == 0, "a thread starts");
    pthread_join(thread, NULL);
    while (access(task, F_OK) == 0) /* joined before it is dead: exit_group now would be its end */
        sched_yield();
    own_maps_mark(++marks, 0);
}

/* -- threads --------------------------------------------------------------------------------------------------- */

static void *maps_and_goes(void *argument)
{
    char *p = map(3);

    p[0] = 1;
    if ((uintptr_t)argument % 2)
        munmap(p, 3 * PAGE);
    else
        munmap(p + PAGE, PAGE);
    return NULL;
}

static void four_hundred_threads(void)
{
    pthread_t threads[50];

    for (int round = 0; round < 8; round++) {
        for (uintptr_t i = 0; i < 50; i++)
            account_require(pthread_create(&threads[i], NULL, maps_and_goes, (void *)i) == 0, "a thread starts");
        for (int i = 0; i < 50; i++)
            pthread_join(threads[i], NULL);
    }
    own_maps_mark(++marks, 0);
}

static void *outlives_its_leader(void *argument)
{
    char stat[64], text[256] = "";
    char *state = text;

    snprintf(stat, sizeof stat, "/proc/self/task/%d/stat", getpid());
    while (*state != 'Z') {
        int fd = open(stat, O_RDONLY);

        account_require(fd >= 0 && read(fd, text, sizeof text - 1) > 0, stat);
        close(fd);
        state = strrchr(text, ')') + 2;
    }
    work();
    for (uintptr_t i = 0; i < 100; i++)
        maps_and_goes((void *)i);
    own_maps_mark(++marks, 0);
    exit(4);
    return argument;
}

static void without_leader(void)
{
    pthread_t thread;

    account_require(pthread_create(&thread, NULL, outlives_its_leader, NULL) == 0, "a thread starts");
    syscall(SYS_exit, 0);
}

static volatile sig_atomic_t alarms;

static void on_alarm(int number)
{
    (void)number;
    alarms++;
}

/* Signals come at any moment of a call; a fork that one comes into is made anew (ERESTARTNOINTR). */
static void amid_alarms(void)
{
    struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
    const struct timespec nap = {.tv_nsec = 12000000};
    struct itimerval timer = {{0, 5000}, {0, 5000}};
    int forks = 0, naps = 0, cut = 0;

    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &timer, NULL);
    for (int i = 0; i < 2000; i++) {
        maps_and_goes((void *)1);
        if (i % 100 == 0) {
            pid_t pid = fork();

            forks++;
            if (pid == 0)
                _exit(0);
            account_require(wait_for(pid, 0) == 0, "the child ends");
        }
        if (i % 400 == 0) {
            naps++;
            cut += nanosleep(&nap, NULL) == -1 && errno == EINTR;
        }
    }
    timer = (struct itimerval){0};
    setitimer(ITIMER_REAL, &timer, NULL);
    tell("alarms", "count", alarms);
    tell("forks", "count", forks);
    tell("naps", "count", naps);
    tell("cut", "count", cut);
    own_maps_mark(++marks, 0);
}

/* -- calls that wait for others -------------------------------------------------------------------------------- */

static int uffd;
static char *area;
enum { AREA = 8 };

static void fault_area(int flags)
{
    struct uffdio_api api = {.api = UFFD_API};
    struct uffdio_register range = {.mode = UFFDIO_REGISTER_MODE_MISSING};

    uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | flags);
    account_require(uffd >= 0 && ioctl(uffd, UFFDIO_API, &api) == 0, "userfaultfd");
    area = map(AREA);
    range.range.start = (unsigned long)area;
    range.range.len = AREA * PAGE;
    account_require(ioctl(uffd, UFFDIO_REGISTER, &range) == 0, "UFFDIO_REGISTER");
}

/* Answers the first fault with memory calls of its own, then with the pages. */
static void *serves(void *argument)
{
    struct uffdio_zeropage zero = {.range = {(unsigned long)area, AREA * PAGE}};
    struct uffd_msg message;

    account_require(read(uffd, &message, sizeof message) == sizeof message, "a fault");
    for (int i = 0; i < 5; i++) {
        char *p = map(4);

        account_require(munmap(p + PAGE, PAGE) == 0, "munmap by the handler");
    }
    account_require(ioctl(uffd, UFFDIO_ZEROPAGE, &zero) == 0, "UFFDIO_ZEROPAGE");
    return argument;
}

static void populates_by_a_handler_that_maps(void)
{
    pthread_t thread;

    fault_area(0);
    account_require(pthread_create(&thread, NULL, serves, NULL) == 0, "a thread starts");
    account_require(madvise(area, AREA * PAGE, 23 /* MADV_POPULATE_WRITE */) == 0, "madvise");
    pthread_join(thread, NULL);
    work();
}

/* A child is killed in the middle of a call, for certain: nobody answers its fault. */
static void killed_in(const char *call)
{
    struct pollfd ready = {.events = POLLIN};
    int sent[2];
    pid_t pid;
    char c;

    account_require(pipe(sent) == 0, "pipe");
    pid = fork();
    if (pid == 0) {
        work();
        fault_area(O_NONBLOCK); /* or poll says POLLERR (userfaultfd_poll) */
        if (fork() == 0) { /* shares the descriptor, not the memory */
            ready.fd = uffd;
            account_require(poll(&ready, 1, -1) == 1 && ready.revents == POLLIN, "a fault");
            _exit(write(sent[1], "x", 1) != 1);
        }
        if (*call == 'a')
            madvise(area, AREA * PAGE, 23 /* MADV_POPULATE_WRITE */);
        else
            mlock(area, AREA * PAGE);
        _exit(9);
    }
    account_require(read(sent[0], &c, 1) == 1, "the child is in its call");
    tell("killed", "child", pid);
    kill(pid, SIGKILL);
    account_require(WTERMSIG(wait_for(pid, 0)) == SIGKILL, "it dies of it");
    work();
}

/* -- surroundings ---------------------------------------------------------------------------------------------- */

static void all_descriptors(void)
{
    int count = 0;

    while (open("/dev/null", O_RDONLY) >= 0)
        count++;
    tell("opened", "count", count);
    close(10);
    work();
}

static void standard_descriptors(void)
{
    for (int fd = 0; fd < 3; fd++)
        tell("standard", "flags", fcntl(fd, F_GETFL));
    work();
}

static void eat(void)
{
    memset(map(256), 1, 256 * PAGE);
    tell("eaten", "pages", 256);
}

/* Until it is killed for it. */
static void all_memory(void)
{
    for (;;)
        eat();
}

/* As that looks, where nobody limits its memory. */
static void much_memory(void)
{
    for (int i = 0; i < 30; i++)
        eat();
    raise(SIGKILL);
}

static void children_ignored(void)
{
    signal(SIGCHLD, SIG_IGN);
    for (int i = 0; i < 5; i++) {
        pid_t pid = fork();

        if (pid == 0) {
            work();
            _exit(3);
        }
    }
    account_require(waitpid(-1, NULL, 0) == -1 && errno == ECHILD, "no child leaves a status");
    work();
}

static void signals_blocked(void)
{
    sigset_t all, old;
    siginfo_t info;

    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &old);
    account_require(sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = 42}) == 0, "sigqueue");
    account_require(kill(getpid(), SIGTERM) == 0, "kill");
    work();
    account_require(sigwaitinfo(&all, &info) == SIGTERM && info.si_pid == getpid(), "SIGTERM");
    account_require(sigwaitinfo(&all, &info) == SIGRTMIN && info.si_value.sival_int == 42, "SIGRTMIN");
    account_require(sigpending(&old) == 0 && sigismember(&old, SIGTRAP) == 0, "no SIGTRAP");
    work();
}

static void who(void)
{
    tell("who", "euid", geteuid());
    tell("who", "egid", getegid());
    tell("who", "net_raw", prctl(PR_CAPBSET_READ, 13, 0, 0, 0) == 1 && socket(AF_PACKET, SOCK_RAW, 0) >= 0);
    work();
}

static int call_i386(int nr, long b, long c, long d, long s, long di)
{
    long ret;

    __asm__ volatile("int $0x80"
                     : "=a"(ret)
                     : "a"(nr), "b"(b), "c"(c), "d"(d), "S"(s), "D"(di)
                     : "memory", "r8", "r9", "r10", "r11");
    return (int)ret;
}

static void by_int_80(void)
{
    unsigned *words = mmap(NULL, PAGE, RW, ANON | MAP_32BIT, -1, 0);
    long a, b;

    account_require(words != MAP_FAILED, "mmap below 2 GiB");
    if (call_i386(20, 0, 0, 0, 0, 0) != getpid()) {
        tell("no-i386", "errno", 0);
        return;
    }
    a = (unsigned)call_i386(192, 0, 6 * PAGE, RW, ANON, -1); /* mmap2; ebp, the offset, is of no meaning */
    account_require(a % PAGE == 0, "mmap2");
    account_require(call_i386(91, a + 2 * PAGE, PAGE, 0, 0, 0) == 0, "munmap");
    account_require(call_i386(125, a, PAGE, PROT_READ, 0, 0) == 0, "mprotect");
    account_require(call_i386(125, a + PAGE, 2 * PAGE, PROT_NONE, 0, 0) == -ENOMEM, "mprotect into a hole");
    for (int i = 0; i < 6; i++)
        words[i] = (unsigned[]){0, 3 * PAGE, RW, ANON, (unsigned)-1, 0}[i];
    b = (unsigned)call_i386(90, (long)words, 0, 0, 0, 0); /* old_mmap */
    account_require(b % PAGE == 0, "old_mmap");
    account_require((unsigned)call_i386(163, b, 3 * PAGE, PAGE, 0, 0) == b, "mremap");
    account_require(call_i386(219, a, PAGE, MADV_DONTNEED, 0, 0) == 0, "madvise");
    tell("i386", "mmap", a);
    work();
}

/* x32: works, or fails with ENOSYS where the kernel has it not; the trace is right in both cases. */
static void by_x32(void)
{
    long ret = syscall(0x40000000 | SYS_mmap, 0, 2 * PAGE, RW, ANON, -1, 0);

    tell("x32", "ret", ret == -1 ? -errno : ret);
    work();
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } cases[] = {
        {"kinds", kinds},
        {"untraced", untraced_all},
        {"traceme", traces_its_child},
        {"ptrace-attach", attaches_to_its_child},
        {"filter-errno", filter_errno},
        {"filter-trace", filter_trace},
        {"filter-trap", filter_trap},
        {"filter-kill", filter_kill},
        {"filter-kill-thread", filter_kill_thread},
        {"threads", four_hundred_threads},
        {"leaderless", without_leader},
        {"alarms", amid_alarms},
        {"populate", populates_by_a_handler_that_maps},
        {"descriptors", all_descriptors},
        {"standard", standard_descriptors},
        {"all-memory", all_memory},
        {"much-memory", much_memory},
        {"ignored", children_ignored},
        {"blocked", signals_blocked},
        {"who", who},
        {"int80", by_int_80},
        {"x32", by_x32},
    };

    account_begin("hard_cases");
    account_require(argc > 1, "a case is named");
    if (!strncmp(argv[1], "killed-in-", 10)) {
        killed_in(strcmp(argv[1], "killed-in-madvise") ? "mlock" : "advise");
        return 0;
    }
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (!strcmp(argv[1], cases[i].name)) {
            cases[i].run();
            return 0;
        }
    account_require(false, "there is such a case");
}
