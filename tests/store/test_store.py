"""The store gives back what went in, is built once, whole or not at all, and says clearly what is wrong."""

import json
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import zipfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ctan.cases import Case, RawCase
from ctan.datasets import get_dataset
from ctan.datasets.openkbp.reader import OpenKBP
from ctan.errors import CaseError, ConfigError, DataError
from ctan.intake.build import preprocess
from ctan.intake.measure import case_row
from ctan.settings import load_config
from ctan.store import Store, StorePointer, open_store
from ctan.store.description import read_description, shards_of
from ctan.store.layout import FORMAT_VERSION
from ctan.store.manifest import MANIFEST_FILE, QUARANTINE_FILE, QUARANTINE_SCHEMA, SCHEMA, read_manifest, write_manifest
from ctan.store.shards import file_name
from ctan.store.shelf import Shelf, files_in

DATASET = get_dataset("openkbp")
NATIVE = load_config("cpu", {"preprocess.cases_per_shard": 2})
COARSE = load_config("smoke")


def write_manifest_of(cases, folder):
    DATASET.spec.save(folder)
    write_manifest(
        [case_row(case, DATASET.spec, fold) for fold, case in cases], folder / MANIFEST_FILE, SCHEMA(DATASET.spec)
    )
    write_manifest([], folder / QUARANTINE_FILE, QUARANTINE_SCHEMA)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Raw files of three phantoms, their cases and manifest."""
    folder = tmp_path_factory.mktemp("raw")
    DATASET.write_phantoms(folder / "source", num_train=2, num_validation=1, seed=3)
    cases = [DATASET.read(found) for found in DATASET.find(folder / "source")]
    write_manifest_of([(i if case.split == "train" else -1, case) for i, case in enumerate(cases)], folder / "manifest")
    return folder, {case.case_id: case for case in cases}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return str(tmp_path_factory.mktemp("root"))


@pytest.fixture(scope="module")
def native(raw, root):
    return open_store(preprocess(str(raw[0] / "source"), raw[0] / "manifest", root, NATIVE, num_workers=2))


@pytest.fixture(scope="module")
def coarse(raw, root):
    return open_store(preprocess(str(raw[0] / "source"), raw[0] / "manifest", root, COARSE, num_workers=1))


@pytest.fixture
def copied(native, tmp_path):
    """A store that a test may damage."""
    shutil.copytree(Path(native.pointer.store_root), tmp_path, dirs_exist_ok=True)
    return replace(native.pointer, store_root=str(tmp_path))


def shelf_of(pointer):
    return Shelf(pointer.store_root).folder


def file_of(pointer, case_id, kind):
    """Return the file of a shard that holds a case."""
    shards = shards_of(read_description(pointer.folder))
    found = next(shard for shard in shards if case_id in shard.case_ids)
    return shelf_of(pointer) / file_name(kind, found.files[kind].sha256)


def span_of(path, name):
    """Return where the content of an entry of a ZIP file begins, and how long it is."""
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo(name)
    return entry.header_offset + 30 + len(name), entry.compress_size


# What comes back


def test_the_reference_is_the_raw_case_bit_for_bit(raw, native, coarse):
    for store in (native, coarse):
        for case_id, case in raw[1].items():
            reference = store.reference(case_id)
            assert (reference.case_id, reference.group_id, reference.split) == (case_id, case.group_id, case.split)
            assert reference.spacing_mm == tuple(case.spacing_mm)
            assert reference.sha256 == case.sha256
            assert set(reference.masks) == {*case.masks, "dose_known"}
            assert reference.dose_known.all()
            for name, mask in case.masks.items():
                assert reference.masks[name].dtype == bool
                np.testing.assert_array_equal(reference.masks[name], mask)
            assert reference.doses["dose"].dtype == np.float32
            np.testing.assert_array_equal(reference.doses["dose"], case.doses["dose"])
            assert reference.images["ct"].dtype == case.images["ct"].dtype
            np.testing.assert_array_equal(reference.images["ct"], case.images["ct"])


def test_at_native_resolution_a_stored_case_is_a_crop_of_the_raw_one(raw, native):
    for case_id, case in raw[1].items():
        stored = native.load(case_id)
        corner = [int(c) for c in native.geometry(case_id).corner]
        box = tuple(slice(c, c + n) for c, n in zip(corner, NATIVE.preprocess.grid_shape, strict=True))
        assert stored.spacing_mm == tuple(case.spacing_mm)
        np.testing.assert_array_equal(stored.image["ct"], case.images["ct"][box])
        np.testing.assert_array_equal(stored.possible_dose, case.masks["possible_dose_mask"][box])
        assert stored.possible_dose.sum() == case.masks["possible_dose_mask"].sum()
        np.testing.assert_array_equal(stored.dose_known, stored.possible_dose)  # all dose of OpenKBP is known
        assert np.abs(stored.dose - case.doses["dose"][box]).max() <= case.doses["dose"].max() / 65535
        for index, name in enumerate(DATASET.spec.structures):
            assert stored.known[index] == (name in case.masks)
            expected = case.masks[name][box] if name in case.masks else np.zeros(stored.dose.shape, bool)
            np.testing.assert_array_equal(stored.masks[index], expected)


def test_arrays_have_the_types_and_shapes_of_the_contract(coarse):
    stored = coarse.load(coarse.case_ids()[0])
    grid = COARSE.preprocess.grid_shape
    assert stored.image["ct"].dtype == np.int16
    assert (
        stored.image["ct"].shape
        == stored.dose.shape
        == stored.possible_dose.shape
        == stored.target_distance.shape
        == grid
    )
    assert (stored.dose.dtype, stored.target_distance.dtype) == (np.float32, np.int8)
    assert stored.masks.shape == (len(DATASET.spec.structures), *grid)
    assert stored.masks.dtype == stored.known.dtype == stored.possible_dose.dtype == bool
    assert stored.spacing_mm == COARSE.preprocess.grid_spacing_mm


def test_a_coarse_grid_keeps_volumes_in_mm3_and_the_dose_in_the_target(raw, coarse):
    for case_id, case in raw[1].items():
        stored = coarse.load(case_id)
        voxel_mm3, native_mm3 = np.prod(stored.spacing_mm), np.prod(case.spacing_mm)
        target = stored.masks[DATASET.spec.structures.index("PTV70")]
        raw_target = case.masks["PTV70"]
        assert target.sum() * voxel_mm3 == pytest.approx(raw_target.sum() * native_mm3, rel=0.25)
        assert stored.dose[target].mean() == pytest.approx(case.doses["dose"][raw_target].mean(), rel=0.05)
        assert stored.dose.max() <= case.doses["dose"].max() * 1.001


def test_the_target_distance_is_negative_inside_the_targets_and_positive_outside(native, coarse):
    for store in (native, coarse):
        stored = store.load(store.case_ids()[0])
        targets = np.any(
            [m for n, m in zip(DATASET.spec.structures, stored.masks, strict=True) if n in DATASET.spec.targets], 0
        )
        assert targets.any()
        np.testing.assert_array_equal(stored.target_distance < 0, targets)


def test_the_truth_sent_to_native_is_exact_without_resampling_and_close_with_it(raw, native, coarse):
    for case_id, case in raw[1].items():
        possible = case.masks["possible_dose_mask"]
        for store, limit_gy in ((native, 0.001), (coarse, 4.0)):
            dose = np.where(possible, store.to_native(case_id, store.load(case_id).dose, 0), 0)
            assert dose.shape == case.shape
            assert np.abs(dose - case.doses["dose"])[possible].mean() < limit_gy
        masks = native.to_native(case_id, native.load(case_id).masks.astype(np.float32), 0)
        for index, name in enumerate(DATASET.spec.structures):
            lost = case.masks.get(name, np.zeros(case.shape, bool)) != (masks[index] > 0.5)
            assert lost.sum() == 0


def test_zarr_itself_reads_the_same_numbers(native):
    import zarr
    from zarr.storage import ZipStore

    seen = []
    for shard in shards_of(read_description(native.pointer.folder)):
        group = {
            kind: zarr.open_group(ZipStore(shelf_of(native.pointer) / file_name(kind, file.sha256), mode="r"), mode="r")
            for kind, file in shard.files.items()
        }
        for row, case_id in enumerate(shard.case_ids):
            seen.append(case_id)
            stored, reference = native.load(case_id), native.reference(case_id)
            assert group["working"]["ct"].shape[0] == len(shard.case_ids)
            np.testing.assert_array_equal(group["working"]["ct"][row], stored.image["ct"])
            np.testing.assert_array_equal(group["working"]["target_distance"][row], stored.target_distance)
            np.testing.assert_array_equal(group["native"]["dose"][row], reference.doses["dose"])
            np.testing.assert_array_equal(group["working"]["masks"][row][-2], np.packbits(stored.possible_dose))
    assert sorted(seen) == sorted(native.case_ids())


def test_cases_are_listed_in_the_order_of_the_manifest_and_by_split_and_fold(raw, native):
    manifest = read_manifest(raw[0] / "manifest" / MANIFEST_FILE)
    assert native.manifest.equals(manifest)
    assert native.case_ids() == manifest["case_id"].to_pylist()
    train = [case_id for case_id, case in raw[1].items() if case.split == "train"]
    assert native.case_ids(split="train") == train
    assert native.case_ids(split="train", fold=1) == train[1:]
    assert native.case_ids(split="train", not_fold=1) == train[:1]
    assert len(native.case_ids(split="validation")) == 1


class OddShapes(OpenKBP):
    """Cases of different shapes, made from their number; the CT of the second is air throughout."""

    shapes = ((20, 18, 22), (24, 16, 22))

    def find(self, raw_dir):
        return [RawCase(f"pt_{n}", f"pt_{n}", "train", raw_dir) for n in range(2)]

    def read(self, raw):
        number = int(raw.case_id.removeprefix("pt_"))
        rng = np.random.default_rng(number)
        shape = self.shapes[number]
        masks = {name: rng.random(shape) < 0.5 for name in ("Larynx", "PTV70", "possible_dose_mask")}
        dose = (70 * rng.random(shape, np.float32)) * masks["possible_dose_mask"]
        ct = rng.integers(0, 4096, shape, np.uint16) * np.uint16(number == 0)
        return Case(raw.case_id, raw.group_id, "train", (2.0, 2.0, 3.0), {"ct": ct}, masks, {"dose": dose}, raw.case_id)


def test_cases_of_different_shapes_share_a_store(tmp_path, monkeypatch):
    odd = OddShapes()
    monkeypatch.setattr("ctan.datasets.get_dataset", lambda config: odd)
    cases = [odd.read(raw) for raw in odd.find(tmp_path)]
    write_manifest_of([(0, case) for case in cases], tmp_path)
    store = open_store(preprocess(str(tmp_path), tmp_path, str(tmp_path), NATIVE, num_workers=1))
    for case in cases:
        reference = store.reference(case.case_id)
        np.testing.assert_array_equal(reference.images["ct"], case.images["ct"])
        np.testing.assert_array_equal(reference.doses["dose"], case.doses["dose"])
        for name, mask in case.masks.items():
            np.testing.assert_array_equal(reference.masks[name], mask)
        stored = store.load(case.case_id)
        assert stored.known.sum() == 2
        np.testing.assert_array_equal(store.to_native(case.case_id, stored.image["ct"], 0), case.images["ct"])


def test_a_store_can_be_sent_to_another_process(native):
    native.load(native.case_ids()[0])
    again = pickle.loads(pickle.dumps(native))
    assert isinstance(again, Store)
    case_id = native.case_ids()[1]
    np.testing.assert_array_equal(again.load(case_id).dose, native.load(case_id).dose)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes_read_after_the_parent_has(native, method):
    case_id = native.case_ids()[0]
    expected = float(native.load(case_id).dose.sum())
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply_async(dose_sum, (native, case_id)).get(timeout=60) == expected


def dose_sum(store, case_id):
    return float(store.load(case_id).dose.sum())


# Built once, whole or not at all


def files_of(folder):
    return {p.relative_to(folder): p.stat().st_mtime_ns for p in Path(folder).rglob("*") if p.is_file()}


def test_the_same_data_and_settings_are_a_no_op(raw, native, capsys):
    before = files_of(native.pointer.folder)
    again = preprocess(str(raw[0] / "gone"), raw[0] / "manifest", native.pointer.store_root, NATIVE)
    assert again == native.pointer
    assert files_of(native.pointer.folder) == before
    assert "exists already" in capsys.readouterr().err


def test_one_worker_and_two_write_the_same_bytes(raw, native, tmp_path):
    alone = preprocess(str(raw[0] / "source"), raw[0] / "manifest", str(tmp_path), NATIVE, num_workers=1)
    assert read_description(alone.folder) == read_description(native.pointer.folder)
    for name in files_in(shelf_of(alone)):
        assert (shelf_of(alone) / name).read_bytes() == (shelf_of(native.pointer) / name).read_bytes(), name


def test_the_key_changes_with_settings_that_matter_and_with_nothing_else(raw, native, coarse):
    assert coarse.pointer.key != native.pointer.key
    assert coarse.pointer.data_hash == native.pointer.data_hash
    other = load_config("cpu", {"preprocess.cases_per_shard": 2, "training.epochs": 3, "network.base_width": 8})
    same = preprocess("unused", raw[0] / "manifest", native.pointer.store_root, other)
    assert same.key == native.pointer.key


@pytest.mark.parametrize("column", ["sha256", "fold", "split"])
def test_the_data_hash_changes_with_the_data(raw, native, tmp_path, column):
    from ctan.intake.build import _pointer

    rows = read_manifest(raw[0] / "manifest" / MANIFEST_FILE).to_pylist()
    rows[0][column] = 4 if column == "fold" else "other"
    changed = _pointer(pa.Table.from_pylist(rows, schema=SCHEMA(DATASET.spec)), DATASET, str(tmp_path), NATIVE)
    assert changed.data_hash != native.pointer.data_hash
    assert changed.key != native.pointer.key


def test_a_build_that_was_killed_leaves_nothing_a_later_one_uses(raw, tmp_path):
    code = (
        "import sys, pathlib; from ctan.settings import load_config; from ctan.intake.build import preprocess\n"
        "from ctan.store.shards import ShardWriter\n"
        "wrote = ShardWriter.add\n"
        "def slow(*arguments): wrote(*arguments); print('written', flush=True); import time; time.sleep(60)\n"
        "ShardWriter.add = slow\n"
        "preprocess(sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3], load_config('smoke'), 1)"
    )
    command = [sys.executable, "-c", code, str(raw[0] / "source"), str(raw[0] / "manifest"), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        os.kill(process.pid, signal.SIGKILL)
    assert files_in(tmp_path / "shards") == {}
    assert list((tmp_path / "shards").glob(".packing-*"))
    pointer = preprocess(str(raw[0] / "source"), raw[0] / "manifest", str(tmp_path), COARSE, num_workers=1)
    assert [p.name for p in (tmp_path / "stores").iterdir() if p.is_dir()] == [pointer.key]
    assert not list((tmp_path / "shards").glob(".packing-*"))
    store = open_store(pointer)
    assert store.load(store.case_ids()[0]).dose.max() > 50


def test_two_builders_at_once_end_with_one_store(raw, tmp_path):
    code = (
        "import sys, pathlib; from ctan.settings import load_config; from ctan.intake.build import preprocess\n"
        "print(preprocess(sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3], load_config('smoke'), 1).key)"
    )
    command = [sys.executable, "-c", code, str(raw[0] / "source"), str(raw[0] / "manifest"), str(tmp_path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert outputs[0][0] == outputs[1][0]
    assert sum("exists already" in err for _, err in outputs) == 1


def test_an_incomplete_store_is_built_again(raw, copied):
    (copied.folder / "store.json").unlink()
    with pytest.raises(DataError, match=r"no store\.json"):
        open_store(copied)
    preprocess(str(raw[0] / "source"), raw[0] / "manifest", copied.store_root, NATIVE, num_workers=1)
    assert open_store(copied).case_ids() == list(raw[1])


# Clear errors


def test_raw_files_that_changed_since_ingestion_are_refused_by_case(raw, tmp_path):
    shutil.copytree(raw[0] / "source", tmp_path / "source")
    found = DATASET.find(tmp_path / "source")[1]
    (found.path / "voxel_dimensions.csv").write_text("3.5\n3.5\n2.5\n")
    with pytest.raises(DataError, match=f"{found.case_id}: its raw files changed since ingestion"):
        preprocess(str(tmp_path / "source"), raw[0] / "manifest", str(tmp_path / "root"), COARSE, num_workers=1)
    assert not [p for p in (tmp_path / "root" / "stores").iterdir() if p.is_dir()]
    assert not list((tmp_path / "root" / "shards").glob(".packing-*"))


def test_an_error_in_a_worker_process_names_the_case_and_leaves_nothing(raw, tmp_path):
    shutil.copytree(raw[0] / "source", tmp_path / "source")
    found = DATASET.find(tmp_path / "source")[-1]
    (found.path / "dose.csv").write_text(",data\n-4,1.0\n")
    with pytest.raises(DataError, match=f"{found.case_id}: .*ingest the source again"):
        preprocess(str(tmp_path / "source"), raw[0] / "manifest", str(tmp_path / "root"), NATIVE, num_workers=2)
    assert not [p for p in (tmp_path / "root" / "stores").iterdir() if p.is_dir()]
    assert not list((tmp_path / "root" / "shards").glob(".packing-*"))


def test_a_case_that_is_not_in_the_source_is_named(raw, tmp_path):
    shutil.copytree(raw[0] / "source", tmp_path / "source")
    found = DATASET.find(tmp_path / "source")[0]
    shutil.rmtree(found.path)
    with pytest.raises(DataError, match=f"{found.case_id}: in the manifest but not among the 2 cases of the source"):
        preprocess(str(tmp_path / "source"), raw[0] / "manifest", str(tmp_path / "root"), COARSE)


def test_a_full_quarantine_stops_with_the_place_of_the_reasons(tmp_path):
    write_manifest_of([], tmp_path)
    with pytest.raises(DataError, match=r"holds no case; .*quarantine\.parquet"):
        preprocess("unused", tmp_path, str(tmp_path / "root"), COARSE)
    assert not (tmp_path / "root").exists()


def test_a_manifest_of_another_data_set_is_refused(raw, tmp_path):
    rows = read_manifest(raw[0] / "manifest" / MANIFEST_FILE).to_pylist()
    rows[0]["dataset"] = "prostate"
    DATASET.spec.save(tmp_path)
    write_manifest(rows, tmp_path / MANIFEST_FILE, SCHEMA(DATASET.spec))
    write_manifest([], tmp_path / QUARANTINE_FILE, QUARANTINE_SCHEMA)
    with pytest.raises(DataError, match=r"holds cases of prostate, but the data set is openkbp"):
        preprocess("unused", tmp_path, str(tmp_path / "root"), COARSE)


def test_an_address_of_another_kind_is_refused(raw):
    with pytest.raises(ConfigError, match=r"store_root: expected a folder or s3://bucket/prefix; 'gs://bucket/x'"):
        preprocess("unused", raw[0] / "manifest", "gs://bucket/x", COARSE)


def test_an_unknown_case_is_named_with_those_there_are(native):
    for ask in (native.load, native.reference, native.geometry):
        with pytest.raises(DataError, match=r"'pt_999': not in store .* holds 3 cases: "):
            ask("pt_999")


def test_an_array_on_another_grid_is_refused(native):
    case_id = native.case_ids()[0]
    with pytest.raises(DataError, match=rf"{case_id}: expected an array on the working grid \(96, 128, 128\)"):
        native.to_native(case_id, np.zeros((2, 8, 8, 8), np.float32), 0)


def test_a_missing_store_is_named(native):
    with pytest.raises(DataError, match="there is no store here; run `ctan data preprocess`"):
        open_store(replace(native.pointer, key="0123"))


def test_a_store_of_another_format_version_is_refused(copied):
    path = copied.folder / "store.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 99}))
    with pytest.raises(DataError, match=f"format version 99, this ctan reads {FORMAT_VERSION}"):
        open_store(copied)


def test_a_flipped_byte_is_found_and_the_case_named(copied):
    shard = next(s for s in shards_of(read_description(copied.folder)) if len(s.case_ids) == 2)
    damaged, good = shard.case_ids
    path = file_of(copied, damaged, "working")
    start, size = span_of(path, "ct/c/0/0/0/0")
    content = bytearray(path.read_bytes())
    content[start + size // 2] ^= 0x10
    path.write_bytes(content)
    store = open_store(copied)
    with pytest.raises(CaseError, match=f"{damaged}: working/ct in .* is damaged"):
        store.load(damaged)
    assert store.load(good).dose.max() > 50
    assert store.reference(damaged).doses["dose"].max() > 50


@pytest.mark.parametrize("kind", ["working", "native"])
def test_wherever_a_bit_of_a_shard_is_flipped_nobody_reads_other_numbers(copied, kind):
    """Headers and the index of the ZIP file included: the case is refused, or is what it was."""
    rng = np.random.default_rng(0)
    case_id = copied_case = open_store(copied).case_ids()[0]
    path = file_of(copied, copied_case, kind)
    content = path.read_bytes()
    expected = open_store(copied).load(case_id), open_store(copied).reference(case_id)
    for _ in range(60):
        damaged = bytearray(content)
        position = int(rng.integers(len(content)) if rng.random() < 0.5 else len(content) - rng.integers(1, 700))
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        store = open_store(copied)
        with suppress(CaseError):
            np.testing.assert_array_equal(store.load(case_id).image["ct"], expected[0].image["ct"])
        with suppress(CaseError):
            np.testing.assert_array_equal(store.reference(case_id).doses["dose"], expected[1].doses["dose"])


@pytest.mark.parametrize("harm", ["missing", "cut off"])
def test_a_missing_or_cut_off_shard_is_found_on_opening_and_only_it_is_packed_again(raw, copied, harm):
    shard = file_of(copied, open_store(copied).case_ids()[0], "native")
    content = shard.read_bytes()
    others = {path: path.stat().st_mtime_ns for path in shard.parent.iterdir() if path != shard}
    shard.unlink()
    if harm == "cut off":
        shard.write_bytes(content[:-100])
    found = "nothing" if harm == "missing" else f"{len(content) - 100} bytes"
    with pytest.raises(DataError, match=rf"native/{shard.name}: expected {len(content)} bytes, found {found}"):
        open_store(copied)
    assert open_store(copied, ("working",)).load(raw_ids(raw)[0]).dose.max() > 50
    preprocess(str(raw[0] / "source"), raw[0] / "manifest", copied.store_root, NATIVE, num_workers=1)
    assert shard.read_bytes() == content
    assert {path: path.stat().st_mtime_ns for path in others} == others
    open_store(copied)


def raw_ids(raw):
    return list(raw[1])


def test_the_pointer_is_small_json_that_comes_back(native, tmp_path):
    path = tmp_path / "store.json"
    native.pointer.save(path)
    assert StorePointer.load(path) == native.pointer
    assert path.stat().st_size < 1000


@pytest.mark.parametrize("content", [None, "{", "[]", '{"key": "x"}'])
def test_a_file_that_is_no_pointer_is_named(tmp_path, content):
    path = tmp_path / "pointer.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=r"pointer\.json"):
        StorePointer.load(path)


# Real patients


@pytest.mark.skipif("CTAN_TEST_DATA" not in os.environ, reason="CTAN_TEST_DATA is not set")
def test_the_working_grid_holds_all_of_a_real_patient(tmp_path):
    from ctan.cases import geometry as geo

    for patient in ("pt_1", "pt_100"):
        archive = Path(os.environ["CTAN_TEST_DATA"]) / "openkbp" / "train-pats" / f"{patient}.tar.xz"
        (tmp_path / "train-pats").mkdir(exist_ok=True)
        shutil.unpack_archive(archive, tmp_path / "train-pats")
    for found in DATASET.find(tmp_path):
        case = DATASET.read(found)
        placed = geo.place(
            geo.body_mask(case.images["ct"], DATASET.spec.image.body_threshold),
            case.masks["possible_dose_mask"],
            case.spacing_mm,
            (96, 128, 128),
            None,
        )
        for mask in case.masks.values():
            assert geo.to_working(mask, placed).sum() == mask.sum()
