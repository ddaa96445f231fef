"""Which code stands behind which explicit version, and a fingerprint of it that ignores what decides nothing.

`python -m tests.project.units` writes `units.json` anew: after raising a version, or after a change that gives the same
output for the same input.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import ctan
from ctan import plugins, versions
from ctan.plugins import declared_version

ROOT = Path(ctan.__file__).parent
RECORD = Path(__file__).with_name("units.json")

# Rooms whose code decides results: every module belongs to a unit, or stands below with the reason why to none.
DECISIVE_ROOMS = ("cases", "datasets", "dicom", "metrics", "networks", "store", "tasks")
EXEMPT = {
    "datasets/base.py": "what a data set offers, no data",
    "datasets/folder/describe.py": "writes a first description, reads no case",
    "datasets/shapes.py": "phantoms: other bytes are another data version",
    "dicom/objects.py": "writes: phantoms and predictions",
    "dicom/outlines.py": "writes: phantoms and predictions",
    "dicom/predicted.py": "writes predictions, which tests read back",
    "dicom/writers.py": "phantoms",
    "networks/count.py": "counts for tables",
    "store/pointer.py": "a name, no content",
    "store/remote.py": "copies, checked by size and hash",
    "store/shelf.py": "places files under the hashes of their bytes",
    "store/chunks.py": "reads the bytes that shards hold, checked by their sums",
    "store/description.py": "has a format version, and checks its own hash",
    "store/reader.py": "hands out what is packed",
    "store/manifest.py": "a table with a checked schema",
    "cases/spec.py": "has a format version of its own",
    "cases/prediction.py": "what a prediction is, no answer",
    "datasets/outputs.py": "writes predictions, which tests read back",
    "cases/sides.py": "checks settings",
    "cases/expectation.py": "what a check is, no check",
    "datasets/listing.py": "which files name a version: the version tells",
}
_EXEMPT_ENDINGS = ("__init__.py", "phantom.py", "defects.py", "prostate/planting.py", "datasets/openkbp/write.py")


def _dataset(name: str) -> tuple[Callable[[], int], tuple[str, ...]]:
    return lambda: declared_version(plugins.DATASETS, name, ""), (f"datasets/{name}/*.py",)


def _network(name: str) -> tuple[Callable[[], int], tuple[str, ...]]:
    return lambda: declared_version(plugins.NETWORKS, name, ""), (f"networks/{name}.py",)


def _task(name: str) -> tuple[Callable[[], int], tuple[str, ...]]:
    return lambda: declared_version(plugins.TASKS, name, ""), ("tasks/base.py", f"tasks/{name}.py")


UNITS: Mapping[str, tuple[Callable[[], int], Sequence[str]]] = {
    "dicom": (lambda: versions.DICOM, ("dicom/*.py",)),
    "metaimage": (lambda: versions.METAIMAGE, ("datasets/metaimage.py",)),
    "pictures": (lambda: versions.PICTURES, ("datasets/pictures.py",)),
    "packer": (
        lambda: versions.PACKER,
        (
            "cases/case.py",
            "cases/geometry.py",
            "cases/working.py",
            "cases/volumes.py",
            "store/pack.py",
            "store/layout.py",
            "store/shards.py",
        ),
    ),
    "backbone": (
        lambda: versions.BACKBONE,
        (
            "cases/windows.py",
            "networks/attention.py",
            "networks/backbone.py",
            "networks/blocks.py",
            "networks/convolutions.py",
        ),
    ),
    "training": (
        lambda: versions.TRAINING,
        (
            "inputs.py",
            "losses.py",
            "precision.py",
            "training/aggregation.py",
            "training/augment.py",
            "training/balance.py",
            "training/compiled.py",
            "training/labels.py",
            "training/data.py",
            "training/loop.py",
            "training/optim.py",
            "training/parallel.py",
            "training/patches.py",
            "training/session.py",
            "training/step.py",
            "training/tuning.py",
            "training/weighting.py",
        ),
    ),
    "validation": (lambda: versions.VALIDATION, ("validation/gate.py", "validation/suite.py")),
    "scoring": (
        lambda: versions.SCORING,
        (
            "cases/covered.py",
            "metrics/*.py",
            "evaluation/baselines.py",
            "evaluation/scoring.py",
            "evaluation/summary.py",
            "evaluation/improvement.py",
        ),
    ),
    **{f"dataset {name}": _dataset(name) for name in plugins.names(plugins.DATASETS)},
    **{f"task {name}": _task(name) for name in plugins.names(plugins.TASKS)},
    **{f"network {name}": _network(name) for name in plugins.names(plugins.NETWORKS)},
}


def modules(unit: str) -> list[str]:
    """Return the modules of a unit, relative to the package."""
    found = {path.relative_to(ROOT).as_posix() for pattern in UNITS[unit][1] for path in ROOT.glob(pattern)}
    return sorted(name for name in found if name not in EXEMPT and not name.endswith(_EXEMPT_ENDINGS))


def is_exempt(name: str) -> bool:
    """Whether a module decides nothing, or is told by something else than a version."""
    return name in EXEMPT or name.endswith(_EXEMPT_ENDINGS)


def fingerprint(source: str) -> str:
    """Return a hash of what a module does: without comments, docstrings and type hints."""
    tree = _WithoutWords().visit(ast.parse(source))
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


class _WithoutWords(ast.NodeTransformer):
    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and _is_text(body[0]) and isinstance(node, _HAVE_DOCSTRINGS):
            node.body = body[1:]  # type: ignore[attr-defined]
        if isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
        if isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
        return node


_HAVE_DOCSTRINGS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


@cache
def current() -> dict[str, dict[str, object]]:
    """Return version and fingerprints of every unit as they are now."""
    return {
        unit: {
            "version": UNITS[unit][0](),
            "modules": {name: fingerprint((ROOT / name).read_text(encoding="utf-8"))[:16] for name in modules(unit)},
        }
        for unit in sorted(UNITS)
    }


if __name__ == "__main__":
    RECORD.write_text(json.dumps(current(), indent=1) + "\n", encoding="utf-8")
    print(f"{RECORD.name}: {len(UNITS)} units")
