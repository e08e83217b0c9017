# SPDX-License-Identifier: GPL-2.0-or-later
"""The page: one file that needs no network and trusts nothing of the trace.

The values stand in it as JSON, in which no character can end the element they are in; the scripts
write them as text nodes only. Its policy lets nothing run or be fetched but what it brings along,
by hash.
"""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib.resources import files
from typing import Any

from memtrace.report import palette

_SCRIPTS = ("base.js", "timeline.js", "map.js", "moments.js", "table.js", "report.js")
_UNSAFE = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def render(data: dict[str, Any]) -> str:
    """The whole file.

    Args:
        data: what `gather` made.
    """
    import jinja2
    from markupsafe import Markup

    code = [_read("vendor/uPlot.iife.min.js"), _scripts()]
    styles = [_read("vendor/uPlot.min.css"), palette.css(), _read("templates/report.css")]
    policy = "; ".join((
        "default-src 'none'",
        "script-src " + " ".join(_hash(x) for x in code),
        "style-src " + " ".join(_hash(x) for x in styles),
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
    ))  # fmt: skip
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(_read("templates/report.html.j2"))
    return template.render(
        policy=policy,
        title=data["opening"]["command"],
        licence=_read("vendor/LICENSE"),
        # Our own files, and JSON without a character that HTML knows: nothing of a trace.
        styles=[Markup(x) for x in styles],  # noqa: S704
        scripts=[Markup(x) for x in code],  # noqa: S704
        data=Markup(embedded(data)),  # noqa: S704
    )


def embedded(data: object) -> str:
    r"""JSON that can stand inside a script element.

    >>> embedded("</script>&")
    '"\\u003c/script\\u003e\\u0026"'
    """
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return text.translate(_UNSAFE).encode("utf-8", "backslashreplace").decode()


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


@cache
def _read(name: str) -> str:
    file = files("memtrace.report.html")
    for part in name.split("/"):
        file = file.joinpath(part)
    return file.read_text(encoding="utf-8")


def _scripts() -> str:
    parts = [_read(f"templates/{name}") for name in _SCRIPTS]
    return '(function () {\n"use strict";\n' + "\n".join(parts) + "})();\n"
