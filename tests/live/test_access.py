# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may trace whom, with real processes: `attach` refuses with a sentence and a remedy and writes
no trace, `doctor` says the same and leaves the process alone.

Yama is not in every kernel and cannot be switched by a test: tests/unit/collect/test_access.py.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from tests.live.attaching import built
from tests.live.forbidding import FORBIDDING, SYS_KCMP, SYS_PTRACE, SYS_SECCOMP
from tests.live.tracing import (
    MEMTRACE,
    PATIENCE,
    Traced,
    account_of,
    cli,
    environment,
    state_of,
    until,
)

from memtrace.collect import access, facts, trial
from memtrace.collect.access import refusal

NOBODY = 65534
ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not ROOT, reason="takes root, to become another user")

Done = subprocess.CompletedProcess[str]


class Verb(Protocol):
    """`cli`, or the same as another user."""

    def __call__(self, *arguments: object) -> Done: ...


#: Becomes somebody else after everything is imported, because the interpreter may be root's alone,
#: and dumpable again, as a program of that user's is that was not setuid (`commit_creds`).
AS_NOBODY = """
import ctypes, difflib, os, pwd, sys
import email.parser, memtrace.cli.attach, memtrace.cli.doctor, memtrace.cli.main
import memtrace.collect.attaching, memtrace.collect.doctor
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE
os.chdir("/")
sys.exit(memtrace.cli.main.run(sys.argv[1:]))
"""


