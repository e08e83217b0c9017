# SPDX-License-Identifier: GPL-2.0-or-later
"""glibc's malloc in numbers: what a mapping's length, its header and a setting say.

Terms as in glibc's malloc/malloc.c: `nb` is a chunk's size (the request plus header, rounded up), L
the length of a mapped chunk's mapping, T `mp_.mmap_threshold`. All sizes are bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

DEFAULT_THRESHOLD = 128 * 1024  # DEFAULT_MMAP_THRESHOLD_MIN
DEFAULT_TOP_PAD = 128 * 1024  # sysdeps/generic/malloc-machine.h
DEFAULT_TRIM = 128 * 1024  # DEFAULT_TRIM_THRESHOLD
THRESHOLD_MAX = 32 * 1024 * 1024  # DEFAULT_MMAP_THRESHOLD_MAX, 64-bit
THRESHOLD_MAX_I386 = 512 * 1024
MMAPS_MAX = 65536  # DEFAULT_MMAP_MAX
FALLBACK = 1024 * 1024  # MMAP_AS_MORECORE_SIZE
HEAP_MAX = 64 * 1024 * 1024  # HEAP_MAX_SIZE of arena.c, 64-bit
HEAP_MAX_I386 = 1024 * 1024
IS_MMAPPED = 2

Version = tuple[int, int]


def parse_version(text: str | None) -> Version | None:
    """The release of a version banner; None when there is none.

    >>> parse_version("GNU C Library (X) stable release version 2.41."), parse_version("")
    ((2, 41), None)
    """
    for word in reversed((text or "").replace(",", " ").split()):
        major, dot, rest = word.strip("().").partition(".")
        minor = ""
        for c in rest:
            if not c.isdigit():
                break
            minor += c
        if dot and major.isdigit() and minor:
            return int(major), int(minor)
    return None


@dataclass(frozen=True, slots=True)
class Layout:
    """How one build of glibc lays out mapped chunks.

    Args:
        version: None when unknown.
        abi: "" for 64-bit, or "i386"; for x32 nothing is known.
        page: the page size in bytes.

    Attributes:
        known: whether the formulas below hold for this ABI.
        i386: whether sizes are 32-bit.
        least: the smallest chunk (MINSIZE).
        heap_max: what a thread arena reserves for each of its heaps (HEAP_MAX_SIZE).
    """

    version: Version | None = None
    abi: str = ""
    page: int = 4096
    known: bool = field(init=False)
    i386: bool = field(init=False)
    least: int = field(init=False)
    heap_max: int = field(init=False)

    def __post_init__(self) -> None:
        i386 = self.abi == "i386"
        object.__setattr__(self, "known", self.abi in ("", "i386", "x86-64", "x86_64"))
        object.__setattr__(self, "i386", i386)
        object.__setattr__(self, "least", 16 if i386 else 32)
        object.__setattr__(self, "heap_max", HEAP_MAX_I386 if i386 else HEAP_MAX)

    def is_header(self, word: int, length: int) -> bool:
        """Whether `sysmalloc_mmap` writes this size field into a mapping of `length` bytes."""
        if self.i386:
            return word == (length - 8) | IS_MMAPPED
        old, new = length | IS_MMAPPED, (length - 16) | IS_MMAPPED
        if self.version is None:
            return word in (old, new)
        # 2.43, "malloc: Change mmap chunk layout": the last 16 bytes no longer count.
        return word == (new if self.version >= (2, 43) else old)

    def chunk(self, length: int) -> tuple[int, int]:
        """The smallest and largest `nb` that `sysmalloc_mmap` maps with this length.

        >>> Layout().chunk(135168)
        (131072, 135152)
        """
        if self.i386:
            return length - self.page - 16, length - 32
        return length - self.page, length - 16

    def request(self, length: int) -> tuple[int, int] | None:
        """The interval of requests that give a mapping of this length; None where unknown.

        For malloc, calloc and a realloc that maps anew it is the program's own number; the aligned
        functions ask for the number plus alignment plus 32 (`_int_memalign`).

        >>> Layout().request(135168), Layout(abi="i386").request(135168)
        ((131049, 135144), (131037, 135132))
        """
        if not self.known or length < self.page or length % self.page:
            return None
        if self.i386:
            return max(0, length - self.page - 35), length - 36
        return max(0, length - self.page - 23), length - 24

    def raised(self, threshold: int, length: int) -> tuple[int, int]:
        """T after the free of a plain mapped chunk, as (lowest, highest) possible value.

        `__libc_free`: the raw size field, flags included, is held against T and the maximum.

        >>> Layout((2, 36)).raised(131072, 135168), Layout((2, 36)).raised(131072, 32 << 20)
        ((135168, 135168), (131072, 131072))
        """
        if self.i386:
            results = [self._raise(threshold, length - 8, length - 6, THRESHOLD_MAX_I386)]
        else:
            results = []
            if self.version is None or self.version < (2, 43):
                results.append(self._raise(threshold, length, length | 2, THRESHOLD_MAX))
            if self.version is None or self.version >= (2, 43):
                results.append(self._raise(threshold, length - 16, length - 14, THRESHOLD_MAX))
        return min(results), max(results)

    @property
    def raises_to(self) -> int:
        """The largest T that frees can make (DEFAULT_MMAP_THRESHOLD_MAX)."""
        return THRESHOLD_MAX_I386 if self.i386 else THRESHOLD_MAX

    def raised_by(self, threshold: int, word: int) -> int:
        """T after the free of a mapped chunk with this size field.

        >>> Layout().raised_by(131072, 135168 | 2), Layout().raised_by(200000, 135168 | 2)
        (135168, 200000)
        """
        return self._raise(threshold, word & ~7, word, self.raises_to)

    @staticmethod
    def _raise(threshold: int, size: int, raw: int, limit: int) -> int:
        return size if threshold < raw <= limit else threshold


@dataclass(frozen=True, slots=True)
class Settings:
    """What the environment configured at exec. A field is None where it is not set.

    Attributes:
        threshold: T at the start; None when the settings leave it unknown.
        trim: the trim threshold at the start (`mp_.trim_threshold`); None when it is unknown.
        fixed_by: what froze both: "environ", "tunable", "hugetlb"; None while they are dynamic.
        source: where each setting came from, by name: "environ" or "tunable".
        certain: False when a setting is there whose effect is not known (a malformed number, or
            AT_SECURE unknown).
    """

    threshold: int | None = DEFAULT_THRESHOLD
    top_pad: int = DEFAULT_TOP_PAD
    mmap_max: int = MMAPS_MAX
    hugetlb: int = 0
    fixed_by: str | None = None
    source: tuple[tuple[str, str], ...] = ()
    certain: bool = True
    trim: int | None = DEFAULT_TRIM

    def set_by(self, name: str) -> str | None:
        """The source of a setting, None when it is not set."""
        return dict(self.source).get(name)


_ALIASES = {
    "mmap_threshold": "MALLOC_MMAP_THRESHOLD_",
    "mmap_max": "MALLOC_MMAP_MAX_",
    "top_pad": "MALLOC_TOP_PAD_",
    "trim_threshold": "MALLOC_TRIM_THRESHOLD_",
}


def parse_number(text: str) -> tuple[int, bool]:
    """The value `_dl_strtoul` reads, and whether it read the whole text. 64 bits, unsigned. Of no
    digits it makes 0; it stops at the digit that is too much.

    >>> parse_number("64k"), parse_number("0x20000"), parse_number("0400"), parse_number("")
    ((64, False), (131072, True), (256, True), (0, True))
    """
    s = text.lstrip(" \t")
    negative = s[:1] == "-"
    if s[:1] in ("-", "+"):
        s = s[1:]
    base, digits = 10, "0123456789"
    if s[:1] == "0":
        if s[1:2] in ("x", "X"):
            base, digits, s = 16, "0123456789abcdefABCDEF", s[2:]
        else:
            base, digits = 8, "01234567"
    n = 0
    while n < len(s) and s[n] in digits:
        n += 1
    kept = s[:n].lstrip("0")[:65]  # 64 bits in any base; int() refuses thousands of digits
    value = int(kept or "0", base)
    if value >= 1 << 64:
        return (1 << 64) - 1, False
    return (-value if negative else value) & ((1 << 64) - 1), n == len(s)


def _tunables(text: str) -> tuple[list[tuple[str, str]], bool]:
    """`name=value:name=value` of GLIBC_TUNABLES, and whether it is well-formed: of another 2.39 and
    later take nothing (`parse_tunables_string`).

    >>> _tunables("x:glibc.malloc.top_pad=1"), _tunables("a=1:")[1], _tunables("a=1=2")[1]
    (([('glibc.malloc.top_pad', '1')], True), False, False)
    """
    items = [item.partition("=") for item in text.split(":")]
    found = [(name, value) for name, equals, value in items if equals]
    return found, bool(items[-1][1]) and not any("=" in value for _, value in found)


class Setting(NamedTuple):
    """A number of the environment: where it stands ("environ", "tunable"), and whether its effect
    is known.
    """

    value: int
    source: str
    certain: bool


def configured(
    env: Mapping[str, str], name: str, alias: str, version: Version | None
) -> Setting | None:
    """What the environment sets a tunable of malloc's to; None: nothing.

    A tunable wins over its MALLOC_* alias ("" for none), the last of a name over those before. A
    number with a suffix is cut there before 2.39 and passed over since: with the version unknown,
    so is the effect.
    """
    strict = version is not None and version >= (2, 39)
    items, sound = _tunables(env.get("GLIBC_TUNABLES", ""))
    texts = [value for key, value in items if key == "glibc.malloc." + name]
    if (version is not None and version < (2, 25)) or (strict and not sound):
        texts = []
    found = [(text, "tunable") for text in reversed(texts)]
    if alias and alias in env:
        found.append((env[alias], "environ"))
    for text, where in found:
        value, whole = parse_number(text)
        if whole:
            known = version is not None or where != "tunable" or (sound and len(texts) == 1)
            return Setting(value, where, certain=known)
        if not strict:
            # Not isdigit(): that takes the digits of all scripts.
            return Setting(value, where, certain=version is not None and "0" <= text[:1] <= "9")
    return None


def secured(
    env: Mapping[str, str], *, at_secure: bool | None, version: Version | None
) -> bool | None:
    """Whether the program ignores what the environment says of malloc; None: not known. AT_SECURE
    programs do, and since 2.40 those that are told to (glibc.rtld.enable_secure).
    """
    items, sound = _tunables(env.get("GLIBC_TUNABLES", ""))
    told = [parse_number(value) for key, value in items if key == "glibc.rtld.enable_secure"]
    if at_secure or not sound or (1, True) not in told:
        return at_secure
    if version is None or any(x != (1, True) for x in told):
        return None
    return True if version >= (2, 40) else at_secure


def settings(
    env: Mapping[str, str],
    *,
    at_secure: bool | None,
    version: Version | None,
    i386: bool = False,
) -> Settings:
    """What the environment of an exec means to this glibc (`ptmalloc_init`, `__tunables_init`)."""
    at_secure = secured(env, at_secure=at_secure, version=version)
    if at_secure:
        return Settings()
    values: dict[str, int] = {}
    source: dict[str, str] = {}
    certain = True
    for name in (*_ALIASES, "hugetlb"):
        found = configured(env, name, _ALIASES.get(name, ""), version)
        if found is None:
            continue
        values[name], source[name], known = found
        # What does not fit the type (size_t; int32_t of mmap_max) is refused by some releases only.
        fits = values[name] < 1 << (31 if name == "mmap_max" else 32 if i386 else 64)
        certain = certain and known and fits
    if values and at_secure is None:
        certain = False
    most = THRESHOLD_MAX_I386 if i386 else THRESHOLD_MAX
    return _settled(values, source, version, most, certain=certain)


def _settled(
    values: dict[str, int],
    source: dict[str, str],
    version: Version | None,
    most: int,
    *,
    certain: bool,
) -> Settings:
    fixed_by = None
    threshold: int | None = DEFAULT_THRESHOLD
    wanted = values.get("mmap_threshold")
    if wanted is not None and wanted > most:
        # do_set_mmap_threshold refused more than HEAP_MAX_SIZE / 2 until 2.34.
        if version is None:
            threshold, certain = None, False
        elif version < (2, 35):
            wanted = None
            source.pop("mmap_threshold")
    if wanted is not None:
        threshold, fixed_by = wanted, source["mmap_threshold"]
    for name in ("trim_threshold", "top_pad", "mmap_max"):
        if fixed_by is None and name in values:
            fixed_by = source[name]
    hugetlb = values.get("hugetlb", 0) if version is None or version >= (2, 35) else 0
    trim: int | None = values.get("trim_threshold", DEFAULT_TRIM)
    if hugetlb >= 2:
        # Since 2.39 T becomes the huge page size, which the trace does not hold. Before, it rises
        # with the frees of chunks of huge pages, which are not told from other mappings.
        threshold = None
        if version is None or version >= (2, 39):
            fixed_by = "hugetlb"
        else:
            trim = trim if fixed_by else None
    if not certain:
        threshold = trim = None
    return Settings(
        threshold,
        values.get("top_pad", DEFAULT_TOP_PAD),
        values.get("mmap_max", MMAPS_MAX),
        hugetlb,
        fixed_by,
        tuple(sorted(source.items())),
        certain,
        trim,
    )
