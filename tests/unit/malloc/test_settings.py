# SPDX-License-Identifier: GPL-2.0-or-later
"""What the environment says about the threshold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memtrace.malloc.glibc import Layout, Settings, parse_number, parse_version, settings

DEFAULT = 131072


@pytest.mark.parametrize(
    ("text", "value", "whole"),
    [
        ("0", 0, True), ("65536", 65536, True), ("64k", 64, False), ("0x10000", 65536, True),
        ("0200000", 65536, True), ("", 0, True), ("x", 0, False), ("-1", (1 << 64) - 1, True),
        (" 12", 12, True), ("08", 0, False), ("99999999999999999999", (1 << 64) - 1, False),
        ("1" + "0" * 5000, (1 << 64) - 1, False), ("0" * 5000 + "7", 7, True), ("²", 0, False),
        ("-", 0, True), ("0x", 0, True), (" ", 0, True),
        ("-99999999999999999999", (1 << 64) - 1, False),
        ("18446744073709551615", (1 << 64) - 1, True),
        ("18446744073709551616", (1 << 64) - 1, False),
    ],
)  # fmt: skip
def test_numbers_are_read_as_dl_strtoul_does(text: str, value: int, *, whole: bool) -> None:
    assert parse_number(text) == (value, whole)


@pytest.mark.parametrize(
    ("env", "version", "threshold", "fixed_by"),
    [
        ({}, (2, 36), DEFAULT, None),
        ({"MALLOC_ARENA_MAX": "1", "MALLOC_PERTURB_": "9"}, (2, 36), DEFAULT, None),
        ({"MALLOC_MMAP_THRESHOLD_": "4096"}, (2, 36), 4096, "environ"),
        ({"MALLOC_MMAP_THRESHOLD_": "0x1000"}, (2, 36), 4096, "environ"),
        ({"MALLOC_TRIM_THRESHOLD_": "-1"}, (2, 36), DEFAULT, "environ"),
        ({"MALLOC_TOP_PAD_": "0"}, (2, 43), DEFAULT, "environ"),
        ({"MALLOC_MMAP_MAX_": "0"}, (2, 31), DEFAULT, "environ"),
        ({"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=65536"}, (2, 36), 65536, "tunable"),
        ({"GLIBC_TUNABLES": "glibc.malloc.arena_max=1:glibc.malloc.top_pad=0"},
         (2, 36), DEFAULT, "tunable"),
        ({"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}, (2, 36), DEFAULT, None),
        ({"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=65536",
          "MALLOC_MMAP_THRESHOLD_": "4096"}, (2, 36), 65536, "tunable"),
        ({"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=65536"}, (2, 24), DEFAULT, None),
        ({"MALLOC_MMAP_THRESHOLD_": "64k"}, (2, 36), 64, "environ"),
        ({"MALLOC_MMAP_THRESHOLD_": "64k"}, (2, 41), DEFAULT, None),
        ({"MALLOC_MMAP_THRESHOLD_": "67108864"}, (2, 36), 67108864, "environ"),
        ({"MALLOC_MMAP_THRESHOLD_": "67108864"}, (2, 34), DEFAULT, None),
        ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}, (2, 36), DEFAULT, None),
        ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=2"}, (2, 39), None, "hugetlb"),
        ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=2"}, (2, 34), DEFAULT, None),
    ],
)  # fmt: skip
def test_the_threshold_and_what_freezes_it(
    env: dict[str, str],
    version: tuple[int, int] | None,
    threshold: int | None,
    fixed_by: str | None,
) -> None:
    s = settings(env, at_secure=False, version=version)
    assert (s.threshold, s.fixed_by) == (threshold, fixed_by)


TUNABLE = "glibc.malloc.mmap_threshold"
SECURE = "glibc.rtld.enable_secure"
NUMBER = "MALLOC_MMAP_THRESHOLD_"


@pytest.mark.parametrize(
    ("env", "until_2_38", "since_2_39", "since_2_40"),
    [
        # No digits are 0.
        ({NUMBER: ""}, 0, 0, 0),
        ({NUMBER: "0x"}, 0, 0, 0),
        ({"GLIBC_TUNABLES": f"{TUNABLE}="}, 0, 0, 0),
        # Too much is the largest number, or refused.
        ({NUMBER: "9" * 30}, (1 << 64) - 1, DEFAULT, DEFAULT),
        # One ill-formed item spoils all of them; the last may not lack its value.
        ({"GLIBC_TUNABLES": f"{TUNABLE}=4096:foo"}, 4096, DEFAULT, DEFAULT),
        ({"GLIBC_TUNABLES": f"{TUNABLE}=4096:"}, 4096, DEFAULT, DEFAULT),
        ({"GLIBC_TUNABLES": f"{TUNABLE}=4096:x=y=z"}, 4096, DEFAULT, DEFAULT),
        ({"GLIBC_TUNABLES": f"{TUNABLE}=4096=1"}, 4096, DEFAULT, DEFAULT),
        ({"GLIBC_TUNABLES": f"foo::{TUNABLE}=4096"}, 4096, 4096, 4096),
        ({"GLIBC_TUNABLES": f"{TUNABLE}=131072:foo", NUMBER: "4096"}, 131072, 4096, 4096),
        # A number that is refused leaves what was set before.
        ({"GLIBC_TUNABLES": f"{TUNABLE}=4096:{TUNABLE}=4k"}, 4, 4096, 4096),
        ({"GLIBC_TUNABLES": f"{TUNABLE}=4k", NUMBER: "4096"}, 4, 4096, 4096),
        # It may be told to be as in a setuid program.
        ({"GLIBC_TUNABLES": f"{TUNABLE}=4096:{SECURE}=1"}, 4096, 4096, DEFAULT),
        ({"GLIBC_TUNABLES": f"{SECURE}=1", NUMBER: "4096"}, 4096, 4096, DEFAULT),
        ({"GLIBC_TUNABLES": f"{SECURE}=0", NUMBER: "4096"}, 4096, 4096, 4096),
    ],
)  # fmt: skip
def test_malformed_settings_are_read_as_the_release_reads_them(
    env: dict[str, str], until_2_38: int, since_2_39: int, since_2_40: int
) -> None:
    for version, threshold in (
        ((2, 31), until_2_38), ((2, 36), until_2_38), ((2, 39), since_2_39), ((2, 40), since_2_40),
        ((2, 43), since_2_40),
    ):  # fmt: skip
        most = 32 << 20
        refused = threshold > most and version < (2, 35)  # do_set_mmap_threshold
        found = settings(env, at_secure=False, version=version).threshold
        assert (version, found) == (version, DEFAULT if refused else threshold)
    unsure = settings(env, at_secure=False, version=None).threshold
    assert unsure in {None, until_2_38} & {None, since_2_39} & {None, since_2_40}


@pytest.mark.parametrize("text", ["x", "²5", "-x"])
def test_a_text_that_begins_with_no_digit_leaves_the_threshold_open(text: str) -> None:
    s = settings({"MALLOC_TOP_PAD_": text}, at_secure=False, version=(2, 36))
    assert (s.threshold, s.certain) == (None, False)


def test_a_secure_program_ignores_all_of_them() -> None:
    env = {"MALLOC_MMAP_THRESHOLD_": "4096", "GLIBC_TUNABLES": "glibc.malloc.top_pad=0"}
    assert settings(env, at_secure=True, version=(2, 36)) == Settings()


def test_what_is_not_known_to_be_secure_or_of_which_version_gives_no_value() -> None:
    env = {"MALLOC_MMAP_THRESHOLD_": "4096"}
    assert settings(env, at_secure=None, version=(2, 36)).threshold is None
    assert settings({}, at_secure=None, version=(2, 36)).threshold == DEFAULT
    assert (
        settings({"MALLOC_MMAP_THRESHOLD_": "64k"}, at_secure=False, version=None).threshold is None
    )
    assert (
        settings({"MALLOC_MMAP_THRESHOLD_": "67108864"}, at_secure=False, version=None).threshold
        is None
    )


@pytest.mark.parametrize(
    ("text", "version"),
    [("2.36", (2, 36)), ("2.31.1", (2, 31)),
     ("GNU C Library (Debian) stable release version 2.41.", (2, 41)),
     ("", None), (None, None), ("none", None)],
)  # fmt: skip
def test_versions(text: str | None, version: tuple[int, int] | None) -> None:
    assert parse_version(text) == version


def mapped_length(request: int) -> int:
    """sysmalloc_mmap of a 64-bit glibc up to 2.42, from its source."""
    nb = max(32, (request + 8 + 15) & ~15)
    return (nb + 8 + 4095) & ~4095


def mapped_length_243(request: int) -> int:
    """The same since 2.43."""
    nb = max(32, (request + 8 + 15) & ~15)
    return (nb + 16 + 4095) & ~4095


@given(st.integers(0, 1 << 40))
def test_the_request_lies_in_the_stated_interval(request_: int) -> None:
    for length in (mapped_length(request_), mapped_length_243(request_)):
        low, high = Layout().request(length) or (1, 0)
        assert low <= request_ <= high


@given(st.integers(1, 1 << 28))
def test_the_interval_is_no_wider_than_it_must_be(pages: int) -> None:
    length = pages * 4096
    low, high = Layout().request(length) or (1, 0)
    assert mapped_length(high) == mapped_length(max(low, 25)) == length
    assert mapped_length(high + 1) == length + 4096


@given(st.integers(0, 1 << 31))
def test_i386_requests(request_: int) -> None:
    nb = max(16, (request_ + 4 + 15) & ~15)
    length = (nb + 4 + 15 + 4095) & ~4095
    low, high = Layout(abi="i386").request(length) or (1, 0)
    assert low <= request_ <= high


def test_nothing_is_said_about_an_unknown_layout() -> None:
    assert Layout(abi="x32").request(135168) is None
    assert Layout().request(1000) is None
