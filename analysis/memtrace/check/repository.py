# SPDX-License-Identifier: GPL-2.0-or-later
"""Files as a repository names them: annotations point to paths below its root, wherever the check
was run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from memtrace.check.result import Result

#: Where a CI system says that the repository is.
_SAID = ("GITHUB_WORKSPACE", "CI_PROJECT_DIR")


def placed(r: Result, environment: Mapping[str, str]) -> Result:
    """The result, its files named from the repository's root."""
    roots = [Path(environment[name]) for name in _SAID if environment.get(name)]
    named = {name: _below(name, roots) for name in {r.trace, *(v.limit.file for v in r.verdicts)}}
    verdicts = tuple(
        replace(v, limit=replace(v.limit, file=named[v.limit.file])) for v in r.verdicts
    )
    return replace(r, trace=named[r.trace], verdicts=verdicts)


def _below(name: str, said: list[Path]) -> str:
    """A file's path below the first root that holds it: what CI says, the nearest git repository,
    the working directory; of none an absolute path.
    """
    path = Path(os.path.abspath(name))
    folder = Path(os.path.realpath(path.parent))  # the file itself may be a link to elsewhere
    git = next((f for f in (folder, *folder.parents) if os.path.lexists(f / ".git")), None)
    for root in (*said, git, Path.cwd()):
        if root is None or not root.is_absolute():
            continue
        real = Path(os.path.realpath(root))
        if folder.is_relative_to(real):
            return str(folder.relative_to(real) / path.name)
    return str(folder / path.name)