def as_nobody(*arguments: object) -> Done:
    return subprocess.run(
        [sys.executable, "-c", AS_NOBODY, *map(str, arguments)], env=environment(),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=PATIENCE,
    )  # fmt: skip


Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts processes, and ends them after the test."""
    with contextlib.ExitStack() as stack:

        def go(*argv: object, **kw: Any) -> subprocess.Popen[bytes]:
            process = stack.enter_context(
                subprocess.Popen([*map(str, argv)], stdin=subprocess.DEVNULL, **kw)
            )
            stack.callback(process.kill)
            return process

        yield go


@pytest.fixture
def sleeper(start: Start) -> int:
    """The pid of a process that sleeps."""
    return asleep(start("sleep", 1000))


def asleep(process: subprocess.Popen[bytes], name: str = "sleep") -> int:
    comm = Path(f"/proc/{process.pid}/comm")
    until(lambda: [1] if comm.read_text() == f"{name}\n" and state_of(process.pid) == "S" else [])
    return process.pid


def status(pid: int, name: str) -> str:
    found = re.search(rf"^{name}:\s*(.*)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def assert_refused(
    pid: int, message: str, hint: str, folder: Path, *, by: Verb = cli, about: int = 0
) -> None:
    """Both verbs say it; `about` is the process, where `pid` is a thread of it."""
    about = about or pid
    before = untouched(about)
    path = folder / "refused.json"
    attached = by("attach", pid, "-o", path)
    assert (attached.returncode, attached.stdout) == (125, ""), attached.stderr
    assert attached.stderr == f"memtrace: {message}\n  try: {hint}\n"
    assert not path.exists()
    asked = by("doctor", pid)
    assert (asked.returncode, asked.stderr) == (1, ""), asked.stderr
    last = asked.stdout.rpartition("\n\n")[2]
    assert " ".join(last.split()) == f"memtrace attach {pid} would not work: {message} try: {hint}"
    refused = asked.stdout.count("\n  no  ")
    assert asked.stdout.count(f"try: {hint}\n") == refused + 1 > 1
    assert untouched(about) == before


def untouched(pid: int) -> list[str]:
    """What would be different had the process been stopped or woken."""
    if not Path(f"/proc/{pid}/status").exists():
        return []
    names = ("State", "TracerPid", "voluntary_ctxt_switches", "nonvoluntary_ctxt_switches")
    return [status(pid, name) for name in names]


def assert_works(pid: int, folder: Path, *, by: Verb = cli) -> Done:
    asked = by("doctor", pid)
    assert asked.returncode == 0, asked.stdout + asked.stderr
    assert asked.stdout.endswith(f"\n\nmemtrace attach {pid} would work\n"), asked.stdout
    attached = by("attach", pid, "--for", "1ms", "-o", folder / "works.json")
    assert attached.returncode == 0, attached.stderr
    return attached


# -- no process to trace --------------------------------------------------------------------------


def test_no_such_process(start: Start, tmp_path: Path) -> None:
    ended = start("true")
    ended.wait()
    assert_refused(ended.pid, f"there is no process {ended.pid}", "ps -e", tmp_path)


def test_a_zombie(start: Start, tmp_path: Path) -> None:
    ended = start("true")
    until(lambda: [1] if state_of(ended.pid) == "Z" else [])
    assert_refused(
        ended.pid,
        f"process {ended.pid} (true) has ended: its parent, process {os.getpid()}, has not"
        " collected it yet",
        "memtrace run -- PROG", tmp_path,
    )  # fmt: skip


def test_a_kernel_thread(tmp_path: Path) -> None:
    # Not to be seen from a container's pid namespace.
    if Path("/proc/2/comm").exists() and status(2, "PPid") == "0" and status(2, "Name") != "":
        assert_refused(
            2, "process 2 (kthreadd) is a kernel thread: it has no memory of its own to trace",
            "ps -p 2 --ppid 2 --deselect", tmp_path,
        )  # fmt: skip


@pytest.mark.parametrize("argument", ["0", "sleep", "77777777777", "1.5"])
@pytest.mark.parametrize("verb", ["attach", "doctor"])
def test_what_is_no_process_id(verb: str, argument: str, tmp_path: Path) -> None:
    done = cli(verb, argument, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(
        rf"memtrace: '{argument}' is no process id\n  try: (ps -e|pgrep -a {argument})\n",
        done.stderr,
    )
    assert not list(tmp_path.iterdir())


# -- not a process of one's own -------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["attach", "doctor"])
def test_memtrace_itself(verb: str, tmp_path: Path) -> None:
    words = [*MEMTRACE, verb, "$$", *(["-o", "t.json"] if verb == "attach" else [])]
    done = subprocess.run(
        ["sh", "-c", f"exec {' '.join(words)}"], cwd=tmp_path, env=environment(),
        capture_output=True, text=True, check=False, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == {"attach": 125, "doctor": 1}[verb]
    said = " ".join((done.stderr if verb == "attach" else done.stdout).split())
    assert re.search(r"process \d+ is this memtrace itself try: memtrace run -- memtrace", said)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("levels", [1, 2])
def test_an_ancestor(levels: int, tmp_path: Path) -> None:
    """The shell that memtrace was started from, or one above it."""
    words = f'{" ".join(MEMTRACE)} attach -o t.json "$target"; code=$?; exit $code'
    script = "target=$$; export target; " + (
        words if levels == 1 else f"(sh -c '{words}'; exit $?)"
    )
    with subprocess.Popen(
        ["sh", "-c", script], cwd=tmp_path, env=environment(), stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as shell:  # fmt: skip
        _, said = shell.communicate(timeout=PATIENCE)
    assert shell.returncode == 125, said
    assert said == (
        f"memtrace: process {shell.pid} (sh) started this memtrace: traced by it, each may wait"
        f" for the other\n  try: memtrace attach {shell.pid}, in another terminal\n"
    )
    assert not list(tmp_path.iterdir())


# -- traced by somebody else ----------------------------------------------------------------------


@pytest.mark.parametrize("tracer", ["strace", "gdb"])
def test_another_tracer_is_named(tracer: str, sleeper: int, start: Start, tmp_path: Path) -> None:
    if shutil.which(tracer) is None:
        pytest.skip(f"{tracer} is not installed")
    argv = {
        "strace": ["strace", "-q", "-o", tmp_path / "log", "-p", sleeper],
        "gdb": ["gdb", "-q", "-nx", "-batch", "-p", sleeper, "-ex", "continue"],
    }[tracer]
    process = start(*argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: [1] if status(sleeper, "TracerPid") == str(process.pid) else [])
    until(lambda: [1] if state_of(sleeper) == "S" else [])
    assert_refused(
        sleeper,
        f"process {sleeper} (sleep) is already traced by {tracer} (pid {process.pid})",
        f"leave {tracer} (pid {process.pid}), then: memtrace attach {sleeper}", tmp_path,
    )  # fmt: skip
    process.send_signal(signal.SIGINT if tracer == "gdb" else signal.SIGTERM)
    if tracer == "strace":
        process.wait(timeout=PATIENCE)
        assert_works(sleeper, tmp_path)


@pytest.mark.parametrize("options", [(), ("--no-seccomp",)])
def test_run_under_strace(options: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    done = subprocess.run(
        ["strace", "-f", "-q", "-o", tmp_path / "log", *MEMTRACE, "run", "-o", path, *options,
         "true"],
        env=environment(), capture_output=True, text=True, check=False, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 125
    assert re.fullmatch(
        r"memtrace: this shell is already under a tracer: strace \(pid \d+\)\n"
        r"  try: memtrace run -- PROG, outside of strace\n",
        done.stderr,
    )
    assert not path.exists()


# -- threads --------------------------------------------------------------------------------------

THREADED = """
import ctypes, sys, threading, time
threading.Thread(target=time.sleep, args=(1000,)).start()
if sys.argv[1] == "leave":
    ctypes.CDLL(None).syscall(60, 0)  # exit(2): this thread alone
