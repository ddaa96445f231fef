"""Everything that we read back is hashed: a changed number in any file of a manifest, or in a pointer, is an error."""

from __future__ import annotations

import json
import random
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from ctan import seals, steps
from ctan.cases import DataSpec
from ctan.errors import CtanError, DataError
from ctan.files import sha256_of_json, write_json
from ctan.records import ModelRecord
from ctan.settings import load_config, read_config
from ctan.sources.origin import read_origin
from ctan.store import StorePointer, open_store
from ctan.store.manifest import read_manifest
from ctan.tracking.lineage import lineage_tags
from tests.helpers.mutation import mutated

FILES = ("manifest.parquet", "quarantine.parquet", "dataset.json", "origin.json", "config.yaml", "summary.json")


@pytest.fixture(scope="module")
def validated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `validate` writes of two phantoms, and beside it what `ingest` wrote."""
    folder = tmp_path_factory.mktemp("sealed")
    config = load_config("smoke", ["data.dataset=openkbp"])
    _, settings, origin = steps.resolve("phantom:train=2,validation=1,seed=0", config, str(folder / "store"))
    steps.ingest(settings, origin, str(folder / "manifest"), num_workers=1)
    steps.validate(str(folder / "manifest"), str(folder / "validated"), str(folder / "validation.html"))
    return folder


def add_one(value: Any) -> Any:
    """Change the first number, or else the first text, that a value holds."""
    done = False

    def change(inner: Any) -> Any:
        nonlocal done
        if done:
            return inner
        if isinstance(inner, dict):
            return {name: change(each) for name, each in inner.items()}
        if isinstance(inner, list):
            return [change(each) for each in inner]
        if isinstance(inner, bool) or inner is None:
            return inner
        done = True
        return inner + 1 if isinstance(inner, int | float) else f"{inner}x"

    return change(value)


def edit(path: Path) -> None:
    """Change one value of a file by hand, so that the file is as well-formed as before."""
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        rows = table.to_pylist() or [dict.fromkeys(table.column_names, "x")]
        rows[0]["case_id"] += "x"
        if "voxels_Larynx" in rows[0]:
            rows[0]["voxels_Larynx"] = 7
        pq.write_table(pa.Table.from_pylist(rows, table.schema), path)
    elif path.suffix == ".yaml":
        path.write_text(yaml.safe_dump(add_one(yaml.safe_load(path.read_text())), sort_keys=False))
    else:
        path.write_text(json.dumps(add_one(json.loads(path.read_text())), indent=2) + "\n")


def read_all(folder: Path) -> None:
    """Read a manifest folder as steps do."""
    read_config(folder)
    spec = DataSpec.load(folder)
    assert spec.dataset
    for name in ("manifest.parquet", "quarantine.parquet"):
        read_manifest(folder / name)
    read_origin(folder)
    lineage_tags(folder)


@pytest.mark.parametrize("name", [*FILES, "seal.json"])
def test_a_changed_value_in_any_file_of_a_manifest_is_an_error_that_names_it(
    name: str, validated: Path, tmp_path: Path
) -> None:
    """Before, all of them were taken for the truth."""
    folder = tmp_path / "copy"
    shutil.copytree(validated / "validated", folder)
    read_all(folder)
    edit(folder / name)
    with pytest.raises(DataError, match=rf"{name}: was changed after it was written"):
        read_all(folder)
    report = str(tmp_path / "page.html")
    with pytest.raises(DataError, match=rf"{name}: was changed after it was written"):
        steps.validate(str(folder), str(tmp_path / "out"), report)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("manifest.parquet", lambda folder: read_manifest(folder / "manifest.parquet")),
        ("quarantine.parquet", lambda folder: read_manifest(folder / "quarantine.parquet")),
        ("dataset.json", DataSpec.load),
        ("origin.json", read_origin),
        ("summary.json", lineage_tags),
        ("config.yaml", read_config),
        ("plan.yaml", read_config),
    ],
)
def test_whoever_reads_one_file_alone_is_told_as_well(name: str, read: Any, validated: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(validated / "manifest", folder)
    read(folder)
    edit(folder / name)
    with pytest.raises(DataError, match=rf"{name}: was changed after it was written"):
        read(folder)


def test_a_file_that_was_lost_is_named(validated: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(validated / "validated", folder)
    (folder / "quarantine.parquet").unlink()
    with pytest.raises(DataError, match=r"quarantine\.parquet: is missing, seal\.json lists it"):
        read_config(folder)


def test_a_folder_of_an_earlier_release_has_no_seal_and_is_read(validated: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(validated / "validated", folder)
    (folder / "seal.json").unlink()
    read_all(folder)


@pytest.fixture(scope="module")
def packed(validated: Path) -> StorePointer:
    steps.preprocess(
        "phantom:train=2,validation=1,seed=0",
        str(validated / "validated"),
        str(validated / "pointer.json"),
        str(validated / "store"),
        num_workers=1,
    )
    return StorePointer.load(validated / "pointer.json")


def test_a_changed_pointer_is_an_error(packed: StorePointer, tmp_path: Path) -> None:
    path = tmp_path / "pointer.json"
    for name, value in {"num_cases": 4, "key": "0" * 16, "store_root": "/elsewhere", "store_sha256": ""}.items():
        packed.save(path)
        assert StorePointer.load(path) == packed
        path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
        with pytest.raises(DataError, match=r"pointer\.json: was changed after it was written"):
            StorePointer.load(path)


def test_a_pointer_knows_its_store_by_hash_also_when_the_store_was_sealed_anew(
    packed: StorePointer, validated: Path, tmp_path: Path
) -> None:
    """The scale of a dose changed, and the seal made anew: the mean-dose baseline went from 13.25 to 29.45 Gy."""
    root = tmp_path / "store"
    shutil.copytree(validated / "store", root)
    pointer = replace(packed, store_root=str(root))
    assert pointer.store_sha256
    open_store(pointer)
    path = pointer.folder / "store.json"
    value = json.loads(path.read_text())
    del value[seals.SEAL]
    value["cases"][0]["dose_step_gy"] *= 2
    write_json(path, seals.sealed(value))
    with pytest.raises(DataError, match=r"store\.json: not the store that the pointer names \(its hash differs\)"):
        open_store(pointer)


def test_one_seal_reads_what_two_wrote(tmp_path: Path) -> None:
    """Tables of sides and stores were sealed without regard to the order of names; records with it."""
    value = {"b": 1, "a": [1.5, None]}
    assert seals.unsealed(seals.sealed(value), "x", "") == value
    assert seals.unsealed({**value, seals.SEAL: sha256_of_json(value)}, "x", "") == value
    assert seals.unsealed(value, "x", "", required=False) == value
    for changed in (
        {**seals.sealed(value), "b": 2},
        {**value, seals.SEAL: sha256_of_json({"b": 2})},
        value,
        dict(reversed(seals.sealed(value).items())),
    ):
        with pytest.raises(DataError, match="was changed after it was written"):
            seals.unsealed(changed, "x", "")
    released = Path(__file__).parents[1] / "data" / "models" / "0.1"
    assert all(ModelRecord.load(path.parent) for path in released.glob("**/model.json"))


def test_no_mutation_of_a_pointer_or_a_seal_is_read_as_another(
    packed: StorePointer, validated: Path, tmp_path: Path
) -> None:
    rng = random.Random(0)
    folder = tmp_path / "copy"
    shutil.copytree(validated / "validated", folder)
    packed.save(tmp_path / "pointer.json")
    seal, pointer = (folder / "seal.json").read_bytes(), (tmp_path / "pointer.json").read_bytes()
    listed = json.loads(seal)["files"]
    for number in range(150):
        (folder / "seal.json").write_bytes(mutated(seal, rng))
        (tmp_path / "pointer.json").write_bytes(mutated(pointer, rng))
        with suppress(CtanError):
            assert seals._listed(folder) == listed, number
        with suppress(CtanError):
            assert StorePointer.load(tmp_path / "pointer.json") == packed, number
