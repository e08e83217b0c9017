# SPDX-License-Identifier: GPL-2.0-or-later
"""Events as text, one a line, and the stored logs beside which they stand (NAME.log, NAME.events).

python -m tests.unit.collect.strace.told LOG     writes LOG's events, for the eye to check
"""

from __future__ import annotations

import sys
from pathlib import Path

from memtrace.collect.strace.events import Event
from memtrace.collect.strace.parser import Parser

DATA = Path(__file__).parents[3] / "data" / "strace"
LOGS = sorted(DATA.glob("*/*.log"))


def read(data: bytes) -> tuple[list[Event], Parser]:
    """All events of a log."""
    parser = Parser()
    return parser.feed(data) + parser.close(), parser


def told(event: Event) -> str:
    """`LINE TID Kind field=value ...`, without what is not said; LINE is SINCE-LINE for two."""
    out, where = [type(event).__name__], str(event.line)
    t0 = getattr(event, "t0", None)
    for name in event.__struct_fields__:
        value = getattr(event, name)
        if name == "since" and value != event.line:
            where = f"{value}-{event.line}"
        elif name == "t1" and value is not None:
            out.append(f"took={value - t0}")
        elif name in {"t0", "t"} and value is not None:
            out.append(f"{name}={value}")
        elif name not in {"line", "tid", "since"} and value is not None and value is not False:
            out.append(f"{name}={_shown(value)}")
    return f"{where} {getattr(event, 'tid', '-')} {' '.join(out)}"


def _shown(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_shown(v) for v in value) + "]"
    if isinstance(value, int) and (value >= 1 << 22 or (value and value % 4096 == 0)):
        return f"{value:#x}"
    return repr(value)


def page(data: bytes) -> str:
    """What a stored log must say."""
    events, parser = read(data)
    counts = f"lines={parser.lines} ignored={parser.ignored} held={parser.held}"
    clock = f"clock={parser.clock} epoch={parser.epoch} prefix={parser.prefix}"
    return "\n".join([f"{counts} {clock}", *(told(e) for e in events)]) + "\n"


if __name__ == "__main__":
    for log in sys.argv[1:]:
        path = Path(log)
        path.with_suffix(".events").write_text(page(path.read_bytes()))
