# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures of the live tests: where the samples are, and what makes a trace."""

from __future__ import annotations

import fcntl
import itertools
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.live.driving import Drive, Driven, driver
from tests.live.lacking import LACKED
from tests.live.tracing import REPRODUCED, ROOT, Traced, trace

BUILT = ROOT / "build" / "samples"
#: Programs to be traced, not modules.
collect_ignore_glob = ["corpus/*", "services/*"]


# What is ignored stays so across execve, and programs that should die of it would not: under nohup,
# or in the background of a script. A handler is not inherited, and changes nothing for the tests.
for _ignored in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(_ignored) is signal.SIG_IGN:
        signal.signal(_ignored, lambda *_: None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here traces real processes."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.live)


@pytest.fixture(autouse=True)
def _reproduced(record_property: Callable[[str, object], None]) -> Iterator[None]:
    """The kernel maps that the test's traces reproduced, for the session's count of them; and what
    its programs lacked.
    """
    REPRODUCED.clear()
    LACKED.clear()
    yield
    for call, name in LACKED.items():
        record_property("lacked", (call, name))
    for found in REPRODUCED.values():
        record_property("reproduced", found)


@pytest.fixture(scope="session")
def samples() -> Path:
    """The folder of the built samples; built by one worker while the others wait."""
    BUILT.mkdir(parents=True, exist_ok=True)
    with (BUILT / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run(
            ["make", "-s", "-C", str(ROOT / "samples"), f"OUT={BUILT}"],
            check=True, capture_output=True,
        )  # fmt: skip
    return BUILT


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Traced]:
    """`trace` into a fresh file; `suffix` names its form (`.json`, `.json.gz`, `.json.zst`)."""
    numbers = itertools.count()

    def go(*argv: str | bytes | Path, options: tuple[str, ...] = (), suffix: str = ".json",
           **kw: object) -> Traced:  # fmt: skip
        return trace(tmp_path / f"t{next(numbers)}{suffix}", argv, *options, **kw)  # type: ignore[arg-type]

    return go


@pytest.fixture
def sample(run: Callable[..., Traced], samples: Path) -> Callable[..., Traced]:
    """A sample by name and arguments, traced; it must have ended well."""

    def go(name: str, *arguments: object, **kw: object) -> Traced:
        done = run(samples / name, *map(str, arguments), **kw)
        assert done.returncode == 0, done.stderr
        return done

    return go


@pytest.fixture
def drv(run: Callable[..., Traced]) -> Drive:
    """The driver's operations, as words of one text, traced; it must have ended well. `form` names
    how it is built (`driving.FORMS`), `before` words in front of it.
    """

    def go(ops: str, form: str = "", **kw: object) -> Driven:
        done = run(driver(form), *ops.split(), **kw)
        assert done.returncode == 0, f"{done.stderr}{done.account[-3:]}"
        return Driven(done)

    return go
