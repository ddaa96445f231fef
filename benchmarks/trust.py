"""How often a case that is unlike the training cases is told, at 5 % false alarms.

    python benchmarks/trust.py [--draws 200] [--model FOLDER | --patients FOLDER]

Phantoms of the prostate (DICOM): a fingerprint of 60 training cases, with 60 that no weight was fitted to, then draws
of others, unchanged and changed. The network has random weights unless a folder with a trained model is named; its
bottleneck tells less then than one that was trained. With `--patients` it is each real patient of a folder of OpenKBP
against all others, by the measures alone, as no network is at hand that learned from the others.
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
from ctan.inference.fingerprint import BOTTLENECK, LEVEL, MEASURES, Seen, fingerprint, floors, judge, measures
from ctan.inference.load import LoadedModel
from ctan.metrics.novelty import most_unusual
from ctan.prediction.ask import with_what_can_be_told
from ctan.prediction.drift import compare

KNOWN, HELD_OUT = 60, 60
_INCOMING = 10  # patients in a sample
Change = Callable[[Case, np.random.Generator], Case]
_OTHER_SITES = {"head and neck": "openkbp", "chest": "stoic"}


def _with_image(case: Case, image: np.ndarray) -> Case:
    return replace(case, images={"ct": np.clip(np.rint(image), 0, 4095).astype(np.uint16)})


def _shifted(hounsfield: float) -> Change:
    def shifted(case: Case, _: np.random.Generator) -> Case:
        image = case.images["ct"].astype(float)
        return _with_image(case, np.where(image > 724, image + hounsfield, image))

    return shifted


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


def _at_place(case: Case, other: Case) -> Case:
    """Return a case with the image of another, brought to its grid and extent: nothing but the anatomy differs."""
    from scipy.ndimage import zoom

    there, factors = other.images["ct"].astype(float), np.divide(case.shape, other.shape)
    return _with_image(case, zoom(there, factors, order=1, grid_mode=True, mode="nearest"))


CHANGES: dict[str, Change] = {
    "none (false alarms)": lambda case, _: case,
    "scanner: tissue 15 HU higher": _shifted(15),
    "scanner: tissue 30 HU higher": _shifted(30),
    "scanner: tissue 60 HU higher": _shifted(60),
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
    parser.add_argument("--patients", type=Path, help="folder of patients of OpenKBP")
    asked = parser.parse_args()
    if asked.patients:
        _of_patients(asked.patients, asked.draws)
        return
    os.environ.setdefault("CTAN_DEID_KEY", "0123456789abcdef" * 4)
    with tempfile.TemporaryDirectory() as folder:
        model = load_network(asked.model or _untrained(Path(folder) / "model"))
        known = (
            Seen(*_working(model, case), held_out=number >= KNOWN)
            for number, case in enumerate(_phantoms(Path(folder), KNOWN + HELD_OUT, seed=1))
        )
        found = fingerprint(replace(model, test_time_flip=False), known, KNOWN)
        model = replace(model, record=model.record.model_copy(update={"fingerprint": found}))
        names = [*CHANGES, *(f"{site}, on the same grid" for site in _OTHER_SITES)]
        told: dict[str, dict[str, int]] = {name: {"any": 0, MEASURES: 0, BOTTLENECK: 0} for name in names}
        rng = np.random.default_rng(0)
        sites = [_phantoms(Path(folder), asked.draws, seed=2, dataset=dataset) for dataset in _OTHER_SITES.values()]
        for case, *others in zip(_phantoms(Path(folder), asked.draws, seed=2), *sites, strict=True):
            changed = [change(case, rng) for change in CHANGES.values()]
            changed += [_at_place(case, other) for other in others]
            for name, one_changed in zip(names, changed, strict=True):
                views = [view for view, one in judge(model, *_working(model, one_changed)).items() if one.outside]
                told[name]["any"] += bool(views)
                for view in views:
                    told[name][view] += 1
    print(f"| changed, {asked.draws} draws | told | by measures | by the bottleneck |\n|---|---|---|---|")
    for name, counts in told.items():
        shares = " | ".join(f"{100 * count / asked.draws:.1f} %" for count in counts.values())
        print(f"| {name} | {shares} |")


def _of_patients(folder: Path, draws: int) -> None:
    """Print how many real patients are told from all others, and samples of them, unchanged and with another image."""
    reader = get_dataset(DataConfig(dataset="openkbp"))
    names = [name for name in CHANGES if name.startswith(("none", "scanner", "noise", "smoother"))]
    rng = np.random.default_rng(0)
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for raw in reader.find(folder):
        case = reader.read(raw)
        for name in names:
            stored = to_working(CHANGES[name](case, rng), reader.spec, (48, 64, 48), (4.0, 4.0, 4.0))
            rows[name].append(measures(*stored, reader.spec))
    features = list(rows[names[0]][0])
    values = {name: np.array([[row[each] for each in features] for row in found]) for name, found in rows.items()}
    known, floor = values[names[0]], np.array(floors(features, reader.spec))
    print(f"| changed, {len(known)} real patients | one, by measures | {_INCOMING} together, as drift |\n|---|---|---|")
    for name, cases in values.items():
        judged = [most_unusual(np.delete(known, i, axis=0), case, floor, LEVEL) for i, case in enumerate(cases)]
        told = sum(one is not None and one.p <= LEVEL for one in judged)
        drifted = sum(_drifted(features, known, cases, floor, rng.permutation(len(known))) for _ in range(draws))
        print(f"| {name} | {100 * told / len(known):.1f} % | {100 * drifted / draws:.1f} % |")


def _drifted(features: list[str], known: np.ndarray, cases: np.ndarray, floor: np.ndarray, order: np.ndarray) -> bool:
    """Return whether the last patients of an order, with their changed images, have drifted from the others."""
    then, now = known[order[:-_INCOMING]], cases[order[-_INCOMING:]]
    columns = [dict(zip(features, rows.T, strict=True)) for rows in (then, now)]
    return any(one.drifted for one in compare(*columns, 0.0, dict(zip(features, floor, strict=True))))


def _phantoms(folder: Path, number: int, seed: int, dataset: str = "prostate") -> Iterator[Case]:
    raw = folder / f"{dataset}-{seed}"
    get_dataset(dataset).write_phantoms(raw, number, 0, seed=seed)
    reader = get_dataset(DataConfig(dataset=dataset))
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
