"""A headless Chromium: it opens a page in a frame of a given width, and a script asks the page what it has become."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

PACKAGE = "chromium"
FLAGS = (
    *("--headless", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars"),
    *("--allow-file-access-from-files", "--enable-logging=stderr", "--window-size=1600,1000"),
    *("--virtual-time-budget=20000", "--host-resolver-rules=MAP * ~NOTFOUND"),  # no name leads anywhere
)
HARNESS = """<!doctype html><meta charset="utf-8"><pre id="answer"></pre>
<iframe src="{page}" style="width:{width}px;height:900px;border:0"></iframe>
<script>
addEventListener("load", () => {{
  const view = document.querySelector("iframe").contentWindow, page = view.document;
  document.querySelector("#answer").textContent = JSON.stringify(({question})(page, view));
}});
</script>
"""


def chromium() -> str:
    """The browser, installed from Debian's packages where it is missing and can be; skips the test where it cannot."""
    if (path := shutil.which(PACKAGE)) is not None:
        return path
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip(f"no {PACKAGE} on this machine, and only root can install Debian's package")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", PACKAGE, "fonts-dejavu-core"]
    for command, seconds in ((install, 240), (["apt-get", "update", "-q"], 120), (install, 240)):
        try:
            done = subprocess.run(
                ["timeout", str(seconds), *command], env=environment, capture_output=True, text=True, check=False
            )
        except OSError as error:
            pytest.skip(f"apt-get: {error}")
        if command is install and done.returncode == 0 and (path := shutil.which(PACKAGE)) is not None:
            return path
    pytest.skip(f"apt-get could not install {PACKAGE}: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")


class Browser:
    """A browser with a profile of its own below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.program = folder, chromium()

    def ask(self, page: Path, question: str, *, width: int, dark: bool = False) -> tuple[Any, list[str]]:
        """Open a page in a frame and put a question to it.

        Args:
            question: JavaScript, a function of the document and the window of the page.
            width: of the frame, in pixels.
            dark: whether the user prefers dark colours.

        Returns:
            What the function returned, and the messages on the console.
        """
        harness = self.folder / "harness.html"
        harness.write_text(HARNESS.format(page=page.resolve().as_uri(), width=width, question=question), "utf-8")
        flags = [*FLAGS, f"--user-data-dir={self.folder / 'profile'}"]
        flags += [f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
        flags += ["--no-sandbox"] if os.geteuid() == 0 else []
        done = subprocess.run(
            [self.program, *flags, "--dump-dom", harness.as_uri()],
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        answer = re.search(r'<pre id="answer">(.+?)</pre>', done.stdout, re.DOTALL)
        assert answer, f"exit status {done.returncode}: {done.stderr[-2000:]}"
        return json.loads(html.unescape(answer[1])), re.findall(r".*:CONSOLE.*", done.stderr)
