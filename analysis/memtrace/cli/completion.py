# SPDX-License-Identifier: GPL-2.0-or-later
"""`memtrace completion`: what the shell completes after `memtrace`, by click's own machinery.

The script that is printed asks `memtrace` itself at each press of the key (`serve`). What a
parameter takes is known by what --help calls it, so that every verb that names it alike has it.
"""

from __future__ import annotations

import gc
import os
import re
from typing import TYPE_CHECKING

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    _resolve_context,
    _resolve_incomplete,
)

from memtrace.cli.options import common

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Item = CompletionItem[str]
    Values = Callable[[click.Context, str], list[Item]]

VARIABLE = "_MEMTRACE_COMPLETE"
_TRACES = (".json", ".json.gz", ".json.zst", ".gz", ".zst")
#: What bash can be handed as it is: its script takes names unquoted.
_SAFE = re.compile(r"[\w@%+=:,./-]+", re.ASCII)
_CHOICES = re.compile(r"\[?([a-z0-9=-]+(?:\|[a-zA-Z0-9=-]+)+)\]?")


@click.command(
    short_help="What the shell needs to complete memtrace's words.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")), metavar="bash|zsh|fish")
@common
def command(shell: str) -> None:
    """Print the script that makes a shell complete verbs, options, traces, processes and words.

    \b
    bash: memtrace completion bash >> ~/.bashrc
    zsh:  memtrace completion zsh >> ~/.zshrc          (below compinit)
    fish: memtrace completion fish > ~/.config/fish/completions/memtrace.fish
    """  # noqa: D301 - click reads the character
    click.echo(_completer(shell).source(), nl=False)


def serve(instruction: str) -> int:
    """Answer a shell's question, which is in the environment, as click's script asks it.

    Whatever goes wrong is silent: it would stand in the middle of the line that is being typed.
    """
    shell, _, what = instruction.partition("_")
    if shell not in _SHELLS or what not in ("source", "complete"):
        return 1
    gc.disable()  # the process lives for a tenth of a second
    try:
        completer = _completer(shell)
        text = completer.source() if what == "source" else completer.complete()
        os.write(1, f"{text}\n".encode("utf-8", "surrogateescape"))
    except BaseException:  # noqa: BLE001 - Ctrl-C too
        return 1
    return 0


class _Completing(ShellComplete):
    """What is the same for all shells: who knows the values of a parameter."""

    def get_completions(self, args: list[str], incomplete: str) -> list[Item]:
        """The values that may stand in the place of an incomplete word."""
        # bash makes three words of --format=json.
        args = [a for i, a in enumerate(args) if a != "=" or not args[i - 1].startswith("--")]
        context = _resolve_context(self.cli, self.ctx_args, self.prog_name, args)
        if context.params.get("argv"):  # what follows is the program's
            return [_files(incomplete)]
        asked, incomplete = _resolve_incomplete(context, args, incomplete)
        values = _values(context, asked) if isinstance(asked, click.Parameter) else None
        if values is not None:
            return values(context, incomplete)
        return asked.shell_complete(context, incomplete)


class _Bash(_Completing, BashComplete):
    def get_completions(self, args: list[str], incomplete: str) -> list[Item]:
        """The same; bash itself completes, and quotes, where a name is not plain."""
        found = super().get_completions(args, incomplete)
        if all(_SAFE.fullmatch(item.value) for item in found if item.type == "plain"):
            return found
        return [_files(incomplete)]


class _Zsh(_Completing, ZshComplete):
    pass


class _Fish(_Completing, FishComplete):
    def get_completions(self, args: list[str], incomplete: str) -> list[Item]:
        """The same without values that click's script would cut off at their comma."""
        found = super().get_completions(args, incomplete)
        return [item for item in found if item.type != "plain" or "," not in item.value]

    def format_completion(self, item: Item) -> str:
        """Type, value and help; the help ends at a comma, too."""
        item.help = item.help and item.help.replace(",", ";")
        return super().format_completion(item)


_SHELLS: dict[str, type[ShellComplete]] = {"bash": _Bash, "zsh": _Zsh, "fish": _Fish}


def _completer(shell: str) -> ShellComplete:
    from memtrace.cli.main import cli

    return _SHELLS[shell](cli, {}, "memtrace", VARIABLE)


def _values(context: click.Context, parameter: click.Parameter) -> Values | None:
    """Who knows the values of a parameter, if not its click type."""
    shown = parameter.metavar or (parameter.name or "").upper()
    by_verb = _OF_VERB.get((context.info_name or "", parameter.name or ""))
    if by_verb is not None:
        return by_verb
    if choices := _CHOICES.fullmatch(shown):
        words = [word for word in choices[1].split("|") if word == word.lower()]
        return lambda _, start: _starting(start, dict.fromkeys(words, ""))
    return _OF_NAME.get(shown.strip("[]."))


