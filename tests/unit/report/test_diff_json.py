# SPDX-License-Identifier: GPL-2.0-or-later
"""The JSON of `memtrace diff A B`: its schema and its page name what there is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from tests.golden import stored
from tests.unit.conftest import Scene

from memtrace.cli.diff import rendered
from memtrace.report import compared
from memtrace.report.comparison import compare, schema
from memtrace.report.sight import OPTIONS

PAGE = (Path(__file__).parents[3] / "docs" / "diff.md").read_text()
STRUCTS = [
    x for x in vars(compared).values()
    if isinstance(x, type) and issubclass(x, msgspec.Struct) and x is not msgspec.Struct
]  # fmt: skip


@pytest.fixture(scope="module")
def validator() -> Any:
    jsonschema.Draft202012Validator.check_schema(schema())
    return jsonschema.Draft202012Validator(schema())


@pytest.mark.parametrize("pair", stored.PAIRS, ids="-".join)
def test_what_is_printed_satisfies_the_schema(
    validator: Any, pair: tuple[str, str], tmp_path: Path
) -> None:
    shown = msgspec.json.decode(stored.diff_of(pair, "json", tmp_path))
    assert [e.message for e in validator.iter_errors(shown)] == []


def test_every_list_of_it_does(validator: Any, tmp_path: Path) -> None:
    one = Scene(tmp_path / "a.json").glibc()
    one.call("mmap", [0, 1 << 40, 3, 0x22, -1, 0], -12, by="program")
    two = Scene(tmp_path / "b.json").glibc()
    two.call("mmap", [0, 1 << 40, 3, 0x22, -1, 0], -22, by="program")
    three = Scene(tmp_path / "c.json").glibc().exit().report()
    a, b = one.exit().report(), two.exit().report()
    lost = two.lost().report()
    for pair, field in (
        ((a, b), "changed"), ((three, a), "appeared"), ((a, three), "went"), ((a, lost), "unseen"),
    ):  # fmt: skip
        shown = msgspec.json.decode(rendered(compare(*pair), ("a", "b"), "json"))
        assert [e.message for e in validator.iter_errors(shown)] == []
        assert shown["pairs"][0][field], field


@pytest.mark.parametrize("cls", STRUCTS, ids=lambda c: c.__name__)
def test_the_page_and_the_schema_name_every_field(cls: type[msgspec.Struct]) -> None:
    json = PAGE.partition("\n## JSON\n")[2]
    text = str(schema())
    for name in cls.__struct_fields__:
        assert f"`{name}`" in json, name
        assert f"'{name}'" in text, name


def test_the_page_names_every_word() -> None:
    words = schema()["$defs"]["limit"]["enum"]
    assert set(OPTIONS) <= set(words)
    for word in (*words, *schema()["$defs"]["pair"]["properties"]["by"]["enum"]):
        assert f"`{word}`" in PAGE, word


def test_the_page_names_every_setting() -> None:
    page = " ".join(PAGE.split())
    source = (Path(compared.__file__).parent / "settings.py").read_text()
    names = re.findall(r'yield \(?"([^"]+)"', source)
    assert len(names) > 15
    for name in names:
        if name not in ("environment", "resource limits"):
            assert f"`{name}`" in page, name
