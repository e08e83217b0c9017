# SPDX-License-Identifier: GPL-2.0-or-later
"""Threads, forks, kills and execs at the same time: nothing hangs, nothing is lost."""

from __future__ import annotations

import resource
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.live.tracing import Traced, command, environment

HEAD = """
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
static void *map(size_t n) {
    char *p = mmap(0, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    p[0] = 1;
    return p;
}
"""

FORKS = """
static volatile int stop;
static void *work(void *seed) {
    unsigned s = (long)seed;
    while (!stop) {
        size_t n = 4096 * (1 + rand_r(&s) % 20);
        char *p = map(n);
        mprotect(p, 4096, PROT_READ);
        munmap(p, n);
    }
    return 0;
}
int main(void) {
    pthread_t t[8];
    for (long i = 0; i < 8; i++) pthread_create(t + i, 0, work, (void *)i);
    for (int i = 0; i < 20; i++) {
        int pid = fork();
        if (!pid) { munmap(map(8192), 4096); _exit(0); }
        waitpid(pid, 0, 0);
    }
    stop = 1;
    for (int i = 0; i < 8; i++) pthread_join(t[i], 0);
    return 7;
}
"""

KILLS = """
static void *work(void *seed) {
    unsigned s = (long)seed + getpid();
    for (;;) {
        size_t n = 4096 * (1 + rand_r(&s) % 20);
        char *p = map(n);
        mprotect(p, 4096, PROT_READ);
        munmap(p, n);
        if (rand_r(&s) % 20 == 0 && !fork()) { munmap(map(4096), 4096); _exit(0); }
    }
}
static int spawn(void) {
    int pid = fork();
    if (!pid) {
        pthread_t t;
        for (long i = 0; i < 3; i++) pthread_create(&t, 0, work, (void *)i);
        work((void *)9);
    }
    return pid;
}
int main(void) {
    int pid[3];
    signal(SIGCHLD, SIG_IGN);
    for (int i = 0; i < 3; i++) pid[i] = spawn();
    for (int i = 0; i < 40; i++) {
        usleep(10000 + rand() % 10000);
        kill(pid[i % 3], SIGKILL);
        pid[i % 3] = spawn();
    }
    for (int i = 0; i < 3; i++) kill(pid[i], SIGKILL);
    return 3;
}
"""

THREAD_EXECS = """
static char **args;
static void *work(void *x) {
    for (;;) munmap(map(40960), 40960);
}
static void *run(void *x) {
    char n[2] = {args[1] ? args[1][0] - 1 : '4', 0};
    usleep(5000);
    if (n[0] < '0') execl("/bin/true", "true", (char *)0);
    execl("/proc/self/exe", args[0], n, (char *)0);
    return 0;
}
int main(int c, char **v) {
    pthread_t t;
    args = v;
    for (int i = 0; i < 4; i++) pthread_create(&t, 0, work, 0);
    pthread_create(&t, 0, run, 0);
    work(0);
}
"""

STUCK = """
#include <linux/userfaultfd.h>
static char *area;
static int fd;
static void *serve(void *x) {  // the fault is answered only after memory calls of our own
    struct uffd_msg m;
    struct uffdio_zeropage z = {{(unsigned long)area, 16384}, 0, 0};
    read(fd, &m, sizeof m);
    for (int i = 0; i < 5; i++) munmap(map(8192), 8192);
    ioctl(fd, UFFDIO_ZEROPAGE, &z);
    return 0;
}
int main(void) {
    struct uffdio_api api = {UFFD_API, 0, 0};
    pthread_t t;
    fd = syscall(SYS_userfaultfd, 0);
    if (fd < 0 || ioctl(fd, UFFDIO_API, &api)) return 77;
    area = mmap(0, 16384, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct uffdio_register r = {{(unsigned long)area, 16384}, UFFDIO_REGISTER_MODE_MISSING, 0};
    ioctl(fd, UFFDIO_REGISTER, &r);
    pthread_create(&t, 0, serve, 0);
    mlock(area, 16384);
    pthread_join(t, 0);
    for (int i = 0; i < 20; i++) munmap(map(8192), 8192);
    return 0;
}
"""

PARENT_EXECS = """
static char stack[65536] __attribute__((aligned(16)));
static int child(void *x) {
    usleep(100000);
    for (int i = 0; i < 100; i++) map(40960);
    return 0;
}
int main(void) {
    clone(child, stack + sizeof stack, CLONE_VM | SIGCHLD, 0);
    execl("/bin/sleep", "sleep", "0.6", (char *)0);
    return 1;
}
"""

MANY = """
int main(void) {
    int end[2], bad = 0, status;
    pipe(end);
    for (int i = 0; i < 30; i++)
        if (!fork()) {
            char b;
            close(end[1]);
            read(end[0], &b, 1);
            munmap(mmap(0, 8192, PROT_READ, MAP_PRIVATE, open("/bin/sh", O_RDONLY), 0), 4096);
            mmap(0, 8192, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
            mprotect((void *)4096, 4096, PROT_READ);
            _exit(0);
        }
    close(end[0]);
    close(end[1]);
    while (wait(&status) > 0) bad |= status;
    return bad != 0;
}
"""

