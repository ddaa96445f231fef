"""Make pictures of pages: `python docs/screenshots.py`, after `make demo` and `make docs`.

The documentation's own pictures go to docs/images. `--look FOLDER` takes all pages in two widths and both colour
schemes instead, to be looked at. Needs Chromium. Pages show what the demo left in the workspace.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from PIL import Image

DOCS = Path(__file__).parent
IMAGES, SITE = DOCS / "images", DOCS.parent / "build" / "site"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
SCHEMES = {"dark": 0, "light": 1}  # Blink's numbers
WIDTHS = (1400, 420)
DRAWING_MS = 20_000  # MLflow's pages are drawn by a script that asks the server


@dataclass(frozen=True)
class Shot:
    """A page to take a picture of; its `height` is that of the window in pixels."""

    name: str
    address: str
    height: int
    kept: bool = True


def take(shot: Shot, picture: Path, width: int, scheme: str) -> None:
    """Take a picture of the first screen of a page, in 128 colours.

    Args:
        shot: what.
        picture: PNG to write.
        width: of the window in pixels.
        scheme: that the browser says its user prefers.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit(f"none of {', '.join(BROWSERS)} is installed")
    with tempfile.TemporaryDirectory() as folder:
        taken = Path(folder) / "shot.png"
        window = [f"--window-size={width},{shot.height}", f"--screenshot={taken}", "--hide-scrollbars"]
        wait = [] if shot.address.startswith("file:") else [f"--virtual-time-budget={DRAWING_MS}"]
        prefers = f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}"
        command = [browser, *QUIET, f"--user-data-dir={folder}/profile", *window, *wait, prefers, shot.address]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        content = io.BytesIO()
        with Image.open(taken) as image:
            image.convert("RGB").quantize(128).save(content, "PNG", optimize=True)
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_bytes(content.getvalue())
    print(f"{picture}: {len(content.getvalue()) // 1024} kB")


def newest(workspace: Path, pattern: str) -> str:
    """Return the address of the newest page that matches."""
    found = sorted(workspace.glob(pattern), key=lambda path: path.stat().st_mtime)
    if not found:
        sys.exit(f"{workspace}: no {pattern}; run `make demo`")
    return found[-1].resolve().as_uri()


@contextmanager
def mlflow_pages() -> Iterator[str]:
    """Give the address of MLflow's pages, shown by `ctan ui`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [Path(sys.executable).with_name("ctan"), "ui", "--port", str(port)], stdout=subprocess.DEVNULL
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urlopen(f"{address}/health", timeout=5).close()  # noqa: S310  # our own server
                break
            except URLError:
                time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait()


def shots(workspace: Path, mlflow: str) -> list[Shot]:
    """Return all pages."""
    from ctan.tracking.server import connect

    client = connect().MlflowClient()
    model = max(client.search_registered_models(), key=lambda one: one.last_updated_timestamp)
    version = max(client.search_model_versions(f"name='{model.name}'"), key=lambda one: int(one.version))
    run = client.get_run(version.run_id)
    site = (SITE / "index.html").resolve()
    if not site.is_file():
        sys.exit(f"{site} is not there; run `make docs`")
    experiment = f"{mlflow}/#/experiments/{run.info.experiment_id}"
    return [
        Shot("report", newest(workspace, "runs/*/report.html"), 1150),
        Shot("predicted-case", newest(workspace, "predicted/*/report.html"), 1500),
        Shot("mlflow-runs", f"{experiment}/runs", 900, kept=False),
        Shot("mlflow-run", f"{experiment}/runs/{run.info.run_id}/model-metrics", 1400, kept=False),
        Shot("mlflow-model", f"{mlflow}/#/models/{model.name}/versions/{version.version}", 1200),
        Shot("site", site.as_uri(), 1000, kept=False),
        Shot("site-metrics", site.with_name("metrics.html").as_uri(), 1000, kept=False),
        Shot("site-settings", (site.parent / "reference" / "settings.html").as_uri(), 1000, kept=False),
    ]


def main() -> None:
    """Do what is asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--look", type=Path, metavar="FOLDER", help="all pages, two widths, both schemes, into a folder"
    )
    look = parser.parse_args().look
    with mlflow_pages() as address:
        for shot in shots(Path(os.environ.get("CTAN_WORKSPACE", "workspace")), address):
            if look is not None:
                for width in WIDTHS:
                    for scheme in SCHEMES:
                        take(shot, look / f"{shot.name}-{width}-{scheme}.png", width, scheme)
            elif shot.kept:
                take(shot, IMAGES / f"{shot.name}.png", WIDTHS[0], "light")


if __name__ == "__main__":
    main()
