"""Licences of the libraries in the two locks, as their packages state them.

`python -m tests.project.licences` writes the table of `docs/licences.md` anew.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "licences.md"
BEGIN = "<!-- written by python -m tests.project.licences -->"

# Fragments of what packages say. All words of a statement must be known.
PERMISSIVE = re.compile(
    r"^(the )?(mit(-0|-cmu)?|(\d-clause )?bsd([- ]\d-clause)?|0bsd|apache([- ](software|license|2\.0))*|"
    r"llvm-exception|isc|iscl|zlib|cc0-1\.0|psf-2\.0|python software foundation|bsl-1\.0|unlicense|zope public|hpnd|"
    r"zpl-2\.1)$"
)
WEAK_COPYLEFT = re.compile(r"mozilla public license|mpl-2\.0|\blgpl|lesser general public")
# What neither of the two covers, and why it may stand in the environment all the same.
EXPLAINED = {
    "asyncssh": "EPL-2.0 is chosen; DVC's ssh remotes use it unchanged",
    "dulwich": "Apache-2.0 is chosen",
    "grandalf": "GPL-2.0 or EPL-1.0, EPL is chosen; DVC draws its graphs with it, ctan never imports it",
    "huey": "its file LICENSE is MIT's",
    "orjson": "Apache-2.0 is chosen",
    "pygit2": "GPL-2.0 with an exception for linking from programs under any licence",
    "skops": "its file LICENSE is MIT's",
}


def locked(name: str) -> set[str]:
    """Return the libraries of a lock, normalised."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return {re.sub(r"[-_.]+", "-", found).lower() for found in re.findall(r"^([\w.-]+)==", text, re.M)}


def stated() -> dict[str, str]:
    """Return what each installed library of the locks says of its licence."""
    tool = Path(sys.executable).with_name("pip-licenses")
    command = [str(tool), "--python", sys.executable, "--from=mixed", "--format=json", "--with-system"]
    rows = json.loads(subprocess.check_output(command, text=True))
    names = locked("requirements.lock") | locked("requirements-dev.lock")
    # Some packages state the whole text: its first line names it.
    found = {re.sub(r"[-_.]+", "-", row["Name"]).lower(): row["License"].splitlines()[0] for row in rows}
    return {name: found[name] for name in sorted(found.keys() & names)}


def kind(name: str, licence: str) -> str:
    """Return `permissive`, `weak copyleft`, the stated explanation, or an empty string for what nobody looked at."""
    if name in EXPLAINED:
        return EXPLAINED[name]
    lower = licence.lower()
    if WEAK_COPYLEFT.search(lower):
        return "weak copyleft: used unchanged"
    words = re.split(r"\s+(?:and|or|with)\s+|[;()]", lower.replace(" license", ""))
    words = [word.strip() for word in words if word.strip()]
    return "permissive" if words and all(PERMISSIVE.match(word) for word in words) else ""


def table() -> str:
    """Return the table of the page."""
    run_time = locked("requirements.lock")
    lines = ["| library | licence, as its package states it | used | kind |", "|---|---|---|---|"]
    for name, licence in stated().items():
        used = "run time" if name in run_time else "development"
        lines.append(f"| {name} | {licence} | {used} | {kind(name, licence)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    head = PAGE.read_text(encoding="utf-8").partition(BEGIN)[0]
    PAGE.write_text(f"{head}{BEGIN}\n\n{table()}", encoding="utf-8")
