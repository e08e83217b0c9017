# SPDX-License-Identifier: GPL-2.0-or-later
"""`memtrace completion`: what the shell completes after `memtrace`, by click's machinery.

The script that is printed asks `memtrace` itself at each press of the key (`serve`): COMP_WORDS is
the line up to the cursor. What a parameter takes is known by what --help calls it, so that every
verb that names it alike has it.
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
    split_arg_string,
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
_ASSIGNMENT = re.compile(r"\w+=")
_CHOICES = re.compile(r"\[?([a-z0-9=-]+(?:\|[a-zA-Z0-9=-]+)+)\]?")

# `complete` finds the function also for ~/bin/memtrace and for an alias.
_BASH = """\
%(complete_func)s() {
    local type value program="${1/#~\\//$HOME/}"
    type -P -- "$program" >/dev/null || program=%(prog_name)s
    while IFS=, read -r type value; do
        case $type in
            dir) compopt -o filenames -o plusdirs ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("$value") ;;
        esac
    done < <(COMP_WORDS="${COMP_LINE:0:COMP_POINT}" COMP_TEXT="$2" \
        env %(complete_var)s=bash_complete "$program" 2>/dev/null)
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""
_ZSH = """\
#compdef %(prog_name)s

%(complete_func)s() {
    local type key descr files before=$compstate[nmatches]
    local -a bare described response
    (( $+commands[%(prog_name)s] )) || return 1
    response=("${(@f)$(env COMP_WORDS="${words[1,CURRENT-1]} $QIPREFIX$IPREFIX$PREFIX" \
        %(complete_var)s=zsh_complete %(prog_name)s 2>/dev/null)}")
    compset -P 1 '--*='
    for type key descr in "${(@)response}"; do
        case $type in
            dir) files=-/ ;;
            file) files=-f ;;
            plain)
                if [[ $descr == _ ]]; then bare+=("$key"); else described+=("$key:$descr"); fi ;;
        esac
    done
    (( $#described )) && _describe -V unsorted described -U -i "$IPREFIX"
    (( $#bare )) && compadd -U -i "$IPREFIX" -V unsorted -a bare
    [[ -n $files ]] && _path_files $files
    (( compstate[nmatches] > before ))
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    %(complete_func)s "$@"
else
    compdef %(complete_func)s %(prog_name)s
fi
"""
_FISH = """\
function %(complete_func)s
    set -l line (commandline -cp | string collect)
    set -l word (commandline -ct)
    set -l option (string match -r -- '^--[^=]*=' $word)
    for answer in (env %(complete_var)s=fish_complete COMP_WORDS="$line" %(prog_name)s 2>/dev/null)
        set -l item (string split -m 1 , -- $answer)
        switch $item[1]
            case dir
                __fish_complete_directories "$item[2]" | string replace -r '^' -- "$option"
            case file
                set -l path (string replace -- "$option" '' $word)
                complete -C "'' $path" | string replace -r '^' -- "$option"
            case plain
                printf '%%s\\n' "$option$item[2]"
        end
    end
end

complete --no-files --command %(prog_name)s --arguments "(%(complete_func)s)"
"""


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
    """What is the same for all shells: the words of the line, and who knows the values."""

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the one at the cursor, and that one up to the cursor."""
        # What is appended is a word of its own after a blank, and the end of a word else.
        *words, last = split_arg_string(os.environ["COMP_WORDS"] + "\0")
        while words and _ASSIGNMENT.match(words[0]):
            del words[0]
        return words[1:], last.removesuffix("\0")

    def get_completions(self, args: list[str], incomplete: str) -> list[Item]:
        """The values that may stand in the place of an incomplete word; of --option=value, in the
        place of the value.
        """
        context = _resolve_context(self.cli, self.ctx_args, self.prog_name, args)
        if context.params.get("argv"):  # what follows is the program's
            return [_files(incomplete[len(_option(incomplete)) :])]
        asked, incomplete = _resolve_incomplete(context, args, incomplete)
        values = _values(context, asked) if isinstance(asked, click.Parameter) else None
        if values is not None:
            return values(context, incomplete)
        return asked.shell_complete(context, incomplete)


class _Bash(_Completing, BashComplete):
    source_template = _BASH

    def get_completions(self, args: list[str], incomplete: str) -> list[Item]:
        """The same, each what replaces the piece of the word that bash has cut off at a colon or
        an equals sign; bash itself completes, and quotes, where a name is not plain.
        """
        option = _option(incomplete)
        found = super().get_completions(args, incomplete)
        if not all(_SAFE.fullmatch(item.value) for item in found if item.type == "plain"):
            found = [_files(incomplete[len(option) :])]
        text = os.environ.get("COMP_TEXT", incomplete)
        done = incomplete.removesuffix(text) if incomplete.endswith(text) else ""
        if not done.endswith((":", "=")):
            done = ""
        if len(done) > len(option):  # bash would look for what comes after the colon
            found = [item for item in found if item.type == "plain"]
        for item in found:
            if item.type == "plain":
                item.value = f"{option}{item.value}"[len(done) :]
        return found


class _Zsh(_Completing, ZshComplete):
    source_template = _ZSH


class _Fish(_Completing, FishComplete):
    source_template = _FISH

    def format_completion(self, item: Item) -> str:
        """Type and value, and behind a tab the help."""
        return f"{item.type},{item.value}" + (f"\t{item.help}" if item.help else "")


_SHELLS: dict[str, type[ShellComplete]] = {"bash": _Bash, "zsh": _Zsh, "fish": _Fish}


def _completer(shell: str) -> ShellComplete:
    from memtrace.cli.main import cli

    return _SHELLS[shell](cli, {}, "memtrace", VARIABLE)


def _option(word: str) -> str:
    """What stands before the value of --option=value."""
    name, equals, _ = word.partition("=")
    return name + equals if equals and name.startswith("--") else ""


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
    names = sorted(n if start or n[0] != "-" else f"./{n}" for n in found)  # it is no option
    return [CompletionItem(start, type="dir"), *(CompletionItem(name) for name in names)]


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
    from memtrace.report.metrics import FAMILY, names

    every = {rule.id: rule.title for rule in RULES}
    every |= {w[0].name: GROUPS[w[0].group] for w in words().values()}
    every |= {name: meaning for name, meaning in names().items() if name != FAMILY}
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
