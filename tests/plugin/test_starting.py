# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs that a marked test starts: all are traced, and the test cannot tell."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.plugin.projects import OPTIONS, marked, outcomes, started

pytestmark = pytest.mark.live

STARTS = {
    "shell": "subprocess.run({w!r} + ' && exit 0', shell=True, check=True)",
    "bash": "subprocess.run([{w!r}], shell=True, check=True, executable='/bin/bash')",
    "args": "subprocess.check_call(args=[{w!r}])",
    "executable": "subprocess.run(['words'], executable={w!r}, check=True)",
    # What is not started at all is not waited for.
    "refused": (
        "with pytest.raises(FileNotFoundError): subprocess.run([{w!r}], cwd='/nowhere')\n"
        "    subprocess.run([{w!r}], check=True)"
    ),
    "string": "assert subprocess.Popen({w!r}).wait() == 0",
    "bytes": "assert subprocess.Popen([os.fsencode({w!r})]).wait() == 0",
    "getstatusoutput": "assert subprocess.getstatusoutput({w!r}) == (0, '')",
    "popen": "assert os.popen({w!r}).close() is None",
    "asyncio": (
        "async def go():\n"
        "        return await (await asyncio.create_subprocess_exec({w!r})).wait()\n"
        "    assert asyncio.run(go()) == 0"
    ),
    "asyncio_shell": (
        "async def go():\n"
        "        return await (await asyncio.create_subprocess_shell({w!r})).wait()\n"
        "    assert asyncio.run(go()) == 0"
    ),
    # Without close_fds subprocess uses posix_spawn, which is traced by itself as well.
    "close_fds": "subprocess.run([{w!r}], close_fds=False, check=True)",
    "posix_spawn": (
        "pid = os.posix_spawn({w!r}, ['words'], os.environ)\n    assert os.waitpid(pid, 0)[1] == 0"
    ),
    "posix_spawnp": (
        "env = dict(os.environ, PATH=os.path.dirname({w!r}))\n"
        "    os.environ['PATH'] = env['PATH']\n"
        "    pid = os.posix_spawnp('words', ['words'], env)\n"
        "    assert os.waitpid(pid, 0)[1] == 0"
    ),
    "system": "assert os.system({w!r} + '; exit 3') == 3 << 8",
    "env": "subprocess.run(['/usr/bin/env', 'A=1', {w!r}], check=True)",
    "script": (
        "with open('script', 'w') as f: f.write('#!/bin/sh\\nexec ' + {w!r})\n"
        "    os.chmod('script', 0o755)\n    subprocess.run(['./script'], check=True)"
    ),
    "no_environment": "subprocess.run([{w!r}], env=dict(), cwd='/', check=True)",
    "python_of_its_own": (
        "subprocess.run([{w!r}], env=dict(PYTHONPATH='/nowhere', PYTHONHOME='/nowhere'))"
    ),
}


def test_whatever_starts_it(project: pytest.Pytester, words: str) -> None:
    """Also of a shell that does not exec it, where words is a process of its own."""
    tests = [
        marked("chunks_mapped=19", body.format(w=words), name) for name, body in STARTS.items()
    ]
    found, ran = outcomes(project, "".join(tests), "-n", "2")
    assert found == {"failed": len(STARTS)}
    shown = ran.stdout.str()
    for name in STARTS:
        failure = rf"_ test_{name} _+\n.*\nmemtrace: chunks\.mapped 20.*, at most 19, in "
        assert re.search(failure, shown), shown
    assert "(and " not in shown  # each has started one program


