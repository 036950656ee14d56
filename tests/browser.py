"""A page driven by its own script in headless Chromium: what it told, as JSON. Holds no tests."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


def told_by(page: Path, profile: Path, *, window: tuple[int, int]) -> Any:
    """What the page's script wrote into `<pre id="told">`, once it had run to its end."""
    assert BROWSER is not None
    done = subprocess.run(
        [
            BROWSER,
            *("--headless=new", "--no-sandbox", "--disable-gpu"),
            f"--window-size={window[0]},{window[1]}",
            *("--no-first-run", "--disable-extensions", "--disable-background-networking"),
            *("--disable-component-update", "--disable-sync", "--disable-default-apps"),
            f"--user-data-dir={profile}",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        check=True,
        timeout=300,
    )
    found = re.search(r'<pre id="told">(.+?)</pre>', done.stdout.decode("utf-8"), re.DOTALL)
    assert found is not None, "the page's program did not run to its end"
    return json.loads(html.unescape(found[1]))
