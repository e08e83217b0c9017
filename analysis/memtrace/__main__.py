# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m memtrace`: the same as the command `memtrace`."""

from __future__ import annotations

from memtrace.cli.main import main

if __name__ == "__main__":
    main()
