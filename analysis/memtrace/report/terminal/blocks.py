# SPDX-License-Identifier: GPL-2.0-or-later
"""Lines and tables for a terminal, and how they are written. What is loaded to draw them is only
loaded here and by who imports this.

Names of the traced program stand in them as text: nothing in a name is markup.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from memtrace.report.lines import clean, columns, fit, paragraph

#: What output is made of. A line that is no `Text` has no colour.
Block = str | Text | Table
#: Text of a table, or text and its style.
Cell = str | tuple[str, str]

GOOD, WARN, BAD, DIM, BOLD = "green", "yellow", "red", "dim", "bold"
_SEVERITIES = {"error": BAD, "warning": WARN}
_GAP = 2


def heading(title: str, note: str, width: int) -> Text:
    """The heading of a section, and what is to be known of it."""
    note = fit(note, width - columns(title) - 3)
    return Text.assemble((title, BOLD), *(("   ", (note, DIM)) if note else ()))


def severity(word: str) -> str:
    """The style of a finding's severity."""
    return _SEVERITIES.get(word, DIM)


def marked(lines: Sequence[str], style: str, start: int, end: int) -> list[Block]:
    """Lines, of the first of which the characters from `start` to `end` have a style."""
    first = Text(lines[0])
    first.stylize(style, start, end)
    return [first, *lines[1:]]


def paragraphs(texts: Iterable[str], width: int, first: str = "  ") -> list[Block]:
    """Texts, each wrapped to lines of its own."""
    return [line for text in texts for line in paragraph(text, width, first)]


def grid(rows: Iterable[Sequence[Cell]], align: str, width: int | None = None) -> Table:
    """Rows as aligned columns, each after two spaces.

    Args:
        rows: of cells.
        align: `<` or `>` for each column.
        width: what of a row is beyond it is cut; None: nothing is.
    """
    made = [[_cell(cell) for cell in row] for row in rows]
    # The spaces before a column are part of it, and its lines are one cell: with padding around
    # each, and a cell for each, drawing takes twice as long.
    sizes = [_GAP + max(cell_len(text) for text, _ in cells) for cells in zip(*made, strict=True)]
    texts = [_laid([text for text, _ in row], sizes, align, width) for row in made]
    table = Table.grid(collapse_padding=False)
    table.width, left = 0, width
    stacks = []
    for i, size in enumerate(sizes):
        shown = size if left is None else min(size, left)
        left = None if left is None else left - shown
        if not shown:
            break
        table.add_column(width=shown, no_wrap=True)
        table.width += shown
        lines = (Text.assemble((t[i], row[i][1])) for t, row in zip(texts, made, strict=True))
        stacks.append(Text("\n").join(lines))
    if made:
        table.add_row(*stacks)
    return table


def _laid(row: Sequence[str], sizes: Sequence[int], align: str, width: int | None) -> list[str]:
    """The texts of a row with the spaces before each, cut where the row is at its width."""
    out: list[str] = []
    left = width
    for i, (text, size, side) in enumerate(zip(row, sizes, align, strict=True)):
        pad = " " * (size - _GAP - cell_len(text))
        more = any(row[i + 1 :])
        whole = " " * _GAP + (pad + text if side == ">" else text + pad)
        whole = whole if more else whole.rstrip()
        if left is not None and columns(whole) + more > left:
            out.append(fit(f"{whole}…", left))
            break
        out.append(whole)
        left = None if left is None else left - size
    return out + [""] * (len(row) - len(out))


def _cell(cell: Cell) -> tuple[str, str]:
    return (clean(cell), "") if isinstance(cell, str) else (clean(cell[0]), cell[1])


def extent(table: Table) -> int:
    """The columns that a table takes."""
    return table.width or 0


def written(blocks: Iterable[Block], *, color: bool = False) -> str:
    """Blocks as they are printed, a newline at the end of each.

    Args:
        blocks: in order, none wider than it may be: nothing is wrapped or cut here.
        color: with ANSI colours, whatever the environment says: who calls has asked it.
    """
    out = io.StringIO()
    console = Console(
        file=out, width=80, force_terminal=color, color_system="256" if color else None,
        no_color=False, highlight=False, markup=False, emoji=False, legacy_windows=False,
        _environ={},
    )  # fmt: skip
    made = (Text(b) if isinstance(b, str) else b for b in blocks)
    console.print(*made, sep="\n", soft_wrap=True)
    return "".join(line.rstrip() + "\n" for line in out.getvalue().split("\n")[:-1])
