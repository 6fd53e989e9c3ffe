"""A page in a real browser, where there is one: how wide it gets, what it asks for, and what it complains of."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--allow-file-access-from-files",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--virtual-time-budget=4000")  # fmt: skip
AROUND = """<!doctype html><meta charset="utf-8">
<iframe id="shown" src="PAGE" style="width: WIDTHpx; height: 900px; border: 0"></iframe><pre id="found"></pre>
<script>addEventListener("load", () => {
  const inside = document.getElementById("shown").contentDocument, view = inside.defaultView;
  document.getElementById("found").textContent = "FOUND" + JSON.stringify({
    width: inside.documentElement.scrollWidth,
    pictures: [...inside.images].map(each => each.naturalWidth),
    asked: view.performance.getEntriesByType("resource").map(each => each.name),
    paper: view.getComputedStyle(inside.body).backgroundColor,
  }) + "END";
})</script>"""


def seen(page: Path, width: int, folder: Path, dark: bool = False) -> dict[str, Any]:
    """What a browser finds of this page in a window so wide."""
    assert BROWSER
    folder.mkdir()
    around = folder / "around.html"
    around.write_text(AROUND.replace("PAGE", page.resolve().as_uri()).replace("WIDTH", str(width)))
    words = [BROWSER, *QUIET, f"--user-data-dir={folder / 'profile'}", *(["--force-dark-mode"] if dark else [])]
    done = subprocess.run([*words, "--dump-dom", around.as_uri()], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(unescape(re.search("FOUND(.*?)END", done.stdout, re.DOTALL)[1]))  # type: ignore[index]
    return found | {"complaints": [line for line in done.stderr.splitlines() if "CONSOLE" in line]}
