# SPDX-License-Identifier: GPL-2.0-or-later
"""The HTML report in a real browser: it draws, compares, filters, jumps, and believes no string."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests import hostile
from tests.browser.conftest import memtrace

from memtrace.trace.codec import encode, encode_footer, encode_header
from memtrace.trace.records import Call, Footer, Header

Show = Callable[[Path], Any]
INK = """
const c = document.querySelector(arguments[0]), g = c.getContext("2d");
const d = g.getImageData(0, 0, c.width, c.height).data, seen = new Set();
for (let i = 0; i < d.length; i += 4)
  if (d[i + 3] > 200) seen.add(d[i] << 16 | d[i + 1] << 8 | d[i + 2]);
return seen.size;
"""
ROWS = "return document.querySelectorAll('#event-table tbody tr').length"


def text(page: Any, name: str) -> str:
    return str(page.execute_script("return document.getElementById(arguments[0]).innerText", name))


def choose(page: Any, name: str, seq: int) -> None:
    from selenium.webdriver.support.ui import Select

    select = Select(page.find_element("id", name))
    at = next(o for o in select.options if o.text.split(" ")[0] == f"#{seq}")
    select.select_by_visible_text(at.text)


def test_it_draws(show: Show, moves: Path) -> None:
    page = show(moves)
    assert page.execute_script(INK, "#chart canvas") > 5
    assert page.execute_script(INK, "#map") > 5
    assert "Can I trust it?" in text(page, "strip")
    assert "exact" in text(page, "trust")
    assert "MT101" in text(page, "findings")


def test_two_moments_are_those_of_diff(show: Show, moves: Path) -> None:
    page = show(moves)
    data = page.execute_script("return JSON.parse(document.getElementById('data').textContent)")
    seqs = [m["seq"] for m in data["processes"][0]["map"]["moments"]]
    one, two = seqs[len(seqs) // 2], seqs[-3]
    choose(page, "pick-a", one)
    choose(page, "pick-b", two)
    said = memtrace("diff", moves, "--at", str(one), "--at", str(two), "--all").stdout
    shown = text(page, "difference-kinds")
    for kind in ("heap", "malloc-chunk"):
        line = next(x for x in said.splitlines() if x.strip().startswith(kind))
        sizes = re.findall(r"[-+]?[\d.,]+ (?:[KMG]iB|B)", line)
        row = next(x for x in shown.splitlines() if x.strip().startswith(kind))
        assert sizes, line
        net = sizes[-1].lstrip("+-")
        assert net in row, (line, row)


def test_the_brush_filters_the_events(show: Show, moves: Path) -> None:
    from selenium.webdriver import ActionChains

    page = show(moves)
    every = page.execute_script(ROWS)
    chart = page.find_element("css selector", "#chart .u-over")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", chart)
    wide = chart.size["width"]
    # The first record stays outside; where the others lie is the run's own.
    drag = ActionChains(page).move_to_element_with_offset(chart, -wide * 4 // 10, 0)
    drag.click_and_hold().move_by_offset(wide * 9 // 10 - 2, 0).release().perform()
    some = page.execute_script(ROWS)
    assert 0 < some < every
    assert "match from" in text(page, "events-note")
    page.find_element("id", "unbrush").click()
    assert page.execute_script(ROWS) == every


def test_evidence_leads_to_its_event(show: Show, moves: Path) -> None:
    page = show(moves)
    before = page.execute_script("return document.querySelector('#map').toDataURL()")
    link = page.find_element("css selector", "#findings button.link")
    seq = link.text.lstrip("#")
    link.send_keys("\n")
    chosen = page.find_element("css selector", "#event-table tr.chosen")
    assert chosen.get_attribute("data-seq") == seq
    assert page.switch_to.active_element == chosen
    assert page.execute_script("return document.querySelector('#map').toDataURL()") != before


def test_clicks_and_keys_pick_moments(show: Show, moves: Path) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    page = show(moves)
    chart = page.find_element("css selector", "#chart .u-over")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", chart)
    begun = page.find_element("id", "pick-a").get_attribute("value")
    ActionChains(page).move_to_element(chart).click().perform()
    clicked = page.find_element("id", "pick-a").get_attribute("value")
    assert clicked != begun
    box = page.find_element("id", "chart")
    box.send_keys(Keys.HOME, "b")
    assert page.find_element("id", "pick-b").get_attribute("value") == "0"
    area = page.find_element("id", "map")
    area.send_keys(Keys.ARROW_UP)
    first = text(page, "region")
    area.send_keys(Keys.ARROW_UP)
    assert "0x" in first
    assert text(page, "region") not in {"", first}


def test_light_and_dark(show: Show, moves: Path) -> None:
    page = show(moves)
    ground = "return getComputedStyle(document.body).backgroundColor"
    one = page.execute_script(ground)
    page.find_element("id", "theme").send_keys("\n")
    assert page.execute_script(ground) != one
    assert page.execute_script(INK, "#chart canvas") > 5


def test_hostile_names_stay_text(show: Show, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\"'\n\u202e<img src=x onerror=alert(2)>"
    folder = tempfile.mkdtemp(dir="/tmp")  # the page cuts long paths
    file = Path(folder) / "<img src=x onerror=alert(3)>\u202e\n.bin"
    file.write_bytes(bytes(8192))
    program = "import mmap, sys; f = open(sys.argv[2], 'rb'); mmap.mmap(f.fileno(), 0, prot=1)"
    trace = tmp_path / "t.json"
    memtrace("run", "-q", "-o", trace, "--", "/usr/bin/python3", "-c", program, evil, file)
    shutil.rmtree(folder)
    page = show(trace)
    shown = text(page, "command")
    assert "<script>alert(1)</script>" in shown
    assert "\\u202e" in shown
    assert "\u202e" not in page.page_source
    assert page.execute_script("return document.querySelectorAll('img').length") == 0
    assert page.execute_script("return document.scripts.length") == 3
    page.find_element("id", "find").send_keys("onerror=alert(3)")
    assert "<img src=x onerror=alert(3)>" in text(page, "event-table")


def test_it_asks_no_network(show: Show, moves: Path) -> None:
    page = show(moves)
    loaded = page.execute_script("return performance.getEntriesByType('resource').length")
    assert loaded == 0


END = Footer(stop=1 << 50, complete=True)


def _empty(path: Path) -> None:
    path.write_bytes(encode_header(Header(calls=hostile.CALLS)) + encode_footer(END))


def _no_calls(path: Path) -> None:
    hostile.write(path, [hostile.begun()])


def _no_times(path: Path) -> None:
    records: list[hostile.Record] = [
        hostile.begun(),
        hostile.mmap(hostile.LOW),
        hostile.mmap(2 * hostile.LOW),
    ]
    path.write_bytes(
        encode_header(Header(calls=hostile.CALLS, clock="none"))
        + b"".join(encode(r) for r in records)
        + encode_footer(END)
    )


@pytest.mark.parametrize("make", [_empty, _no_calls, _no_times])
def test_little_is_shown_too(show: Show, tmp_path: Path, make: Callable[[Path], None]) -> None:
    trace = tmp_path / "t.json"
    make(trace)
    page = show(trace)
    assert text(page, "odd")
    assert text(page, "h-unseen")


def test_of_moments_of_one_time_a_key_picks_its_own(show: Show, tmp_path: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    records: list[hostile.Record | bytes] = [hostile.begun()]
    for i in range(6):
        places = hostile.LOW + i * 2 * hostile.PAGE
        records.append(hostile.mmap(places))
    at_once = [msgspec.structs.replace(r, dt=0) if isinstance(r, Call) else r for r in records]
    page = show(hostile.write(tmp_path / "t.json", at_once))
    chart = page.find_element("id", "chart")
    chart.send_keys(Keys.HOME, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, "a")
    assert text(page, "readout").startswith("#4 ")
    assert page.execute_script(
        "return document.getElementById('pick-a').selectedOptions[0].text"
    ).startswith("#4")


def test_the_brushed_part_stays_marked_when_a_layer_goes(show: Show, moves: Path) -> None:
    from selenium.webdriver import ActionChains

    page = show(moves)
    chart = page.find_element("css selector", "#chart .u-over")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", chart)
    drag = ActionChains(page).move_to_element_with_offset(chart, -chart.size["width"] // 4, 0)
    drag.click_and_hold().move_by_offset(chart.size["width"] // 5, 0).release().perform()
    wide = "return document.querySelector('#chart .u-select').offsetWidth"
    before = page.execute_script(wide)
    page.find_element("css selector", "#layers button[data-layer=heap]").click()
    assert before > 4
    assert abs(page.execute_script(wide) - before) <= 1


def test_what_is_not_proven_is_not_called_exact(show: Show, tmp_path: Path) -> None:
    new = hostile.line(hostile.LOW, hostile.LOW + hostile.PAGE)
    records: list[hostile.Record | bytes] = [
        hostile.begun(), hostile.call("brk", [0], hostile.BRK),
        hostile.mmap(hostile.LOW + 8 * 4096),
        hostile.snap(30, sorted([*hostile.MAPS, new])), hostile.call("brk", [0], hostile.BRK),
    ]  # fmt: skip
    page = show(hostile.write(tmp_path / "t.json", records))
    assert "Exact" not in text(page, "map-note")
    choose(page, "pick-a", 3)
    choose(page, "pick-b", 4)
    assert "Not proven at #3." in text(page, "difference-note")
    assert "a snapshot is not reproduced" in text(page, "legend")
