# SPDX-License-Identifier: GPL-2.0-or-later
"""strace's output, as bytes, to events. Sans-IO: any split of the bytes gives the same events.

Of the calls only those are read whose name stands in `calls.NAMES`; any other line of a call is
recognised and gives no event. What cannot be read, or not with certainty, is `Unreadable`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from memtrace.collect.strace.arguments import split
from memtrace.collect.strace.calls import NAMES, Begun, Ending, ended, entered
from memtrace.collect.strace.events import (
    Attached,
    Ended,
    Entered,
    Event,
    Forked,
    Mode,
    Signalled,
    Superseded,
    Unreadable,
)
from memtrace.collect.strace.flags import SIGNALS, UnclearError
from memtrace.collect.strace.line import SCALE, UNIT, Result, leader, result

#: A longer line is not read: its first bytes are kept for the message.
LONGEST = 1 << 20
SHOWN = 200
#: How often one line may have been torn by messages before it is given up.
_TEARS = 16
_DAY = 86_400_000_000_000

_NAME = re.compile(rb"([A-Za-z_][A-Za-z0-9_]*+|\?{4})\(")
#: From behind `name(` to the end of the line, for a call that is not read: one pair of brackets,
#: one result. A line that something was glued to has two of one of them and is looked at closely.
_QUIET = re.compile(rb'(?:[^"()=]++|"(?:[^"\\]++|\\.)*+"|=(?! ))*+\) *+= [-0-9?][^"()=]*+(?:\([^"()=]*+\)(?: <[0-9.]++>)?+)?+', re.DOTALL)  # noqa: E501 # fmt: skip
_QUIET_END = re.compile(rb" *+= [-0-9?\"]")
_RESUMED = re.compile(rb"<\.\.\. ([A-Za-z_?][A-Za-z0-9_?]*+) resumed>")
_SIGNAL = re.compile(rb"--- (stopped by )?([A-Z0-9_]++)(?: .*)? ---", re.DOTALL)
_END = re.compile(
    rb"\+\+\+ (?:exited with (\d{1,9})|killed by ([A-Z0-9_]++)(?: \(core dumped\))?"
    rb"|superseded by execve in pid (\d{1,7})) \+\+\+"
)
_MESSAGE = re.compile(
    rb"(?:(?:[^\s()\"]*+/)?+strace: )?+(?:"
    rb"Process (\d{1,7}+) (attached|detached|suspended|resumed)"
    rb"(?: \([^()]*+\)| with \d++ threads)?+"
    rb"|\[ Process PID=(\d{1,7}+) runs in (64 bit|32 bit|x32) mode\. \])"
)
#: The same at the end of a line that it has torn.
_TORN = re.compile(
    rb"(?:strace: )?(?:Process \d{1,7}+ (?:attached|detached)(?: with \d++ threads)?+"
    rb"|\[ Process PID=\d{1,7}+ runs in (?:64 bit|32 bit|x32) mode\. \])$"
)
_INSIDE = re.compile(rb"\[pid ++\d{1,7}+\] (?=[a-z_]++[a-z0-9_]*+\(|<\.\.\. |\+\+\+ |--- )")
_CHANGED = re.compile(rb" <pid changed to (\d{1,7}+) \.\.\.>$")
_MODES = {b"64 bit": None, b"32 bit": "i386", b"x32": "x32"}
_COLOUR = re.compile(rb"\x1b\[[0-9;]*+[mK]")
_TABLE_HEAD = re.compile(rb"% time +seconds +|System call usage summary for ")
_TABLE_ROW = re.compile(rb" *+\d++\.\d\d++ .*|-{3,}+[- ]*+")
_CONTINUES = (
    b")",
    b",",
    b"]",
    b"}",
    b" <unfinished ...>",
    b" <detached ...>",
    b" => ",
    b" <pid ch",
)
_STARTS = (b"+++ ", b"--- ", b"<... ", b"strace: ", b"[ Process PID=")

_INTEREST = {name.encode(): name for name in NAMES}
_ALL_NAMES = b"|".join(sorted(_INTEREST)) + b"|syscall_0x"
_MATTERS = re.compile(rb"(?:" + _ALL_NAMES + rb")|resumed>|superseded|exited|killed")
_NEVER = Result(None, None, None, False, False, None)
_UNFINISHED = b" <unfinished ...>"


class _Torn(NamedTuple):
    """The beginning of a line that something else has cut off. `own`: it was strace's message."""

    line: int
    text: bytes
    own: bool
    tears: int