CHUNKS = """
static void *work(void *x) {
    *(volatile char *)malloc(300000) = 1;
    syscall(SYS_exit, 0);
    return 0;
}
int main(void) {
    pthread_t t;
    *(volatile char *)malloc(200000) = 1;
    pthread_create(&t, 0, work, 0);
    usleep(50000);
    return 0;
}
"""

INT80 = """
static int call(int nr, int a, int b, int c, int d, int e) {
    long r;
    asm volatile("int $0x80" : "=a"(r) : "a"(nr), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e)
                 : "memory", "r8", "r9", "r10", "r11");
    return r;
}
int main(void) {
    call(117, 2, 0, 1, 0, 0);                // ipc: semget
    call(192, 4097, 8192, 3, 0x32, -1);      // mmap2: not aligned
    return call(192, 0, 8192, 3, 0x22, -1) == -1;
}
"""

REAL_TIME = "int main(void) { raise(40); return 0; }"


@pytest.fixture
def build(tmp_path: Path) -> Callable[[str], Path]:
    """C source to a program."""

    def go(source: str) -> Path:
        program = tmp_path / "program"
        subprocess.run(
            ["gcc", "-O1", "-w", "-pthread", "-x", "c", "-o", program, "-"],
            input=HEAD + source, text=True, check=True,
        )  # fmt: skip
        return program

    return go


Build = Callable[[str], Path]
Run = Callable[..., Traced]


@pytest.mark.parametrize("options", [(), ("--no-seccomp",)])
def test_forks_amid_mapping_threads(run: Run, build: Build, options: tuple[str, ...]) -> None:
    done = run(build(FORKS), options=options)
    assert done.returncode == 7
    done.assert_exact()
    assert len(done.calls("fork")) == 20


def test_threads_and_forks_killed_at_any_moment(run: Run, build: Build) -> None:
    done = run(build(KILLS))
    assert done.returncode == 3
    assert done.exactness == "exact", done.sentence
    for p in done.replayed.processes:
        assert p.snapshots == p.exact, done.sentence
        assert p.unexplained == 0, done.sentence


def test_a_thread_execs_while_others_are_in_calls(run: Run, build: Build) -> None:
    done = run(build(THREAD_EXECS))
    assert done.returncode == 0
    done.assert_exact()  # a snapshot at least before each exec


def test_a_call_that_waits_for_calls_of_others(run: Run, build: Build) -> None:
    program = build(STUCK)
    if subprocess.run([program], check=False, timeout=20).returncode == 77:
        return  # no userfaultfd for this user
    done = run(program)
    assert done.returncode == 0, done.stderr
    assert len(done.calls("munmap", ret=0)) >= 25
    assert done.calls("overlap")
    assert done.calls("snap", why="overlap") or done.exactness == "exact", done.sentence


def test_page_counts_after_one_user_of_an_mm_has_execed(run: Run, build: Build) -> None:
    done = run(build(PARENT_EXECS))
    assert done.returncode == 0
    done.assert_exact()


def test_more_address_spaces_than_descriptors(run: Run, build: Build) -> None:
    few = (80, 80)
    done = run(build(MANY), preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, few))
    assert done.returncode == 0, done.stderr
    done.assert_exact()
    assert len(done.replayed.processes) == 31


@pytest.mark.parametrize("options", [(), ("--no-seccomp",)])
def test_a_threads_last_chunk_has_its_header(
    run: Run, build: Build, options: tuple[str, ...]
) -> None:
    done = run(build(CHUNKS), options=options)
    text = done.path.read_text()
    for size in (200000, 300000):
        word = (size + 16 + 4095) // 4096 * 4096 | 2  # IS_MMAPPED
        assert f",{word}]" in text, size


def test_i386_calls_without_effect_or_without_success(run: Run, build: Build) -> None:
    program = build(INT80)
    if subprocess.run([program], check=False).returncode != 0:
        return  # a kernel without IA32_EMULATION
    done = run(program)
    assert done.returncode == 0
    done.assert_exact()
    assert done.calls("mmap", abi="i386")[0]["ret"] == -22


def test_a_death_by_a_signal_without_a_name(run: Run, build: Build) -> None:
    done = run(build(REAL_TIME))
    assert done.returncode == -40
    assert "killed by" in done.stderr
    assert "40" in done.stderr.splitlines()[0]


def test_a_child_that_is_no_tracee_is_not_waited_for(tmp_path: Path) -> None:
    # As when memtrace is process 1 of a container, whose writer is its child.
    path = tmp_path / "t.json"
    words = " ".join(map(str, command(path, ["true"], "-q")))
    begun = time.monotonic()
    done = subprocess.run(
        ["sh", "-c", f"sleep 60 <&- >&- 2>&- & exec {words}"],
        env=environment(), check=False, timeout=50,
    )  # fmt: skip
    assert done.returncode == 0
    assert time.monotonic() - begun < 50


def test_sigterm_ends_what_the_child_left_running(tmp_path: Path) -> None:
    argv = command(tmp_path / "t.json", ["sh", "-c", "echo; sleep 60 & exit 3"], "-q")
    with subprocess.Popen(argv, env=environment(), stdout=subprocess.PIPE) as tracer:
        assert tracer.stdout is not None
        tracer.stdout.readline()
        time.sleep(0.5)
        tracer.send_signal(signal.SIGTERM)
        assert tracer.wait(timeout=30) == 3
