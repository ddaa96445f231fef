"""Make the documentation's pictures of pages: `python docs/screenshots.py`, after `make demo`.

Needs Chromium. The pictures show what the demo left in the workspace; they are made anew when a page changes.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

IMAGES = Path(__file__).with_name("images")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")


def shoot(page: Path, picture: Path, size: tuple[int, int]) -> None:
    """Take a picture of the first screen of a page, in 128 colours.

    Args:
        page: HTML file.
        picture: PNG to write.
        size: of the window in pixels.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit(f"none of {', '.join(BROWSERS)} is installed")
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        window = [f"--window-size={size[0]},{size[1]}", f"--screenshot={shot}", "--hide-scrollbars"]
        command = [browser, *QUIET, f"--user-data-dir={folder}/profile", *window, page.resolve().as_uri()]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        content = io.BytesIO()
        with Image.open(shot) as image:
            image.convert("RGB").quantize(128).save(content, "PNG", optimize=True)
    picture.parent.mkdir(exist_ok=True)
    picture.write_bytes(content.getvalue())
    print(f"{picture}: {len(content.getvalue()) // 1024} kB")


def newest(workspace: Path, pattern: str) -> Path:
    """Return the newest page that matches."""
    found = sorted(workspace.glob(pattern), key=lambda path: path.stat().st_mtime)
    if not found:
        sys.exit(f"{workspace}: no {pattern}; run `make demo`")
    return found[-1]


if __name__ == "__main__":
    workspace = Path(os.environ.get("CTAN_WORKSPACE", "workspace"))
    shoot(newest(workspace, "runs/*/report.html"), IMAGES / "report.png", (1400, 1150))
    shoot(newest(workspace, "predicted/*/report.html"), IMAGES / "predicted-case.png", (1400, 1500))
