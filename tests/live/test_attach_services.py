# SPDX-License-Identifier: GPL-2.0-or-later
"""Services that are attached to and let go again and again while they serve: no request is lost,
none fails, every trace is exact, and nothing of the trace stays on them.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import pytest
from tests.live.attaching import assert_detached, assert_free, attaching
from tests.live.tracing import PATIENCE, until

SERVICES = Path(__file__).parent / "services"
#: Requests that must be answered while attached, and afterwards.
SOME = 5


class Session(Protocol):
    """One connection to a service, never made anew."""

    def ask(self, n: int) -> None:
        """Send request number n and check the answer."""

    def close(self) -> None:
        """End it."""


def the_sum(n: int) -> str:
    """What the services of ours answer to n."""
    return f"{n} {n * 7919 % 600_000 * (n % 251)}"


class Http:
    """GET /n, on one connection."""

    def __init__(self, port: int) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        self._http.connect()
        self._http.auto_open = 0  # a lost connection is an error

    def ask(self, n: int) -> None:
        self._http.request("GET", f"/{n}")
        response = self._http.getresponse()
        assert (response.status, response.read().decode()) == (200, the_sum(n))

    def close(self) -> None:
        self._http.close()


class Redis:
    """Commands of which each answer is known: a counter that misses nothing, values of all sizes
    read back, memory given back, and now and then a BGSAVE, which forks.
    """

    _names = itertools.count()

    def __init__(self, port: int) -> None:
        self._name = f"c{next(self._names)}"
        self._socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self._file = self._socket.makefile("rb")

    def ask(self, n: int) -> None:
        value = bytes([n % 251]) * (n * 7919 % 400_000)
        key = f"{self._name}:{n % 40}"
        assert self._told("INCR", self._name) == n
        assert self._told("SET", key, value) == "OK"
        assert self._told("GET", key) == value
        if n % 10 == 1:
            assert self._told("MEMORY", "PURGE") == "OK"  # jemalloc's madvise
        if n % 50 == 1:
            started = "Background saving started", "ERR Background save already in progress"
            assert self._told("BGSAVE") in started

    def _told(self, *words: str | bytes) -> object:
        parts = [w.encode() if isinstance(w, str) else w for w in words]
        self._socket.sendall(
            b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(p), p) for p in parts)
        )
        line = self._file.readline()
        assert line.endswith(b"\r\n"), line
        kind, rest = line[:1], line[1:-2].decode()
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return self._file.read(int(rest) + 2)[:-2]
        return rest

    def close(self) -> None:
        self._file.close()
        self._socket.close()


class Lines:
    """A line to a program's stdin, one back from its stdout."""

    def __init__(
        self, into: IO[bytes], out: IO[bytes], question: Callable[[int], str],
        answer: Callable[[int], str],
    ) -> None:  # fmt: skip
        self._into, self._out, self._question, self._answer = into, out, question, answer

    def ask(self, n: int) -> None:
        self._into.write(self._question(n).encode() + b"\n")
        self._into.flush()
        assert self._out.readline().decode().rstrip("\n") == self._answer(n)

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Service:
    """A running service: the process to attach to, and how to get a session."""

    pid: int
    session: Callable[[], Session]
    sessions: int = 2
    port: int = 0


def free_port() -> int:
    """A port of loopback that nobody has; below those that the kernel gives to clients."""
    while True:
        port = random.randrange(12_000, 30_000)
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("127.0.0.1", port))
            return port


@contextmanager
def served(
    argv: list[str | Path], folder: Path, end: signal.Signals = signal.SIGKILL
) -> Iterator[subprocess.Popen[bytes]]:
    """A server process; ended by a signal, by when it must not have ended by itself."""
    with (folder / "service.log").open("wb") as log, subprocess.Popen(
        argv, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
    ) as server:  # fmt: skip
        try:
            yield server
            assert server.poll() is None, (folder / "service.log").read_text()
        finally:
            server.send_signal(end)


def at_port(session: type[Http | Redis], port: int, server: subprocess.Popen[bytes]) -> Service:
    """The service at a port, once it answers there."""

    def ask() -> list[int]:
        assert server.poll() is None, server.args
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), PATIENCE):
            return [1]
        return []

    until(ask)
    return Service(server.pid, lambda: session(port), port=port)


