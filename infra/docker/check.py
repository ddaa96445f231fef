"""Is this image able to run every step? Imports all that the sources import, wherever they import it.

Runs at the end of the image's build, as the image's user, and may be run in any container:
`docker run --rm IMAGE python /opt/ctan/check.py`.
"""

from __future__ import annotations

import ast
import importlib
import shutil
import sys
from pathlib import Path

PACKAGES = ("ctan", "components", "pipelines")
COMMANDS = ("python", "python3", "sh", "ctan", "kfp", "mlflow")
# Loaded by name rather than imported: MLflow's login, its database driver, KFP's entry point of a step.
LEFT_OUT = frozenset({"onnxruntime"})  # ctan[export]: 40 MB that no step needs
BY_NAME = ("mlflow.server.auth", "psycopg2", "kfp.dsl.executor_main")


def imported_modules(folder: Path) -> set[str]:
    """Return the absolute names that the sources of a package import, also inside functions."""
    names: set[str] = set()
    for source in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module)
    return names


def main() -> int:
    """Return the exit status: 0 when nothing is missing."""
    folders = [Path(importlib.import_module(package).__file__ or "").parent for package in PACKAGES]
    problems = [f"command {name} is not on PATH" for name in COMMANDS if shutil.which(name) is None]
    for name in sorted(set(BY_NAME).union(*map(imported_modules, folders)) - LEFT_OUT):
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever a library raises, all failures are wanted at once
            problems.append(f"import {name}: {type(error).__name__}: {error}")
    kfp = shutil.which("kfp")
    if kfp and "ctan.cluster.kfp_command" not in Path(kfp).read_text(encoding="utf-8"):
        problems.append(f"{kfp} is upstream's kfp, not ctan's: ctan must be installed last")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
