"""Every setting makes another store, or there is a reason why it does not: none is forgotten the day it is added."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import pyarrow as pa
import pytest
from pydantic import BaseModel

from ctan.config import DataConfig, RunConfig
from ctan.datasets import get_dataset
from ctan.errors import ConfigError, DataError
from ctan.intake.build import _pointer, preprocess
from ctan.intake.ingest import ingest
from ctan.plugins import DATASETS, names
from ctan.settings import load_config
from ctan.store import open_store
from ctan.store.manifest import SCHEMA

# Fields, or whole sections, that leave a store as it is, and why.
REASONS = {
    "schema_version": "the form of the settings",
    "profile": "a name; what it sets is in the other fields",
    "architectures": "chosen after the store",
    "folds": "chosen after the store",
    "variant": "set by training, after the store",
    "seeds": "chosen after the store",
    "network": "built after the store",
    "training": "runs on the store",
    "evaluation": "scores on the store",
    "promotion": "follows scores",
    "planning": "proposes the grid, which is in `preprocess`",
    "validation": "decides which cases there are, which the data hash tells",
    "data.inputs": "channels are made when a case is read from the store",
    "data.signed_distance": "channels are made when a case is read from the store",
    "data.reading": "bounds of files and time: they decide which cases there are, which the data hash tells",
    "data.num_folds": "the folds of all cases are in the data hash",
    "data.split_seed": "splits and folds of all cases are in the data hash",
    "data.evaluation_share": "the splits of all cases are in the data hash",
    "data.test_share": "the splits of all cases are in the data hash",
    "data.split": "the splits and folds of all cases are in the data hash",
    "data.evaluation_fold": "the splits of all cases are in the data hash",
    "data.sides": "the splits and folds of all cases are in the data hash",
    "data.max_train_cases": "the cases are in the data hash",
    "data.max_evaluation_cases": "the cases are in the data hash",
    "data.options.key_file": "other keys give other ids, which are in the data hash",
}


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from leaves(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def others(value: Any, annotation: Any) -> Iterator[Any]:
    """Yield values of a field that may be allowed and are not the present one."""
    if get_origin(annotation) is Literal:
        yield from (choice for choice in get_args(annotation) if choice != value)
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (value + 1, value - 1, 2 * value)
    elif isinstance(value, float):
        yield from (value * 1.25, value * 0.5, value + 0.25)
    elif isinstance(value, str):
        yield from ("other", "/other")
    elif isinstance(value, tuple | list):
        yield from (
            [16 + 16 * i for i in range(3)],
            [5.0, 5.0, 5.0],
            list(value)[:-1],
            [1],
            ["x"],
            ["Bladder"],
            [*value, ["Bladder", "Rectum"]],
        )
    elif isinstance(value, dict):
        yield {**value, "Extra": ["extra"]}
        yield {"PTV": 60.0}
        yield {"no_such_option": 1}
    elif value is None:
        yield from (3, 3.5, [5.0, 5.0, 5.0], "text")


def is_same(value: Any, other: Any) -> bool:
    return json.dumps(value) == json.dumps(other)


def changed(base: list[str], field: str, value: Any, annotation: Any) -> Iterator[RunConfig]:
    for other in others(value, annotation):
        if is_same(value, other):
            continue
        try:
            config = load_config("smoke", [*base, f"{field}={json.dumps(other)}"])
        except ConfigError:
            continue
        yield config


def manifest_of(config: RunConfig) -> pa.Table:
    spec = get_dataset(config.data).spec
    row = {field.name: None for field in SCHEMA(spec)}
    row |= {"dataset": spec.dataset, "case_id": "1", "sha256": "ab" * 32, "split": "train", "fold": 0}
    return pa.Table.from_pylist([row], SCHEMA(spec))


def key(config: RunConfig) -> str:
    return _pointer(manifest_of(config), get_dataset(config.data), "root", config).key


def has_reason(field: str) -> bool:
    parts = field.split(".")
    return any(".".join(parts[: i + 1]) in REASONS for i in range(len(parts)))


RUN_FIELDS = [(name, field) for name, field in leaves(RunConfig) if name not in ("data.dataset", "data.options")]


@pytest.mark.parametrize(("name", "field"), RUN_FIELDS, ids=[name for name, _ in RUN_FIELDS])
def test_a_setting_makes_another_store_or_says_why_not(name: str, field: Any) -> None:
    if has_reason(name):
        return
    config = load_config("smoke")
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    found = [key(other) for other in changed([], name, value, field.annotation)]
    assert found, f"{name}: no other value is known to this test: add one to `others`"
    assert key(config) not in found


OPTIONS = [
    (dataset, name, field)
    for dataset in names(DATASETS)
    if dataset != "folder"  # its settings are what the folder says: the next test
    for name, field in leaves(get_dataset(dataset).Options)
]


@pytest.mark.parametrize(("dataset", "name", "field"), OPTIONS, ids=[f"{d}-{n}" for d, n, _ in OPTIONS])
def test_a_data_sets_own_setting_makes_another_store_or_says_why_not(dataset: str, name: str, field: Any) -> None:
    if has_reason(f"data.options.{name}"):
        return
    base = [f"data.dataset={dataset}"]
    config = load_config("smoke", base)
    value = getattr(get_dataset(config.data).options, name)
    found = [key(other) for other in changed(base, f"data.options.{name}", value, field.annotation)]
    assert found, f"{name}: no other value is known to this test: add one to `others`"
    assert key(config) not in found


def parts(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield every number, text and list that settings in JSON hold, with the way to it."""
    if isinstance(value, dict) and value:
        for name in value:
            yield from parts(value[name], (*path, name))
    else:
        yield path, value


