#!/usr/bin/env python3
"""Hold the built site against its promise: nothing of it is loaded from a network."""

import re
import sys
from pathlib import Path

_LOADED = re.compile(
    r"""<(?:script|img|iframe|source|video)\b[^>]*\bsrc=["'](?:https?:)?//[^"']*
    |<link\b(?=[^>]*\brel=["'](?:stylesheet|preload|preconnect|icon))[^>]*\bhref=["'](?:https?:)?//[^"']*
    """,
    re.VERBOSE,
)
_STYLED = re.compile(r"""(?:@import\s+|url\()["']?(?:https?:)?//[^"')]*""")


def main(site: Path) -> int:
    """Name what a page or a style sheet would load from elsewhere; 1 when there is any."""
    pages = sorted(site.rglob("*.html"))
    wrong = [f"{p}: {m[0]}" for p in pages for m in _LOADED.finditer(p.read_text())]
    sheets = sorted(site.rglob("*.css"))
    wrong += [f"{p}: {m[0]}" for p in sheets for m in _STYLED.finditer(p.read_text())]
    for line in wrong:
        print(line, file=sys.stderr)
    if not wrong and pages:
        print(f"{site}: {len(pages)} pages, nothing of them from a network")
    return 1 if wrong or not pages else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
