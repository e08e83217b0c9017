# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may trace whom, held against the kernel's own rules written down a second time (`World`), and
the sentence of each refusal.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from memtrace.collect.access import Facts, checks, notes, of_child, refusal
from memtrace.collect.facts import (
    ALL_CAPABILITIES,
    CAP_DAC_OVERRIDE,
    CAP_SYS_PTRACE,
    CAPABILITIES,
    Caller,
    Host,
    Relation,
    clean,
)
from memtrace.trace.errors import TargetError

PTRACE = 1 << CAP_SYS_PTRACE
NO_PTRACE = ALL_CAPABILITIES & ~PTRACE
USER = Caller(pid=50, uids=(1000,) * 4, gids=(1000,) * 4, ancestors=(40, 1))
ROOT = Caller(pid=50, cap_eff=ALL_CAPABILITIES, cap_prm=ALL_CAPABILITIES, ancestors=(40, 1))
#: Root in a container: Docker's default capabilities lack SYS_PTRACE.
BOXED = Caller(
    pid=50, cap_eff=0xA80425FB, cap_prm=0xA80425FB, cap_bnd=0xA80425FB, ancestors=(40, 1), seccomp=2
)  # fmt: skip
DOCKER = Host(container="docker")
MINE = Facts(
    pid=77, asked=77, name="redis", uids=(1000,) * 4, gids=(1000,) * 4, user="me", mem_uid=1000,
    readable=True, access=True, caller=USER,
)  # fmt: skip
ROOTS = replace(
    MINE, uids=(0,) * 4, gids=(0,) * 4, user="root", mem_uid=0, readable=False, access=None,
    user_ns=None,
)  # fmt: skip
REFUSED: dict[str, Any] = {"readable": False, "access": False, "user_ns": None}


def said(e: TargetError | None) -> tuple[str, str]:
    assert e is not None
    assert e.exit_code == 125
    for line in (e.message, e.hint):
        assert line.strip() == line != ""
        assert line.isprintable()
    assert not e.message.endswith(".")
    return e.message, e.hint


# -- the kernel's rules ---------------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """Everything that decides, also what /proc does not show."""

    caller: Caller
    uids: tuple[int, ...]
    gids: tuple[int, ...]
    cap_prm: int
    dumpable: bool
    relation: Relation
    scope: int | None
    descendant: bool
    ptracer: bool  # it named us with PR_SET_PTRACER
    module: bool  # SELinux or the like forbids it
    tracer: int
    kernel_thread: bool
    ended: bool

    def capable(self) -> bool:
        """`ptrace_has_cap` in the target's user namespace."""
        if self.relation == "owned":
            return True
        return self.relation != "outside" and bool(self.caller.cap_eff & PTRACE)

    def wrong(self, *, attach: bool, fs: bool) -> set[str]:
        """`__ptrace_may_access` and the security modules: every rule that is broken."""
        uid = self.caller.uids[3 if fs else 0]
        gid = self.caller.gids[3 if fs else 0]
        caps = self.caller.cap_eff if fs else self.caller.cap_prm
        broken = {"access"} if self.module else set()
        if self.capable():
            return self.yama(broken, attach=attach)
        if {*self.uids[:3]} != {uid} or {*self.gids[:3]} != {gid}:
            broken.add("user")
        if not self.dumpable and self.has_mm:
            broken.add("dumpable")
        if self.relation != "same":
            broken.add("user namespace")
        if self.cap_prm & ~caps:
            # cap_ptrace_access_check compares only within a namespace, and refuses between two.
            broken.add("capabilities")
        return self.yama(broken, attach=attach)

    def yama(self, broken: set[str], *, attach: bool) -> set[str]:
        """`yama_ptrace_access_check`."""
        related = self.descendant or self.ptracer or self.capable()
        if attach and (
            (self.scope == 1 and not related)
            or (self.scope == 2 and not self.capable())
            or (self.scope or 0) >= 3
        ):
            broken.add("Yama")
        return broken

    @property
    def hidden_away(self) -> bool:
        """A security module hides that the namespace is ours: the cause is a guess."""
        return self.module and self.relation == "owned"

    @property
    def has_mm(self) -> bool:
        return not self.kernel_thread and not self.ended

    def seize(self) -> set[str]:
        """`ptrace_attach`: every rule that is broken; empty: it may be traced."""
        broken = self.wrong(attach=True, fs=False)
        if self.kernel_thread:
            broken.add("program")
        if self.ended:
            broken.add("alive")
        if self.tracer:
            broken.add("no tracer")
        return broken

    def facts(self) -> Facts:
        """What `before` would find in /proc."""
        readable = not self.wrong(attach=False, fs=True)
        mem_uid = self.uids[1] if self.dumpable else 0
        opened = not self.wrong(attach=True, fs=True)
        # The file's mode: its owner, and who may pass over modes.
        passes = bool(self.caller.cap_eff >> CAP_DAC_OVERRIDE & 1) and self.relation == "same"
        owns = mem_uid == self.caller.uids[3]
        access = None if not self.has_mm or not (passes or owns) else opened
        return Facts(
            pid=77, asked=77, name="redis", state="Z" if self.ended else "S",
            alive=0 if self.ended else 1, kernel_thread=self.kernel_thread, has_mm=self.has_mm,
            tracer=self.tracer, tracer_name="gdb" if self.tracer else "",
            uids=self.uids, gids=self.gids, user="u", mem_uid=mem_uid if self.has_mm else None,
            cap_prm=self.cap_prm, user_ns=self.relation if readable else None,
            readable=readable, access=access, descendant=self.descendant,
            caller=self.caller, host=Host(yama=self.scope),
        )  # fmt: skip


