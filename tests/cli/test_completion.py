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
from collections.abc import Callable
from functools import partial
from pathlib import Path
from shlex import quote

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
        "COMP_WORDS": " ".join(("memtrace", *map(quote, words[:-1]), words[-1])),
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


def test_values_behind_an_equals_sign(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMP_TEXT", "j")  # what bash would replace
    assert ask("bash", "report", "--format=j").stdout == "plain,json\n"
    assert ask("zsh", "report", "--format=j").stdout == "plain\njson\n_\n"
    assert ask("fish", "report", "--format=j").stdout == "plain,json\n"


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
    assert "plain,a,b.json" in fish
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
    assert completed("explain", "heap.p") == ["heap.peak"]
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
    env = {**os.environ, "COMP_WORDS": "memtrace "}
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


def typed(shell: str, line: str, until: Callable[[str], bool]) -> str:
    """What a terminal shows after `line` is typed into a shell, until something holds of it."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    command, setup = SHELLS[shell]
    pid, fd = pty.fork()
    if not pid:
        os.environ.update(TERM="dumb", PS1="> ")
        os.execvp(command[0], command)
    shown = ""

    def wait(holds: Callable[[str], bool]) -> None:
        nonlocal shown
        last = time.monotonic() + 60
        while not holds(shown) and time.monotonic() < last:
            if select.select([fd], [], [], 0.2)[0]:
                shown += os.read(fd, 65536).decode(errors="replace")

    try:
        os.write(fd, f"{setup}\necho ready-$((40+2))\n".encode())
        wait(lambda text: "ready-42" in text)
        shown = ""
        os.write(fd, line.encode())
        wait(until)
        return shown
    finally:
        os.kill(pid, 9)
        os.close(fd)
        os.waitpid(pid, 0)


SHELLS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], 'eval "$(memtrace completion bash)"'),
    "zsh": (
        ["zsh", "-f", "-i"],
        'autoload -U compinit; compinit -u -D; eval "$(memtrace completion zsh)"',
    ),
}
#: What the key is pressed after -> what the line is then.
TYPED = {
    "memtrace rep": "memtrace report",
    "memtrace report rec": "memtrace report recorded.json",
    "memtrace report --format=j": "memtrace report --format=json",
    "memtrace run --engine=st": "memtrace run --engine=strace",
    "memtrace report --output=no": "memtrace report --output=notes.txt",
    "memtrace report -o no": "memtrace report -o notes.txt",
    "memtrace check --baseline=rec": "memtrace check --baseline=recorded.json",
    "memtrace report comma": "memtrace report comma,x.json",
    "memtrace report col:": "memtrace report col:on.json",
    "memtrace report ./-": "memtrace report ./-dash.json",
    "memtrace run memtr": "memtrace run memtrace",
    "memtrace run -- ls --x=no": "memtrace run -- ls --x=notes.txt",
    "memtrace explain dynamic": "memtrace explain dynamic-threshold",
    "~/bin/memtrace rep": "~/bin/memtrace report",
}


@pytest.fixture
def files(place: Path) -> Path:
    for name in ("recorded.json", "comma,x.json", "col:on.json", "-dash.json", "notes.txt"):
        (place / name).touch()
    (place / "sub").mkdir()
    return place


def written(path: Path, _: str) -> bool:
    return path.read_text().endswith("\n")


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_completes_what_is_typed(files: Path, shell: str) -> None:
    lines = files.parent / "lines"
    command = files.parent / "bin/memtrace"  # it tells its line, where it is not asked to complete
    real = command.read_text().partition("\n")[2]
    command.write_text(
        '#!/bin/sh\n[ -n "$_MEMTRACE_COMPLETE" ] || [ "$1" = completion ] ||\n'
        f'exec printf "%s\\n" "$*" >>{lines}\n{real}'
    )
    for line, whole in TYPED.items():
        lines.write_text("")
        typed(shell, f"{line}\t\r", until=partial(written, lines))
        assert lines.read_text().rstrip() == whole.partition(" ")[2]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_offers_what_may_stand_where_nothing_is_typed(files: Path, shell: str) -> None:
    wanted = {"recorded.json", "comma,x.json", "col:on.json", "sub/"}
    shown = typed(shell, "memtrace report \t\t", lambda text: wanted <= set(text.split()))
    assert wanted <= set(shown.split())
    assert "notes.txt" not in shown


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_offers_programs_where_nothing_is_typed(
    files: Path, shell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = files.parent / "few"
    few.mkdir()
    for name in ("env", "memtrace", shell):
        found = shutil.which(name)
        assert found is not None or name == shell
        (few / name).symlink_to(found or "/bin/false")
    monkeypatch.setenv("PATH", str(few))
    wanted = {"env", "memtrace", "sub/"}
    shown = typed(shell, "memtrace run \t\t", lambda text: wanted <= set(text.split()))
    assert wanted <= set(shown.split())


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_completes(files: Path) -> None:
    script = 'memtrace completion fish | source; for l in $argv; echo "# $l"; complete -C $l; end'
    more = ("memtrace explain MT101", "memtrace report ", "memtrace run ")
    done = subprocess.run(
        ["fish", "--no-config", "-c", script, *TYPED, *more],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stderr == ""
    found = [answer.splitlines() for answer in f"\n{done.stdout}".split("\n# ")[1:]]
    answers = {typed: [line.partition("\t")[0] for line in rest] for typed, *rest in found}
    for line, whole in TYPED.items():
        assert f"{line.rpartition(' ')[0]} {answers[line][0]}" == whole
    assert found[len(TYPED)] == [more[0], f"MT101\t{RULES[0].title}"]
    assert {"recorded.json", "comma,x.json", "col:on.json", "sub/"} <= set(answers[more[1]])
    assert "notes.txt" not in answers[more[1]]
    assert {"memtrace", "env", "sub/"} <= set(answers[more[2]])


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_what_a_name_begins_with_makes_no_option_of_it(files: Path, shell: str) -> None:
    offered = ask(shell, "report", "").stdout.replace("plain,", "plain\n").split("\n")
    assert "./-dash.json" in offered
    assert "-dash.json" not in offered
    assert "-dash.json" in ask(shell, "report", "--", "-da").stdout


def test_bash_completes_the_piece_that_it_has_cut_off(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text, word, value in (
        ("", "col:", "on.json"), ("o", "col:o", "on.json"), ("col:o", "col:o", "col:on.json"),
        ("col", "col", "col:on.json"), ("", "./col:", "on.json"),
    ):  # fmt: skip
        monkeypatch.setenv("COMP_TEXT", text)
        assert completed("report", word)[-1] == value
    monkeypatch.setenv("COMP_TEXT", "--format=j")  # where = is none of COMP_WORDBREAKS
    assert completed("report", "--format=j") == ["--format=json"]