def needs(program: str) -> None:
    """Skip where it is not installed (which is a failure where live tests are required)."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


@contextmanager
def redis(folder: Path) -> Iterator[Service]:
    needs("redis-server")
    port = free_port()
    argv = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    with served([*argv, "--save", ""], folder) as server:
        yield at_port(Redis, port, server)


@contextmanager
def java(folder: Path) -> Iterator[Service]:
    needs("javac")  # java compiles a source file with it
    port = free_port()
    with served(["java", "-Xmx200m", SERVICES / "Service.java", str(port)], folder) as server:
        yield at_port(Http, port, server)


@contextmanager
def node(folder: Path) -> Iterator[Service]:
    needs("node")
    port = free_port()
    with served(["node", SERVICES / "service.js", str(port)], folder) as server:
        yield at_port(Http, port, server)


@contextmanager
def python(folder: Path) -> Iterator[Service]:
    port = free_port()
    with served([sys.executable, SERVICES / "service.py", str(port)], folder) as server:
        yield at_port(Http, port, server)


@contextmanager
def bash(folder: Path) -> Iterator[Service]:
    with served(["bash", SERVICES / "service.sh"], folder) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        session = Lines(server.stdin, server.stdout, str, the_sum)
        yield Service(server.pid, lambda: session, sessions=1)


@contextmanager
def postgres(folder: Path) -> Iterator[Service]:
    """The backend process of one session; sorts and joins make it map and unmap."""
    as_user: list[str | Path] = ["setpriv", "--reuid=postgres", "--regid=postgres"]
    as_user += ["--clear-groups", "--"]
    data = Path(subprocess.check_output([*as_user, "mktemp", "-d"], text=True).strip())
    port = free_port()
    try:
        subprocess.run(
            [*as_user, "initdb", "-D", data, "-A", "trust", "--no-sync"],
            check=True, capture_output=True, cwd="/",
        )  # fmt: skip
        start = [*as_user, "postgres", "-D", data, "-p", str(port), "-k", data]
        start += ["-c", "listen_addresses=", "-c", "fsync=off"]
        with served(start, folder, signal.SIGINT):
            psql: list[str | Path] = ["psql", "-h", data, "-p", str(port), "-U", "postgres"]
            psql += ["-AtqX", "postgres"]
            until(lambda: [1] if not subprocess.call([*psql, "-c", ""], stderr=-3) else [])
            with served(psql, folder) as client:
                assert client.stdin is not None
                assert client.stdout is not None
                client.stdin.write(b"select pg_backend_pid();\n")
                client.stdin.flush()
                backend = int(client.stdout.readline())

                def question(n: int) -> str:
                    rows = n * 7919 % 20_000 + 2
                    rest = f"generate_series(1, {rows}) i order by md5(i::text)) x;"
                    return f"set work_mem = '64MB'; select {n}, sum(i) from (select i from {rest}"

                def answer(n: int) -> str:
                    rows = n * 7919 % 20_000 + 2
                    return f"{n}|{rows * (rows + 1) // 2}"

                session = Lines(client.stdin, client.stdout, question, answer)
                yield Service(backend, lambda: session, sessions=1)
    finally:
        shutil.rmtree(data)


class Load:
    """Sessions that ask all the time, each on a thread of its own."""

    def __init__(self, service: Service) -> None:
        self.asked = 0
        self.failed: list[BaseException] = []
        self._over = threading.Event()
        self._sessions = [service.session() for _ in range(service.sessions)]
        self._threads = [threading.Thread(target=self._run, args=(s,)) for s in self._sessions]
        for thread in self._threads:
            thread.start()

    def _run(self, session: Session) -> None:
        try:
            for n in itertools.count(1):
                if self._over.is_set():
                    return
                session.ask(n)
                self.asked += 1
        except BaseException as e:  # noqa: BLE001 - told by the test's own thread
            self.failed.append(e)

    def goes_on(self, count: int = SOME) -> None:
        """Wait for so many more answers."""
        before = self.asked

        def ask() -> list[int]:
            for e in self.failed:
                raise AssertionError("a request failed") from e
            return [1] if self.asked >= before + count else []

        until(ask)

    def close(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE)
        for session in self._sessions:
            session.close()
        for e in self.failed:
            raise AssertionError("a request failed") from e


@contextmanager
def loaded(service: Service) -> Iterator[Load]:
    load = Load(service)
    with contextlib.closing(load):
        yield load


#: How a round ends.
WAYS: tuple[str | signal.Signals, ...] = ("--for", signal.SIGINT, signal.SIGTERM)


def one_round(path: Path, service: Service, way: str | signal.Signals, load: Load | None) -> int:
    """Attach, detach; returns how many calls were recorded."""
    options = ("--for", "0.3s") if way == "--for" else ()
    with attaching(path, service.pid, *options) as a:
        a.begun()
        if load is not None:
            load.goes_on()
        done = a.ended() if not isinstance(way, signal.Signals) else a.left(way)
    assert_free(service.pid)
    assert_detached(done)
    assert_free(service.pid)
    if load is not None:
        load.goes_on()
    return len(done.calls())


def rounds(folder: Path, service: Service, count: int) -> None:
    recorded = 0
    with loaded(service) as load:
        load.goes_on()
        for i in range(count):
            recorded += one_round(folder / f"t{i}.json", service, WAYS[i % 3], load)
    assert recorded, "the service makes memory calls, none was seen"


PRESENT = [redis, java, node, python, bash]
if os.getuid() == 0 and shutil.which("postgres") and shutil.which("initdb"):
    PRESENT.append(postgres)


@pytest.mark.parametrize("service", PRESENT)
def test_a_service_under_load(
    tmp_path: Path, service: Callable[[Path], contextlib.AbstractContextManager[Service]]
) -> None:
    with service(tmp_path) as s:
        rounds(tmp_path, s, 3)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("service", PRESENT)
def test_a_service_under_load_twenty_times(
    tmp_path: Path, service: Callable[[Path], contextlib.AbstractContextManager[Service]]
) -> None:
    with service(tmp_path) as s:
        rounds(tmp_path, s, 20)


@pytest.mark.parametrize("service", [redis, node, python, java])
def test_an_idle_service(
    tmp_path: Path, service: Callable[[Path], contextlib.AbstractContextManager[Service]]
) -> None:
    with service(tmp_path) as s, contextlib.closing(s.session()) as session:
        session.ask(1)
        for i, way in enumerate(WAYS):
            one_round(tmp_path / f"t{i}.json", s, way, None)
            session.ask(i + 2)


def test_services_side_by_side(tmp_path: Path) -> None:
    with ExitStack() as stack:
        for name, service in (("redis", redis), ("python", python)):
            (tmp_path / name).mkdir()
            s = stack.enter_context(service(tmp_path / name))
            load = stack.enter_context(loaded(s))
            a = stack.enter_context(attaching(tmp_path / name / "t.json", s.pid))
            stack.callback(load.goes_on)
            stack.callback(lambda a=a: assert_detached(a.left()))  # type: ignore[misc]
            a.begun()
            load.goes_on()
