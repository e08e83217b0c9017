# SPDX-License-Identifier: GPL-2.0-or-later
"""One line of strace's output after the other: what it is, and what it ends that another began.

A line may be cut in three ways. strace itself cuts a call that is in flight when it has something
else to write, `<unfinished ...>`, and ends it in a line `<... mmap resumed>`. On a terminal its
messages tear a line, and so does whatever the program prints there: the line goes on in the next
one. And a file may be damaged.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from memtrace.collect.strace import forms
from memtrace.collect.strace.arguments import split
from memtrace.collect.strace.calls import ended, entered, exact
from memtrace.collect.strace.events import (
    Attached,
    Ended,
    Event,
    Forked,
    Mode,
    Signalled,
    Superseded,
    Unreadable,
)
from memtrace.collect.strace.flags import SIGNALS, UnclearError
from memtrace.collect.strace.inflight import Begun, Ending, InFlight
from memtrace.collect.strace.line import Result, leader, result
from memtrace.collect.strace.times import Times

_SHOWN = 200
_LONGEST = 1 << 20
#: How often one line may have been torn before it is given up.
_TEARS = 16
_NEVER = Result(None, None, None, injected=False, deleted=False, took=None)


class _Torn(NamedTuple):
    """The beginning of a line that something else has cut off. `own`: it was strace's message."""

    line: int
    text: bytes
    own: bool
    tears: int


class _Part(NamedTuple):
    """A call from its arguments on: `text[start:]`. `line`: what is shown if it cannot be read, and
    how often it has been torn. `head`: what is known of the call; its name is "" if it is not read.
    """

    text: bytes
    start: int
    line: bytes
    tears: int
    head: Begun
    time: int | None
    resumed: bool


