# SPDX-License-Identifier: GPL-2.0-or-later
"""pytest-memtrace: budgets of memory calls for the programs that tests start.

It measures the programs, never the test process itself. See docs/pytest.md.
"""
