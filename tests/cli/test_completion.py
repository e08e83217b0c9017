# SPDX-License-Identifier: GPL-2.0-or-later
"""What the shells complete: asked as their scripts ask, and by the shells themselves."""

from __future__ import annotations

import os
import pty
import resource
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from memtrace.cli.main import VERBS
from memtrace.findings.catalogue import RULES

ROOT = Path(__file__).resolve().parents[2]
TRACE = ROOT / "tests/data/glibc/2.31-first.json.gz"
PYTHON = f"{sys.executable} -m memtrace"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, with the command `memtrace` in the PATH."""
    shim = tmp_path / "bin"
    shim.mkdir()
    command = shim / "memtrace"
    command.write_text(f'#!/bin/sh\nexec {PYTHON} "$@"\n')
    command.chmod(0o755)
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PATH", f"{shim}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'tracer'}:{ROOT / 'analysis'}")
    monkeypatch.setenv("HOME", str(tmp_path))
    return folder


def ask(shell: str, *words: str) -> subprocess.CompletedProcess[str]:
    env = {
        **os.environ,
        "_MEMTRACE_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": "\n".join(("memtrace", *words)),
        "COMP_CWORD": words[-1] if shell == "fish" else str(len(words)),
    }
    return subprocess.run(
        ["memtrace"], env=env, capture_output=True, text=True, check=False, timeout=60
    )


def completed(*words: str) -> list[str]:
    """What bash is offered, each as TYPE,VALUE; plain ones as their value."""
    done = ask("bash", *words)
    assert (done.returncode, done.stderr) == (0, "")
    return [line.removeprefix("plain,") for line in done.stdout.splitlines()]


def test_verbs_and_their_options(place: Path) -> None:
    assert completed("") == list(VERBS)
    assert completed("re") == ["report"]
    assert completed("--v") == ["--version"]
    assert completed("report", "--fo") == ["--format"]
    assert completed("run", "--he") == ["--heap-walk", "--help"]


def test_every_option_of_every_verb(place: Path) -> None:
    from memtrace.cli.main import cli

    for verb in VERBS:
        command = cli.get_command(cli.make_context("memtrace", [verb]), verb)
        assert command is not None
        shown = {
            name
            for p in command.params
            if not getattr(p, "hidden", False)
            for name in p.opts
            if name.startswith("--")
        }
        offered = completed(verb, "--")
        assert shown <= set(offered), verb


def test_values_are_those_that_help_shows(place: Path) -> None:
    assert completed("report", "--format", "") == ["text", "json", "html", "md"]
    assert completed("events", "--format", "j") == ["jsonl"]
    assert completed("run", "--engine", "") == ["auto", "ptrace", "strace"]
    assert completed("run", "--snapshots", "o") == ["off"]
    assert completed("export", "--to", "p") == ["perfetto", "parquet"]
    assert completed("maps", "t.json", "--at", "") == ["start", "peak", "end"]
    assert completed("diff", "t.json", "--at", "start", "--at", "e") == ["end"]
    assert completed("completion", "z") == ["zsh"]


def test_values_behind_an_equals_sign_as_bash_splits_them(place: Path) -> None:
    assert completed("report", "--format", "=", "j") == ["json"]
    assert completed("report", "--format", "=") == ["text", "json", "html", "md"]
    assert ask("zsh", "report", "--format=j").stdout.splitlines()[:2] == ["plain", "json"]


def test_traces_are_files_of_the_kinds_that_are_written(place: Path) -> None:
    for name in ("a.json", "a.json.gz", "a.json.zst", "a.txt", ".hidden.json", "b.json"):
        (place / name).touch()
    (place / "sub.json").mkdir()
    (place / "sub.json" / "deep.json").touch()
    every = ["a.json", "a.json.gz", "a.json.zst", "b.json"]
    assert completed("report", "") == ["dir,", *every]
    assert completed("maps", "a.json.") == ["dir,a.json.", "a.json.gz", "a.json.zst"]
    assert completed("verify", "sub.json/") == ["dir,sub.json/", "sub.json/deep.json"]
    assert completed("check", "b") == ["dir,b", "b.json"]
    assert completed("diff", "a.json", "b") == ["dir,b", "b.json"]
    assert completed("report", "a.t") == ["file,a.t"]  # no trace begins so: any file
    assert completed("report", "~/") == ["file,~/"]
    assert completed("report", "-o", "") == ["file,"]


def test_odd_names_of_files_do_no_harm(place: Path) -> None:
    for name in ("a$(touch owned).json", "a b.json", "a\nplain,evil.json", "a,b.json"):
        (place / name).touch()
    assert completed("report", "a") == ["file,a"]  # bash quotes what it completes itself
    zsh = ask("zsh", "report", "a").stdout.split("\n")
    assert "plain" in zsh
    assert "plain,evil.json" not in zsh
    assert "a b.json" in zsh
    fish = ask("fish", "report", "a").stdout.splitlines()
    assert "plain,a b.json" in fish
    assert not any("a,b" in line for line in fish)
    assert not (place / "owned").exists()


def test_processes_with_their_names(place: Path) -> None:
    sleeping = subprocess.Popen(["sleep", "100"])
    try:
        pid = str(sleeping.pid)
        until = time.monotonic() + 20
        while Path(f"/proc/{pid}/comm").read_text() != "sleep\n" and time.monotonic() < until:
            time.sleep(0.01)
        assert pid in completed("attach", pid)
        assert pid in completed("doctor", "")
        assert f"plain\n{pid}\nsleep\n" in ask("zsh", "attach", pid).stdout
        assert f"plain,{pid}\tsleep" in ask("fish", "attach", pid).stdout.splitlines()
        assert "2" not in completed("attach", "2")  # the kernel's own thread
    finally:
        sleeping.kill()
        sleeping.wait()


def test_words_to_explain(place: Path) -> None:
    assert completed("explain", "mt") == [r.id for r in RULES]
    assert completed("explain", "dynamic") == ["dynamic-threshold"]
    assert completed("explain", "malloc-and") == ["malloc-and-the-kernel"]


def test_calls_are_those_that_the_trace_can_hold(place: Path) -> None:
    assert "mremap" in completed("events", "--call", "m")
    assert completed("events", "--call", "sna") == ["snap"]
    assert completed("events", str(TRACE), "--call", "br") == ["brk"]
    (place / "broken.json").write_text("no trace")
    assert completed("events", "broken.json", "--call", "br") == ["brk"]


def test_programs_after_run_and_then_their_files(place: Path) -> None:
    assert "memtrace" in completed("run", "memtr")
    assert "memtrace" in completed("run", "--", "memtr")
    assert completed("run", "./pr") == ["file,./pr"]
    # What follows the program is the program's: no option of memtrace is offered.
    assert completed("run", "ls", "--he") == ["file,--he"]
    assert completed("run", "--", "ls", "-o", "x") == ["file,x"]


@pytest.mark.parametrize(
    "words",
    [
        ("nothing", ""), ("report", "--nothing", ""), ("run", "--engine", "no", "--", "x"),
        ("attach", "x", ""), ("explain", "a", "b"), ("'", ""), ("check", "--budget"),
    ],
)  # fmt: skip
def test_never_a_word_on_stderr(place: Path, words: tuple[str, ...]) -> None:
    for shell in ("bash", "zsh", "fish"):
        assert ask(shell, *words).stderr == ""


def test_an_environment_without_sense_is_silent(place: Path) -> None:
    for value in ("bash_nothing", "tcsh_complete", "", "bash_complete"):
        env = {**os.environ, "_MEMTRACE_COMPLETE": value}
        done = subprocess.run(["memtrace"], env=env, capture_output=True, check=False, timeout=60)
        assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")


@pytest.mark.parametrize("words", [("re",), ("report", ""), ("attach", "")])
def test_completion_is_fast(place: Path, words: tuple[str, ...]) -> None:
    cost = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        completed(*words)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cost.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(cost) < 0.15


def test_no_verb_is_imported_to_name_the_verbs(place: Path) -> None:
    code = (
        "import sys; from memtrace.cli.completion import serve; serve('bash_complete');"
        "print(sorted(m for m in sys.modules if m.startswith('memtrace')), file=sys.stderr)"
    )
    env = {**os.environ, "COMP_WORDS": "memtrace ", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    assert "cli.completion" in done.stderr
    assert not any(w in done.stderr for w in ("cli.run", "collect", "report", "replay"))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_printed(place: Path, shell: str) -> None:
    done = subprocess.run(
        ["memtrace", "completion", shell], capture_output=True, text=True, check=True
    )
    assert f"_MEMTRACE_COMPLETE={shell}_complete" in done.stdout
    assert done.stderr == ""


# ---- the shells themselves ----


def test_bash_calls_the_function(place: Path) -> None:
    (place / "one.json").touch()
    script = r"""
        eval "$(memtrace completion bash)"
        complete -p memtrace
        compopt() { printf 'compopt %s %s\n' "$@"; }
        for line in "memtrace rep" "memtrace report o" "memtrace report --format j"; do
            read -r -a COMP_WORDS <<<"$line"; COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=()
            _memtrace_completion memtrace
            echo "${COMPREPLY[@]}"
        done
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "complete -o nosort -F _memtrace_completion memtrace",
        "report",
        "compopt -o dirnames",
        "one.json",
        "json",
    ]