time.sleep(1000)
"""


def threads(pid: int) -> list[int]:
    return sorted(map(int, os.listdir(f"/proc/{pid}/task")))


def test_a_thread_stands_for_its_process(start: Start, tmp_path: Path) -> None:
    pid = start(sys.executable, "-c", THREADED, "stay").pid
    until(lambda: threads(pid), 2)
    tid = next(t for t in threads(pid) if t != pid)
    attached = assert_works(tid, tmp_path)
    name = status(pid, "Name")
    note = f"{tid} is a thread of process {pid} ({name}), which is attached to as a whole"
    assert f"memtrace: {note}\n" in attached.stderr
    asked = cli("doctor", tid)
    assert note in " ".join(asked.stdout.split())
    assert f"\nprocess {pid}\n" in asked.stdout


def test_a_zombie_leader_is_no_obstacle(start: Start, tmp_path: Path) -> None:
    pid = start(sys.executable, "-c", THREADED, "leave").pid
    until(lambda: [1] if state_of(pid) == "Z" and len(threads(pid)) == 2 else [])
    found = access.before(pid)
    assert (found.threads, found.alive, found.has_mm, found.access) == (2, 1, True, True)
    attached = assert_works(pid, tmp_path)
    note = (
        f"the first thread of process {pid} ({found.name}) has ended: its 1 other thread is traced"
    )
    assert f"memtrace: {note}\n" in attached.stderr


# -- other users ----------------------------------------------------------------------------------


@needs_root
def test_another_users_process(sleeper: int, tmp_path: Path) -> None:
    assert_refused(
        sleeper, f"process {sleeper} (sleep) belongs to another user, root",
        f"sudo memtrace attach {sleeper}", tmp_path, by=as_nobody,
    )  # fmt: skip


@needs_root
def test_ones_own_process_without_privilege(start: Start, tmp_path: Path) -> None:
    pid = asleep(start("sleep", 1000, user=NOBODY, group=NOBODY, extra_groups=[]))
    assert_works(pid, tmp_path, by=nobody_to_null)


def nobody_to_null(*arguments: object) -> Done:
    """The trace goes nowhere: there may be no folder that nobody can write to."""
    return as_nobody(*("/dev/null" if str(a).endswith(".json") else a for a in arguments))


HIDING = "import ctypes, time; ctypes.CDLL(None).prctl(4, 0); time.sleep(1000)"


@needs_root
def test_ones_own_process_that_is_not_dumpable(start: Start, tmp_path: Path) -> None:
    # Started by its user, so that it is only its own call that hides it.
    pid = start("/usr/bin/env", "python3", "-c", HIDING, user=NOBODY, group=NOBODY,
                extra_groups=[]).pid  # fmt: skip
    until(lambda: [1] if Path(f"/proc/{pid}/mem").stat().st_uid == 0 else [])
    until(lambda: [1] if state_of(pid) == "S" and status(pid, "Name").startswith("py") else [])
    assert_refused(
        pid, f"process {pid} ({status(pid, 'Name')}) is not dumpable: it keeps its memory to itself"
        " (PR_SET_DUMPABLE)", f"sudo memtrace attach {pid}", tmp_path, by=as_nobody,
    )  # fmt: skip
    assert_works(pid, tmp_path)  # root may


@needs_root
def test_ones_own_process_with_more_capabilities(start: Start, tmp_path: Path) -> None:
    pid = asleep(start(
        "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups",
        "--inh-caps=+net_raw", "--ambient-caps=+net_raw", "sleep", 1000,
    ))  # fmt: skip
    assert int(status(pid, "CapPrm"), 16) == 1 << 13
    assert_refused(
        pid, f"process {pid} (sleep) has capabilities that memtrace lacks (CAP_NET_RAW)",
        f"sudo memtrace attach {pid}", tmp_path, by=as_nobody,
    )  # fmt: skip


@needs_root
def test_a_setuid_program(start: Start, tmp_path: Path) -> None:
    # As a setuid root program that has taken its user's real id and kept its privilege.
    code = f"import os, time; os.setresuid({NOBODY}, 0, 0); time.sleep(1000)"
    pid = start(sys.executable, "-c", code, extra_groups=[]).pid
    until(lambda: [1] if status(pid, "Uid").split()[0] == str(NOBODY) else [])
    until(lambda: [1] if state_of(pid) == "S" else [])
    assert_refused(
        pid, f"process {pid} ({status(pid, 'Name')}) has changed its user (it is a setuid program:"
        f" uids {NOBODY}/0/0)", f"sudo memtrace attach {pid}", tmp_path, by=as_nobody,
    )  # fmt: skip


@needs_root
def test_root_without_the_capability_in_a_bounded_shell(start: Start, tmp_path: Path) -> None:
    """As in a container: root, but CAP_SYS_PTRACE is not to be had."""
    pid = asleep(start("sleep", 1000, user=NOBODY, group=NOBODY, extra_groups=[]))

    def bounded(*arguments: object) -> Done:
        words = ["setpriv", "--bounding-set=-sys_ptrace", *MEMTRACE, *map(str, arguments)]
        return subprocess.run(
            words, env=environment(), capture_output=True, text=True, check=False, timeout=PATIENCE
        )

    hint = "docker run --cap-add=SYS_PTRACE ..." if facts.host().container == "docker" else ""
    where = "this container" if facts.host().container else "whoever started this shell"
    assert_refused(
        pid, f"process {pid} (sleep) belongs to another user, nobody, and {where} grants no"
        " CAP_SYS_PTRACE", hint or access.privileged(access.Facts(pid, caller=facts.Caller(
            cap_bnd=0), host=facts.host())), tmp_path, by=bounded,
    )  # fmt: skip
    ours = bounded("doctor", "-q")
    assert (ours.returncode, ours.stderr) == (0, "")
    assert "memtrace attach on processes of this user" in " ".join(ours.stdout.split())


@needs_root
def test_a_file_mode_in_the_way_is_no_refusal(start: Start, tmp_path: Path) -> None:
    """With CAP_SYS_PTRACE alone, /proc/PID/mem of another user cannot be opened, but be traced."""
    pid = asleep(start("sleep", 1000, user=NOBODY, group=NOBODY, extra_groups=[]))

    def alone(*arguments: object) -> Done:
        words = ["setpriv", "--bounding-set=-all,+sys_ptrace", *MEMTRACE, *map(str, arguments)]
        return subprocess.run(
            words, env=environment(), capture_output=True, text=True, check=False, timeout=PATIENCE
        )

    asked = alone("doctor", "-q", pid)
    assert asked.returncode == 0
    assert " ".join(asked.stdout.split()).startswith(
        f"memtrace attach {pid} may not work: the kernel does not tell before the attempt whether"
        f" process {pid} (sleep) may be traced"
    )
    attached = alone("attach", pid, "--for", "1ms", "-o", tmp_path / "t.json")
    assert attached.returncode == 0, attached.stderr


@needs_root
def test_processes_that_proc_hides(sleeper: int, tmp_path: Path) -> None:
    """hidepid=2: for nobody there is no /proc/PID, though there is the process."""

    def without_seeing(*arguments: object) -> Done:
        script = 'mount -t proc -o hidepid=2 proc /proc && exec "$@"'
        return subprocess.run(
            ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-c", AS_NOBODY,
             *map(str, arguments)],
            env=environment(), capture_output=True, text=True, check=False, timeout=PATIENCE,
        )  # fmt: skip

    assert_refused(
        sleeper, f"/proc hides process {sleeper} from this user (hidepid)",
        f"sudo memtrace attach {sleeper}", tmp_path, by=without_seeing,
    )  # fmt: skip


# -- user namespaces ------------------------------------------------------------------------------


def in_a_user_namespace(*arguments: object) -> Done:
    return subprocess.run(
        ["unshare", "-U", "-r", *MEMTRACE, *map(str, arguments)],
        env=environment(), capture_output=True, text=True, check=False, timeout=PATIENCE,
    )  # fmt: skip


def user_namespaces() -> bool:
    done = subprocess.run(["unshare", "-U", "-r", "true"], check=False, capture_output=True)
    return done.returncode == 0


def test_a_process_below_in_a_user_namespace_of_ours(start: Start, tmp_path: Path) -> None:
    if user_namespaces():
        pid = asleep(start("unshare", "-U", "-r", "sleep", 1000))
        assert access.before(pid).user_ns == "owned"
        assert_works(pid, tmp_path)


def test_from_within_a_user_namespace_nothing_outside_is_reached(
    sleeper: int, tmp_path: Path
) -> None:
    if not user_namespaces():
        return
    path = tmp_path / "t.json"
    attached = in_a_user_namespace("attach", sleeper, "-o", path)
    assert attached.returncode == 125
    assert attached.stderr == (
        f"memtrace: process {sleeper} (sleep) seems to be outside of the user namespace that"
        f" memtrace runs in\n  try: memtrace attach {sleeper}, outside of this container\n"
    )
    assert not path.exists()
    # It cannot be seen, so it cannot be known before.
    asked = in_a_user_namespace("doctor", sleeper)
    assert asked.returncode == 0
    assert f"memtrace attach {sleeper} may not work: " in asked.stdout


# -- where ptrace is forbidden --------------------------------------------------------------------


def without(call: int, error: int, *arguments: object, **kw: Any) -> Done:
    return subprocess.run(
        [sys.executable, "-c", FORBIDDING, str(call), str(error), *MEMTRACE, *map(str, arguments)],
        env=environment(), capture_output=True, text=True, check=False, timeout=PATIENCE, **kw,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (1, "a seccomp filter around this shell forbids ptrace: operation not permitted"),
        (38, "there is no PTRACE_SEIZE here: function not implemented"),
    ],
)
def test_where_ptrace_is_forbidden(error: int, message: str, sleeper: int, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    run = without(SYS_PTRACE, error, "run", "-o", path, "true")
    assert (run.returncode, run.stdout) == (125, "")
    attach = without(SYS_PTRACE, error, "attach", sleeper, "-o", path)
    assert (attach.returncode, attach.stdout) == (125, "")
    for done in (run, attach):
        sentence, remedy = done.stderr.splitlines()
        assert sentence == f"memtrace: {message}"
        assert remedy.startswith("  try: ")
    assert not list(tmp_path.iterdir())
    for arguments, verb in ([(), "run"], [(sleeper,), f"attach {sleeper}"]):
        asked = without(SYS_PTRACE, error, "doctor", "-q", *arguments)
        assert (asked.returncode, asked.stderr) == (1, "")
        assert f"memtrace {verb} would not work: {message}" in " ".join(asked.stdout.split())


def test_where_the_filter_is_forbidden_attach_still_works(sleeper: int) -> None:
    asked = without(SYS_SECCOMP, 1, "doctor", "-q")
    assert asked.returncode == 1
    assert "try: memtrace run --no-seccomp -- PROG" in asked.stdout
    assert without(SYS_SECCOMP, 1, "doctor", sleeper).returncode == 0


def test_where_kcmp_is_forbidden_the_doctor_says_so() -> None:
    asked = without(SYS_KCMP, 1, "doctor")
    assert asked.returncode == 0, asked.stdout
    assert re.search(r"^  -   kcmp +refused: ", asked.stdout, re.MULTILINE)


# -- what changes meanwhile -----------------------------------------------------------------------


def test_a_process_that_ended_between_two_looks(start: Start) -> None:
    process = start("sleep", 1000)
    pid = asleep(process)
    earlier = access.before(pid)
    assert refusal(earlier) is None
    process.kill()
    process.wait()
    error = refusal(access.before(pid), earlier=earlier)
    assert error is not None
    assert error.message == f"process {pid} (sleep) ended while memtrace attached to it"


@needs_root
def test_a_process_whose_number_was_given_to_another(start: Start) -> None:
    process = start("sleep", 1000)
    pid = asleep(process)
    earlier = access.before(pid)
    # Who starts in the same clock tick cannot be told apart; pids do not come round that fast.
    per_second = os.sysconf("SC_CLK_TCK")
    until(lambda: [1] if uptime() * per_second > earlier.start_time + 1 else [])
    process.kill()
    process.wait()

    def recycled() -> list[int]:
        # The kernel's next pid is the first free one above this.
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
        again = start("cat", "/dev/zero", stdout=subprocess.DEVNULL)
        return [again.pid] if again.pid == pid else []

    until(recycled)
    until(lambda: [1] if status(pid, "Name") == "cat" else [])
    error = refusal(access.before(pid), 3, earlier=earlier)
    assert error is not None
    assert error.message == (
        f"process {pid} (sleep) ended while memtrace attached to it, cat has its number"
    )
    assert error.hint == f"memtrace attach {pid}, if cat is meant"


def uptime() -> float:
    return float(Path("/proc/uptime").read_text().split()[0])


def test_a_tracer_that_came_first(sleeper: int, start: Start, tmp_path: Path) -> None:
    earlier = access.before(sleeper)
    strace = start("strace", "-q", "-o", tmp_path / "log", "-p", sleeper)
    until(lambda: [1] if status(sleeper, "TracerPid") == str(strace.pid) else [])
    error = refusal(access.before(sleeper), 1, earlier=earlier)
    assert error is not None
    assert error.message == (
        f"process {sleeper} (sleep) is already traced by strace (pid {strace.pid})"
    )


# -- the facts and the trial ----------------------------------------------------------------------


def test_what_is_found_out_about_a_process(sleeper: int) -> None:
    found = access.before(sleeper)
    assert (found.pid, found.asked, found.name, found.state) == (sleeper, sleeper, "sleep", "S")
    assert (found.threads, found.alive, found.uninterruptible) == (1, 1, ())
    assert (found.parent, found.descendant, found.tracer) == (os.getpid(), True, 0)
    assert found.uids[:3] == os.getresuid()
    assert found.gids[:3] == os.getresgid()
    assert found.cap_prm == int(status(os.getpid(), "CapPrm"), 16) == found.caller.cap_prm
    assert (found.user_ns, found.readable, found.access) == ("same", True, True)
    assert found.ns_pids[0] == sleeper
    assert found.caller.pid == os.getpid()
    assert found.caller.ancestors[0] == os.getppid()
    assert found.host.kernel == os.uname().release


def test_a_name_that_would_move_the_cursor_is_made_harmless(start: Start) -> None:
    code = (
        "import ctypes, time; ctypes.CDLL(None).prctl(15, b'\\x1b[2J\\n\\xff evil', 0, 0, 0);"
        "print(flush=True); time.sleep(1000)"
    )
    process = start(sys.executable, "-c", code, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    assert access.before(process.pid).name == "?[2J\\n\ufffd evil"
    asked = cli("doctor", process.pid)
    assert "\x1b" not in asked.stdout


TRIAL = """
import ctypes, os
from memtrace.collect import trial
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: orphans become ours
print(trial.attempt())
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("nothing is left")
"""


def test_the_trial_comes_to_its_end_and_leaves_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TRIAL], env=environment(), capture_output=True, text=True,
        check=True, timeout=PATIENCE,
    )  # fmt: skip
    assert done.stdout == f"{trial.Trial()}\nnothing is left\n"


def test_the_doctor_asks_nothing_of_the_process(sleeper: int, tmp_path: Path) -> None:
    """Not even a request that leaves no mark on it."""
    log = tmp_path / "log"
    calls = "ptrace,kill,tkill,tgkill,process_vm_readv,process_vm_writev,process_madvise,pidfd_open"
    done = subprocess.run(
        ["strace", "-f", "-q", "-e", f"trace={calls}", "-e", "signal=none", "-o", log, *MEMTRACE,
         "doctor", str(sleeper)],
        env=environment(), capture_output=True, text=True, check=False, timeout=PATIENCE,
    )  # fmt: skip
    text = log.read_text()
    assert "ptrace(PTRACE_SEIZE" in text, done.stderr  # of its own child, in vain under strace
    assert not re.search(rf"\w+\((\w+, )?{sleeper}\b", text), text
    # The tracer of its own children does not forbid attaching to another process.
    assert done.returncode == 0
    assert done.stdout.endswith(f"memtrace attach {sleeper} would work\n")


def test_the_doctor_tells_what_the_threads_sleep_in(start: Start) -> None:
    code = (
        "import select, threading\n"
        "for _ in range(3): threading.Thread(target=select.epoll().poll).start()\n"
    )
    pid = start(sys.executable, "-c", code).pid
    until(lambda: [t for t in threads(pid) if call_of(t) == "232"], 3)
    asked = cli("doctor", pid)
    assert asked.returncode == 0
    assert re.search(r"^  -   threads +4$", asked.stdout, re.MULTILINE)
    assert "- asleep 3 in epoll_wait: an attach breaks" in " ".join(asked.stdout.split())


def call_of(tid: int) -> str:
    return Path(f"/proc/{tid}/syscall").read_text().split()[0]


def test_the_doctor_names_who_is_in_uninterruptible_sleep(start: Start, tmp_path: Path) -> None:
    source, program = tmp_path / "waits.c", tmp_path / "waits"
    source.write_text(
        "#include <unistd.h>\nint main(void) { if (vfork() == 0) { pause(); _exit(0); } }\n"
    )
    subprocess.run(["gcc", source, "-o", program], check=True)
    pid = start(program).pid
    (child,) = until(lambda: children(pid))
    try:
        until(lambda: [1] if state_of(pid) == "D" else [])
        found = access.before(pid)
        assert found.uninterruptible == (pid,)
        assert refusal(found) is None
        told = f"thread {pid} in uninterruptible sleep: it comes under control when that ends"
        assert told in " ".join(cli("doctor", pid).stdout.split())
    finally:
        os.kill(child, signal.SIGKILL)


def test_where_kcmp_is_forbidden(tmp_path: Path) -> None:
    """As in a container's default profile: who shares whose memory is known all the same."""
    told = tmp_path / "account"
    with told.open("wb") as account:
        script = f'exec "$@" 3>&{account.fileno()}'
        argv = ["bash", "-c", script, "sh", str(built("attach_cases")), "vforks"]
        done = without(
            SYS_KCMP, 1, "run", "-o", tmp_path / "t.json", "--", *argv, pass_fds=[account.fileno()]
        )
    traced = Traced(tmp_path / "t.json", done.returncode, b"", done.stderr, account_of(told))
    assert traced.returncode == 0
    traced.assert_exact()
    assert traced.assert_marks() == 1
    program = next(p for p in traced.replayed.processes if len(p.pids) > 1)
    assert len(program.pids) == 1 + 8 * 25


def children(pid: int) -> list[int]:
    return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_the_table_is_plain_in_a_pipe_and_fits(sleeper: int) -> None:
    plain = cli("doctor", sleeper).stdout
    assert "\x1b" not in plain
    rows = [line for line in plain.splitlines() if "try:" not in line]
    assert max(map(len, rows)) <= 80
    colored = cli("doctor", "--color", "always", sleeper).stdout
    assert "\x1b[32mok\x1b[0m" in colored
    assert re.sub(r"\x1b\[\d*m", "", colored) == plain
    assert cli("doctor", "-q", sleeper).stdout == f"memtrace attach {sleeper} would work\n"
