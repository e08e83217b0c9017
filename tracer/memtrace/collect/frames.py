# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a function's return address is, by the call frame information of its file (.eh_frame).

glibc's munmap and brk push nothing, and in some builds nor does mmap; in others it saves two
registers first, and the word at the stack pointer is one of them. The tables tell for each
instruction how far the return address is (Linux Standard Base, "Exception Frames").
"""

from __future__ import annotations

import os
import struct
from typing import NamedTuple

from memtrace.collect.elf import Elf, NotElfError
from memtrace.collect.mapped import open_mapped

_PT_GNU_EH_FRAME = 0x6474E550
#: By the bytes of a word: (EM_X86_64 or EM_386, ELFCLASS64, the stack pointer's DWARF number).
_MACHINES = {8: (62, True, 7), 4: (3, False, 4)}
_PCREL_SDATA4, _DATAREL_SDATA4, _UDATA4 = 0x1B, 0x3B, 0x03
_MOST = 1 << 16  # bytes of one description


class _Unknown(Exception):  # noqa: N818 - never leaves this module
    """The tables do not tell, or not in a way that is read here."""


class Frame(NamedTuple):
    """A function as it is at one of its places.

    `back`: bytes from the stack pointer to the return address; None if that is not told. `loads`:
    the numbers that the code before the place, from the function's beginning on, puts into eax
    (`mov $number, %eax`). `called`: the instruction that ends there is a call.
    """

    back: int | None = None
    loads: frozenset[int] = frozenset()
    called: bool = False


class Frames:
    """Answers once per file and place."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, int, int], Frame] = {}

    def at(self, pid: int, dev: str, ino: int, path: str, place: int, word: int) -> Frame:
        """The function whose instruction ends at file offset `place`. `word`: bytes of an address
        in the calling code, 8 (x86-64) or 4 (i386); a file of the other kind tells nothing.
        """
        key = dev, ino, place, word
        if key not in self._known:
            self._known[key] = self._look(pid, ino, path, place, word)
        return self._known[key]

    @staticmethod
    def _look(pid: int, ino: int, path: str, place: int, word: int) -> Frame:
        fd = open_mapped(pid, ino, path)
        if fd is None:
            return Frame()
        try:
            return frame(Elf(fd), place, word)
        except NotElfError:
            return Frame()
        finally:
            os.close(fd)


def frame(elf: Elf, place: int, word: int) -> Frame:
    """The function whose instruction ends at file offset `place`, as far as the file tells."""
    address = elf.address(place - 1)
    machine, wide, stack_pointer = _MACHINES[word]
    if address is None or (elf.machine, elf.wide) != (machine, wide):
        return Frame()
    called = _is_call(elf.read(max(address - 6, 0), min(address, 6) + 1))
    try:
        begin, register, offset = _cfa(elf, _find(elf, address), address)
    except (struct.error, IndexError, ValueError, _Unknown):
        return Frame(called=called)
    loads = frozenset(_loaded(elf.read(begin, min(address + 1 - begin, _MOST))))
    # The return address is the word below the canonical frame address.
    told = register == stack_pointer and word <= offset < 1 << 20
    return Frame(offset - word if told else None, loads, called)


def _is_call(code: bytes) -> bool:
    """Whether code ends in a call: `e8 rel32`, or `ff /2` with the bytes of its operand."""
    if code[-5:-4] == b"\xe8":
        return True
    for size in (2, 3, 4, 6, 7):
        at = len(code) - size
        if (
            at >= 0
            and code[at] == 0xFF
            and code[at + 1] & 0x38 == 0x10
            and size == 2 + _operand(code[at + 1], code[at + 2 :])
        ):
            return True
    return False


def _operand(modrm: int, rest: bytes) -> int:
    """How many bytes of an operand follow its ModRM byte."""
    mode, register = modrm >> 6, modrm & 7
    sib = mode != 3 and register == 4
    direct = mode == 0 and (register == 5 or (sib and rest[:1] and rest[0] & 7 == 5))
    return sib + (4 if direct or mode == 2 else mode == 1)


def _loaded(code: bytes) -> list[int]:
    """What `mov $number, %eax` puts into eax, wherever these bytes stand."""
    found, at = [], code.find(b"\xb8")
    while 0 <= at <= len(code) - 5:
        found.append(int.from_bytes(code[at + 1 : at + 5], "little"))
        at = code.find(b"\xb8", at + 1)
    return found