def ids() -> st.SearchStrategy[tuple[int, ...]]:
    one = st.sampled_from((0, 1000, 1001))
    mixed = st.tuples(one, one, one, one)
    return st.one_of(one.map(lambda i: (i,) * 4), mixed)


CAPS = st.sampled_from((0, PTRACE, 1 << 13, NO_PTRACE, ALL_CAPABILITIES))


@st.composite
def worlds(draw: st.DrawFn) -> World:
    prm = draw(CAPS)
    initial = draw(st.booleans())
    caller = Caller(
        pid=50, uids=draw(ids()), gids=draw(ids()), cap_prm=prm, cap_eff=draw(CAPS) & prm,
        cap_bnd=draw(st.sampled_from((ALL_CAPABILITIES, NO_PTRACE))),
        seccomp=draw(st.sampled_from((0, 2))), no_new_privs=draw(st.booleans()),
        ancestors=(40, 1), initial_user_ns=initial,
    )  # fmt: skip
    relations: list[Relation] = ["same", "below", "owned"]
    return World(
        caller=caller, uids=draw(ids()), gids=draw(ids()), cap_prm=draw(CAPS),
        dumpable=draw(st.booleans()),
        relation=draw(st.sampled_from(relations if initial else [*relations, "outside"])),
        scope=draw(st.sampled_from((None, None, 0, 1, 2, 3))),
        descendant=draw(st.booleans()), ptracer=draw(st.booleans()),
        module=draw(st.sampled_from((False, False, False, True))),
        tracer=draw(st.sampled_from((0, 0, 0, 80))),
        kernel_thread=draw(st.sampled_from((False,) * 5 + (True,))),
        ended=draw(st.sampled_from((False,) * 5 + (True,))),
    )  # fmt: skip


@settings(max_examples=250)
@given(worlds())
def test_what_the_kernel_allows_is_never_refused(world: World) -> None:
    if not world.seize():
        event("allowed")
        found = refusal(world.facts())
        assert found is None, found.message


@settings(max_examples=250)
@given(worlds())
def test_a_refusal_names_a_rule_that_the_kernel_found_broken(world: World) -> None:
    assume(not world.hidden_away)
    broken, facts = world.seize(), world.facts()
    found = refusal(facts)
    event("refused before" if found else "may be tried")
    if found is not None:
        cause = next(c for c in checks(facts) if c.ok is False)
        assert said(found) == (cause.meaning, cause.remedy)
        assert cause.name in broken, (cause, broken)


@settings(max_examples=250)
@given(worlds())
def test_what_the_kernel_refuses_is_refused_or_doubted_before(world: World) -> None:
    if broken := world.seize():
        assert not all(c.ok for c in checks(world.facts())), broken