def typed(shell: list[str], setup: str, line: str, expected: str) -> str:
    """What a terminal shows after `line` is typed into a shell, until `expected` does."""
    pid, fd = pty.fork()
    if not pid:
        os.environ.update(TERM="dumb", PS1="> ", fish_greeting="")
        os.execvp(shell[0], shell)
    shown = ""
    try:
        os.write(fd, f"{setup}\necho ready-$((40+2))\n".encode())
        for wanted, text in (("ready-42", line), (expected, "")):
            until = time.monotonic() + 60
            while wanted not in shown and time.monotonic() < until:
                if select.select([fd], [], [], 0.2)[0]:
                    shown += os.read(fd, 65536).decode(errors="replace")
            os.write(fd, text.encode())
            shown = shown if not text else ""
        return shown
    finally:
        os.kill(pid, 9)
        os.close(fd)
        os.waitpid(pid, 0)


def test_bash_completes_what_is_typed(place: Path) -> None:
    (place / "recorded.json").touch()
    shown = typed(
        ["bash", "--norc", "--noprofile", "-i"],
        'eval "$(memtrace completion bash)"',
        "memtrace rep\trec\t",
        "memtrace report recorded.json",
    )
    assert "memtrace report recorded.json" in shown


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_completes_what_is_typed(place: Path) -> None:
    (place / "recorded.json").touch()
    shown = typed(
        ["zsh", "-f", "-i"],
        'autoload -U compinit; compinit -u -D; eval "$(memtrace completion zsh)"',
        "memtrace rep\trec\t",
        "recorded.json",
    )
    assert "recorded.json" in shown
    assert "memtrace rep" in shown


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_completes(place: Path) -> None:
    (place / "recorded.json").touch()
    script = (
        "memtrace completion fish | source; complete -C 'memtrace rep'; "
        "complete -C 'memtrace report rec'; complete -C 'memtrace explain MT101'"
    )
    done = subprocess.run(
        ["fish", "--no-config", "-c", script],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "report\tWhat a trace shows: heap; regions; threshold.",
        "recorded.json",
        f"MT101\t{RULES[0].title}",
    ]
