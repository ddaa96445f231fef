"""Models of earlier formats. Those of release 0.1 had no format version in `model.json` and said little of the data.

What they leave open stood in the code of that release: `descriptions_0_1.json` keeps it, and is never changed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

from ctan.errors import DataError
from ctan.migrations import migrate_network

_PRESCRIPTION_GY = 78.0  # of planning data whose settings gave none
_SAME = (
    "arch",
    "fold",
    "seed",
    "tasks",
    "in_channels",
    "precision",
    "device",
    "num_parameters",
    "macs_per_case",
    "epochs",
    "step_seconds",
    "store_key",
    "data_hash",
    "code_hash",
    "config_hash",
    "run_id",
    "tracking_uri",
    "config",
)


def upgraded_model(value: Mapping[str, Any], where: str, advice: str) -> dict[str, Any]:
    """Return a `model.json` of release 0.1 in format 2.

    Args:
        value: the content.
        where: file it comes from, for errors.
        advice: what to do when it is something else.

    Raises:
        DataError: when it is something else.
    """
    if missing := [name for name in ("dataset", *_SAME) if name not in value]:
        raise DataError(f"{where}: not the description of a trained model, lacks {', '.join(missing)}; {advice}")
    specs = json.loads(resources.files("ctan").joinpath("records/descriptions_0_1.json").read_text(encoding="utf-8"))
    if value["dataset"] not in specs:
        raise DataError(f"{where}: release 0.1 had no data set {value['dataset']!r}; {advice}")
    try:
        config = _ordered(value)
        return {
            **{name: value[name] for name in _SAME},
            "format_version": 2,
            "config": config,
            "spec": _spec(specs[value["dataset"]], config["data"]),
            "inputs": {"shown": config["data"]["inputs"], "signed_distance": config["data"]["signed_distance"]},
            "network": migrate_network(config["network"]),
            "grid": {
                "shape": config["preprocess"]["grid_shape"],
                "spacing_mm": config["preprocess"]["grid_spacing_mm"],
            },
            "compute_precision": config["training"]["precision"],
            "test_time_flip": config["evaluation"]["test_time_flip"],
            "run_url": value.get("run_url", ""),
        }
    except (KeyError, TypeError) as error:
        raise DataError(f"{where}: not a model of release 0.1, its settings lack {error}; {advice}") from error


def with_inputs(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return a `model.json` of format 2 in format 3.

    It saw where dose was known instead of where it can be, and default levels instead of the case's own. OpenKBP's own
    mask is both: dose is known everywhere.
    """
    inputs, spec = value.get("inputs"), value.get("spec")
    if not isinstance(inputs, Mapping) or not isinstance(spec, Mapping):
        return {**value, "format_version": 3}  # what is missing is named when it is checked
    mask = "possible" if spec.get("dataset") == "openkbp" else "known"
    return {**value, "format_version": 3, "inputs": {**inputs, "mask": mask, "levels": "data"}}


def _ordered(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with structures of planning data in the order of the masks: `model.json` sorted names."""
    config = value["config"]
    if value["dataset"] != "prostate":
        return dict(config)
    dicom = config["data"]["dicom"]
    organs = next(task["structures"] for task in value["tasks"] if task["kind"] == "segmentation")
    structures = {name: dicom["structures"][name] for name in (*organs, *dicom["targets"])}
    return {**config, "data": {**config["data"], "dicom": {**dicom, "structures": structures}}}


def _spec(spec: dict[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description of the data: the table's; structures of planning data were settings."""
    if spec["dataset"] != "prostate":
        return spec
    dicom = data["dicom"]
    organs = [name for name in dicom["structures"] if name not in dicom["targets"]]
    contouring, dose = spec["tasks"]
    return spec | {
        "structures": [*organs, *dicom["targets"]],
        "targets": dict.fromkeys(dicom["targets"], dicom["prescription_gy"] or _PRESCRIPTION_GY),
        "mirrored_pairs": dicom["mirrored_pairs"],
        "tasks": [contouring | {"structures": organs, "mirrored_pairs": dicom["mirrored_pairs"]}, dose],
    }
