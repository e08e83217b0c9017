# SPDX-License-Identifier: GPL-2.0-or-later
"""Sphinx's settings: `make docs` builds the site, which needs no network to be read."""

from __future__ import annotations

import tomllib
from pathlib import Path

_PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]

project = "memtrace"
author = project_copyright = "The memtrace authors"
release = version = _PROJECT["version"]

extensions = ["myst_parser"]
myst_heading_anchors = 4
exclude_patterns = ["man"]
suppress_warnings = [
    "toc.empty_glob",  # pages that a pattern of index.md is kept for
    "misc.highlighting_failure",  # blocks show commands with what they print, which is no shell
]
nitpicky = True

html_theme = "furo"
html_title = f"memtrace {release}"
html_copy_source = False
html_show_sourcelink = False
