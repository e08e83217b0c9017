# SPDX-License-Identifier: GPL-2.0-or-later
"""What the program itself knows, as pages: its --help, its findings and words, and memtrace(1).

`make docs-accept` writes them into docs/; a test fails when they are not what the program says.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import click

from memtrace.cli.main import VERBS, cli
from memtrace.findings.catalogue import RULES
from memtrace.findings.pages import GROUPS, words
from memtrace.report import metrics
from memtrace.report.words import KINDS

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
_NOTE = "<!-- written by make docs-accept: change the program's own text instead -->\n"
_MARKED = re.compile(r"(<!-- help ([a-z]+) -->\n).*?(<!-- /help -->)", re.DOTALL)
#: What click takes of a terminal of 80 columns.
_WIDTH = 78
#: Options of every command.
_EVERYWHERE = {"--debug", "--quiet", "--color", "--help"}
EXAMPLES = (
    ("memtrace run ./prog", "Record a program and its children into trace.json."),
    ("memtrace report trace.json", "What it shows: heap, regions, threshold, findings."),
    ("memtrace report trace.json --format html -o report.html", "The same as a page to look at."),
    ("memtrace maps trace.json --at peak", "The map when the most address space was in use."),
    ("memtrace diff trace.json --at start --at end", "What changed in between."),
    ("memtrace attach 1234 --for 30s", "Record a running process for half a minute."),
    ("memtrace check trace.json --budget memtrace.toml", "Hold it against a budget."),
)


def pages() -> dict[Path, str]:
    """Every page that is made, whole: path -> text."""
    found = {
        DOCS / "cli.md": with_help((DOCS / "cli.md").read_text()),
        DOCS / "findings.md": findings(),
        DOCS / "words.md": glossary(),
    }
    return {**found, DOCS / "man/memtrace.1": manual()}


# ---- --help ----


def commands() -> dict[str, tuple[click.Command, click.Context]]:
    """Each verb's command with its context; under `memtrace` the program itself."""
    whole = click.Context(cli, info_name="memtrace", terminal_width=_WIDTH, **cli.context_settings)
    found: dict[str, tuple[click.Command, click.Context]] = {"memtrace": (cli, whole)}
    for verb in VERBS:
        command = cli.get_command(whole, verb)
        assert command is not None
        settings = {"help_option_names": ["-h", "--help"], **command.context_settings}
        found[verb] = (
            command,
            click.Context(command, info_name=verb, parent=whole, terminal_width=_WIDTH, **settings),
        )
    return found


def options(command: click.Command, context: click.Context) -> list[click.Option]:
    """The options that --help shows."""
    found = [p for p in command.get_params(context) if isinstance(p, click.Option)]
    return [p for p in found if not p.hidden]


def with_help(page: str) -> str:
    """A page with --help between its marks, as the program prints it."""
    known = commands()

    def filled(m: re.Match[str]) -> str:
        command, context = known[m[2]]
        return f"{m[1]}```text\n{command.get_help(context)}\n```\n{m[3]}"

    return _MARKED.sub(filled, page)


# ---- findings and words ----


def findings() -> str:
    """The catalogue of findings."""
    out = [_NOTE, "# Findings\n"]
    out.append(
        "What `memtrace report` says of a process when its trace proves it. Each names the records "
        "that are its evidence (`memtrace maps TRACE --at NUMBER` shows the map after one), and "
        "what to do. `memtrace explain MT101` prints the same text.\n"
    )
    out += ["| finding | says |", "| --- | --- |"]
    out += [f"| [{r.id}](#{r.id.lower()}) | {_escaped(r.title)} |" for r in RULES]
    out.append("")
    for rule in RULES:
        out += [f"## {rule.id}\n", f"**{_escaped(rule.title)}**\n", _markdown(rule.explain)]
    return "\n".join(out)


def glossary() -> str:
    """Every word of the report, group by group."""
    out = [_NOTE, "# Words of the report\n"]
    out.append(
        "One word for one thing, the same in text, JSON and HTML. `memtrace explain NAME` prints "
        "what stands here; the findings have [a page of their own](findings.md).\n"
    )
    for group, what in GROUPS.items():
        out.append(f"({group})=\n## {what[:1].upper()}{what[1:]}\n")
        for some in words().values():
            for word in some:
                if word.group == group:
                    out.append(f"### {word.name}\n")
                    if group == "kinds":
                        out.append(f"*{_escaped(KINDS[word.name])}*\n")
                    out.append(_markdown(word.text))
    out.append("(metrics)=\n## Metrics\n")
    out.append(
        "The numbers of a report that a [budget](ci.md) limits; where each comes from stands in "
        "[the report's JSON](report-json.md#metrics).\n"
    )
    for name in metrics.names():
        title, _, text = (metrics.explained(name) or "").partition(" (metric)\n\n")
        out += [f"### {title}\n", _markdown(text)]
    return "\n".join(out)


