"""The mark of synthetic data: a file beside phantoms, so that nothing made from them is taken for a real model."""

from __future__ import annotations

from pathlib import Path

from ctan.files import write_text

MARK_FILE = ".synthetic"


def mark(folder: Path) -> None:
    """Mark a folder of raw files as synthetic."""
    write_text(folder / MARK_FILE, "written by `ctan data phantom`: no patient\n")


def is_marked(folder: Path) -> bool:
    """Whether a folder of raw files is marked as synthetic."""
    return (folder / MARK_FILE).is_file()