class Parser:
    """Reads strace's output piece by piece.

    `lines`: read so far. `ignored`: lines that are strace's and give no event. `held`: lines whose
    event came later, with another line, if at all. `unreadable`: how many of them there were.
    `clock`: the precision of the log's time, "s", "ms", "us" or "ns", None as long as there is
    none; `epoch`: what it counts from: "unix" (-ttt), "day" (-t, -tt; a new day is noticed) or
    "start" (-r: the first line). `prefix`: how a line names its thread, "pid" (`[pid N]`),
    "number", None for not at all.

    Args:
        tid: of lines that name none (a file of a `-ff` set).
        heads: calls in flight, by thread. Parsers of one `-ff` set share it: a thread that execs
            begins the call in its own file and ends it in that of its process.
    """

    def __init__(self, tid: int = 0, heads: dict[int, Begun] | None = None) -> None:
        self.lines = self.ignored = self.held = self.unreadable = 0
        self.clock: str | None = None
        self.epoch: str | None = None
        self.prefix: str | None = None
        self._tid = tid
        self._heads = {} if heads is None else heads
        self._abi: dict[int, str | None] = {}
        self._rest = bytearray()
        self._long = 0
        self._torn: _Torn | None = None
        self._table = False
        self._elapsed = self._days = self._last = 0

    @property
    def rest(self) -> bytes:
        """The beginning of a line whose end has not been fed yet."""
        return bytes(self._rest)

    def feed(self, data: bytes) -> list[Event]:
        """What the complete lines say, with those that were begun before."""
        out: list[Event] = []
        newline = data.rfind(b"\n")
        if newline < 0:
            self._keep(data)
            return out
        if self._rest or self._long:
            first = data.index(b"\n")
            self._keep(data[:first])
            self._flush(out)
            if first == newline:
                self._keep(data[first + 1 :])
                return out
            lines = data[first + 1 : newline].split(b"\n")
        else:
            lines = data[:newline].split(b"\n")
        for line in lines:
            self._line(line, out)
        if newline + 1 < len(data):
            self._keep(data[newline + 1 :])
        return out

    def close(self) -> list[Event]:
        """The last line, if it has no newline, and the calls that have not ended."""
        out: list[Event] = []
        if self._rest or self._long:
            self._flush(out)
        if self._torn is not None:
            torn, self._torn = self._torn, None
            self._cut(torn, out)
        for tid in list(self._heads):
            self._unended(tid, out)
        return out

    def entry(self, piece: bytes) -> Entered | None:
        """The call in flight of which strace has written `piece`, the beginning of a line up to its
        arguments. Changes nothing; None if it is no call that is told or not a whole beginning.
        """
        found = leader(piece)
        name = _NAME.match(piece, found.end())
        key = None if name is None else self._key(name.group(1))
        if name is None or key is None:
            return None
        tid = self._thread(found)
        head = Begun(self.lines + 1, tid, None, None, key, piece[name.end() :])
        head = head._replace(t0=self._peek(found))
        try:
            args, end = split(piece, name.end(), b")")
        except UnclearError:
            return None
        return None if end >= 0 else entered(head, args, self._abi.get(tid))

    # ---- bytes to lines ----

    def _keep(self, data: bytes) -> None:
        if self._long:
            self._long += len(data)
            return
        self._rest += data
        if len(self._rest) > LONGEST:
            self._long = len(self._rest)
            del self._rest[SHOWN:]

    def _flush(self, out: list[Event]) -> None:
        line, long = bytes(self._rest), self._long
        self._rest.clear()
        self._long = 0
        if long:
            self.lines += 1
            self._unreadable(self.lines, line, "the line is longer than 1 MiB", out)
        else:
            self._line(line, out)

    def _line(self, line: bytes, out: list[Event]) -> None:
        self.lines += 1
        if len(line) > LONGEST:
            self._unreadable(self.lines, line, "the line is longer than 1 MiB", out)
            return
        self._general(line, out)

    # ---- one line ----

    def _general(self, line: bytes, out: list[Event]) -> None:
        since = self.lines
        if since == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        line = line.removesuffix(b"\r")
        if b"\x1b[" in line:
            line = _COLOUR.sub(b"", line)
        torn = self._torn
        tears = 0
        if torn is not None:
            if self._continues(torn, line):
                line, since, tears = torn.text + line, torn.line, torn.tears
                self._torn = None
            elif not (torn.own and _MESSAGE.fullmatch(line)):
                self._torn = None
                self._cut(torn, out)
        found = leader(line)
        at = found.end()
        name = _NAME.match(line, at)
        if name is not None:
            self._call(line, since, tears, found, name, out)
        elif line.startswith(b"<... ", at):
            self._resumed(line, since, tears, found, out)
        elif not self._note(line, found, out):
            self._strange(line, out)

    def _continues(self, torn: _Torn, line: bytes) -> bool:
        if torn.tears >= _TEARS or len(torn.text) + len(line) > LONGEST:
            return False
        if line.startswith(_CONTINUES):
            return True
        if not torn.own or _MESSAGE.match(line):
            return False
        # strace's own message has torn it: strace goes on with it, whatever comes next in it.
        found = leader(line)
        return found.end() == 0 and _NAME.match(line) is None and not line.startswith(_STARTS)

    def _call(
        self, line: bytes, since: int, tears: int, lead: re.Match[bytes],
        name: re.Match[bytes], out: list[Event],
    ) -> None:  # fmt: skip
        tid, time = self._thread(lead), self._time(lead)
        start = name.end()
        key = self._key(name.group(1))
        if tid in self._heads:
            self._overtaken(tid, out)
        if key is None and _QUIET.fullmatch(line, start):
            self.ignored += 1
            return
        head = Begun(since, tid, time, self._ip(lead), key or "", b"")
        self._body(line, start, tears, head, time, out)

    def _resumed(
        self, line: bytes, since: int, tears: int, lead: re.Match[bytes], out: list[Event]
    ) -> None:
        tid, time = self._thread(lead), self._time(lead)
        found = _RESUMED.match(line, lead.end())
        if found is None:
            self._unreadable(self.lines, line, "a resumed call has no name", out)
            return
        name = found.group(1)
        key = self._key(name)
        if key is None:
            if _QUIET.fullmatch(line, found.end()):
                self.ignored += 1
                return
            self._body(line, found.end(), tears, Begun(since, tid, time, None, "", b""), time, out)
            return
        head = self._head_of(tid, key)
        if head is None:
            self._unreadable(self.lines, line, "it ends a call whose beginning is missing", out)
            return
        text = head.text + line[found.end() :]
        if len(text) > LONGEST:
            self._unreadable(self.lines, line, "the call is longer than 1 MiB", out)
            return
        self._body(text, 0, tears, head._replace(tid=tid or head.tid), time, out, resumed=line)

    def _body(
        self, line: bytes, start: int, tears: int, head: Begun, time: int | None,
        out: list[Event], resumed: bytes | None = None,
    ) -> None:  # fmt: skip
        """A call from its arguments on. `resumed`: the line that `line` was put together with."""
        shown = resumed or line
        if line.endswith(b" ...>"):
            if line.endswith((_UNFINISHED, b" <detached ...>")) or _CHANGED.search(line):
                self._unfinished(line, start, head, resumed, out)
                return
        elif line.endswith(b">") and b" <Cannot restart pid " in line:
            at = line.rindex(b" <Cannot restart pid ")
            self._unfinished(line[:at] + _UNFINISHED, start, head, resumed, out)
            return
        try:
            args, end = split(line, start, b")")
        except UnclearError as error:
            self._unreadable(
                self.lines, shown, str(error), out, lost=error.lost and self._lost(head, shown)
            )
            return
        if end < 0:
            self._tear(shown, tears, head, resumed, out)
            return
        if args and args[-1].endswith(b"<unfinished ...>"):  # print_event_exit of strace
            args[-1] = args[-1][:-16].rstrip()
            if not args[-1]:
                args.pop()
        try:
            if not head.name:
                if _QUIET_END.match(line, end) and not _MATTERS.search(line, end):
                    self.ignored += 1
                    return
                raise UnclearError("its result cannot be read")
            answer = result(line, end)
            event = ended(
                head, args, Ending(self.lines, head.tid, time, answer, self._abi.get(head.tid))
            )
        except UnclearError as error:
            self._unreadable(
                self.lines, shown, str(error), out, lost=error.lost and self._lost(head, shown)
            )
            return
        if event is None:
            self.ignored += 1
            return
        if isinstance(event, Forked) and event.child is not None:
            abi = self._abi.get(event.tid)
            if abi is not None:
                self._abi.setdefault(event.child, abi)
        out.append(event)

    def _unfinished(
        self, line: bytes, start: int, head: Begun, resumed: bytes | None, out: list[Event]
    ) -> None:
        """A call that is cut: strace wrote something else, was detached, or its thread has become
        another one by exec.
        """
        body = line[start : line.rindex(b" <")]
        detached = line.endswith(b" <detached ...>")
        changed = _CHANGED.search(line)
        told = len(out)
        if head.name:
            if resumed is None:
                try:
                    args, end = split(body, 0, b")")
                except UnclearError as error:
                    self._unreadable(self.lines, line, str(error), out)
                    return
                if end >= 0:
                    self._unreadable(self.lines, line, "it is cut off behind its end", out)
                    return
                event = entered(head, args, self._abi.get(head.tid))
                if event is not None:
                    out.append(event)
            key = head.tid if changed is None else int(changed.group(1))
            self._heads[key] = head._replace(tid=key, text=body)
        if changed is not None:
            out.append(Superseded(self.lines, int(changed.group(1)), None, head.tid))
        if detached:
            out.append(Attached(self.lines, head.tid, detached=True))
        if len(out) == told:
            if head.name:
                self.held += 1
            else:
                self.ignored += 1

    def _tear(
        self, line: bytes, tears: int, head: Begun, resumed: bytes | None, out: list[Event]
    ) -> None:
        """A call's line that has no end: what follows may be in the next line."""
        message = _TORN.search(line)
        if resumed is not None and head.name:
            self._heads[head.tid] = head
        if message is not None:
            self._torn = _Torn(self.lines, line[: message.start()], own=True, tears=tears + 1)
            self._announce(message.group(), out)
            return
        inside = _INSIDE.search(line, 1)
        if inside is not None:
            self._torn = None
            rest = line[inside.start() :]
            torn = _Torn(self.lines, line[: inside.start()], own=False, tears=tears + 1)
            found = leader(rest)
            name = _NAME.match(rest, found.end())
            if name is not None:
                self._call(rest, self.lines, _TEARS, found, name, out)
            elif rest.startswith(b"<... ", found.end()):
                self._resumed(rest, self.lines, _TEARS, found, out)
            elif not self._note(rest, found, out):
                self._strange(rest, out)
            if self._torn is None:
                self._torn = torn
            else:
                self._cut(torn, out)
            return
        self.held += 1
        self._torn = _Torn(self.lines, line, own=False, tears=tears + 1)

    def _cut(self, torn: _Torn, out: list[Event]) -> None:
        """A line whose end never came."""
        found = leader(torn.text)
        at = found.end()
        name = _NAME.match(torn.text, at)
        quiet = name is not None and self._key(name.group(1)) is None
        lost = not quiet or _MATTERS.search(torn.text, at) is not None
        if torn.line != self.lines or not torn.own:
            self.held -= 0 if torn.own else 1
        self._unreadable(torn.line, torn.text, "the line is cut off", out, lost=lost)

    # ---- lines that are no calls ----

    def _note(self, line: bytes, lead: re.Match[bytes], out: list[Event]) -> bool:
        """Signals, exits, messages, stacks, tables; False for none of them."""
        at = lead.end()
        if line.startswith(b"--- ", at):
            found = _SIGNAL.fullmatch(line, at)
            if found is None:
                return False
            tid, time = self._thread(lead), self._time(lead)
            signal = found.group(2).decode()
            out.append(Signalled(self.lines, tid, time, signal, found.group(1) is not None))
            return True
        if line.startswith(b"+++ ", at):
            found = _END.fullmatch(line, at)
            if found is None:
                return False
            return self._ended(found, lead, out)
        found = _MESSAGE.fullmatch(line, at)
        if found is not None:
            self._time(lead)
            self._announce(line[at:], out)
            return True
        if at:
            return False
        if line.startswith((b" > ", b" | ", b"strace: ")) or not line.strip():
            self.ignored += 1
            return True
        if _TABLE_HEAD.match(line):
            self._table = True
            self.ignored += 1
            return True
        if self._table and _TABLE_ROW.fullmatch(line):
            self.ignored += 1
            return True
        return False

    def _ended(self, found: re.Match[bytes], lead: re.Match[bytes], out: list[Event]) -> bool:
        code, signal, by = found.groups()
        number = None
        if signal is not None:
            number = int(signal) if signal.isdigit() else SIGNALS.get(signal)
            if number is None:
                return False
        tid, time = self._thread(lead), self._time(lead)
        if by is not None:
            thread = int(by)
            if tid in self._heads and thread in self._heads:
                self._unended(tid, out)  # the leader's call ended with it
            if thread in self._heads:
                self._heads[tid] = self._heads.pop(thread)._replace(tid=tid)
            if thread in self._abi:
                self._abi[tid] = self._abi.pop(thread)
            out.append(Superseded(self.lines, tid, time, thread))
            return True
        self._unended(tid, out)
        self._abi.pop(tid, None)
        out.append(Ended(self.lines, tid, time, None if code is None else int(code), number))
        return True

    def _announce(self, message: bytes, out: list[Event]) -> None:
        found = _MESSAGE.fullmatch(message)
        if found is None:
            self.ignored += 1
            return
        pid, what, switched, mode = found.groups()
        if switched is not None:
            abi = _MODES[mode]
            self._abi[int(switched)] = abi
            out.append(Mode(self.lines, int(switched), abi))
        elif what in {b"attached", b"detached"}:
            out.append(Attached(self.lines, int(pid), what == b"detached"))
        else:
            self.ignored += 1

    def _strange(self, line: bytes, out: list[Event]) -> None:
        lost = any(char in line for char in (b"(", b")", b"=")) or bool(_MATTERS.search(line))
        found = leader(line)
        lost = lost or found.end() > 0
        self._unreadable(self.lines, line, "it has no form that strace writes", out, lost=lost)

    # ---- calls in flight ----

    def _head_of(self, tid: int, name: str) -> Begun | None:
        """Take the call in flight that a line resumes. strace names no thread while there is only
        one: then the one call of that name is meant.
        """
        head = self._heads.get(tid)
        if head is None and tid and 0 in self._heads:
            tid, head = 0, self._heads[0]
        elif head is None and not tid:
            same = [t for t, h in self._heads.items() if h.name == name]
            if len(same) == 1:
                tid, head = same[0], self._heads[same[0]]
        if head is None or head.name != name:
            return None
        del self._heads[tid]
        return head

    def _overtaken(self, tid: int, out: list[Event]) -> None:
        head = self._heads.pop(tid)
        shown = f"{head.name}(".encode() + head.text
        why = "another call of its thread follows, but it never ended"
        self._unreadable(head.line, shown, why, out)

    def _unended(self, tid: int, out: list[Event]) -> None:
        """A call whose thread is gone, or that was in flight when the log ended."""
        head = self._heads.pop(tid, None)
        if head is None or head.name in {"exit", "exit_group"}:
            return
        try:
            args, _ = split(head.text, 0, b")")
            event = ended(head, args, Ending(self.lines, tid, None, _NEVER, self._abi.get(tid)))
        except UnclearError as error:
            shown = f"{head.name}(".encode() + head.text
            self._unreadable(head.line, shown, f"{error}, and it never ended", out)
            return
        if event is not None:
            out.append(event)

    # ---- small things ----

    def _key(self, name: bytes) -> str | None:
        """The name of a call that is read, None of any other. `????(`: strace could not read which
        call it was because its thread was killed on entry: the kernel does not run it then
        (ptrace_report_syscall_entry).
        """
        key = _INTEREST.get(name)
        if key is None and name.startswith(b"syscall_0x"):
            digits = name[10:]
            if 0 < len(digits) <= 16 and not digits.strip(b"0123456789abcdef"):
                return name.decode()
        return key

    def _thread(self, lead: re.Match[bytes]) -> int:
        bracketed, number = lead.group(1, 2)
        if bracketed is not None:
            self.prefix = "pid"
            return int(bracketed)
        if number is not None:
            self.prefix = "number"
            return int(number)
        return self._tid

    def _ip(self, lead: re.Match[bytes]) -> int | None:
        shown = lead.group(10)
        return None if shown is None else int(shown, 16)

    def _peek(self, lead: re.Match[bytes]) -> int | None:
        kept = self.clock, self.epoch, self._elapsed, self._days, self._last
        time = self._time(lead)
        self.clock, self.epoch, self._elapsed, self._days, self._last = kept
        return time

    def _time(self, lead: re.Match[bytes]) -> int | None:
        """The time of a line in ns. Called once for each line that has one: -r counts on."""
        hours, minutes, seconds, epoch, part, relative, small = lead.group(3, 4, 5, 6, 7, 8, 9)
        places = len(part) if part is not None else 0
        absolute = None
        if epoch is not None:
            absolute = int(epoch) * 1_000_000_000
            kind = "unix"
        elif hours is not None:
            absolute = ((int(hours) * 60 + int(minutes)) * 60 + int(seconds)) * 1_000_000_000
            kind = "day"
        if relative is not None:
            fine = len(small) if small is not None else 0
            self._elapsed += int(relative) * 1_000_000_000
            if small is not None:
                self._elapsed += int(small) * SCALE[fine]
            if absolute is None or fine > places:
                self.clock, self.epoch = UNIT[fine], "start"
                return self._elapsed
        if absolute is None:
            return None
        if part is not None:
            absolute += int(part) * SCALE[places]
        if kind == "day":
            absolute += self._days
            if absolute < self._last - _DAY // 2:
                self._days += _DAY
                absolute += _DAY
            self._last = absolute
        self.clock, self.epoch = UNIT[places], kind
        return absolute

    def _lost(self, head: Begun, line: bytes) -> bool:
        """Whether an unreadable line may have held a call that matters."""
        if head.name:
            return True
        name = _NAME.search(line)
        return name is None or _MATTERS.search(line, name.end()) is not None

    def _unreadable(
        self, line: int, text: bytes, why: str, out: list[Event], *, lost: bool = True
    ) -> None:  # fmt: skip
        self.unreadable += 1
        out.append(Unreadable(line, text[:SHOWN], why, lost))