def _starting(start: str, words: dict[str, str]) -> list[Item]:
    """Words with their help, of those that begin so."""
    return [
        CompletionItem(word, help=text or None)
        for word, text in words.items()
        if word.lower().startswith(start.lower())
    ]


def _files(start: str) -> Item:
    """Any file, as the shell itself completes it."""
    return CompletionItem(start, type="file")


def _any_file(_: click.Context, start: str) -> list[Item]:
    return [_files(start)]


def _traces(_: click.Context, start: str) -> list[Item]:
    """Traces and folders; any file where no trace begins so."""
    folder = start[: start.rfind("/") + 1]
    if start.startswith("~") or "$" in start:  # the shell's to expand
        return [_files(start)]
    named = (folder + entry.name for entry in _entries(folder or ".") if not entry.is_dir())
    found = [n for n in named if n.startswith(start) and n.endswith(_TRACES) and n.isprintable()]
    hidden = folder + "."
    found = [n for n in found if start.startswith(hidden) or not n.startswith(hidden)]
    if not found:
        return [_files(start)]
    return [CompletionItem(start, type="dir"), *(CompletionItem(name) for name in sorted(found))]


def _programs(_: click.Context, start: str) -> list[Item]:
    """Programs of the PATH, or files where a path is being typed."""
    if "/" in start or start.startswith("~"):
        return [_files(start)]
    found = {
        entry.name
        for folder in os.environ.get("PATH", os.defpath).split(":")
        for entry in _entries(folder or ".")
        if entry.name.startswith(start) and entry.name.isprintable() and os.access(entry, os.X_OK)
    }
    safe = (name for name in sorted(found) if _SAFE.fullmatch(name))
    return [CompletionItem(start, type="dir"), *(CompletionItem(name) for name in safe)]


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except OSError:
        return


def _processes(_: click.Context, start: str) -> list[Item]:
    """Processes of this user (root: of all), newest first, with their names."""
    mine = os.getuid()
    own = {os.getpid(), os.getppid()}
    found: dict[str, str] = {}
    for entry in _entries("/proc"):
        if not (entry.name.isdigit() and entry.name.startswith(start)):
            continue
        try:
            if int(entry.name) in own or (mine and entry.stat().st_uid != mine):
                continue
            with open(f"{entry.path}/cmdline", "rb") as f:
                if not f.read(1):  # the kernel's own, and what has ended
                    continue
            with open(f"{entry.path}/comm", encoding="utf-8", errors="replace") as f:
                name = f.read(64).rstrip("\n")
        except OSError:
            continue
        found[entry.name] = "".join(c if c.isprintable() else "?" for c in name)
    return _starting(start, dict(sorted(found.items(), key=lambda x: -int(x[0]))))


def _moments(_: click.Context, start: str) -> list[Item]:
    return _starting(
        start,
        {
            "start": "its first map",
            "peak": "the most address space in use",
            "end": "its last state",
        },
    )


def _explained(_: click.Context, start: str) -> list[Item]:
    from memtrace.findings.catalogue import RULES
    from memtrace.findings.pages import ARTICLE, GROUPS, words

    every = {rule.id: rule.title for rule in RULES}
    every |= {w[0].name: GROUPS[w[0].group] for w in words().values()}
    return _starting(start, {**every, ARTICLE: "what is said of malloc, and what is true"})


def _events(context: click.Context, start: str) -> list[Item]:
    """The calls that the trace at hand can hold, and the records of life cycle."""
    from memtrace.trace.records import LifeRecord

    life = sorted(c.__struct_config__.tag for c in LifeRecord.__args__)
    calls = dict.fromkeys(sorted(_calls(context.params.get("trace"))), "system call")
    return _starting(start, calls | dict.fromkeys(life, "record"))


def _calls(trace: str | None) -> list[str]:
    from memtrace.collect.abi import NAMES
    from memtrace.trace.errors import MemtraceError
    from memtrace.trace.reader import Trace

    if trace is None or not os.path.isfile(trace):
        return list(NAMES)
    try:
        with Trace(trace) as opened:
            return list(opened.header.calls)
    except (OSError, MemtraceError):
        return list(NAMES)


#: By verb and parameter, where its name in --help does not tell.
_OF_VERB: dict[tuple[str, str], Values] = {
    ("attach", "pid"): _processes,
    ("doctor", "pid"): _processes,
    ("diff", "other"): _traces,
    ("events", "call"): _events,
    ("explain", "name"): _explained,
    ("run", "argv"): _programs,
}
#: By what --help calls it.
_OF_NAME: dict[str, Values] = {
    "FILE": _any_file,
    "LOG": _any_file,
    "TRACE": _traces,
    "WHEN": _moments,
}