def _find(elf: Elf, address: int) -> int:
    """The address of the frame description that covers an address, by the sorted table."""
    header = next((s for s in elf.segments if s.type == _PT_GNU_EH_FRAME), None)
    if header is None:
        raise _Unknown
    head = elf.read(header.address, 12)
    version, pointer, count, table = head[:4]
    if (version, pointer, count, table) != (1, _PCREL_SDATA4, _UDATA4, _DATAREL_SDATA4):
        raise _Unknown
    (entries,) = struct.unpack_from("<I", head, 8)
    low, high = 0, entries
    while high - low > 1:
        middle = (low + high) // 2
        (start,) = struct.unpack("<i", elf.read(header.address + 12 + 8 * middle, 4))
        if header.address + start <= address:
            low = middle
        else:
            high = middle
    start, at = struct.unpack("<2i", elf.read(header.address + 12 + 8 * low, 8))
    if header.address + start > address:
        raise _Unknown
    return header.address + int(at)


def _cfa(elf: Elf, at: int, address: int) -> tuple[int, int, int]:
    """(beginning of the function, register, offset): the canonical frame address at `address` by
    the description at `at`.
    """
    size, back = struct.unpack("<2I", elf.read(at, 8))
    if not 8 <= size < _MOST:
        raise _Unknown
    body = elf.read(at + 8, size - 4)
    common = _Common(elf, at + 4 - back)
    (start,) = struct.unpack_from("<i", body, 0)
    (length,) = struct.unpack_from("<I", body, 4)
    begin = at + 8 + start
    if not begin <= address < begin + length:
        raise _Unknown
    augmentation, position = _uleb(body, 8)
    rule = _run(common.program, common, None, 0, address - begin)
    return begin, *_run(body[position + augmentation :], common, rule, 0, address - begin)


class _Common:
    """A common information entry."""

    def __init__(self, elf: Elf, at: int) -> None:
        size, number = struct.unpack("<2I", elf.read(at, 8))
        if number or not 8 <= size < _MOST:
            raise _Unknown
        body = elf.read(at + 8, size - 4)
        version, end = body[0], body.index(b"\0", 1)
        letters, position = body[1:end].decode("ascii", "replace"), end + 1
        if version not in (1, 3) or not letters.startswith("z"):
            raise _Unknown
        self.code, position = _uleb(body, position)
        self.data, position = _sleb(body, position)
        _, position = (body[position], position + 1) if version == 1 else _uleb(body, position)
        length, position = _uleb(body, position)
        self.program = body[position + length :]
        for letter in letters[1:]:
            if letter == "R":
                if body[position] != _PCREL_SDATA4:
                    raise _Unknown
                return
            if letter == "L":
                position += 1
            elif letter == "P":
                # Four bytes: data4, or in 32-bit code that is not to be moved, an address.
                if body[position] & 0xF not in ((0x3, 0xB) if elf.wide else (0x0, 0x3, 0xB)):
                    raise _Unknown
                position += 5
            elif letter not in "SB":
                raise _Unknown
        raise _Unknown


def _run(
    program: bytes, common: _Common, rule: tuple[int, int] | None, now: int, until: int
) -> tuple[int, int]:
    """The rule for the canonical frame address after the instructions up to `until`."""
    register, offset = rule or (-1, 0)
    saved: list[tuple[int, int]] = []
    i = 0
    while i < len(program):
        op = program[i]
        i += 1
        kind, low = op & 0xC0, op & 0x3F
        if kind == 0x40 or op in (0x02, 0x03, 0x04):  # advance_loc
            if kind != 0x40:
                size = {0x02: 1, 0x03: 2, 0x04: 4}[op]
                low, i = int.from_bytes(program[i : i + size], "little"), i + size
            now += low * common.code
            if now > until:
                break
        elif kind == 0x80:  # offset
            _, i = _uleb(program, i)
        elif kind == 0xC0 or op == 0x00:  # restore, nop
            pass
        elif op == 0x0C:  # def_cfa
            register, i = _uleb(program, i)
            offset, i = _uleb(program, i)
        elif op == 0x0D:  # def_cfa_register
            register, i = _uleb(program, i)
        elif op == 0x0E:  # def_cfa_offset
            offset, i = _uleb(program, i)
        elif op == 0x0A:  # remember_state
            saved.append((register, offset))
        elif op == 0x0B:  # restore_state
            register, offset = saved.pop()
        elif op in (0x05, 0x09, 0x11):  # offset_extended, register, offset_extended_sf
            _, i = _uleb(program, i)
            _, i = _uleb(program, i)
        elif op in (0x06, 0x07, 0x08, 0x2E):  # restore_extended, undefined, same_value, args_size
            _, i = _uleb(program, i)
        elif op in (0x10, 0x16):  # expression, val_expression
            _, i = _uleb(program, i)
            length, i = _uleb(program, i)
            i += length
        else:  # def_cfa_expression and what is rarer still
            raise _Unknown
    return register, offset


def _uleb(data: bytes, i: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:  # of 64 bits; a longer one is nonsense that takes time
        byte = data[i]
        i += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, i
    raise _Unknown


def _sleb(data: bytes, i: int) -> tuple[int, int]:
    begin = i
    value, i = _uleb(data, i)
    bits = 7 * (i - begin)
    return value - (1 << bits) if value >> bits - 1 else value, i
