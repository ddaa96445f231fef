"""Synthetic but realistic inputs of the report: what `evaluate` and `compare` write, without networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ctan.cases import Case
from ctan.config import EvaluationConfig
from ctan.datasets import get_dataset
from ctan.evaluation.cases import EVALUATION, TUNING, write_cases
from ctan.evaluation.figures import DVH_SCHEMA, pictures
from ctan.evaluation.improvement import relative_improvement
from ctan.evaluation.summary import scores
from ctan.records import ComparisonRecord, ModelEntry, ModelRecord
from ctan.settings import load_config
from ctan.tasks import DoseRegression, Segmentation, Task, tasks_of
from ctan.training.history import write_history
from tests.helpers.records import model_record

NUM_CASES = {TUNING: 12, EVALUATION: 16}
ARCHS = ("stl", "hps", "mtan", "ctan")
# (share of the true contour's border that is missed, dose error) of each architecture
_SKILL = {"stl": (0.30, 3.6), "hps": (0.32, 3.5), "mtan": (0.27, 3.35), "ctan": (0.25, 3.1)}
_PARAMETERS = {"stl": 8.1e6, "hps": 5.2e6, "mtan": 6.4e6, "ctan": 7.3e6}
SETTINGS = EvaluationConfig()


def tasks() -> tuple[Task, ...]:
    return tasks_of(get_dataset("openkbp").spec)


def write_inputs(
    root: Path,
    archs: tuple[str, ...] = ARCHS,
    trainings: tuple[tuple[int, int], ...] = ((0, 0),),
    num_figure_cases: int = 2,
    only: tuple[Task, ...] | None = None,
    surfaces: bool = False,
) -> tuple[dict[str, Any], list[Path]]:
    """Write evaluations and return `(comparison, evaluation_dirs)`.

    Args:
        root: empty folder.
        archs: architectures, the first or `stl` is the reference.
        trainings: `(fold, seed)` of each architecture's trainings.
        num_figure_cases: cases with slices and curves.
        only: tasks the models predict, all when None.
        surfaces: whether distances between surfaces were scored.
    """
    predicted = tasks() if only is None else only
    folders, models = [], []
    for arch in archs:
        for fold, seed in trainings:
            folder = root / f"{arch}-{fold}-{seed}"
            folder.mkdir(parents=True)
            rows = _cases(arch, fold, seed, predicted)
            rows = [row for row in rows if surfaces or row["metric"] not in ("surface_dice", "hd95_mm")]
            write_cases(rows, folder / "cases.parquet")
            write_history(folder / "history.parquet", _history(arch, seed, predicted))
            _write_figures(folder, arch, fold, seed, num_figure_cases, predicted)
            record = _record(arch, fold, seed, predicted)
            record.save(folder)
            table = pq.read_table(folder / "cases.parquet")
            found = {role: scores(_role(table, role), predicted) for role in NUM_CASES}
            models.append(ModelEntry.of(record, found).model_dump(mode="json"))
            folders.append(folder)
    return _comparison(models, folders, predicted), folders


def _role(table: pa.Table, role: str) -> pa.Table:
    return table.filter(pa.compute.field("role") == role)


def _record(arch: str, fold: int, seed: int, predicted: tuple[Task, ...]) -> ModelRecord:
    num_parameters = int(_PARAMETERS.get(arch, 5e6))
    return model_record(
        arch,
        get_dataset("openkbp").spec,
        predicted,
        load_config("cpu"),
        fold=fold,
        seed=seed,
        epochs=10,
        store_key="0123456789abcdef",
        code_hash="c" * 64,
        num_parameters=num_parameters,
        precision="bf16",
        macs_per_case=num_parameters * 9000,
        run_id=f"run{arch}{fold}{seed}",
        step_seconds=1.0 + num_parameters / 1e7,
    )


def _cases(arch: str, fold: int, seed: int, predicted: tuple[Task, ...]) -> list[dict[str, Any]]:
    dataset = get_dataset("openkbp")
    missed, error = _SKILL.get(arch, (0.3, 3.5))
    own = np.random.default_rng([ord(c) for c in arch] + [fold, seed])
    rows = []
    for role, count in NUM_CASES.items():
        shared = np.random.default_rng([len(role), 7])  # how hard a case is, for all architectures
        for number in range(count):
            hard = shared.normal()
            case_id = f"pt_{number + (1 if role == TUNING else 201)}"
            known = [name for name in dataset.spec.structures if name.startswith("PTV70") or shared.random() > 0.12]
            levels = {name: shared.uniform(8, 62) for name in dataset.spec.structures}
            base = {"arch": arch, "fold": fold, "seed": seed, "role": role, "case_id": case_id, "group_id": case_id}
            for task in predicted:
                if isinstance(task, Segmentation):
                    for i, name in enumerate(n for n in task.structures if n in known):
                        value = float(np.clip(1 - missed * (0.6 + 0.15 * i) - 0.04 * hard + own.normal(0, 0.03), 0, 1))
                        row = base | {"task": task.name, "structure": name}
                        rows.append(row | {"metric": "dice", "value": value})
                        rows.append(row | {"metric": "surface_dice", "value": value**2})
                        rows.append(row | {"metric": "hd95_mm", "value": 20 * (1 - value) if value else float("nan")})
                elif isinstance(task, DoseRegression):
                    value = float(error * np.exp(0.2 * hard) + abs(own.normal(0, 0.2)))
                    row = {"task": task.name, "metric": "dose_score", "structure": "", "value": value, "count": 9000}
                    rows.append(base | row)
                    for name in known:
                        level = dataset.spec.targets.get(name, levels[name])
                        criteria = ("D_99", "D_95", "D_1") if name in dataset.spec.targets else ("D_0.1_cc", "mean")
                        for criterion in criteria:
                            planned = level * shared.uniform(0.93, 1.05)
                            got = planned + own.normal(-0.4, error * 0.7)
                            row = {"metric": "dvh", "structure": f"{name}:{criterion}", "value": abs(got - planned)}
                            rows.append(base | row | {"task": task.name, "predicted": got, "planned": planned})
                        if name == "SpinalCord":
                            doses = {"planned": level, "predicted": level + own.normal(0, 2)}
                            row = {"metric": "goal", "structure": "SpinalCord D0.1cc < 45 Gy", "task": task.name}
                            rows.append(base | row | doses | {"value": abs(doses["predicted"] - level)})
    return rows


def _history(arch: str, seed: int, predicted: tuple[Task, ...]) -> list[dict[str, Any]]:
    own = np.random.default_rng([len(arch), seed])
    error = _SKILL.get(arch, (0.3, 3.5))[1]
    rows = []
    for epoch in range(1, 11):
        rate = 1e-3 * 0.5 * (1 + np.cos(np.pi * epoch / 11))
        losses = {t.name: error * 0.2 + 2 * np.exp(-epoch / 3) + abs(own.normal(0, 0.03)) for t in predicted}
        for name, loss in {"": sum(losses.values()), **losses}.items():
            rows.append({"epoch": epoch, "task": name, "loss": loss, "weight": 1.0, "learning_rate": rate})
    return rows


def phantom(case_id: str, number: int) -> Case:
    """Return an ellipsoid patient with two organs and a target, (24, 32, 28) voxels of 7 x 6 x 8 mm."""
    shape, spacing = (24, 32, 28), (7.0, 6.0, 8.0)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))

    def ball(centre: tuple[float, ...], radii: tuple[float, ...]) -> np.ndarray:
        scaled = [(g - c) / r for g, c, r in zip(grid, centre, radii, strict=True)]
        return sum(s**2 for s in scaled) <= 1

    body, noise = ball((0, 0, 0), (0.85, 0.8, 0.98)), np.random.default_rng(number).normal(0, 20, shape)
    target = ball((-0.1, 0.25, 0.05 * number), (0.25, 0.22, 0.3))
    distance = np.sqrt(((grid[0] + 0.1) / 0.6) ** 2 + ((grid[1] - 0.25) / 0.5) ** 2 + (grid[2] / 0.7) ** 2)
    masks = {
        "PTV70": target,
        "RightParotid": ball((0.05, -0.5, 0.1), (0.16, 0.14, 0.2)),
        "LeftParotid": ball((0.05, 0.55, 0.1), (0.16, 0.14, 0.2)),
        "SpinalCord": ball((0.4, 0, 0), (0.09, 0.09, 0.95)),
        "possible_dose_mask": body,
    }
    ct = np.where(body, 1064 + noise, 0).clip(0, 4095).astype(np.uint16)
    dose = np.where(body, np.where(target, 71, 70 * np.exp(-((distance - 0.4).clip(0) ** 2) * 2.5)), 0)
    images, doses = {"ct": ct}, {"dose": dose.astype(np.float32)}
    return Case(case_id, case_id, "validation", spacing, images, masks, doses, "0" * 64)


def _write_figures(folder: Path, arch: str, fold: int, seed: int, count: int, predicted: tuple[Task, ...]) -> None:
    dataset, arrays, curves = get_dataset("openkbp"), {}, []
    error = _SKILL.get(arch, (0.3, 3.5))[1]
    for number in range(count):
        reference = phantom(f"pt_{201 + number}", number)
        dose = np.roll(reference.doses["dose"], 1, axis=1) * np.float32(1 + error / 100)
        native: dict[str, np.ndarray] = {}
        for task in predicted:
            if isinstance(task, Segmentation):
                empty = np.zeros(dose.shape, bool)
                native[task.name] = np.stack([np.roll(reference.masks.get(n, empty), 1, 0) for n in task.structures])
            elif isinstance(task, DoseRegression):
                native[task.name] = dose
                curves += [
                    {"arch": arch, "fold": fold, "seed": seed} | r for r in task.curves(dose, reference, dataset.spec)
                ]
        arrays |= pictures(reference, native, predicted, dataset.spec)
    pq.write_table(pa.Table.from_pylist(curves, DVH_SCHEMA), folder / "dvh.parquet")
    np.savez_compressed(folder / "figures.npz", **arrays)


def _comparison(models: list[dict[str, Any]], folders: list[Path], predicted: tuple[Task, ...]) -> dict[str, Any]:
    archs = list(dict.fromkeys(model["arch"] for model in models))
    reference = "stl" if "stl" in archs else archs[0]
    tables: dict[str, list[pa.Table]] = {arch: [] for arch in archs}
    for model, folder in zip(models, folders, strict=True):
        tables[model["arch"]].append(pq.read_table(folder / "cases.parquet"))
    architectures = []
    for arch in archs:
        of_arch = [model["scores"] for model in models if model["arch"] == arch]
        gains = (
            {}
            if arch == reference
            else {
                role: relative_improvement(
                    predicted,
                    *([_role(t, role) for t in tables[name]] for name in (arch, reference)),
                    SETTINGS.confidence,
                )
                for role in NUM_CASES
            }
        )
        rows = pa.concat_tables([_role(t, EVALUATION) for t in tables[arch]])
        dice = rows.filter(pa.compute.field("metric") == "dice").group_by("structure").aggregate([("value", "mean")])
        architectures.append(
            {
                "arch": arch,
                "scores": {
                    role: {
                        t: {m: _spread(np.mean([s[role][t][m] for s in of_arch])) for m in of_arch[0][role][t]}
                        for t in of_arch[0][role]
                    }
                    for role in NUM_CASES
                },
                "structures": dict(zip(dice["structure"].to_pylist(), dice["value_mean"].to_pylist(), strict=True)),
                "relative_improvement": gains,
            }
        )
    has_dose = any(isinstance(task, DoseRegression) for task in predicted)
    average = {
        a["arch"]: a["relative_improvement"].get(TUNING, {}).get("average", {}).get("value", 0) for a in architectures
    }
    best = max(average, key=average.get)
    index = next(i for i, model in enumerate(models) if model["arch"] == best)
    return {
        "tasks": [task.to_json() for task in predicted],
        "dataset": "openkbp",
        "store_key": "0123456789abcdef",
        "data_hash": "d" * 64,
        "evaluation_hash": "e" * 64,
        "confidence": SETTINGS.confidence,
        "reference_arch": reference,
        "excludes_training_variance": len(models) < 3 * len(archs),
        "num_tuning_cases": NUM_CASES[TUNING],
        "num_evaluation_cases": NUM_CASES[EVALUATION],
        "models": models,
        "architectures": architectures,
        "baselines": [
            {
                "arch": "baseline-mean",
                "label": "Mean dose inside the mask",
                "scores": {EVALUATION: {"dose": {"dose_score": 21.3, "dvh_score": 24.1}}},
            },
            {
                "arch": "baseline-distance",
                "label": "Mean dose at equal distance to the targets",
                "scores": {EVALUATION: {"dose": {"dose_score": 7.91, "dvh_score": 9.2}}},
            },
        ]
        if has_dose
        else [],
        "grid_floor": {"dose": {"dose_score": 0.134, "dvh_score": 0.31}, "contouring": {"dice_mean": 0.973}},
        "best": {
            "arch": best,
            "fold": models[index]["fold"],
            "seed": models[index]["seed"],
            "model_index": index,
            "reason": f"{best} improves on {reference} by {average[best]:+.2f}% on the tuning cases",
        },
    }


def _spread(value: float) -> dict[str, float]:
    return {"value": float(value), "low": float(value) * 0.94, "high": float(value) * 1.06}


def record_of(content: dict[str, Any]) -> ComparisonRecord:
    """Return a comparison as it is read."""
    return ComparisonRecord.from_json(content, "comparison.json")
