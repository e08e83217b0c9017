# SPDX-License-Identifier: GPL-2.0-or-later
"""Take the picture of a page: `python tests/browser/screenshot.py PAGE.html PICTURE.png`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.browser.browser import chromium


def main(page: str, picture: str, theme: str = "light", height: str = "1150") -> int:
    """The page's top, as wide as the README shows it; 1 when its scripts complain."""
    with (
        tempfile.TemporaryDirectory() as profile,
        chromium(Path(profile), (1240, int(height))) as driver,
    ):
        driver.get(Path(page).resolve().as_uri())
        if driver.execute_script("return document.documentElement.dataset.theme") != theme:
            driver.find_element("id", "theme").click()
        driver.save_screenshot(picture)
        said = driver.get_log("browser")
    for entry in said:
        print(entry["message"], file=sys.stderr)  # noqa: T201 - a script
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