def _markdown(text: str) -> str:
    """A text for terminals as Markdown: what is set in by spaces is what to type."""
    out: list[str] = []
    for line in text.strip().splitlines():
        typed = line.startswith(" ")
        before = bool(out) and out[-1].startswith("    ")
        if out and out[-1] and typed != before:
            out.append("")
        out.append(f"    {line.strip()}" if typed else _escaped(line))
    return "\n".join(out) + "\n"


def _escaped(text: str) -> str:
    return re.sub(r"([\\*_<>\[\]`$~|])", r"\\\1", text)


# ---- memtrace(1) ----


def manual() -> str:
    """The man page, in roff."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    known = commands()
    readme = (ROOT / "README.md").read_text()
    environment = (DOCS / "environment.md").read_text()
    out = [
        '.\\" written by make docs-accept',
        f'.TH MEMTRACE 1 "" "memtrace {project["version"]}" "User Commands"',
        ".SH NAME",
        "memtrace \\- record every change a process makes to its address space, and explain it",
        ".SH SYNOPSIS",
    ]
    for verb in VERBS:
        command, context = known[verb]
        pieces = " ".join(command.collect_usage_pieces(context)).replace("[OPTIONS]", "[OPTION]...")
        out += [".br", f"\\fBmemtrace {verb}\\fR {_roff(pieces)}"]
    out += [".SH DESCRIPTION", *_paragraphs(_introduction(readme))]
    out += [".SH COMMANDS"]
    for verb in VERBS:
        command, context = known[verb]
        out += [f".SS memtrace {verb}", *_paragraphs(command.help or "")]
        for option in options(command, context):
            if not _EVERYWHERE & {*option.opts}:
                out += _option(option, context)
    out += [".SH OPTIONS", "Every command has these; the last is memtrace's own."]
    for verb, wanted in (("report", _EVERYWHERE), ("memtrace", {"--version"})):
        command, context = known[verb]
        for option in options(command, context):
            if wanted & {*option.opts}:
                out += _option(option, context)
    out += [".SH EXIT STATUS", *_rows(_section(readme, "Exit codes"))]
    out += [".SH ENVIRONMENT", *_rows(_section(environment, "Variables"))]
    out += [".SH FILES", *_rows(_section(environment, "Files"))]
    out += [".SH EXAMPLES"]
    for line, text in EXAMPLES:
        out += [".TP", f"\\fB{_roff(line)}\\fR", _roff(text)]
    out += [".SH SEE ALSO", '.BR strace (1), " " mallopt (3), " " proc (5), " " ptrace (2)']
    return "\n".join(out) + "\n"


def _option(option: click.Option, context: click.Context) -> list[str]:
    record = option.get_help_record(context)
    assert record is not None
    names, text = record
    shown = re.sub(r"(?<!\S)(-{1,2}[a-z-]+)", r"\\fB\1\\fR", names.replace("\\", ""))
    return [".TP", shown.replace("-", "\\-"), _roff(" ".join(text.split()))]


def _introduction(readme: str) -> str:
    return readme.split("\n\n")[1]


def _section(page: str, heading: str) -> str:
    return page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def _rows(section: str) -> list[str]:
    """The table of a section, each row a tagged paragraph."""
    out: list[str] = []
    for line in section.splitlines():
        if line.startswith("| ") and not line.startswith("| ---"):
            name, text = (cell.strip() for cell in line.strip("| ").split(" | ", 1))
            out += [".TP", _marked(name), _marked(text)]
    return out[3:]  # the heading


def _marked(text: str) -> str:
    """A line of Markdown: code bold, links as their text."""
    text = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", text)
    parts = text.split("`")
    bold = (f"\\fB{_roff(p)}\\fR" if i % 2 else _roff(p) for i, p in enumerate(parts))
    return "".join(bold)


def _paragraphs(text: str) -> list[str]:
    out: list[str] = []
    for part in text.strip().split("\n\n"):
        if part.lstrip().startswith("\b"):
            lines = [_roff(line.rstrip()) for line in part.replace("\b\n", "").splitlines()]
            out += [".PP", ".nf", *lines, ".fi"]
        else:
            out += [".PP", _roff(" ".join(part.split()))]
    return out


def _roff(text: str) -> str:
    """Text that roff takes literally."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text.startswith((".", "'")) else text


def main() -> None:
    """Write every page."""
    for path, text in pages().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()