@settings(max_examples=250)
@given(worlds())
def test_a_failed_seize_is_explained_by_a_broken_rule(world: World) -> None:
    broken, facts = world.seize(), world.facts()
    assume(broken and not world.hidden_away)
    message, _ = said(refusal(facts, errno.EPERM))
    named = [c for c in checks(facts) if c.meaning == message]
    assert named, message
    if named[0].ok is None and (world.module or named[0].name == "access"):
        return  # A guess, as the facts hide what a security module hides.
    named_too = {"user namespace"} if "or in another user namespace" in message else set()
    assert broken & {named[0].name, *named_too}, (named, broken)


@settings(max_examples=200)
@given(worlds(), st.sampled_from(list(errno.errorcode)))
def test_any_failure_of_seize_is_one_sentence_and_one_remedy(world: World, number: int) -> None:
    said(refusal(world.facts(), number))
    said(of_child(world.facts(), number))


@given(st.text(), worlds())
def test_a_hostile_name_stays_on_its_line(name: str, world: World) -> None:
    facts = replace(world.facts(), name=clean(name), tracer=80, tracer_name=clean(name))
    said(refusal(facts))
    said(of_child(facts, errno.EPERM))
    for line in notes(replace(facts, asked=78, state="Z", alive=2)):
        assert line.isprintable()


# -- the sentences --------------------------------------------------------------------------------

