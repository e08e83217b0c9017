# SPDX-License-Identifier: GPL-2.0-or-later
"""The documentation is complete and says nothing that is not: every verb, option, metric, finding
and word has its place, what stands there exists, and links lead somewhere.
"""

from __future__ import annotations

import errno
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import click
import pytest
from docs.generate import DOCS, ROOT, commands, options, pages, with_help

from memtrace.check.baseline import SETTINGS
from memtrace.cli.main import VERBS, run
from memtrace.collect import doctor
from memtrace.collect.abi import NAMES
from memtrace.collect.doctor import Machine, Target
from memtrace.collect.facts import Caller, Facts, Host
from memtrace.collect.procfs import ENVIRONMENT
from memtrace.collect.trial import Trial
from memtrace.findings.catalogue import RULES
from memtrace.findings.pages import GROUPS, words
from memtrace.malloc.allocator import OWN_RULES
from memtrace.report.metrics import METRICS, find
from memtrace.report.metrics import names as metric_names
from memtrace.report.words import KINDS

VERB_NAMES = ["memtrace", *VERBS]
PAGES = [*sorted(DOCS.glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
_OPTION = re.compile(r"(?<![\w-])--?[a-z][a-z-]*")


def section(page: str, heading: str) -> str:
    """A section of level two."""
    text = (DOCS / page).read_text()
    assert f"\n## {heading}\n" in text, f"{page} has no section {heading}"
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def of_verb(verb: str) -> str:
    return section("cli.md", verb if verb == "memtrace" else f"memtrace {verb}")


# ---- what is generated ----


@pytest.mark.parametrize("path", pages(), ids=lambda p: p.name)
def test_generated_pages_are_what_the_program_says(path: Path) -> None:
    assert path.read_text() == pages()[path], "type: make docs-accept"


@pytest.mark.parametrize("verb", VERB_NAMES)
def test_the_help_of_the_page_is_what_the_program_prints(
    verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # it is no wider than 80 columns
    assert run(["--help"] if verb == "memtrace" else [verb, "--help"]) == 0
    block = of_verb(verb).partition("```text\n")[2].partition("```")[0]
    assert capsys.readouterr().out == block


def test_a_change_of_help_would_be_seen() -> None:
    stale = (DOCS / "cli.md").read_text().replace("--heap-walk", "--heap-stroll")
    assert "--heap-stroll" in stale
    assert "--heap-stroll" not in with_help(stale)


# ---- verbs and options ----


def test_every_verb_has_its_section_and_every_section_a_verb() -> None:
    text = (DOCS / "cli.md").read_text()
    assert re.findall(r"^<!-- help (\w+) -->$", text, re.MULTILINE) == VERB_NAMES
    assert re.findall(r"^## (?:memtrace )?(\w+)$", text, re.MULTILINE) == VERB_NAMES


@pytest.mark.parametrize("verb", VERB_NAMES)
def test_every_option_is_documented_and_none_that_is_not(verb: str) -> None:
    command, context = commands()[verb]
    real = {
        name
        for option in options(command, context)
        for name in (*option.opts, *option.secondary_opts)
    }
    shown = of_verb(verb).partition("Options:\n")[2].partition("```")[0]
    listed = {
        name
        for line in shown.splitlines()
        if line.startswith("  -")
        for name in _OPTION.findall(line.strip().split("  ")[0])
    }
    assert listed == real


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_command_lines_on_pages_have_only_options_that_exist(page: Path) -> None:
    known = commands()
    for verb, rest in re.findall(r"\bmemtrace ([a-z]+)((?: [^\n`|;>]*)?)", page.read_text()):
        if verb not in VERBS:
            continue
        ours = re.split(r" -- |  |, | \(", rest)[0]
        real = {n for option in known[verb][0].params for n in option.opts}
        real |= {"-h", "--help"}
        used = [o for o in _OPTION.findall(ours) if o.startswith("--")]
        assert set(used) <= real, f"memtrace {verb}{rest}"


def test_every_option_stands_in_the_man_page() -> None:
    text = (DOCS / "man/memtrace.1").read_text().replace("\\-", "-")
    for verb, (command, context) in commands().items():
        if verb != "memtrace":
            assert f".SS memtrace {verb}\n" in text
        part = (
            text.partition(f".SS memtrace {verb}\n")[2].partition("\n.SS ")[0]
            if verb in VERBS
            else ""
        )
        for option in options(command, context):
            for name in option.opts:
                assert f"\\fB{name}\\fR" in part + text.partition(".SH OPTIONS")[2], (verb, name)


# ---- the report's vocabulary ----


def named_metrics() -> set[str]:
    rows = [line for line in section("report-json.md", "Metrics").splitlines() if line[:3] == "| `"]
    return {name for row in rows for name in re.findall(r"`([a-z_.A-Z0-9]+)`", row.split(" | ")[0])}


def test_every_metric_is_documented_and_none_that_is_not() -> None:
    assert named_metrics() - {"calls.NAME"} == set(METRICS)
    assert "calls.NAME" in named_metrics()


def test_units_of_metrics_are_those_of_the_report() -> None:
    for line in section("report-json.md", "Metrics").splitlines():
        if line.startswith("| `"):
            names, unit, _ = line.strip("| ").split(" | ", 2)
            for name in re.findall(r"`([a-z_.0-9]+)`", names):
                assert METRICS[name].unit == unit, name


def test_metrics_in_examples_exist() -> None:
    for page in PAGES:
        for block in re.findall(r"```toml\n(.*?)```", page.read_text(), re.DOTALL):
            for name in re.findall(r"^([a-z_]+\.[a-z_0-9]+) = ", block, re.MULTILINE):
                assert find(name) is not None, f"{page.name}: {name}"


def test_every_finding_is_documented_and_none_that_is_not() -> None:
    text = (DOCS / "findings.md").read_text()
    assert re.findall(r"^## (MT\d+)$", text, re.MULTILINE) == [r.id for r in RULES]
    ids = {rule.id for rule in RULES}
    for page in PAGES:
        assert set(re.findall(r"\bMT\d{3}\b", page.read_text())) <= ids, page.name


def test_every_word_is_documented_and_none_that_is_not() -> None:
    for group, heading in GROUPS.items():
        said = section("words.md", heading[:1].upper() + heading[1:])
        listed = re.findall(r"^### (.+)$", said, re.MULTILINE)
        known = [w.name for some in words().values() for w in some if w.group == group]
        assert listed == known
        for body in said.split("\n### ")[1:]:
            assert body.partition("\n")[2].strip(), f"{group}: {body}"


def test_every_metric_has_its_words() -> None:
    listed = re.findall(r"^### (.+)$", section("words.md", "Metrics"), re.MULTILINE)
    assert listed == list(metric_names())


def names_in(path: Path, constants: str) -> set[str]:
    """The texts of constants in a source file, as its code has them."""
    return {
        text
        for line in re.findall(constants, path.read_text(), re.MULTILINE)
        for text in re.findall(r'"([a-z-]+)"', line)
    }


def test_the_words_are_those_of_the_code() -> None:
    of_group = {g: {w.name for s in words().values() for w in s if w.group == g} for g in GROUPS}
    assert of_group["kinds"] == set(KINDS)
    assert set(OWN_RULES) <= of_group["allocators"]
    schema = (ROOT / "analysis/memtrace/report/report.schema.json").read_text()
    for kind in KINDS:
        assert f'"{kind}"' in schema
    verdicts = names_in(ROOT / "analysis/memtrace/malloc/verdicts.py", r"^[A-Z_, ]+ = .*$")
    assert verdicts <= of_group["verdicts"] | of_group["reasons"] | of_group["kinds"] | {""}


def test_every_recorded_call_is_documented() -> None:
    text = (DOCS / "trace-format.md").read_text()
    for name in NAMES:
        assert re.search(rf"\b{name}\b", text), name


# ---- what other parts of the program say ----


def test_what_doctor_says_is_what_doctor_says() -> None:
    user = Caller(pid=50, uids=(1000,) * 4, gids=(1000,) * 4)
    other = Facts(77, name="a", uids=(1001,) * 4, gids=(1001,) * 4, user="b", access=False)
    said = [
        doctor.run_refusal(Machine(trial=Trial(seize=errno.EPERM), caller=caller))
        for caller in (user, replace(user, seccomp=2))
    ]
    said += [doctor.run_refusal(Machine(trial=Trial(install=errno.EINVAL), caller=user))]
    said += [
        doctor.attach_refusal(Machine(caller=user), Target(facts))
        for facts in (
            replace(other, caller=user, host=Host(yama=3)),
            replace(other, caller=user),
            replace(other, caller=user, tracer=5, tracer_name="gdb"),
        )
    ]
    rows = [r.text for r in doctor.reach_rows(Machine(caller=user, host=Host(yama=1)))]
    messages = [*rows, *(error.message for error in said if error is not None)]
    told = section("troubleshooting.md", "Tracing is refused")
    phrases = [line.split(" | ")[0].strip("| ") for line in told.splitlines() if line[:2] == "| "]
    assert len(phrases) > 5
    for phrase in phrases[2:]:
        assert any(phrase in message for message in messages), (phrase, messages)


def test_every_variable_that_is_recorded_is_documented() -> None:
    told = section("environment.md", "Variables")
    assert all(f"`{name}`" in told for name in (*ENVIRONMENT, "MALLOC_*"))
    told = section("ci.md", "Baseline")
    assert all(f"`{name}`" in told for name in (*SETTINGS, "MALLOC_*"))


def test_no_page_installs_from_where_memtrace_is_not() -> None:
    for page in PAGES:
        assert not re.search(r"pipx? install \S*memtrace-linux", page.read_text()), page.name


# ---- links ----


def anchors(page: Path) -> set[str]:
    """What GitHub and the site make of a page's headings."""
    found = set(re.findall(r"^\((.+)\)=$", page.read_text(), re.MULTILINE))
    outside = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for heading in re.findall(r"^#+ (.+)$", outside, re.MULTILINE):
        found.add(re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-"))
    return found


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "samples/README.md"], ids=lambda p: str(p.relative_to(ROOT))
)
def test_no_link_is_dead(page: Path) -> None:
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        to = (page.parent / name).resolve() if name else page
        assert to.exists(), target
        if anchor and to.suffix == ".md":
            assert anchor in anchors(to), target


def test_every_page_is_in_the_index() -> None:
    text = (DOCS / "index.md").read_text()
    tree = re.findall(r"^```\{toctree\}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    listed = [line for block in tree for line in block.splitlines() if re.match(r"[\w*-]+$", line)]
    for name in listed:
        assert "*" in name or (DOCS / f"{name}.md").exists(), name
    assert "*" in listed  # what lands later is there at once


def test_every_goal_of_make_that_the_pages_name_exists() -> None:
    goals = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        for goal in re.findall(r"`make ([a-z-]+)`", page.read_text()):
            assert goal in goals, f"{page.name}: make {goal}"


# ---- the man page ----


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_the_man_page_is_proper_roff() -> None:
    path = str(DOCS / "man/memtrace.1")
    done = subprocess.run(
        ["groff", "-man", "-ww", "-Tascii", path], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    shown = re.sub(r"\x1b\[[0-9;]*m|.\x08", "", done.stdout)
    for title in ("NAME", "SYNOPSIS", "COMMANDS", "OPTIONS", "EXIT STATUS", "ENVIRONMENT", "FILES",
                  "EXAMPLES", "SEE ALSO"):  # fmt: skip
        assert f"\n{title}\n" in shown
    assert "memtrace attach [OPTION]... PID" in shown
    assert "MALLOC_*, GLIBC_TUNABLES" in shown


def test_every_verb_tells_its_way_out() -> None:
    readme = (ROOT / "README.md").read_text()
    told = readme.partition("\n## Exit codes\n")[2].partition("\n## ")[0]
    assert all(f"`{verb}`" in told for verb in VERBS)


def test_what_generate_calls_a_command_is_one() -> None:
    assert list(commands()) == VERB_NAMES
    assert all(isinstance(command, click.Command) for command, _ in commands().values())
