"""What must hold for a manifest, in words and as Great Expectations; the only module that knows that library.

Expectations about a case name the cases that fail; those about the table stop everything.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ctan.cases import SPLIT_TEST, SPLIT_TRAIN, SPLIT_VALIDATION, DataSpec
from ctan.cases.expectation import Expectation, between
from ctan.config import RunConfig, ValidationConfig
from ctan.datasets.base import Dataset
from ctan.store.manifest import SCHEMA
from ctan.tasks import tasks_of
from ctan.validation.copies import Copies

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_TISSUE = 1000  # CT values as exported: HU + 1024; every patient has denser voxels than this
_MAX_CT = 4095

# What every case must have: Great Expectations skips null and NaN in every other expectation.
_REQUIRED = ("dataset", "group_id", "split", "fold", "sha256", "image_sha256")
_REQUIRED_DOSE = (
    "num_mask_voxels",
    "num_known_dose_voxels",
    "dose_max_gy",
    "dose_mean_gy",
    "num_dose_voxels_outside_mask",
)
_PER_LEVEL = ("dose_share", "unknown_level")
_DERIVED = ("unknown", "num_splits_of_group", "fold_of_training", "fold_of_others", "spacing_min_mm", "spacing_max_mm")
_OF_COPIES = ("copied_across", "contradicting")


@dataclass(frozen=True)
class Outcome:
    """What became of one expectation.

    Attributes:
        expectation: which one.
        success: whether it holds for the table and every case.
        failing: case id -> the value that was found.
        low: smallest observed value, None when values have no order.
        high: largest.
    """

    expectation: Expectation
    success: bool
    failing: Mapping[str, Any] = field(default_factory=dict)
    low: Any = None
    high: Any = None


def expectations(dataset: Dataset, config: RunConfig) -> list[Expectation]:
    """Return what must hold for the manifest of a data set: of all, of CT, of doses, for its tasks, and its own.

    Args:
        dataset: names structures, targets, labels and tasks, and adds its own expectations.
        config: bounds.
    """
    found = _of_all(dataset.spec, config)
    if dataset.spec.image.modality == "ct":
        found += _of_ct(dataset.spec)
    if dataset.spec.has_dose:
        found += _of_dose(dataset.spec, config.validation)
    for name in () if dataset.masks_may_be_empty else dataset.spec.structures:
        sentence = f"{name}, where contoured, has at least one voxel"
        found.append(between(f"{name}-voxels", f"voxels_{name}", 1, None, "voxels", sentence))
    for name, classes in dataset.spec.labels.items():
        sentence = f"{name}, where known, is one of {', '.join(classes)}"
        arguments = {"column": f"label_{name}", "value_set": list(classes)}
        found.append(Expectation(f"{name}-class", sentence, "", "ExpectColumnValuesToBeInSet", arguments))
    for task in tasks_of(dataset.spec):
        found += task.expectations(dataset.spec, config.validation)
    found += dataset.expectations(config.validation)
    # Great Expectations keeps one of several that ask the same
    return list({(one.type, json.dumps(one.arguments, sort_keys=True)): one for one in reversed(found)}.values())[::-1]


def _of_all(spec: DataSpec, config: RunConfig) -> list[Expectation]:
    splits = [SPLIT_TRAIN, SPLIT_VALIDATION, SPLIT_TEST]
    columns = [*SCHEMA(spec).names, *_DERIVED, *_OF_COPIES, *_shares(spec)]
    return [
        Expectation(
            "columns",
            "The manifest has every column of its schema",
            "",
            "ExpectTableColumnsToMatchSet",
            {"column_set": columns, "exact_match": True},
            about_cases=False,
        ),
        Expectation(
            "rows",
            "There is at least one case",
            "cases",
            "ExpectTableRowCountToBeBetween",
            {"min_value": 1},
            about_cases=False,
        ),
        Expectation(
            "id", "Every case has an id", "", "ExpectColumnValuesToNotBeNull", {"column": "case_id"}, about_cases=False
        ),
        Expectation(
            "unique-id", "Every case has an id of its own", "", "ExpectColumnValuesToBeUnique", {"column": "case_id"}
        ),
        Expectation(
            "complete", "Every quantity of the case is known", "", "ExpectColumnValuesToBeNull", {"column": "unknown"}
        ),
        Expectation(
            "split",
            f"The split is one of {', '.join(splits)}",
            "",
            "ExpectColumnValuesToBeInSet",
            {"column": "split", "value_set": splits},
        ),
        Expectation(
            "copies",
            "No other group on another side (split, fold) holds the same files, image or dose",
            "",
            "ExpectColumnValuesToBeNull",
            {"column": "copied_across"},
        ),
        *(_of_answers() if spec.labels or spec.numbers else ()),
        between("one-split", "num_splits_of_group", None, 1, "splits", "No patient is in two splits"),
        between(
            "fold-of-training",
            "fold_of_training",
            0,
            config.data.num_folds - 1,
            "",
            f"Training cases are in a fold from 0 to {config.data.num_folds - 1}",
        ),
        between("no-other-fold", "fold_of_others", -1, -1, "", "Other cases are in no fold"),
        *(_of_voxels(config.validation) if spec.spatial_dims == 3 else ()),  # pictures have no known size
    ]


def _of_answers() -> list[Expectation]:
    sentence, arguments = "Cases of one image have the same labels", {"column": "contradicting"}
    return [Expectation("one-answer", sentence, "", "ExpectColumnValuesToBeNull", arguments)]


def _of_voxels(limits: ValidationConfig) -> list[Expectation]:
    spacing = (limits.min_spacing_mm, limits.max_spacing_mm)
    return [
        between(
            "smallest-spacing",
            "spacing_min_mm",
            *spacing,
            "mm",
            f"Voxel edges are at least {limits.min_spacing_mm:g} mm",
        ),
        between(
            "largest-spacing", "spacing_max_mm", *spacing, "mm", f"Voxel edges are at most {limits.max_spacing_mm:g} mm"
        ),
    ]


def _of_ct(spec: DataSpec) -> list[Expectation]:
    name, unit = spec.image.name, spec.image.unit
    return [
        between(f"{name}-range", f"{name}_min", 0, _MAX_CT, unit, f"CT values lie within 0 to {_MAX_CT}"),
        between(f"{name}-tissue", f"{name}_max", _TISSUE, _MAX_CT, unit, "The CT shows tissue"),
    ]


def _of_dose(spec: DataSpec, limits: ValidationConfig) -> list[Expectation]:
    most, unknown = limits.max_dose_gy, limits.max_unknown_target_share
    return [
        *(
            between(
                f"{name}-dose-known",
                f"unknown_dose_share_{name}",
                None,
                unknown,
                "of its voxels",
                f"The dose of {name} is known, but for at most {unknown:.1%} of it "
                f"(validation.max_unknown_target_share): the dose grid covers the target",
            )
            for name in spec.targets
        ),
        between("mask", "num_mask_voxels", 1, None, "voxels", "The possible-dose mask is not empty"),
        between("known-dose", "num_known_dose_voxels", 1, None, "voxels", "The dose is known somewhere in that mask"),
        between("dose-maximum", "dose_max_gy", 1, most, "Gy", f"The maximum dose is between 1 and {most:g} Gy"),
        between(
            "dose-inside-mask",
            "num_dose_voxels_outside_mask",
            0,
            0,
            "voxels",
            "Dose is zero outside the possible-dose mask",
        ),
    ]


def _shares(spec: DataSpec) -> list[str]:
    """Return the derived columns: a structure's share of the image, what follows from a target's own level."""
    own = [f"{what}_{name}" for name in spec.targets for what in _PER_LEVEL if "prescription_gy" in spec.facts]
    return [f"share_{name}" for name in spec.structures] + own


def frame_of(manifest: pa.Table, spec: DataSpec, copies: Copies) -> pd.DataFrame:
    """Return the manifest as a data frame, with what expectations need beside its own columns."""
    frame = manifest.to_pandas()
    frame["unknown"] = [_unknown(row, spec) for row in frame.to_dict("records")]
    frame["num_splits_of_group"] = frame.groupby("group_id")["split"].transform("nunique")
    for column, partners in (("copied_across", copies.across), ("contradicting", copies.contradicting)):
        frame[column] = [f"case {partners[case_id]}" if case_id in partners else None for case_id in frame["case_id"]]
    training = frame["split"] == SPLIT_TRAIN
    frame["fold_of_training"] = frame["fold"].where(training)
    frame["fold_of_others"] = frame["fold"].where(~training & frame["split"].notna())
    edges = [(np.nan,) if _lacks_an_edge(edges) else edges for edges in frame["spacing_mm"]]
    frame["spacing_min_mm"] = [float(min(of_case)) for of_case in edges]
    frame["spacing_max_mm"] = [float(max(of_case)) for of_case in edges]
    sizes = np.array([np.prod(shape, dtype=float) if shape is not None else np.nan for shape in frame["shape"]])
    for name in spec.structures:
        frame[f"share_{name}"] = frame[f"voxels_{name}"] / sizes
    if "prescription_gy" in spec.facts:
        for name in spec.targets:
            level_gy = frame[f"level_gy_{name}"]
            frame[f"dose_share_{name}"] = frame[f"dose_mean_gy_{name}"] / level_gy
            open_level = frame[f"voxels_{name}"].notna() & level_gy.isna() & frame["prescription_gy"].notna()
            frame[f"unknown_level_{name}"] = open_level.astype(int)
    return frame


def _unknown(row: Mapping[str, Any], spec: DataSpec) -> str | None:
    """Return the quantities that a case should have and has not, None when there is none."""
    image = spec.image.name
    required = (*_REQUIRED, f"{image}_min", f"{image}_max", *(_REQUIRED_DOSE if spec.has_dose else ()))
    names = [name for name in required if _is_null(row[name])]
    names += ["spacing_mm"] if _lacks_an_edge(row["spacing_mm"]) else []
    for target in spec.targets:
        if (
            not _is_null(row[f"voxels_{target}"])
            and row[f"voxels_{target}"]
            and _is_null(row[f"dose_mean_gy_{target}"])
        ):
            names.append(f"dose_mean_gy_{target}")
    return ", ".join(f"no {name}" for name in names) or None


def _is_null(value: Any) -> bool:
    return value is None or value != value


def _lacks_an_edge(edges: Any) -> bool:
    return edges is None or len(edges) == 0 or any(_is_null(edge) for edge in edges)


def run(frame: pd.DataFrame, suite: list[Expectation]) -> list[Outcome]:
    """Check the frame with Great Expectations; outcomes are in the order of the suite.

    Raises:
        RuntimeError: when Great Expectations could not compute an expectation.
    """
    import great_expectations as gx

    logging.getLogger("great_expectations").setLevel(logging.WARNING)  # it tells what it loads, over several lines
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}  # type: ignore[assignment]
    asset = context.data_sources.add_pandas("manifest").add_dataframe_asset("manifest")
    batch = asset.add_batch_definition_whole_dataframe("all")
    expected = gx.ExpectationSuite("manifest")
    for expectation in suite:
        make = getattr(gx.expectations, expectation.type)
        expected.add_expectation(make(**expectation.arguments, meta={"name": expectation.name}))
    definition = gx.ValidationDefinition(name="manifest", data=batch, suite=context.suites.add(expected))
    context.validation_definitions.add(definition)
    result = definition.run(
        batch_parameters={"dataframe": frame},
        result_format={"result_format": "COMPLETE", "unexpected_index_column_names": ["case_id"]},
    )
    by_name = {(one.expectation_config.meta or {})["name"]: one for one in result.results if one.expectation_config}
    return [_outcome(expectation, by_name[expectation.name], frame) for expectation in suite]


def _outcome(expectation: Expectation, result: Any, frame: pd.DataFrame) -> Outcome:
    if result.exception_info and result.exception_info.get("raised_exception"):
        raise RuntimeError(f"{expectation.name}: {result.exception_info.get('exception_message')}")
    column = expectation.arguments.get("column", "")
    failing = {}
    for entry in result.result.get("unexpected_index_list") or []:
        failing[str(entry["case_id"])] = entry.get(column)
    low = high = None
    if column in frame and frame[column].dtype.kind in "if" and frame[column].notna().any():
        low, high = frame[column].min().item(), frame[column].max().item()
    return Outcome(expectation, bool(result.success), failing, low, high)
