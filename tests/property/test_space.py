# SPDX-License-Identifier: GPL-2.0-or-later
"""AddressSpace against a dict of pages (`pages.py`), which knows no ranges.

Random scripts of calls run in both: every call that has an effect, and as it fails; forks, after
which both sides go on; ranges read back; growth that only a snapshot shows.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.property.pages import (
    BASE,
    BREAK,
    DOFORK,
    DONTFORK,
    DONTUNMAP,
    MAYMOVE,
    MREMAP_FIXED,
    PAGE,
    PAGES,
    PROT_GROWSDOWN,
    Kernel,
    Made,
    Pages,
)

from memtrace.space.address_space import READ_IMPLIES_EXEC, AddressSpace
from memtrace.space.calls import EFFECTS, TASK_MAX, Change, apply
from memtrace.space.canonical import Attr, MapsCache, canonical, merge
from memtrace.space.compare import compare
from memtrace.trace.mapping import format_mapping
from memtrace.trace.records import Ext, FileId

Wish = tuple[object, ...]
at = st.integers(BASE, BASE + PAGES - 1)
lengths = st.integers(1, 4 * PAGE)
few = st.integers(1, 3)
any_number = st.integers(0, 99)
names = st.tuples(st.just("prctl"), at, lengths, st.sampled_from(["", "heap", "x"]))
#: The heap reaches to where names are given.
breaks = st.tuples(st.just("brk"), st.integers(20 * PAGE, 24 * PAGE))
protections = st.integers(0, 7)
maps = st.tuples(
    st.just("mmap"), at, lengths, protections,
    st.sampled_from(["private", "file", "shared-file", "shared", "grows"]), st.integers(0, 9),
    st.booleans(),
)  # fmt: skip
moves = st.tuples(
    st.just("mremap"), any_number, st.integers(0, 3), lengths,
    st.sampled_from([MAYMOVE, MAYMOVE | MREMAP_FIXED, MAYMOVE | MREMAP_FIXED | DONTUNMAP]), at,
)  # fmt: skip
protects = st.tuples(
    st.just("mprotect"), st.sampled_from(["mprotect", "pkey_mprotect"]), at, lengths,
    protections | protections.map(lambda p: p | PROT_GROWSDOWN),
)  # fmt: skip
#: Of a mapping that grows, a part is locked, and a part protected from where it begins.
divided = st.tuples(at, st.integers(1, 3), st.integers(0, 3), protections).map(
    lambda t: [
        ("mmap", t[0], 4 * PAGE, 3, "grows", 0, True),
        ("mlock", t[0] + t[1], 4 * PAGE),
        ("mprotect", "pkey_mprotect", t[0] + t[2], PAGE, t[3] | PROT_GROWSDOWN),
    ]
)
segments = st.one_of(
    st.tuples(st.just("shmat"), at, few, st.booleans()),
    st.tuples(st.just("shmdt"), any_number),
    st.tuples(st.just("io_setup"), at, few),
    st.tuples(st.just("io_destroy"), any_number),
    st.tuples(st.just("remap_file_pages"), any_number, few, st.integers(0, 9)),
)
range_calls = st.sampled_from(["munmap", "mprotect", "mremap", "mmap", "remap_file_pages"])
arguments = st.tuples(at.map(lambda i: i * PAGE), lengths, protections, st.just(0)).map(list)
failures = st.one_of(
    st.tuples(st.just("fails"), range_calls, arguments, st.sampled_from([1, 12, 14, 22, 4095])),
    st.tuples(st.just("unfinished"), range_calls | st.just("brk"), arguments),
)
steps = st.one_of(
    maps, moves, moves, moves, protects, segments, segments, failures,
    st.tuples(st.just("munmap"), at, lengths),
    st.tuples(st.just("mlock"), at, lengths),
    st.tuples(st.just("madvise"), at, lengths, st.sampled_from([4, DONTFORK, DONTFORK, DOFORK])),
    st.tuples(st.just("brk"), st.integers(BREAK * PAGE - 1, 20 * PAGE) | st.just(0)),
    names,
    st.tuples(st.just("set_brk"), st.integers(BREAK * PAGE, 12 * PAGE)),
    st.tuples(st.just("fork"), st.booleans()),
    st.tuples(st.just("grows"), any_number, few),
)  # fmt: skip
#: Most calls need something to act on.
scripts = st.lists(maps, max_size=3).flatmap(
    lambda first: st.lists(steps, min_size=1, max_size=15).map(lambda rest: [*first, *rest])
)
scripts |= (divided | st.tuples(breaks, names, names).map(list)).flatmap(
    lambda first: st.lists(steps, max_size=5).map(lambda rest: [*first, *rest])
)


@dataclass
class Both:
    """A space and the oracle, fed alike with what a kernel would have allowed."""

    personality: int = 0
    space: AddressSpace = field(default_factory=AddressSpace)
    kernel: Kernel = field(default_factory=lambda: Kernel(Pages()))
    cache: MapsCache = field(default_factory=MapsCache)
    left: list[tuple[AddressSpace, Pages]] = field(default_factory=list)
    made: list[Made] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.space.start_brk = self.space.brk = BREAK * PAGE
        self.oracle.implies_exec = bool(self.personality)
        self.space.personality = self.personality

    @property
    def oracle(self) -> Pages:
        return self.kernel.map

    def step(self, wish: Wish) -> None:
        what, *numbers = wish
        if what == "fork":
            child, oracle = self.space.fork(), self.oracle.fork()
            if numbers[0]:  # go on as the child
                child, self.space = self.space, child
                oracle, self.kernel.map = self.oracle, oracle
            self.left.append((child, oracle))
        elif what == "grows":
            came = self.kernel.grows(*numbers)  # type: ignore[arg-type]
            result = compare(self.space, self.oracle.lines(), self.cache, 1, 1, "x")
            assert result.drift is None
            assert result.grown == came * PAGE
        else:
            made = getattr(self.kernel, str(what))(*numbers)
            if made is not None:
                self.made.append(made)
                change = self.feed(made)
                assert change is None or not change.conflict

    def feed(self, made: Made) -> Change | None:
        """The call as a replay applies it."""
        return apply(self.space, made.call, made.args, made.ret, made.ext, made.file, self.cache)

    def assert_equal(self) -> None:
        assert_alike(self.space, self.oracle)
        for space, oracle in self.left:  # what one side of a fork does is not seen by the other
            assert_alike(space, oracle)


def assert_alike(space: AddressSpace, oracle: Pages) -> None:
    assert space.canonical() == oracle.runs()
    assert space.total == len(oracle.at) * PAGE
    assert space.brk == oracle.brk
    assert_sound(space)


def assert_sound(space: AddressSpace) -> None:
    """Sorted, disjoint, none empty, and counted right."""
    pieces = list(space.pieces())
    assert len(pieces) == len(space)
    assert all(0 <= p[0] < p[1] for p in pieces)
    assert all(p[1] <= q[0] for p, q in pairwise(pieces))
    assert space.total == sum(p[1] - p[0] for p in pieces)


@settings(max_examples=800, deadline=None)
@given(scripts, st.sampled_from([0, READ_IMPLIES_EXEC]))
def test_any_script_gives_the_map_of_the_page_model(script: list[Wish], personality: int) -> None:
    both = Both(personality)
    for wish in script:
        both.step(wish)
        both.assert_equal()


def test_the_scripts_make_every_call_that_has_an_effect() -> None:
    """With success; a call that is added to the table needs a wish here."""
    made: set[str] = set()

    @settings(max_examples=1500, deadline=None, database=None, derandomize=True)
    @given(scripts)
    def collect(script: list[Wish]) -> None:
        both = Both()
        for wish in script:
            both.step(wish)
        made.update(m.call for m in both.made if m.ret is not None and m.ret >= 0)

    collect()
    assert set(EFFECTS) | {"shmat", "io_setup"} <= made


Held = dict[int, tuple[str, str, int, int, str]]


def held(pieces: list[tuple[int, int, Attr, int]]) -> Held:
    return {page: attr[:5] for s, e, attr, _ in pieces for page in range(s, e, PAGE)}


@settings(max_examples=300, deadline=None)
@given(scripts)
def test_what_a_call_says_it_changed_is_what_it_changed(script: list[Wish]) -> None:
    """The map before, less what was removed, and what was added: the map after."""
    both = Both()
    for wish in script:
        before = held(list(both.space.pieces()))
        count = len(both.made)
        if wish[0] in {"fork", "grows"}:
            both.step(wish)
            continue
        made = getattr(both.kernel, str(wish[0]))(*wish[1:])
        if made is None:
            continue
        assert count == len(both.made)
        change = both.feed(made) or Change()
        removed, added = held(change.removed), held(change.added)
        assert all(before[page] == what for page, what in removed.items())
        after = {p: w for p, w in before.items() if p not in removed} | added
        assert after == held(list(both.space.pieces()))


@settings(max_examples=200, deadline=None)
@given(scripts)
def test_the_map_as_text_is_reproduced_and_its_canonical_form_is_its_own(
    script: list[Wish],
) -> None:
    both = Both()
    for wish in script:
        both.step(wish)
    runs = both.space.canonical()
    lines = [format_mapping(m) for m in both.space.mappings()]
    assert canonical(lines) == runs
    assert merge((r.start, r.end, Attr(*r[2:])) for r in runs) == runs
    assert all(a.end < b.start or a[2:] != b[2:] for a, b in pairwise(runs))
    assert compare(both.space, lines, MapsCache(), 1, 1, "x").drift is None
    loaded = AddressSpace()
    loaded.load(MapsCache().parse(lines))
    assert loaded.canonical() == runs
    assert loaded.total == both.space.total
    assert_sound(loaded)


@settings(max_examples=100, deadline=None)
@given(scripts, st.data())
def test_wherever_lines_are_cut_the_canonical_form_is_the_same(
    script: list[Wish], data: st.DataObject
) -> None:
    """Where the kernel ends a line and begins the next says nothing about any page."""
    both = Both()
    for wish in script:
        both.step(wish)
    whole = [(r.start, r.end, Attr(*r[2:])) for r in both.oracle.runs()]
    cut: list[tuple[int, int, Attr]] = []
    for start, end, attr in whole:
        seams = sorted(data.draw(st.sets(st.integers(start // PAGE, end // PAGE), max_size=3)))
        points = [start, *(s * PAGE for s in seams), end]
        cut += [(a, b, attr) for a, b in pairwise(points) if a < b]
    assert merge(cut) == both.space.canonical()


@settings(max_examples=150, deadline=None)
@given(scripts, st.data())
def test_leaving_out_a_visible_call_is_noticed(script: list[Wish], data: st.DataObject) -> None:
    """The kernel's map at the end tells whether the replay saw every call that shows in it."""
    kernel, replayed = Both(), Both()
    for wish in script:
        if wish[0] not in {"fork", "grows"}:
            kernel.step(wish)
    if not kernel.made:
        return
    missing = data.draw(st.integers(0, len(kernel.made) - 1))
    for i, made in enumerate(kernel.made):
        if i != missing:
            replayed.feed(made)
    ours, theirs = seen(replayed.space, kernel.oracle), seen(kernel.oracle, kernel.oracle)
    result = compare(replayed.space, kernel.oracle.lines(), MapsCache(), 1, 1, "x")
    if ours != theirs:
        assert result.drift is not None or is_growth(ours, theirs, result.grown)
    else:
        assert result.drift is None
    assert seen(replayed.space, kernel.oracle) == theirs  # and made right again