def with_part(value: Any, path: tuple[Any, ...], part: Any) -> Any:
    return {**value, path[0]: with_part(value[path[0]], path[1:], part)} if path else part


def test_whatever_a_folder_says_of_itself_makes_another_store() -> None:
    config = load_config("smoke", {"data.dataset": "folder"}, "phantom:train=6,validation=2")
    options, own, tried = get_dataset(config.data).options.model_dump(mode="json"), key(config), set()
    for path, value in parts(options):
        for other in (*others(value, Any), "turn", "sform", "mr", "per_case", "ml", [-50.0, 90.0]):
            changed_data = config.data.model_copy(update={"options": with_part(options, path, other)})
            try:
                found = key(config.model_copy(update={"data": changed_data}))
            except ConfigError:
                continue
            if not is_same(value, other):
                assert found != own, ".".join(path)
                tried.add(".".join(path))
    assert {"geometry_tolerance_mm", "nifti_matrix", "description.name", "description.image.window"} <= tried
    assert len(tried) > 15


def test_every_reason_is_about_a_setting_that_exists() -> None:
    known = {name for name, _ in leaves(RunConfig)} | {
        f"data.options.{name}" for name, _ in leaves(get_dataset("prostate").Options)
    }
    sections = {name.split(".")[0] for name in known}
    assert {name for name in REASONS if name not in known | sections | {"data.reading"}} == set()


def test_another_data_set_is_another_store() -> None:
    keys = {key(load_config("smoke", {"data.dataset": name})) for name in ("openkbp", "prostate", "ham10000", "stoic")}
    assert len(keys) == 4


def test_a_manifest_that_was_ingested_with_other_settings_is_refused_by_the_field_that_differs(tmp_path, monkeypatch):
    """Today's wrong output was `store ... exists already, nothing to do`: old masks under mended names."""
    monkeypatch.setenv("CTAN_DEID_KEY", "0123456789abcdef0123456789abcdef")
    get_dataset("prostate").write_phantoms(tmp_path / "raw", 3, 1, 0)
    before = load_config("smoke", {"data.dataset": "prostate", "preprocess.grid_shape": [16, 24, 24]})
    ingest(str(tmp_path / "raw"), tmp_path / "manifest", before, num_workers=1)
    built = preprocess(str(tmp_path / "raw"), tmp_path / "manifest", str(tmp_path / "root"), before, num_workers=1)

    patterns = {name: list(found) for name, found in get_dataset(before.data).options.structures.items()}
    mended = {**patterns, "Rectum": patterns["Bladder"], "Bladder": patterns["Rectum"]}
    after = load_config(
        "smoke", {"data.dataset": "prostate", "preprocess.grid_shape": [16, 24, 24], "data.options.structures": mended}
    )
    ingest(str(tmp_path / "raw"), tmp_path / "mended", after, num_workers=1)
    again = preprocess(str(tmp_path / "raw"), tmp_path / "mended", str(tmp_path / "root"), after, num_workers=1)
    assert again.key != built.key
    old, new = open_store(built), open_store(again)
    bladder, rectum = (old.spec.structures.index(name) for name in ("Bladder", "Rectum"))
    for case_id in old.case_ids():
        assert (old.load(case_id).masks[bladder] == new.load(case_id).masks[rectum]).all()

    more = load_config(
        "smoke",
        {
            "data.dataset": "prostate",
            "preprocess.grid_shape": [16, 24, 24],
            "data.options.structures": {**mended, "Colon": ["x"]},
        },
    )
    with pytest.raises(DataError, match=r"dataset\.json: not the data that are asked for: .*structures .*Colon"):
        preprocess(str(tmp_path / "raw"), tmp_path / "mended", str(tmp_path / "root"), more, num_workers=1)


def test_options_of_another_data_set_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.options\.structures: unknown setting; there are none here"):
        get_dataset(DataConfig(dataset="openkbp", options={"structures": {}}))
