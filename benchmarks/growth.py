"""Time and peak memory of the steps at three sizes each: rows of a manifest, small cases, slices of one large CT.

    python benchmarks/growth.py [--rows 1000 10000 100000] [--cases 100 1000 10000] [--slices 150 300 600] [--edge 512]

Everything is made up and written to a temporary folder. Each step is a process of its own with at most two workers; its
peak is that of the process and its workers together (proportional set size), looked at every 200 ms. Of rows and cases
memory should not grow but for the tables themselves, of a CT as the CT does, and time as the size.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml
from memory import tree_bytes
from rich.console import Console
from rich.table import Table

_POLL_SECONDS = 0.2
_CLASSES = ["benign", "malignant"]
_STEPS = {
    "divide into sides": """
from ctan.cases import RawCase
from ctan.intake.own_split import OwnSplit
from ctan.intake.sides import Table
from ctan.settings import load_config
from pathlib import Path
number = int(sys.argv[2])
cases = [RawCase(f"c{i}", f"g{i}", "", Path("x"), strata=(str(i % 7),)) for i in range(number)]
data = load_config("cpu", {"data.dataset": "ham10000"}).data
table = Table().joined(cases[: number - 1], data, True, OwnSplit.of(data, []))
table.joined(cases, data, True, OwnSplit.of(data, [])).to_json()
""",
    "validate": """
from ctan.settings import read_config
from ctan.validation import validate
from pathlib import Path
folder = Path(sys.argv[1])
print(validate(folder / "manifest", folder / "validated", folder / "page.html", read_config(folder / "manifest")))
""",
    "plan": """
from ctan.cases import DataSpec
from ctan.intake.planning import one_sided, propose
from ctan.settings import read_config
from ctan.store.manifest import MANIFEST_FILE, read_manifest
from pathlib import Path
folder = Path(sys.argv[1]) / "validated"
rows, spec, config = read_manifest(folder / MANIFEST_FILE).to_pylist(), DataSpec.load(folder), read_config(folder)
propose(rows, spec, config), one_sided(rows, spec, [0])
""",
    "ingest": """
from ctan import steps
from ctan.settings import load_config
from pathlib import Path
folder = Path(sys.argv[1])
config = load_config("cpu", ["data.dataset=folder", *sys.argv[2:]], str(folder / "raw"))
_, settings, origin = steps.resolve(str(folder / "raw"), config, str(folder / "store"))
steps.ingest(settings, origin, str(folder / "manifest"), 2)
""",
    "preprocess": """
from ctan import steps
from pathlib import Path
folder = Path(sys.argv[1])
paths = [str(folder / name) for name in ("raw", "validated", "pointer.json", "store")]
steps.preprocess(*paths, [], 2)
""",
    "read all": """
from ctan.store import StorePointer, open_store
from pathlib import Path
store = open_store(StorePointer.load(Path(sys.argv[1]) / "pointer.json"))
for case_id in store.case_ids():
    store.load(case_id)