UNNOTICED = {
    "status_and_streams": (
        "done = subprocess.run(['sh', '-c', 'cat; echo err >&2; exit 7'], input='in', text=True,\n"
        "                          capture_output=True)\n"
        "    assert (done.returncode, done.stdout, done.stderr) == (7, 'in', 'err\\n')"
    ),
    "death": "assert subprocess.run(['sh', '-c', 'kill -9 $$']).returncode == -9",
    "terminate": (
        "p = subprocess.Popen(['sh', '-c', 'echo; exec sleep 600'], stdout=subprocess.PIPE)\n"
        "    p.stdout.read(1)\n    p.terminate()\n    assert p.wait() == -15\n    p.stdout.close()"
    ),
    "args": "assert subprocess.run(['true'], check=True).args == ['true']",
    "error": (
        "with pytest.raises(subprocess.CalledProcessError) as e:\n"
        "        subprocess.run(['false'], check=True)\n"
        "    assert e.value.cmd == ['false']"
    ),
    "position": (
        "p = subprocess.Popen('pwd; exit 0', -1, None, None, subprocess.PIPE, None, None, True,\n"
        "                         True, '/usr')\n"
        "    assert p.communicate()[0] == b'/usr\\n'"
    ),
    "folder": (
        "os.makedirs('sub')\n    os.symlink('/bin/true', 'sub/mine')\n"
        "    subprocess.run(['./mine'], cwd='sub', check=True)"
    ),
    "missing": (
        "with pytest.raises(FileNotFoundError):\n        subprocess.run(['/nonexistent'])\n"
        "    with pytest.raises(PermissionError):\n        subprocess.run(['/etc/passwd'])\n"
        "    with pytest.raises(FileNotFoundError):\n"
        "        os.posix_spawn('/nonexistent', ['nonexistent'], os.environ)\n"
        "    subprocess.run(['true'])"
    ),
    "descriptors": (
        "r, w = os.pipe()\n"
        "    subprocess.run(['sh', '-c', f'echo here >/dev/fd/{w}'], pass_fds=[w], check=True)\n"
        "    assert os.read(r, 9) == b'here\\n'"
    ),
    "environment": (
        "done = subprocess.run(['env'], env={'A': 'b', 'PYTHONPATH': 'c'}, capture_output=True)\n"
        "    assert sorted(done.stdout.split()) == [b'A=b', b'PYTHONPATH=c']"
    ),
}


def test_the_test_cannot_tell(project: pytest.Pytester) -> None:
    tests = [marked("calls_mremap=0", body, name) for name, body in UNNOTICED.items()]
    found, ran = outcomes(project, "".join(tests), "-n", "2")
    assert found == {"passed": len(UNNOTICED)}, ran.stdout.str()


def test_what_cannot_be_traced_is_no_pass(project: pytest.Pytester) -> None:
    test = marked(
        "heap_peak=1", "subprocess.run(['other'], executable='/bin/true')", "popen"
    ) + marked(
        "heap_peak=1",
        "os.waitpid(os.posix_spawn('/bin/true', ['other'], os.environ), 0)",
        "posix_spawn",
    )
    found, ran = outcomes(project, test)
    assert found == {"failed": 2}
    said = "memtrace: other was not traced: its file and its name differ (executable=)"
    assert len(re.findall(rf"^{re.escape(said)}$", ran.stdout.str(), re.MULTILINE)) == 2
    assert ran.stdout.str().count("NOT MEASURED test_it.py::test_") == 2


AFTER = """
def test_b():
    status = ["cat", "/proc/self/status"]
    assert b"TracerPid:\\t0\\n" in REAL[0](status, stdout=subprocess.PIPE).communicate()[0]
    assert os.system("grep -q '^TracerPid:.0$' /proc/self/status") == 0
    assert "pytest_memtrace" not in REAL[0].__init__.__module__
"""


def test_after_a_test_nothing_is_traced_whatever_it_has_replaced(
    project: pytest.Pytester,
) -> None:
    body = (
        "subprocess.run(['true'])\n"
        "    monkeypatch.setattr(os, 'system', lambda line: 7)\n"
        "    monkeypatch.setattr(subprocess, 'Popen', type('Fake', (), {}))"
    )
    test = (
        "REAL = [subprocess.Popen]\n"
        + marked("calls_mremap=0", body, args="monkeypatch")
        + AFTER
        + marked("calls_mremap=0", "subprocess.run(['true'])\n    assert 0", "c")
        + AFTER.replace("test_b", "test_d")
    )
    found, ran = outcomes(project, test)
    assert found == {"passed": 3, "failed": 1}, ran.stdout.str()


THREADS = """
@pytest.mark.memtrace(tree=dict(chunks_mapped=20))
def test_a(memtrace):
    def start():
        memtrace.run([{words!r}])
        subprocess.run([{words!r}])
    threads = [threading.Thread(target=start) for _ in range(3)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert len({{p.trace for p in memtrace.programs}}) == 6
"""


def test_threads_have_a_trace_for_each_program(project: pytest.Pytester, words: str) -> None:
    found, ran = outcomes(project, THREADS.format(words=words))
    assert found == {"passed": 1}, ran.stdout.str()