SUDO = "sudo memtrace attach 77"
CASES: dict[str, tuple[Facts, str, str]] = {
    "no such process": (
        Facts(77, 77, exists=False), "there is no process 77", "ps -e",
    ),
    "hidden by hidepid": (
        Facts(77, 77, hidden=True, caller=USER),
        "/proc hides process 77 from this user (hidepid)", SUDO,
    ),
    "no /proc": (
        Facts(77, 77, exists=False, host=Host(proc=False)),
        "there is no /proc here", "mount -t proc proc /proc",
    ),
    "itself": (
        replace(MINE, pid=50), "process 50 is this memtrace itself", "memtrace run -- memtrace ...",
    ),
    "a thread of itself": (
        replace(MINE, pid=50, asked=51),
        "process 50 is this memtrace itself", "memtrace run -- memtrace ...",
    ),
    "an ancestor": (
        replace(MINE, pid=40, name="bash"),
        "process 40 (bash) started this memtrace: traced by it, each may wait for the other",
        "memtrace attach 40, in another terminal",
    ),
    "the first ancestor": (
        replace(MINE, pid=1, name="init"),
        "process 1 (init) started this memtrace: traced by it, each may wait for the other",
        "memtrace attach PID, of a process that this terminal does not come from",
    ),
    "a kernel thread": (
        replace(ROOTS, name="kthreadd", kernel_thread=True, has_mm=False),
        "process 77 (kthreadd) is a kernel thread: it has no memory of its own to trace",
        "ps -p 2 --ppid 2 --deselect",
    ),
    "a zombie": (
        replace(MINE, state="Z", alive=0, parent=60, has_mm=False, access=None),
        "process 77 (redis) has ended: its parent, process 60, has not collected it yet",
        "memtrace run -- PROG",
    ),
    "another tracer": (
        replace(MINE, tracer=80, tracer_name="gdb"),
        "process 77 (redis) is already traced by gdb (pid 80)",
        "leave gdb (pid 80), then: memtrace attach 77",
    ),
    "another user": (ROOTS, "process 77 (redis) belongs to another user, root", SUDO),
    "another user, without new privileges": (
        replace(ROOTS, caller=replace(USER, no_new_privs=True)),
        "process 77 (redis) belongs to another user, root",
        f"{SUDO}, in a shell without no_new_privs",
    ),
    "a setuid program": (
        replace(MINE, uids=(1000, 0, 0, 0), mem_uid=0, **REFUSED),
        "process 77 (redis) has changed its user (it is a setuid program: uids 1000/0/0)", SUDO,
    ),
    "a setgid program": (
        replace(MINE, gids=(1000, 5, 5, 5), mem_uid=0, **REFUSED),
        "process 77 (redis) has changed its group (it is a setgid program: gids 1000/5/5)", SUDO,
    ),
    "another group": (
        replace(MINE, gids=(5,) * 4, **REFUSED),
        "process 77 (redis) has another group than memtrace, 5", SUDO,
    ),
    "not dumpable": (
        replace(MINE, mem_uid=0, readable=False, access=None, user_ns=None),
        "process 77 (redis) is not dumpable: it keeps its memory to itself (PR_SET_DUMPABLE)", SUDO,
    ),
    "more capabilities": (
        replace(MINE, cap_prm=1 << 13, **REFUSED),
        "process 77 (redis) has capabilities that memtrace lacks (CAP_NET_RAW)", SUDO,
    ),
    "many more capabilities": (
        replace(MINE, cap_prm=ALL_CAPABILITIES, **REFUSED),
        "process 77 (redis) has capabilities that memtrace lacks (CAP_CHOWN, 40 more)", SUDO,
    ),
    "Yama 1": (
        replace(MINE, access=False, host=Host(yama=1)),
        "Yama's ptrace_scope is 1: attaching to what memtrace has not started takes CAP_SYS_PTRACE",
        f"{SUDO}, or once: sudo sysctl kernel.yama.ptrace_scope=0",
    ),
    "Yama 2": (
        replace(MINE, access=False, host=Host(yama=2)),
        "Yama's ptrace_scope is 2: tracing takes CAP_SYS_PTRACE",
        f"{SUDO}, or once: sudo sysctl kernel.yama.ptrace_scope=1",
    ),
    "Yama 3": (
        replace(MINE, access=False, caller=ROOT, host=Host(yama=3)),
        "Yama's ptrace_scope is 3: nothing can be traced until the next boot",
        ("grep -rs ptrace_scope /etc/sysctl.conf /etc/sysctl.d /usr/lib/sysctl.d, and reboot"
         " without it"),
    ),
    "Yama 1 in a container": (
        replace(MINE, uids=(0,) * 4, gids=(0,) * 4, mem_uid=0, access=False, caller=BOXED,
                host=replace(DOCKER, yama=1)),
        ("Yama's ptrace_scope is 1: attaching to what memtrace has not started takes CAP_SYS_PTRACE"
        ", and this container grants no CAP_SYS_PTRACE"),
        "docker run --cap-add=SYS_PTRACE ...",
    ),
    "another user in a container": (
        replace(MINE, user="redis", access=False, readable=False, caller=BOXED, host=DOCKER),
        ("process 77 (redis) belongs to another user, redis, and this container grants no"
        " CAP_SYS_PTRACE"),
        "docker run --cap-add=SYS_PTRACE ...",
    ),
    "another user in podman": (
        replace(MINE, access=False, readable=False, caller=BOXED, host=Host(container="podman")),
        ("process 77 (redis) belongs to another user, me, and this container grants no"
        " CAP_SYS_PTRACE"),
        "podman run --cap-add=SYS_PTRACE ...",
    ),
    "another user under a bounding set": (
        replace(ROOTS, caller=replace(USER, cap_bnd=NO_PTRACE)),
        ("process 77 (redis) belongs to another user, root, and whoever started this shell grants"
         " no CAP_SYS_PTRACE"),
        "memtrace run -- PROG",
    ),
    "Yama 2 under a bounding set": (
        replace(MINE, access=False, host=Host(yama=2), caller=replace(USER, cap_bnd=NO_PTRACE)),
        ("Yama's ptrace_scope is 2: tracing takes CAP_SYS_PTRACE, and whoever started this shell"
        " grants no CAP_SYS_PTRACE"),
        "sysctl kernel.yama.ptrace_scope=1, as root of the machine",
    ),
    "outside of the user namespace": (
        replace(MINE, user_ns="outside", caller=replace(ROOT, initial_user_ns=False), uids=(0,) * 4,
                gids=(0,) * 4, mem_uid=0, access=False),
        "process 77 (redis) is outside of the user namespace that memtrace runs in",
        "memtrace attach 77, outside of this container",
    ),
    "in another user namespace": (
        replace(MINE, user_ns="below", access=False),
        "process 77 (redis) is in another user namespace", SUDO,
    ),
    "an old kernel": (
        replace(MINE, host=Host(kernel="4.19.0-26-amd64")),
        "kernel 4.19.0-26-amd64 is too old: memtrace needs 5.3 or later (PTRACE_GET_SYSCALL_INFO)",
        "uname -r",
    ),
    "gVisor": (
        replace(MINE, host=Host(kernel="4.4.0", sandbox="gVisor")),
        "gVisor has no PTRACE_SEIZE: nothing can be traced in it", "docker run --runtime=runc ...",
    ),
    "WSL 1": (
        replace(MINE, host=Host(kernel="4.4.0-19041-Microsoft", sandbox="WSL 1")),
        "WSL 1 has no PTRACE_SEIZE: nothing can be traced in it",
        "wsl --set-version DISTRIBUTION 2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_each_reason_has_its_sentence_and_its_remedy(case: str) -> None:
    facts, message, hint = CASES[case]
    assert said(refusal(facts)) == (message, hint)
    # It is the same after SEIZE was tried and refused.
    assert said(refusal(facts, errno.EPERM)) == (message, hint)


ALLOWED: dict[str, Facts] = {
    "of the same user": MINE,
    "a thread of it": replace(MINE, asked=78),
    "root, of anybody": replace(ROOTS, caller=ROOT, readable=True, access=True, user_ns="same"),
    "root without the capability, of root": replace(
        MINE, uids=(0,) * 4, gids=(0,) * 4, mem_uid=0, cap_prm=BOXED.cap_prm, caller=BOXED
    ),
    "a zombie leader": replace(MINE, state="Z", threads=3, alive=2),
    "a stopped one": replace(MINE, state="T"),
    "traced by ourselves": replace(MINE, tracer=50, tracer_name="memtrace"),
    "Yama 1, our descendant": replace(MINE, descendant=True, host=Host(yama=1)),
    "Yama 1, PR_SET_PTRACER": replace(MINE, access=True, host=Host(yama=1)),
    "Yama 1, not to be told before": replace(MINE, access=None, host=Host(yama=1)),
    "Yama 2, root": replace(MINE, caller=ROOT, host=Host(yama=2)),
    "not dumpable, root": replace(MINE, mem_uid=0, caller=ROOT),
    "in a namespace of ours": replace(MINE, user_ns="owned", cap_prm=ALL_CAPABILITIES),
    "with the same capabilities": replace(
        MINE, cap_prm=1 << 13, caller=replace(USER, cap_prm=1 << 13)
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ALLOWED)
def test_what_may_be_traced_is_not_refused(case: str) -> None:
    assert refusal(ALLOWED[case]) is None


@pytest.mark.parametrize("case", ALLOWED)
def test_a_seize_that_fails_all_the_same_is_an_error(case: str) -> None:
    said(refusal(ALLOWED[case], errno.EPERM))


@pytest.mark.parametrize(
    ("facts", "number", "message", "hint"),
    [
        pytest.param(
            replace(MINE, access=None, host=Host(yama=1)), errno.EPERM, "Yama's ptrace_scope is 1",
            SUDO, id="Yama 1 is believed once it was tried",
        ),
        pytest.param(
            replace(MINE, access=False, host=Host(confined="docker-default")),
            errno.EPERM, "a security module (docker-default) keeps memtrace from the memory of",
            SUDO, id="AppArmor",
        ),
        pytest.param(
            replace(MINE, caller=replace(USER, seccomp=2), host=DOCKER), errno.EPERM,
            "a seccomp filter around this shell forbids ptrace: operation not permitted",
            "docker run --cap-add=SYS_PTRACE ...", id="Docker's profile before Linux 4.8",
        ),
        pytest.param(
            replace(MINE, caller=replace(USER, seccomp=2)), errno.EPERM,
            "a seccomp filter around this shell forbids ptrace", "memtrace doctor 77",
            id="a sandbox",
        ),
        pytest.param(
            MINE, errno.ENOSYS, "there is no PTRACE_SEIZE here: function not implemented",
            "uname -a", id="no such request",
        ),
        pytest.param(
            replace(MINE, host=DOCKER), errno.EIO, "there is no PTRACE_SEIZE here",
            "docker run --cap-add=SYS_PTRACE ...", id="no such request, in a container",
        ),
        pytest.param(
            MINE, errno.ESRCH, "process 77 (redis) changed while memtrace attached to it",
            "memtrace attach 77", id="gone and back",
        ),
        pytest.param(
            MINE, errno.EPERM, "the kernel does not let memtrace trace process 77 (redis), and"
            " /proc does not say why: operation not permitted", "memtrace doctor 77",
            id="no reason is known",
        ),
        pytest.param(
            replace(MINE, uids=(0,) * 4, gids=(0,) * 4, mem_uid=0, caller=BOXED, **REFUSED),
            errno.EPERM, "process 77 (redis) is not dumpable (PR_SET_DUMPABLE), or in another user"
            " namespace, and whoever started this shell grants no CAP_SYS_PTRACE",
            "memtrace run -- PROG", id="root's, which does not show whether it is dumpable",
        ),
        pytest.param(
            replace(MINE, **REFUSED), errno.EPERM,
            "process 77 (redis) seems to be in another user namespace than memtrace", SUDO,
            id="everything else would do",
        ),
        pytest.param(
            replace(MINE, user_ns=None, readable=False, access=False, uids=(0,) * 4, gids=(0,) * 4,
                    mem_uid=0, caller=replace(ROOT, initial_user_ns=False)),
            errno.EPERM,
            "process 77 (redis) seems to be outside of the user namespace that memtrace runs in",
            "memtrace attach 77, outside of this container", id="a user namespace above",
        ),
    ],
)  # fmt: skip
def test_what_only_the_attempt_tells(facts: Facts, number: int, message: str, hint: str) -> None:
    assert refusal(facts) is None
    m, h = said(refusal(facts, number))
    assert m.startswith(message)
    assert h.startswith(hint)


def test_yama_1_is_no_doubt_about_a_descendant() -> None:
    doubted = replace(MINE, access=None, host=Host(yama=1))
    assert "Yama" in {c.name for c in checks(doubted) if not c.ok}
    assert "Yama" not in {c.name for c in checks(replace(doubted, descendant=True)) if not c.ok}


def test_access_by_the_effective_user_does_not_prove_it_for_the_real_one() -> None:
    # /proc asks with the fs ids, SEIZE with the real ones (PTRACE_MODE_REALCREDS).
    setuid = replace(USER, uids=(1000, 0, 0, 0))
    found = refusal(replace(ROOTS, gids=(1000,) * 4, readable=True, access=True, caller=setuid))
    assert said(found)[0] == "process 77 (redis) belongs to another user, root"


def test_no_such_thread_is_not_explained_by_a_doubt() -> None:
    doubted = replace(MINE, access=None, host=Host(yama=1))
    assert said(refusal(doubted, errno.ESRCH))[0].startswith("process 77 (redis) changed while")


# -- what changes during an attach ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "message", "hint"),
    [
        pytest.param(
            {"exists": False}, "process 77 (redis) ended while memtrace attached to it",
            "memtrace run -- PROG", id="died",
        ),
        pytest.param(
            {"state": "Z", "alive": 0}, "process 77 (redis) ended while memtrace attached to it",
            "memtrace run -- PROG", id="died, not collected",
        ),
        pytest.param(
            {"start_time": 9, "name": "vim"},
            "process 77 (redis) ended while memtrace attached to it, vim has its number",
            "memtrace attach 77, if vim is meant", id="recycled",
        ),
        pytest.param(
            {"tracer": 80, "tracer_name": "gdb"},
            "process 77 (redis) is already traced by gdb (pid 80)",
            "leave gdb (pid 80), then: memtrace attach 77", id="another tracer came first",
        ),
        pytest.param(
            {"uids": (0,) * 4, "user": "root", "mem_uid": 0, "name": "su", **REFUSED},
            "process 77 (su) belongs to another user, root", SUDO, id="changed its user",
        ),
        pytest.param(
            {"mem_uid": 0, "name": "ssh-agent", **REFUSED},
            "process 77 (ssh-agent) is not dumpable: it keeps its memory to itself"
            " (PR_SET_DUMPABLE)", SUDO, id="execs what is not dumpable",
        ),
        pytest.param(
            {"name": "vim"}, "process 77 (vim) changed while memtrace attached to it",
            "memtrace attach 77", id="execs",
        ),
    ],
)  # fmt: skip
def test_what_has_changed_since_before_is_named(
    now: dict[str, Any], message: str, hint: str
) -> None:
    assert refusal(MINE) is None
    after = replace(MINE, **now)
    assert said(refusal(after, errno.EPERM, earlier=MINE)) == (message, hint)


def test_that_it_has_ended_needs_no_failed_seize() -> None:
    gone = Facts(77, 77, exists=False)
    assert said(refusal(gone, earlier=MINE))[0].startswith("process 77 (redis) ended while")
    assert said(refusal(gone))[0] == "there is no process 77"
    assert refusal(MINE, earlier=MINE) is None
    # What was never there has not ended.
    assert said(refusal(gone, errno.ESRCH, earlier=gone))[0] == "there is no process 77"


# -- our own child --------------------------------------------------------------------------------

CHILD = replace(MINE, descendant=True)


@pytest.mark.parametrize(
    ("facts", "number", "message", "hint"),
    [
        (
            replace(CHILD, tracer=80, tracer_name="strace"), errno.EPERM,
            "this shell is already under a tracer: strace (pid 80)",
            "memtrace run -- PROG, outside of strace",
        ),
        (
            replace(CHILD, access=False, host=Host(yama=2)), errno.EPERM,
            "Yama's ptrace_scope is 2: tracing takes CAP_SYS_PTRACE",
            "sudo memtrace run -- PROG, or once: sudo sysctl kernel.yama.ptrace_scope=1",
        ),
        (
            replace(CHILD, host=Host(yama=3)), errno.EPERM,
            "Yama's ptrace_scope is 3: nothing can be traced until the next boot",
            CASES["Yama 3"][2],
        ),
        (
            replace(CHILD, host=Host(yama=1), caller=replace(USER, seccomp=2)), errno.EPERM,
            "a seccomp filter around this shell forbids ptrace: operation not permitted",
            "memtrace doctor",
        ),
        (
            replace(CHILD, host=Host(container="podman")), errno.ENOSYS,
            "there is no PTRACE_SEIZE here: function not implemented",
            "podman run --cap-add=SYS_PTRACE ...",
        ),
        (
            CHILD, errno.EPERM,
            ("the kernel does not let memtrace trace its own child, and /proc does not say why:"
            " operation not permitted"),
            "memtrace doctor",
        ),
    ],
)  # fmt: skip
def test_why_our_own_child_cannot_be_seized(
    facts: Facts, number: int, message: str, hint: str
) -> None:
    assert said(of_child(facts, number)) == (message, hint)


# -- notes ----------------------------------------------------------------------------------------


def test_there_is_nothing_to_say_of_a_plain_process() -> None:
    assert notes(MINE) == []


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"asked": 78},
         "78 is a thread of process 77 (redis), which is attached to as a whole"),
        ({"state": "Z", "threads": 3, "alive": 2},
         "the first thread of process 77 (redis) has ended: its 2 other threads are traced"),
        ({"state": "Z", "threads": 2, "alive": 1},
         "the first thread of process 77 (redis) has ended: its 1 other thread is traced"),
        ({"state": "T"}, "process 77 (redis) is stopped, and stays so until it gets SIGCONT"),
    ],
)  # fmt: skip
def test_what_is_worth_a_line(changes: dict[str, Any], line: str) -> None:
    assert notes(replace(MINE, **changes)) == [line]


def test_capabilities_have_the_kernels_numbers() -> None:
    # linux/capability.h: CAP_SYS_PTRACE 19, CAP_SYS_ADMIN 21, CAP_BPF 39, CAP_LAST_CAP 40.
    numbered = (CAPABILITIES.index("SYS_ADMIN"), CAPABILITIES.index("BPF"), len(CAPABILITIES))
    assert (CAP_SYS_PTRACE, *numbered) == (19, 21, 39, 41)
