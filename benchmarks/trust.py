"""How often a case that is unlike the training cases is told, at 5 % false alarms: `python benchmarks/trust.py`.

Phantoms of the prostate (DICOM): a fingerprint of 60 training cases, with 60 that no weight was fitted to, then draws
of others, unchanged and changed. The network has random weights unless a folder with a trained model is named; its
bottleneck tells less then than one that was trained.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from ctan.cases import Case
from ctan.cases.working import to_working
from ctan.config import DataConfig
from ctan.datasets import get_dataset
from ctan.inference import load_network
from ctan.inference.fingerprint import BOTTLENECK, MEASURES, Seen, fingerprint, judge
from ctan.inference.load import LoadedModel
from ctan.prediction.ask import with_what_can_be_told

KNOWN, HELD_OUT = 60, 60
Change = Callable[[Case, np.random.Generator], Case]


def _with_image(case: Case, image: np.ndarray) -> Case:
    return replace(case, images={"ct": np.clip(np.rint(image), 0, 4095).astype(np.uint16)})


def _shifted(case: Case, _: np.random.Generator) -> Case:
    image = case.images["ct"].astype(float)
    return _with_image(case, np.where(image > 724, image + 30, image))


def _scaled(case: Case, _: np.random.Generator) -> Case:
    return _with_image(case, (case.images["ct"].astype(float) - 24) * 1.1 + 24)


def _noisy(case: Case, rng: np.random.Generator) -> Case:
    return _with_image(case, case.images["ct"] + rng.normal(0, 40, case.shape))


def _smooth(case: Case, _: np.random.Generator) -> Case:
    from scipy.ndimage import gaussian_filter

    return _with_image(case, gaussian_filter(case.images["ct"].astype(float), 0.7))


def _thick(case: Case, _: np.random.Generator) -> Case:
    y, x, z = case.spacing_mm
    arrays = {name: array[..., ::2] for name, array in case.images.items()}
    return replace(
        case,
        spacing_mm=(y, x, 2 * z),
        images=arrays,
        masks={name: array[..., ::2] for name, array in case.masks.items()},
        doses={},
    )


def _untargeted(case: Case, _: np.random.Generator) -> Case:
    return replace(case, masks={name: mask for name, mask in case.masks.items() if name != "PTV"})


def _half(case: Case, _: np.random.Generator) -> Case:
    """Return a scan that shows the upper half of the patient alone."""
    half = case.shape[2] // 2
    return replace(
        case,
        images={name: array[..., :half] for name, array in case.images.items()},
        masks={name: array[..., :half] for name, array in case.masks.items()},
        doses={},
    )


CHANGES: dict[str, Change] = {
    "none (false alarms)": lambda case, _: case,
    "scanner: tissue 30 HU higher": _shifted,
    "scanner: contrast 10 % more": _scaled,
    "noise of 40 HU added": _noisy,
    "smoother kernel (0.7 voxels)": _smooth,
    "slices twice as thick": _thick,
    "target missing": _untargeted,
    "upper half of the scan alone": _half,
}


def main() -> None:
    """Print a row a change: how many of the draws are told, and by which view."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="folder of a model of the data set `prostate`")
    parser.add_argument("--draws", type=int, default=200)
    asked = parser.parse_args()
    os.environ.setdefault("CTAN_DEID_KEY", "0123456789abcdef" * 4)
    with tempfile.TemporaryDirectory() as folder:
        model = load_network(asked.model or _untrained(Path(folder) / "model"))
        known = (
            Seen(*_working(model, case), held_out=number >= KNOWN)
            for number, case in enumerate(_phantoms(Path(folder), KNOWN + HELD_OUT, seed=1))
        )
        found = fingerprint(replace(model, test_time_flip=False), known, KNOWN)
        model = replace(model, record=model.record.model_copy(update={"fingerprint": found}))
        told: dict[str, dict[str, int]] = {name: {"any": 0, MEASURES: 0, BOTTLENECK: 0} for name in CHANGES}
        rng = np.random.default_rng(0)
        for case in _phantoms(Path(folder), asked.draws, seed=2):
            for name, change in CHANGES.items():
                views = [view for view, one in judge(model, *_working(model, change(case, rng))).items() if one.outside]
                told[name]["any"] += bool(views)
                for view in views:
                    told[name][view] += 1
    print(f"| changed, {asked.draws} draws | told | by measures | by the bottleneck |\n|---|---|---|---|")
    for name, counts in told.items():
        shares = " | ".join(f"{100 * count / asked.draws:.1f} %" for count in counts.values())
        print(f"| {name} | {shares} |")


def _phantoms(folder: Path, number: int, seed: int) -> Iterator[Case]:
    raw = folder / f"raw-{seed}"
    get_dataset("prostate").write_phantoms(raw, number, 0, seed=seed)
    reader = get_dataset(DataConfig(dataset="prostate"))
    for one in reader.find(raw):
        yield reader.read(one)


def _working(model: LoadedModel, case: Case):
    case, _ = with_what_can_be_told(case, model)
    grid = model.record.grid
    return to_working(case, model.spec, grid.shape, grid.spacing_mm)


def _untrained(folder: Path) -> Path:
    from tests.helpers.prediction import untrained_model

    return untrained_model(folder, "prostate", [24, 32, 32], [8.0, 8.0, 8.0])


if __name__ == "__main__":
    main()