def test_a_trace_of_an_earlier_session_is_not_judged(
    project: pytest.Pytester, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = "subprocess.run([os.environ['A']], env={'PATH': os.environ['A']})"
    test = marked("chunks_mapped=20", body) + marked(
        "chunks_mapped=20",
        "from pytest_memtrace import starting\n"
        "    if os.environ.get('B'): starting.MEMTRACE = ('/bin/true',)\n"
        f"    subprocess.run([{words!r}])",
        "b",
    )
    monkeypatch.setenv("A", words)
    assert outcomes(project, test, "--memtrace-dir=kept")[0] == {"passed": 2}
    monkeypatch.setenv("A", "/bin/false")
    monkeypatch.setenv("B", "1")
    found, ran = outcomes(project, test, "--memtrace-dir=kept")
    assert found == {"passed": 1, "failed": 1}, ran.stdout.str()  # /bin/false maps none
    assert f"memtrace: nothing was recorded of {words}: no trace was written" in ran.stdout.str()


def test_every_test_has_traces_of_its_own(project: pytest.Pytester) -> None:
    test = '@pytest.mark.parametrize("x", ["a/b", "a_b", "a b", "ä", "y" * 300 + "1", "y" * 300])\n'
    test += marked("calls_mremap=0", "subprocess.run(['true'])", args="x")
    assert outcomes(project, test, "--memtrace-dir=kept")[0] == {"passed": 6}
    assert len(list(Path("kept").iterdir())) == 6


TIMEOUT = """
def gone(line):
    return subprocess.run(["pgrep", "-fx", line]).returncode == 1

def test_a(memtrace):
    with pytest.raises(subprocess.TimeoutExpired) as e:
        memtrace.run(["sh", "-c", "sleep 7771 & sleep 7772"], timeout=1)
    assert list(e.value.cmd) == ["sh", "-c", "sleep 7771 & sleep 7772"]
    assert gone("sleep 7771") and gone("sleep 7772")

@pytest.mark.memtrace(calls_mremap=0)
def test_b(memtrace):
    with pytest.raises(subprocess.TimeoutExpired):
        memtrace.run(["sleep", "7773"], timeout=1)

@pytest.mark.memtrace(calls_mremap=0)
def test_c():
    with pytest.raises(subprocess.TimeoutExpired) as e:
        subprocess.run(["sleep", "7774"], timeout=1)
    assert e.value.cmd == ["sleep", "7774"] and gone("sleep 7774")

@pytest.mark.memtrace(calls_mremap=0)
def test_d():
    async def go():
        p = await asyncio.create_subprocess_exec("sleep", "7775")
        try:
            await asyncio.wait_for(p.wait(), 1)
        except asyncio.TimeoutError:
            p.terminate()
        return await p.wait()
    assert asyncio.run(go()) == -15 and gone("sleep 7775")
"""


def test_time_that_is_up(project: pytest.Pytester) -> None:
    found, ran = outcomes(project, TIMEOUT)
    assert found == {"passed": 2, "failed": 2}, ran.stdout.str()
    for name, seconds in (("b", 7773), ("c", 7774)):
        said = rf"_ test_{name} _+\nmemtrace: the trace of sleep {seconds} is not to be trusted: "
        assert re.search(said, ran.stdout.str())


def test_nothing_is_traced_without_a_marker(project: pytest.Pytester) -> None:
    test = (
        "def test_a():\n"
        "    out = subprocess.run(['grep', 'TracerPid', '/proc/self/status'],\n"
        "                         capture_output=True, text=True).stdout\n"
        "    assert out == 'TracerPid:\\t0\\n'\n"
        "    assert 'memtrace.check' not in ' '.join(sys.modules)\n"
        "    assert 'msgspec' not in sys.modules\n"
        "    assert 'pytest_memtrace.starting' not in sys.modules\n"
    )
    found, ran = outcomes(project, test)
    assert found == {"passed": 1}, ran.stdout.str()


def test_the_path_of_memtrace_is_not_the_programs(project: pytest.Pytester, words: str) -> None:
    Path("click.py").write_text("raise SystemExit('not the one')\n")
    found, ran = outcomes(project, marked("chunks_mapped=20", started(words)))
    assert found == {"passed": 1}, ran.stdout.str()


def test_a_folder_that_cannot_be_ends_the_session(project: pytest.Pytester, words: str) -> None:
    project.makefile(".txt", there="")
    project.makepyfile(test_it="import pytest, subprocess\n" + marked("tree={}", started(words)))
    ran = project.runpytest_subprocess(*OPTIONS, "--memtrace-dir", "there.txt")
    assert ran.ret == pytest.ExitCode.USAGE_ERROR
    ran.stderr.fnmatch_lines(["*memtrace_dir cannot be *there.txt: file exists"])


def test_a_name_that_no_process_has_is_never_let_pass(project: pytest.Pytester, words: str) -> None:
    test = marked("process={'typo*': dict(heap_peak=1)}", started(words))
    found, ran = outcomes(project, test, "--memtrace-allow-incomplete")
    assert found == {"failed": 1}, ran.stdout.str()