class Reading:
    """What must be known of the lines before to read the next one.

    `line`: its number. `ignored`, `held`, `unreadable`: see `Parser`. `abi`: the mode of a thread,
    where it is not native. `plain`: the next line can be read by itself. `harmless`: names of calls
    that were met and are not read.
    """

    def __init__(self) -> None:
        self.line = self.ignored = self.held = self.unreadable = 0
        self.times = Times()
        self.prefix: str | None = None
        self.abi: dict[int, str | None] = {}
        self.harmless: set[bytes] = set()
        self._flying = InFlight()
        self.heads = self._flying.heads
        self._torn: _Torn | None = None
        self._table = False
        self._whole = True

    @property
    def plain(self) -> bool:
        """Whether nothing that stands before the next line changes what it says."""
        return self._torn is None and not self.abi

    def read(self, line: bytes, out: list[Event], *, whole: bool = True) -> None:
        """Read one line, without its newline. `whole`: it had one."""
        self.line += 1
        self._whole = whole
        if self.line == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        line = line.removesuffix(b"\r")
        if b"\x1b[" in line:
            line = forms.COLOUR.sub(b"", line)
        since, tears = self.line, 0
        torn = self._torn
        if torn is not None:
            if self._continues(torn, line):
                line, since, tears = torn.text + line, torn.line, torn.tears
                self._torn = None
            elif not torn.own and torn.tears < _TEARS and self._foreign(line):
                self._torn = torn._replace(tears=torn.tears + 1)
            elif not (torn.own and forms.MESSAGE.fullmatch(line)):
                self._torn = None
                self._cut(torn, out)
        self._one(line, since, tears, out)

    def skip(self, line: bytes, why: str, out: list[Event]) -> None:
        """A line that is not read."""
        self.line += 1
        self._unreadable(line, why, out)

    def close(self, out: list[Event]) -> None:
        """The log has ended."""
        if self._torn is not None:
            torn, self._torn = self._torn, None
            self._cut(torn, out)
        for tid in list(self.heads):
            self._unended(self._flying.pop(tid), out)

    def thread(self, lead: re.Match[bytes]) -> int:
        """The number before the line, 0 for none."""
        bracketed, number = lead.group(1, 2)
        if bracketed is not None:
            self.prefix = self.prefix or "pid"
            return int(bracketed)
        if number is not None:
            self.prefix = self.prefix or "number"
            return int(number)
        return 0

    def mode(self, tid: int) -> str | None:
        """The mode that a thread runs in. Lines name none while there is only one."""
        if tid or not self.abi:
            return self.abi.get(tid)
        modes = set(self.abi.values())
        return modes.pop() if len(modes) == 1 else None

    def _one(self, line: bytes, since: int, tears: int, out: list[Event]) -> None:
        lead = leader(line)
        at = lead.end()
        name = forms.NAME.match(line, at)
        if name is not None:
            self._call(line, since, tears, lead, name, out)
        elif line.startswith(b"<... ", at):
            self._resumed(line, since, tears, lead, out)
        elif not self._note(line, lead, out):
            why = "it has no form that strace writes"
            self._unreadable(line, why, out, lost=not self._foreign(line))

    # ---- calls ----

    def _call(
        self, line: bytes, since: int, tears: int, lead: re.Match[bytes],
        name: re.Match[bytes], out: list[Event],
    ) -> None:  # fmt: skip
        tid, time = self.thread(lead), self.times.of(lead)
        head = self._flying.pop(tid)
        if head is not None:
            shown = f"{head.name}(".encode() + head.text
            why = "another call of its thread follows, but it never ended"
            self._unreadable(shown, why, out, line=head.line)
        known = self._key(name.group(1))
        if known is None and self._whole and forms.QUIET_REST.fullmatch(line, name.end()):
            self.ignored += 1
            return
        shown_ip = lead.group(10)
        ip = None if shown_ip is None else int(shown_ip, 16)
        begun = Begun(since, tid, time, ip, known or "", b"")
        self._body(_Part(line, name.end(), line, tears, begun, time, resumed=False), out)

    def _resumed(
        self, line: bytes, since: int, tears: int, lead: re.Match[bytes], out: list[Event]
    ) -> None:
        tid, time = self.thread(lead), self.times.of(lead)
        found = forms.RESUMED.match(line, lead.end())
        if found is None:
            self._unreadable(line, "a resumed call has no name", out)
            return
        known = self._key(found.group(1))
        if known is None:
            if self._whole and forms.QUIET_REST.fullmatch(line, found.end()):
                self.ignored += 1
                return
            begun = Begun(since, tid, time, None, "", b"")
            self._body(_Part(line, found.end(), line, tears, begun, time, resumed=True), out)
            return
        head = self._flying.take(tid, known)
        if head is None:
            self._unreadable(line, "it ends a call whose beginning is missing", out)
            return
        text = head.text + line[found.end() :]
        if len(text) > _LONGEST:
            self._unreadable(line, "the call is longer than 1 MiB", out)
            return
        self._body(_Part(text, 0, line, tears, head, time, resumed=True), out)

    def _key(self, name: bytes) -> str | None:
        """The name of a call that is read, None of any other.

        Errors: a name that may be damaged counts as one that is read and cannot be (`_body`).
        """
        known = forms.key(name)
        if known is None and name not in self.harmless:
            if forms.damaged(name):
                return "?"
            if len(self.harmless) < 4096:
                self.harmless.add(name)
        return known

    def _body(self, part: _Part, out: list[Event]) -> None:
        text, head = part.text, part.head
        if head.name == "?":
            self._unreadable(part.line, "it names no system call, but nearly one", out)
            return
        if text.endswith(b" ...>"):
            if text.endswith((forms.UNFINISHED, forms.DETACHED)) or forms.CHANGED.search(text):
                self._unfinished(part, out)
                return
        elif text.endswith(b">") and forms.CANNOT_RESTART in text:
            at = text.rindex(forms.CANNOT_RESTART)
            self._unfinished(part._replace(text=text[:at] + forms.UNFINISHED), out)
            return
        try:
            args, end = split(text, part.start, b")")
            if end < 0:
                self._tear(part, out)
                return
            if args and args[-1].endswith(b"<unfinished ...>"):  # strace's print_event_exit
                last = args.pop()[:-16].rstrip()
                if last:
                    args.append(last)
            event = self._ending(part, args, end)
        except UnclearError as error:
            lost = error.lost and (head.name != "" or self._matters(part.line))
            self._unreadable(part.line, str(error), out, lost=lost)
            return
        if not self._whole and not text.endswith((b")", b">")):
            # strace ends each line: of this one nobody knows whether more digits would follow.
            self._unreadable(part.line, "the log is cut off in it", out, lost=head.name != "")
            return
        if event is None:
            self.ignored += 1
            return
        if isinstance(event, Forked) and event.child is not None and self.abi:
            # strace says the mode of a thread only when it changes; a child begins with its
            # parent's.
            abi = self.mode(event.tid)
            if abi is not None:
                self.abi.setdefault(event.child, abi)
        out.append(event)

    def _ending(self, part: _Part, args: list[bytes], end: int) -> Event | None:
        text, head = part.text, part.head
        if head.name:
            answer = result(text, end, exact=exact(head.name))
            abi = self.mode(head.tid)
            time = part.time if part.resumed else None
            return ended(head, args, Ending(self.line, head.tid, time, answer, abi))
        if not forms.QUIET_RESULT.match(text, end) or forms.hides(text, end, len(text)):
            raise UnclearError("its result cannot be read")
        if forms.hides(text, part.start, end):
            raise UnclearError("there is another call in it")
        return None

    def _unfinished(self, part: _Part, out: list[Event]) -> None:
        """A call that is cut: strace wrote something else, was detached, or its thread is about to
        become another one by exec.
        """
        text, head = part.text, part.head
        body = text[part.start : text.rindex(b" <")]
        changed = forms.CHANGED.search(text)
        told = len(out)
        if head.name:
            if not part.resumed:
                try:
                    args, end = split(body, 0, b")")
                    if end >= 0:
                        raise UnclearError("it is cut off behind its end")
                except UnclearError as error:
                    self._unreadable(part.line, str(error), out)
                    return
                event = entered(head, args, self.mode(head.tid))
                if event is not None:
                    out.append(event)
            self._flying.put(head._replace(text=body))
        elif not part.resumed and forms.hides(body, 0, len(body)):
            self._unreadable(part.line, "there is another call in it", out)
            return
        if changed is not None:
            process = int(changed.group(1))
            self._flying.change(head.tid, process)
            out.append(Superseded(self.line, process, None, head.tid))
        if text.endswith(forms.DETACHED):
            out.append(Attached(self.line, head.tid, detached=True))
        if len(out) == told:
            self.held += 1 if head.name else 0
            self.ignored += 0 if head.name else 1

    def _unended(self, head: Begun | None, out: list[Event]) -> None:
        """A call whose thread is gone, or that was in flight when the log ended."""
        if head is None or head.name in {"exit", "exit_group"}:
            return
        try:
            args, _ = split(head.text, 0, b")")
            end = Ending(self.line, head.tid, None, _NEVER, self.mode(head.tid))
            event = ended(head, args, end)
        except UnclearError as error:
            shown = f"{head.name}(".encode() + head.text
            self._unreadable(shown, f"it never ended, and {error}", out, line=head.line)
            return
        if event is not None:
            out.append(event)

    # ---- torn lines ----

    def _continues(self, torn: _Torn, line: bytes) -> bool:
        if torn.tears >= _TEARS or len(torn.text) + len(line) > _LONGEST:
            return False
        if line.startswith(forms.CONTINUES):
            return True
        if not torn.own or forms.MESSAGE.match(line):
            return False
        # strace's own message has torn it: strace goes on with it, whatever comes next in it.
        whole = leader(line).end() > 0 or forms.NAME.match(line) is not None
        return not whole and not line.startswith(forms.STARTS)

    def _tear(self, part: _Part, out: list[Event]) -> None:
        """A call's line that has no end: what follows may be in the next line."""
        line, head = part.line, part.head
        if part.resumed and head.name:
            self._flying.put(head)
        since = self.line if part.resumed else head.line
        message = forms.TORN_BY.search(line)
        if message is not None:
            self._torn = _Torn(since, line[: message.start()], own=True, tears=part.tears + 1)
            self._announce(message.group(), out)
            return
        inside = forms.INSIDE.search(line, 1)
        torn = _Torn(since, line, own=False, tears=part.tears + 1)
        if inside is None or part.tears >= _TEARS:
            self.held += 1
            self._torn = torn
            return
        torn = torn._replace(text=line[: inside.start()])
        self._one(line[inside.start() :], self.line, _TEARS, out)
        if self._torn is None:
            self._torn = torn
        else:
            self._cut(torn, out)

    def _cut(self, torn: _Torn, out: list[Event]) -> None:
        """A line whose end never came."""
        at = leader(torn.text).end()
        name = forms.NAME.match(torn.text, at)
        quiet = name is not None and self._key(name.group(1)) is None
        lost = not quiet or self._matters(torn.text)
        self._unreadable(torn.text, "the line is cut off", out, lost=lost, line=torn.line)

    @staticmethod
    def _foreign(line: bytes) -> bool:
        """Whether a line has nothing of a call: what a program printed between."""
        return leader(line).end() == 0 and not any(
            part in line for part in (b"(", b")", b"=", b"<...", b"+++", b"---", b"strace: ")
        )

    @staticmethod
    def _matters(line: bytes) -> bool:
        """Whether a line of a call that is not read may hold another one that is."""
        name = forms.NAME.search(line)
        return forms.MATTERS.search(line, 0 if name is None else name.end()) is not None

    # ---- lines that are no calls ----

    def _note(self, line: bytes, lead: re.Match[bytes], out: list[Event]) -> bool:
        """Signals, exits, messages, stacks, tables; False for none of them."""
        at = lead.end()
        if line.startswith(b"--- ", at):
            signal = forms.SIGNAL.fullmatch(line, at)
            if signal is None:
                return False
            stopped, name = signal.groups()
            tid, time = self.thread(lead), self.times.of(lead)
            child = name == b"SIGCHLD" and forms.CHILD.match(line, signal.end(2)) is not None
            out.append(Signalled(self.line, tid, time, name.decode(), stopped is not None, child))
            return True
        if line.startswith(b"+++ ", at):
            end = forms.END.fullmatch(line, at)
            return end is not None and self._ended(end, lead, out)
        if forms.MESSAGE.fullmatch(line, at):
            self.times.of(lead)
            self._announce(line[at:], out)
            return True
        if at:
            return False
        table = forms.TABLE.match(line) is not None
        self._table = self._table or table
        if (
            table
            or (self._table and forms.TABLE_ROW.fullmatch(line))
            or line.startswith(forms.BELOW)
            or not line.strip()
            or forms.OTHER_MESSAGE.match(line)
        ):
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
        tid, time = self.thread(lead), self.times.of(lead)
        if by is not None:
            self._unended(self._flying.supersede(tid, int(by)), out)
            if int(by) in self.abi:
                self.abi[tid] = self.abi.pop(int(by))
            out.append(Superseded(self.line, tid, time, int(by)))
            return True
        self._unended(self._flying.pop(tid), out)
        self.abi.pop(tid, None)
        out.append(Ended(self.line, tid, time, None if code is None else int(code), number))
        return True

    def _announce(self, message: bytes, out: list[Event]) -> None:
        found = forms.MESSAGE.fullmatch(message)
        pid, what, switched, mode = (None,) * 4 if found is None else found.groups()
        if switched is not None and mode is not None:
            abi = forms.MODES[mode]
            if abi is None:
                self.abi.pop(int(switched), None)
            else:
                self.abi[int(switched)] = abi
            out.append(Mode(self.line, int(switched), abi))
        elif pid is not None and what in {b"attached", b"detached"}:
            out.append(Attached(self.line, int(pid), what == b"detached"))
        else:
            self.ignored += 1

    def _unreadable(
        self, text: bytes, why: str, out: list[Event], *, lost: bool = True, line: int | None = None
    ) -> None:
        self.unreadable += 1
        out.append(Unreadable(self.line if line is None else line, text[:_SHOWN], why, lost))
