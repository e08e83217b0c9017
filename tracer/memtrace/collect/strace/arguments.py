# SPDX-License-Identifier: GPL-2.0-or-later
"""From the text between a call's brackets to values: lists, strings, file descriptors.

The expressions are possessive: none of them tries a text twice in the same way, so that time stays
linear in the length of a line whatever is in it.
"""

from __future__ import annotations

import re

from memtrace.collect.strace.flags import COMMENT, UnclearError, number, without_comments

_INSIDE = rb'\\.|"(?:[^"\\]++|\\.)*+"|<[^<>]*+>'
#: What -y prints behind a descriptor. `<`, `>`, `"` and `\` of a path are escaped (string_quote),
#: so that a hyphen may be its end: `</etc/passwd->`. Only sockets have bare ones, with arrows:
#: `<TCP:[127.0.0.1:1->127.0.0.1:2]>`, `<UNIX-STREAM:[1,"/s"]>`. A device's number stands in
#: brackets of its own: `</dev/null<char 1:3>>`.
ANGLE = rb'<(?:/(?:[^<>"\\]++|' + _INSIDE + rb')*+|(?!/)(?:[^<>"\\-]++|->|-|' + _INSIDE + rb")*+)>"
_STRING = rb'"(?:[^"\\]++|\\.)*+"'

_TOKEN = re.compile(
    rb'[^"<()\[\]{},/]++|' + _STRING + rb"|" + COMMENT + rb"|<<(?=[A-Z])|" + ANGLE + rb"|.",
    re.DOTALL,
)
_SIMPLE = re.compile(rb'([^"<()\[\]{}/]*+)\)')
_CLOSER = {b"(": b")", b"[": b"]", b"{": b"}"}
_QUOTED = re.compile(rb'"((?:[^"\\]++|\\.)*+)"(\.\.\.)?+', re.DOTALL)
_FD = re.compile(
    rb"(-?[0-9]{1,10}+|0x[0-9a-f]{1,16}+|AT_FDCWD)(?: /\* AT_FDCWD \*/)?+"
    rb"(" + ANGLE + rb")?+(\(deleted\))?+(?:\[[^\[\]]*+\])?+",
    re.DOTALL,
)
_ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|([0-7]{1,3})|(.))", re.DOTALL)
_LETTERS = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"v": b"\v", b"f": b"\f", b"a": b"\a", b"b": b"\b"}  # noqa: E501 # fmt: skip
_NAMED = re.compile(rb"[a-z_][a-z0-9_]*+=(?!>)")
_ANNOTATION = re.compile(rb"<[^<>]*+>")

AT_FDCWD = -100
_UNCLOSED = 16


def split(text: bytes, start: int, closer: bytes) -> tuple[list[bytes], int]:
    """The elements of a list from `start` to its closing bracket, and the place behind that.

    The place is -1 when the text ends before the bracket; the last element is then what there is of
    it. Errors: UnclearError when brackets do not match.
    """
    if closer == b")":
        simple = _SIMPLE.match(text, start)
        if simple is not None:
            inside = simple.group(1).strip()
            return ([part.strip() for part in inside.split(b",")] if inside else []), simple.end()
    out: list[bytes] = []
    stack = [closer]
    begin, unclosed = start, 0
    for token in _TOKEN.finditer(text, start):
        at = token.start()
        if token.end() - at > 1:
            continue
        char = text[at : at + 1]
        if char == b",":
            if len(stack) == 1:
                out.append(text[begin:at].strip())
                begin = at + 1
        elif char in _CLOSER:
            stack.append(_CLOSER[char])
        elif char in b")]}":
            if stack.pop() != char:
                raise UnclearError("its brackets do not match")
            if not stack:
                last = text[begin:at].strip()
                if last or out:
                    out.append(last)
                return out, at + 1
        elif char == b'"':
            raise UnclearError("a string in it does not end")
        elif char == b"<" or text.startswith(b"/*", at):
            # It was looked for the end of this one in vain: to do so for each takes forever.
            unclosed += 1
            if unclosed > _UNCLOSED:
                raise UnclearError("its brackets do not match")
    last = text[begin:].strip()
    if last or out:
        out.append(last)
    return out, -1


def value_of(text: bytes) -> bytes:
    """The argument without its name: `-N` prints `addr=NULL`."""
    named = _NAMED.match(text)
    return text[named.end() :] if named is not None else text


def fields(text: bytes) -> dict[bytes, bytes]:
    """The members of `{a=1, b={...}}`; what follows the structure (`=> {...}`) is not read."""
    if not text.startswith(b"{"):
        raise UnclearError("strace printed a structure's address, not its content")
    elements, _ = split(text, 1, b"}")
    out: dict[bytes, bytes] = {}
    for element in elements:
        name, _, content = element.partition(b"=")
        out[name] = content
    return out


def descriptor(text: bytes) -> tuple[int, str | None]:
    """A file descriptor and what `-y` says of it, or None."""
    found = _FD.fullmatch(text)
    if found is None:
        found = _FD.fullmatch(without_comments(text))
        if found is None:
            raise UnclearError("a file descriptor in it cannot be read")
    shown, angle, deleted = found.group(1, 2, 3)
    fd = AT_FDCWD if shown == b"AT_FDCWD" else int(shown, 16 if shown[:2] == b"0x" else 10)
    return fd, None if angle is None else path(angle, deleted=deleted is not None)


def path(angle: bytes, *, deleted: bool) -> str:
    """The path in `<...>`. Until 5.19 strace wrote ` (deleted)` into the brackets as the kernel
    does, since then behind them: both give the kernel's form. Of `</dev/null<char 1:3>>` the path.
    """
    inner = angle[1:-1]
    if inner.startswith(b"/") and inner.endswith(b">"):
        inner = _ANNOTATION.sub(b"", inner)
    return unescape(inner) + (" (deleted)" if deleted else "")


def string(text: bytes) -> str:
    """A quoted string; one that strace has cut off keeps its `...`."""
    found = _QUOTED.fullmatch(text)
    if found is None:
        raise UnclearError("a string in it cannot be read")
    return unescape(found.group(1)) + ("..." if found.group(2) else "")


def strings(text: bytes) -> list[str] | None:
    """An array of strings; None when it is an address. A string that strace could not read is the
    address that it printed instead.
    """
    if not text.startswith(b"["):
        number(without_comments(text), "an array")
        return None
    elements, end = split(text, 1, b"]")
    if end != len(text):
        raise UnclearError("an array in it cannot be read")
    out = []
    for element in elements:
        if element.startswith(b'"'):
            out.append(string(element))
        else:
            out.append(element.decode("utf-8", "backslashreplace"))
    return out


def unescape(text: bytes) -> str:
    """Undo string_quote; a byte that is not UTF-8 stands as its hexadecimal escape."""
    if b"\\" in text:
        text = _ESCAPE.sub(_plain, text)
    return text.decode("utf-8", "backslashreplace")


def _plain(found: re.Match[bytes]) -> bytes:
    hexed, octal, letter = found.groups()
    if hexed is not None:
        return bytes((int(hexed, 16),))
    if octal is not None:
        return bytes((int(octal, 8) & 0xFF,))
    return _LETTERS.get(letter, letter)
