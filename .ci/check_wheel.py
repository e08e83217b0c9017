#!/usr/bin/env python3
"""Compare a wheel with the checkout: its two source roots, the man page, and nothing else."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE_ROOTS = ("tracer", "analysis")
#: Where pip puts it, below the environment.
MAN_PAGE = "share/man/man1/memtrace.1"


def in_checkout() -> set[str]:
    """Name every file git would ship below the source roots, as the wheel has to call it."""
    git = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *SOURCE_ROOTS]
    listed = subprocess.run(git, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    names = (name for name in listed.split("\0") if name and (ROOT / name).is_file())
    return {name.split("/", 1)[1] for name in names}


def in_wheel(path: str) -> tuple[set[str], set[str]]:
    """Name the wheel's files: those of the packages, and those about the distribution."""
    with zipfile.ZipFile(path) as wheel:
        names = {name for name in wheel.namelist() if not name.endswith("/")}
    # What is put elsewhere than the packages stands below NAME-VERSION.data/data/.
    names = {name.partition(".data/data/")[2] or name for name in names}
    about = {name for name in names if name.split("/", 1)[0].endswith(".dist-info")}
    return names - about, about


def main(path: str) -> int:
    """Print what is wrong with the wheel; 1 when something is."""
    expected = in_checkout() | {MAN_PAGE}
    packaged, about = in_wheel(path)
    wrong = [f"missing: {name}" for name in sorted(expected - packaged)]
    wrong += [f"not from the source: {name}" for name in sorted(packaged - expected)]
    if not any(name.endswith("/licenses/LICENSE") for name in about):
        wrong.append("missing: the licence")
    for line in wrong:
        print(f"{path}: {line}", file=sys.stderr)
    if not wrong:
        print(f"{Path(path).name}: {len(packaged)} files, exactly those of the source")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