Seen = dict[int, tuple[object, ...]]


def is_growth(before: Seen, after: Seen, grown: int) -> bool:
    """Whether page faults can have made the one of the other: so many bytes came, none changed."""
    same = all(after.get(page) == what for page, what in before.items())
    return same and len(after) - len(before) == grown // PAGE > 0


def seen(map_: AddressSpace | Pages, kernel: Pages) -> Seen:
    """Page by page what the kernel's lines can tell of a map."""
    runs = map_.canonical() if isinstance(map_, AddressSpace) else map_.runs()
    nameless = kernel.nameless()
    return {
        page: r[2:6] if page in nameless else r[2:]
        for r in runs
        for page in range(r.start & -PAGE, r.end, PAGE)
    }


# -- what no kernel would do --------------------------------------------------------------------

words = st.one_of(
    st.integers(-(1 << 63), (1 << 64) - 1),
    st.sampled_from([0, 1, PAGE, 1 << 47, TASK_MAX, TASK_MAX - 1, (1 << 63) - 1, 1 << 63, -1]),
    at.map(lambda i: i * PAGE),
    at.map(lambda i: i * PAGE + 7),
    lengths,
)
lines_of_maps = st.tuples(words, words, st.sampled_from(["rw-p", "---s", "????"])).map(
    lambda t: f"{t[0] & (1 << 64) - 1:x}-{t[1] & (1 << 64) - 1:x} {t[2]} 0 00:00 0"
)
odd_exts = st.none() | st.builds(
    Ext,
    x=st.none() | st.tuples(words, words, st.lists(lines_of_maps, max_size=3)),
    name=st.none() | st.text(max_size=3),
)
odd_files = st.none() | st.just(FileId(1, "fe:01", 77, "/f"))
odd_calls = st.builds(
    Made,
    st.sampled_from([*EFFECTS, "shmat", "io_setup", "unheard_of"]),
    st.lists(words, max_size=6),
    st.none() | words | st.sampled_from([0, -12, -22]),
    odd_exts,
    odd_files,
)


@settings(max_examples=500, deadline=None)
@given(scripts, st.lists(odd_calls, min_size=1, max_size=6))
def test_whatever_a_call_says_a_map_stays_a_map(script: list[Wish], odd: list[Made]) -> None:
    """No arguments, results or lines break the structure; nor does a map that holds such."""
    both = Both()
    for wish in script:
        both.step(wish)
    both.space.assumed = len(odd) & 1 == 1
    for made in odd:
        with suppress(ValueError):  # no maps text
            both.feed(made)
        assert_sound(both.space)
        child = both.space.fork()
        assert_sound(child)
    compare(both.space, both.oracle.lines(), MapsCache(), 1, 1, "x")
    assert_sound(both.space)
    assert seen(both.space, both.oracle) == seen(both.oracle, both.oracle)