""",
}


def measure(step: str, folder: Path, *arguments: str) -> tuple[float, float]:
    """Return the seconds of a step and the peak of its memory in MiB."""
    command = [sys.executable, "-c", f"import sys\n{_STEPS[step]}", str(folder), *arguments]
    started, peak = time.perf_counter(), 0
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while process.poll() is None:
        peak = max(peak, tree_bytes(process.pid))
        time.sleep(_POLL_SECONDS)
    seconds, output = time.perf_counter() - started, process.communicate()[0]
    if process.returncode:
        raise SystemExit(f"{step} failed:\n{output}")
    return seconds, peak / 2**20


def rows(number: int, folder: Path) -> Iterator[str]:
    """Write a manifest of so many pictures; yield the steps to measure."""
    from ctan.datasets import get_dataset
    from ctan.seals import seal_folder
    from ctan.settings import load_config
    from ctan.store.manifest import MANIFEST_FILE, QUARANTINE_FILE, QUARANTINE_SCHEMA, SCHEMA, write_manifest

    config = load_config("cpu", {"data.dataset": "ham10000"})
    spec, manifest = get_dataset(config.data).spec, folder / "manifest"
    rng = np.random.default_rng(0)
    written = [_row(spec, i, rng.bytes(32).hex()) for i in range(number)]
    write_manifest(written, manifest / MANIFEST_FILE, SCHEMA(spec))
    write_manifest([], manifest / QUARANTINE_FILE, QUARANTINE_SCHEMA)
    (manifest / "config.yaml").write_text(config.to_yaml())
    spec.save(manifest)
    seal_folder(manifest)
    yield from ("divide into sides", "validate", "plan")


def _row(spec: Any, number: int, digest: str) -> dict[str, Any]:
    """Return a row that passes: what is shared by look-alikes is drawn at random."""
    row: dict[str, Any] = {f"label_{name}": classes[number % len(classes)] for name, classes in spec.labels.items()}
    row |= {f"voxels_{name}": 20_000 + number % 1000 for name in spec.structures}
    row |= {name: None if kind == "string" else 50.0 for name, kind in spec.facts.items()}
    image = spec.image.name
    return row | {
        "dataset": spec.dataset,
        "case_id": f"ISIC_{number:07}",
        "group_id": f"HAM_{number:07}",
        "split": "train" if number % 5 else "validation",
        "fold": number % 4 if number % 5 else -1,
        "sha256": digest,
        "image_sha256": digest[::-1],
        "looks": digest,
        "shape": [450, 600],
        "spacing_mm": [1.0, 1.0],
        "extent": [450, 600],
        f"{image}_min": 0,
        f"{image}_max": 255,
        "missing": [],
    }


def cases(number: int, folder: Path) -> Iterator[str]:
    """Write so many small pictures with masks and a table; yield the steps to measure."""
    from PIL import Image

    rng, raw = np.random.default_rng(0), folder / "raw"
    for part in ("images", "masks"):
        (raw / part).mkdir(parents=True)
    mask = np.zeros((64, 64), np.uint8)
    mask[20:44, 20:44] = 255
    table = ["case,group,dx"]
    for i in range(number):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(raw / "images" / f"c{i:06}.png")
        Image.fromarray(mask).save(raw / "masks" / f"c{i:06}.png")
        table.append(f"c{i:06},g{i:06},{_CLASSES[i % 2]}")
    (raw / "table.csv").write_text("\n".join(table) + "\n")
    described = {
        "name": "small",
        "image": {"files": ["images/{case}.png"], "modality": "photo"},
        "masks": {"Lesion": "masks/{case}.png"},
        "table": {"file": "table.csv", "case": "case", "group": "group"},
        "labels": {"diagnosis": {"column": "dx", "classes": _CLASSES}},
    }
    (raw / "dataset.yaml").write_text(yaml.safe_dump(described))
    yield from ("ingest", "validate", "preprocess", "read all")


def slices(number: int, folder: Path, edge: int) -> Iterator[str]:
    """Write five CTs with one organ, one of so many slices, the others of 32; yield the steps to measure."""
    import SimpleITK as sitk

    raw = folder / "raw"
    for part in ("imagesTr", "labelsTr"):
        (raw / part).mkdir(parents=True)
    for i in range(5):
        ct, organ = _trunk(number if i == 0 else 32, edge, i)
        for part, name, values in (("imagesTr", f"c{i}_0000", ct), ("labelsTr", f"c{i}", organ)):
            image = sitk.GetImageFromArray(values)
            image.SetSpacing((360 / edge, 360 / edge, 1.0))
            sitk.WriteImage(image, str(raw / part / f"{name}.nii.gz"), useCompression=True, compressionLevel=1)
    described = {"channel_names": {"0": "CT"}, "numTraining": 5, "file_ending": ".nii.gz"}
    described["labels"] = {"background": 0, "organ": 1}
    (raw / "dataset.json").write_text(json.dumps(described))
    yield from ("ingest", "validate", "preprocess", "read all")


def _trunk(number: int, edge: int, seed: int) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.uint8]]:
    """Return a noisy cylinder of water in air, and a smaller one in it, (slices, edge, edge)."""
    rng = np.random.default_rng(seed)
    rows_, columns = np.mgrid[:edge, :edge] / edge - 0.5
    body, organ = rows_**2 + columns**2 < 0.16, (rows_**2 + (columns - 0.1) ** 2 < 0.01)
    plane = np.where(body, 20, -1000).astype(np.int16)
    ct = plane + rng.integers(-20, 21, (number, edge, edge), np.int16)
    return np.maximum(ct, -1024), np.broadcast_to(organ, ct.shape).astype(np.uint8)


def main() -> None:
    """Measure and print a table a kind."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="*", default=[1000, 10_000, 100_000])
    parser.add_argument("--cases", type=int, nargs="*", default=[100, 1000, 10_000])
    parser.add_argument("--slices", type=int, nargs="*", default=[150, 300, 600])
    parser.add_argument("--edge", type=int, default=512, help="of a slice, pixels")
    asked = parser.parse_args()
    kinds = {
        "rows of a manifest": (asked.rows, rows),
        "small cases": (asked.cases, cases),
        f"slices of {asked.edge} x {asked.edge}": (asked.slices, lambda n, folder: slices(n, folder, asked.edge)),
    }
    for title, (sizes, write) in kinds.items():
        table = Table("step", *(f"{size:,}: s, MiB" for size in sizes), title=title)
        found: dict[str, list[str]] = {}
        for size in sizes:
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                settings = ["validation.max_quarantined_share=1"] if write is not rows else [str(size)]
                for step in write(size, folder):
                    more = settings if step in ("ingest", "divide into sides") else []
                    seconds, mib = measure(step, folder, *more)
                    found.setdefault(step, []).append(f"{seconds:.1f}, {mib:,.0f}")
                    print(f"{title}, {size:,}: {step}: {seconds:.1f} s, {mib:,.0f} MiB", flush=True)
        for step, values in found.items():
            table.add_row(step, *values)
        if sizes:
            Console(width=120).print(table)


if __name__ == "__main__":
    main()
