"""A clinic's own DICOM becomes patients of OpenKBP: the same anatomy, dose and places, in exactly its files."""

import csv
import dataclasses
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from ctan.cases import DOSE_KNOWN, POSSIBLE_DOSE_MASK, Case, RawCase
from ctan.config import DataConfig
from ctan.datasets import get_dataset
from ctan.datasets.openkbp.format import SHAPE
from ctan.datasets.openkbp.phantom import write_openkbp_phantoms
from ctan.datasets.prostate.write_phantom import write_prostate_phantoms
from ctan.errors import CaseError, ConfigError, DataError
from ctan.intake.convert import ConversionSummary, convert_to_openkbp, openkbp_grid, parse_names, read_cases
from ctan.metrics.dose import dose_score

KEY = "a test's key, not a secret"
OPENKBP, PROSTATE = get_dataset("openkbp"), get_dataset("prostate")
NAMES = {
    "Prostate": "Larynx",
    "Bladder": "Brainstem",
    "Rectum": "SpinalCord",
    "FemoralHeadRight": "RightParotid",
    "FemoralHeadLeft": "LeftParotid",
    "PenileBulb": "Esophagus",
    "SeminalVesicles": "Mandible",
}
TARGET = {"PTV": "PTV70"}


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("CTAN_DEID_KEY", KEY)


@pytest.fixture(scope="module")
def raw_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dicom")
    write_prostate_phantoms(folder, num_train=2, num_validation=0, seed=0)
    return folder


@pytest.fixture
def sources(raw_dir):
    return [case for case in read_cases(PROSTATE.find(raw_dir), PROSTATE) if isinstance(case, Case)]


@pytest.fixture
def pairs(sources, tmp_path):
    """Each case as it was and as OpenKBP's reader reads what became of it."""
    summary = convert_to_openkbp(sources, PROSTATE, tmp_path / "kbp", NAMES, TARGET)
    assert summary == ConversionSummary({"pt_1": sources[0].case_id, "pt_2": sources[1].case_id}, (), summary.remarks)
    found = OPENKBP.find(tmp_path / "kbp")
    assert [(raw.case_id, raw.split) for raw in found] == [("pt_1", "train"), ("pt_2", "train")]
    return [(source, OPENKBP.read(raw)) for source, raw in zip(sources, found, strict=True)]


def ball(radius_mm, centre_mm=(0.0, 0.0, 0.0), shape=SHAPE, spacing=(4.0, 4.0, 4.0)):
    """Return a ball around a point that is given from the middle of the grid."""
    places = np.meshgrid(
        *((np.arange(n) - (n - 1) / 2) * edge for n, edge in zip(shape, spacing, strict=True)), indexing="ij"
    )
    return sum((place - at) ** 2 for place, at in zip(places, centre_mm, strict=True)) <= radius_mm**2


def made(shape=(40, 40, 30), spacing=(4.0, 4.0, 4.0), body_mm=50.0, **changes):
    """Return a case: a ball of water in air, a target, an organ beside it, 70 Gy wherever dose is possible."""
    body = ball(body_mm, shape=shape, spacing=spacing)
    possible = ball(0.8 * body_mm, shape=shape, spacing=spacing)
    target = ball(0.4 * body_mm, shape=shape, spacing=spacing)
    organ = ball(0.2 * body_mm, (0.0, 0.65 * body_mm, 0.0), shape, spacing)
    case = Case(
        case_id="case",
        group_id="case",
        split="",
        spacing_mm=spacing,
        images={"ct": np.where(body, 1024, 24).astype(np.uint16)},
        masks={"Rectum": organ, "PTV": target, POSSIBLE_DOSE_MASK: possible},
        doses={"dose": 70 * possible.astype(np.float32)},
        sha256="",
        facts={"prescription_gy": 70.0},
    )
    return dataclasses.replace(case, **changes)


def convert(cases, folder, names=NAMES, targets=TARGET, **options):
    return convert_to_openkbp(cases, PROSTATE, folder, names, targets, **options)


def read_back(folder, patient="pt_1"):
    return OPENKBP.read(RawCase(patient, patient, "train", folder / "train-pats" / patient))


def volume_cc(mask, spacing_mm):
    return np.count_nonzero(mask) * np.prod(spacing_mm) / 1000


def centroid_mm(mask, spacing_mm, of):
    """Return a mask's centre, seen from the centre of another mask."""
    centres = [np.array([axis.mean() for axis in np.nonzero(m)]) for m in (mask, of)]
    return (centres[0] - centres[1]) * spacing_mm


# The round trip


def test_every_structure_keeps_its_volume_and_its_place(pairs):
    for source, converted in pairs:
        names = NAMES | TARGET | {POSSIBLE_DOSE_MASK: POSSIBLE_DOSE_MASK}
        masks = {name: mask for name, mask in source.masks.items() if name != DOSE_KNOWN}
        masks[POSSIBLE_DOSE_MASK] = masks[POSSIBLE_DOSE_MASK] & source.dose_known
        assert set(converted.masks) == {names[name] for name in masks}
        for old, mask in masks.items():
            new = converted.masks[names[old]]
            assert volume_cc(new, converted.spacing_mm) == pytest.approx(volume_cc(mask, source.spacing_mm), rel=0.03)
            before = centroid_mm(mask, source.spacing_mm, source.masks["PTV"])
            after = centroid_mm(new, converted.spacing_mm, converted.masks["PTV70"])
            np.testing.assert_array_less(np.abs(after - before), np.array(converted.spacing_mm) / 2)


def test_the_dose_is_kept_in_gray_and_zero_outside_the_mask(pairs):
    for source, converted in pairs:
        dose, possible = converted.doses["dose"], converted.masks[POSSIBLE_DOSE_MASK]
        before = source.doses["dose"][source.masks["PTV"]].mean()
        assert dose[converted.masks["PTV70"]].mean() == pytest.approx(before, rel=0.01)
        assert not dose[~possible].any()
        assert dose_score(dose, dose, possible) == 0
        assert source.doses["dose"].sum() == pytest.approx(dose.sum(), rel=1e-5)


def test_the_ct_inside_the_patient_is_kept_and_zero_outside(pairs):
    for source, converted in pairs:
        ct, possible = converted.images["ct"], converted.masks[POSSIBLE_DOSE_MASK]
        np.testing.assert_array_equal(
            ct[possible], source.images["ct"][source.masks[POSSIBLE_DOSE_MASK] & source.dose_known]
        )
        assert ct[0].max() == 0
        assert np.count_nonzero(ct) < 1.05 * np.count_nonzero(source.images["ct"] > 700)


def test_mapping_lists_pseudonyms_and_nothing_that_identifies_anybody(pairs, raw_dir, tmp_path):
    with (tmp_path / "kbp" / "mapping.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert rows == [
        {"split": "train", "patient": f"pt_{number}", "case_id": source.case_id, "group_id": source.group_id}
        for number, (source, _) in enumerate(pairs, start=1)
    ]
    written = b"".join(path.read_bytes() for path in (tmp_path / "kbp").rglob("*") if path.is_file())
    for secret in (b"PHANTOM", b"PH0000", b"patient_0", str(raw_dir).encode()):
        assert secret not in written


def test_other_sites_of_the_body_are_a_matter_of_names_alone(raw_dir, tmp_path):
    """Head and neck: the settings of the reader call the structures as OpenKBP does, nothing is renamed."""
    patterns = {"Prostate": r".*prostat.*", "Bladder": r"bladder|blase|vessie", "Rectum": r"re[ck]tum"}
    structures = {NAMES[name]: (pattern,) for name, pattern in patterns.items()} | {"PTV70": (r"ptv.*",)}
    settings = {"structures": structures, "targets": ("PTV70",), "mirrored_pairs": ()}
    dataset = get_dataset(DataConfig.model_validate({"dataset": "prostate", "options": settings}))
    cases = list(read_cases(dataset.find(raw_dir), dataset))
    summary = convert_to_openkbp(cases, dataset, tmp_path, {}, {})
    assert len(summary.patients) == 2
    expected = {"Larynx", "Brainstem", "SpinalCord", "PTV70", POSSIBLE_DOSE_MASK}
    assert set(read_back(tmp_path).masks) == expected


def test_a_patient_of_openkbp_becomes_itself_byte_for_byte(tmp_path):
    write_openkbp_phantoms(tmp_path / "before", num_train=1, num_validation=0, seed=3)
    cases = read_cases(OPENKBP.find(tmp_path / "before"), OPENKBP)
    convert_to_openkbp(cases, OPENKBP, tmp_path / "after", {}, {})
    before, after = (tmp_path / name / "train-pats" / "pt_1" for name in ("before", "after"))
    assert {path.name for path in before.iterdir()} == {path.name for path in after.iterdir()}
    for path in before.iterdir():
        assert path.read_bytes() == (after / path.name).read_bytes(), path.name


@pytest.mark.skipif("CTAN_TEST_DATA" not in os.environ, reason="CTAN_TEST_DATA is not set")
def test_an_official_patient_becomes_itself_byte_for_byte_but_for_ct_outside_the_body(tmp_path):
    with tarfile.open(Path(os.environ["CTAN_TEST_DATA"]) / "openkbp/train-pats/pt_10.tar.xz") as archive:
        archive.extractall(tmp_path / "before" / "train-pats", filter="data")
    (raw,) = OPENKBP.find(tmp_path / "before")
    convert_to_openkbp(read_cases([raw], OPENKBP), OPENKBP, tmp_path / "after", {}, {})
    after = tmp_path / "after" / "train-pats" / "pt_1"
    for path in raw.path.iterdir():
        if path.name != "ct.csv":
            assert path.read_bytes() == (after / path.name).read_bytes(), path.name
    ct, kept = OPENKBP.read(raw).images["ct"], read_back(tmp_path / "after").images["ct"]
    np.testing.assert_array_equal(kept[kept > 0], ct[kept > 0])
    assert np.count_nonzero(kept) > 0.99 * np.count_nonzero(ct)


# The grid


def patient_of(shape, extents):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(1, 1 + extent) for extent in extents)] = True
    return mask


@pytest.mark.parametrize(
    ("extents", "native_mm", "expected_mm"),
    [
        ((128, 128, 128), (1.0, 1.0, 3.0), (1.0, 1.0, 3.0)),  # fits just so
        ((80, 130, 21), (1.0, 1.0, 3.0), (1.016, 1.016, 3.0)),  # 130 / 128 = 1.015625, rounded up; slices as they are
        ((80, 90, 129), (2.0, 2.0, 2.0), (2.0, 2.0, 2.016)),  # 258 / 128 = 2.015625
        ((130, 20, 20), (1.0, 1.5, 3.0), (1.5, 1.5, 3.0)),  # in plane both edges are equal, none finer than it was
    ],
)
def test_voxels_are_kept_or_grow_as_little_as_needed(extents, native_mm, expected_mm):
    patient = patient_of(tuple(extent + 4 for extent in extents), extents)
    geometry = openkbp_grid(patient, patient, native_mm)
    assert geometry.spacing_mm == expected_mm
    assert geometry.shape == SHAPE
    kept = [new == native for new, native in zip(expected_mm, native_mm, strict=True)]
    assert all(at == round(at) for at, same in zip(geometry.corner, kept, strict=True) if same)  # voxels coincide
    for axis, extent in enumerate(extents):
        begins = geometry.corner[axis] * native_mm[axis]
        assert begins <= native_mm[axis] + 1e-9
        assert begins + 128 * expected_mm[axis] >= (1 + extent) * native_mm[axis] - 1e-9


def test_a_patient_who_does_not_fit_is_resampled_to_the_same_anatomy(tmp_path):
    spacing = (1.0, 1.0, 3.0)
    case = made(shape=(170, 170, 52), spacing=spacing, body_mm=75.0)
    convert([case], tmp_path)
    found = read_back(tmp_path)
    taken = np.flatnonzero(ball(75.0, shape=(170, 170, 52), spacing=spacing).any(axis=(1, 2)))
    edge = np.ceil(1000 * (taken[-1] + 1 - taken[0]) / 128) / 1000
    assert found.spacing_mm == (edge, edge, 3.0)
    for name, radius in (("PTV70", 30.0), ("SpinalCord", 15.0), (POSSIBLE_DOSE_MASK, 60.0)):
        expected_cc = 4 / 3 * np.pi * radius**3 / 1000
        assert volume_cc(found.masks[name], found.spacing_mm) == pytest.approx(expected_cc, rel=0.03)
    place = centroid_mm(found.masks["SpinalCord"], found.spacing_mm, found.masks["PTV70"])
    np.testing.assert_allclose(place, (0, 0.65 * 75, 0), atol=edge / 2)
    dose, possible = found.doses["dose"], found.masks[POSSIBLE_DOSE_MASK]
    np.testing.assert_allclose(dose[possible], 70, atol=1e-3)  # bright to the rim
    assert not dose[~possible].any()
    np.testing.assert_array_equal(found.images["ct"][possible], 1024)
    assert found.images["ct"][0, 0].max() == 0


# Names and doses


def test_a_lower_target_gives_way_to_the_higher_one(tmp_path):
    outer, inner = ball(30, shape=(40, 40, 30)), ball(15, shape=(40, 40, 30))
    case = made(masks={**made().masks, "PTV": inner, "SeminalVesicles": outer})
    convert([case], tmp_path, {"Rectum": ""}, {"PTV": "PTV70", "SeminalVesicles": "PTV56"})
    masks = read_back(tmp_path).masks
    assert set(masks) == {"PTV70", "PTV56", POSSIBLE_DOSE_MASK}
    assert np.count_nonzero(masks["PTV70"]) == np.count_nonzero(inner)
    assert np.count_nonzero(masks["PTV56"]) == np.count_nonzero(outer & ~inner)
    assert not (masks["PTV70"] & masks["PTV56"]).any()


def test_a_target_whose_dose_is_not_known_everywhere_is_skipped(tmp_path):
    """OpenKBP's form has no place for it: what is not known would be 0 Gy."""
    case = made()
    known = np.ones(case.shape, bool)
    known[:, :, :12] = False
    cut = made(masks={**case.masks, DOSE_KNOWN: known}, case_id="cut")
    summary = convert([case, cut], tmp_path)
    assert list(summary.patients.values()) == ["case"]
    share = np.count_nonzero(case.masks["PTV"] & ~known) / np.count_nonzero(case.masks["PTV"])
    (skipped,) = summary.skipped
    assert skipped[1].startswith(f"the dose of {share:.1%} of PTV70 is not known")


def test_structures_openkbp_does_not_know_are_written_with_a_warning(tmp_path):
    summary = convert([made()], tmp_path, {})
    assert (tmp_path / "train-pats" / "pt_1" / "Rectum.csv").exists()
    (remark,) = summary.remarks
    assert "Rectum (1 patient): OpenKBP has no such structures and its reader refuses" in remark
    assert "--rename Rectum=" in str(summary)
    with pytest.raises(CaseError, match=r"Rectum\.csv: unknown structure"):
        read_back(tmp_path)


def test_a_structure_is_left_out_by_an_empty_name(tmp_path):
    assert convert([made()], tmp_path, {"Rectum": ""}).remarks == ()
    assert set(read_back(tmp_path).masks) == {"PTV70", POSSIBLE_DOSE_MASK}


def test_an_empty_contour_makes_no_file_but_a_remark(tmp_path):
    empty = np.zeros(made().shape, bool)
    summary = convert([made(masks={**made().masks, "Rectum": empty})], tmp_path)
    assert summary.remarks == ("SpinalCord: contoured but empty, or inside a higher target, in pt_1; no file",)
    assert set(read_back(tmp_path).masks) == {"PTV70", POSSIBLE_DOSE_MASK}


def test_doses_are_scaled_by_each_prescription_on_request(tmp_path):
    case = made(facts={"prescription_gy": 50.0}, doses={"dose": made().doses["dose"] * np.float32(5 / 7)})
    summary = convert([case], tmp_path / "kept")
    assert any("PTV70: mean dose 50.0 to 50.0 Gy" in remark for remark in summary.remarks)
    summary = convert([case], tmp_path / "scaled", scale_to_gy=70.0)
    assert summary.remarks == ()
    for folder, gray in (("kept", 50.0), ("scaled", 70.0)):
        found = read_back(tmp_path / folder)
        assert found.doses["dose"][found.masks["PTV70"]].mean() == pytest.approx(gray)


@pytest.mark.parametrize(
    ("pairs_given", "message"),
    [
        (["Prostate"], r"--rename: cannot read 'Prostate'; expected NAME=NEW"),
        (["=Larynx"], r"--rename: cannot read '=Larynx'"),
        (["Bladder=Larynx", "Bladder=Mandible"], r"--rename: Bladder is given twice"),
    ],
)
def test_a_pair_of_names_that_is_not_understood_is_named(pairs_given, message):
    with pytest.raises(ConfigError, match=message):
        parse_names("--rename", pairs_given)


def test_pairs_of_names_are_read():
    assert parse_names("--rename", ["PTV=PTV70", " SV = Larynx", "Bladder="]) == {
        "PTV": "PTV70",
        "SV": "Larynx",
        "Bladder": "",
    }


@pytest.mark.parametrize(
    ("names", "targets", "message"),
    [
        ({"Prostata": "Larynx"}, TARGET, "rename: unknown structure Prostata; prostate has Prostate, Bladder"),
        ({}, {"PTV_2": "PTV70"}, "target: unknown structure PTV_2"),
        ({}, {"PTV": "PTV60"}, "target: PTV60 is no target of OpenKBP; allowed: PTV56, PTV63, PTV70"),
        ({"PTV": "Larynx"}, TARGET, "PTV: renamed and a target"),
        ({"Prostate": "ct"}, TARGET, "rename: 'ct' cannot be a structure's file"),
        ({"Prostate": "../x"}, TARGET, r"rename: '\.\./x' cannot be"),
        ({"Prostate": "Bladder"}, TARGET, "Prostate, Bladder would all be written as Bladder"),
        ({}, {}, "no target: say which structure is which, such as --target PTV=PTV70"),
    ],
)
def test_names_that_cannot_be_meant_are_refused_before_anything_is_read(tmp_path, names, targets, message):
    def unread():
        raise AssertionError("read")
        yield

    with pytest.raises(ConfigError, match=message):
        convert(unread(), tmp_path, names, targets)
    assert list(tmp_path.iterdir()) == []


def test_a_data_set_without_dose_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="stoic has no dose"):
        convert_to_openkbp([], get_dataset("stoic"), tmp_path, {}, {})


# Cases that cannot be converted, and folders


def renamed(case, case_id, **changes):
    return dataclasses.replace(case, case_id=case_id, group_id=case_id, **changes)


def test_cases_that_cannot_be_converted_are_named_and_skipped(tmp_path):
    masks = made().masks
    cases = [
        CaseError("a", "RTSTRUCT: no contours"),
        renamed(made(), "b", doses={}),
        renamed(made(), "c", masks={name: mask for name, mask in masks.items() if name != "PTV"}),
        renamed(made(), "d", facts={}),
        renamed(made(), "e"),
        renamed(made(), "f", images={"ct": np.full(made().shape, 24, np.uint16)}),
    ]
    summary = convert(cases, tmp_path, scale_to_gy=70.0)
    assert summary.patients == {"pt_1": "e"}
    assert [case_id for case_id, _ in summary.skipped] == ["a", "b", "c", "d", "f"]
    reasons = [reason for _, reason in summary.skipped]
    for reason, expected in zip(
        reasons, ("RTSTRUCT: no contours", "no dose", "no target", "prescribed dose", "nothing is above"), strict=True
    ):
        assert expected in reason
        assert reason in str(summary)
    assert [path.name for path in (tmp_path / "train-pats").iterdir()] == ["pt_1"]


def test_dicom_that_cannot_be_read_is_skipped_with_its_reason(tmp_path):
    write_prostate_phantoms(tmp_path / "raw", 2, 0, 1, defects=("no-dose",))
    summary = convert(read_cases(PROSTATE.find(tmp_path / "raw"), PROSTATE), tmp_path / "kbp")
    assert len(summary.patients) == 1
    ((_, reason),) = summary.skipped
    assert reason.startswith("no RTDOSE")


def test_no_case_at_all_is_an_error_that_names_the_reasons(tmp_path):
    with pytest.raises(DataError, match="none of 1 cases can be converted: case: no dose"):
        convert([made(doses={})], tmp_path / "kbp")
    assert not (tmp_path / "kbp").exists()


def test_nothing_is_overwritten(tmp_path):
    convert([made()], tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(DataError, match="train-pats: exists already; name another folder, nothing is overwritten"):
        convert([renamed(made(), "other")], tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_second_split_goes_on_counting_and_takes_no_case_twice(tmp_path):
    convert([renamed(made(), "a"), renamed(made(), "b")], tmp_path)
    summary = convert([renamed(made(), "b"), renamed(made(), "c")], tmp_path, split="validation")
    assert summary.patients == {"pt_3": "c"}
    assert summary.skipped == (("b", "is in train as pt_2 already"),)
    assert [(raw.case_id, raw.split) for raw in OPENKBP.find(tmp_path)] == [
        ("pt_1", "train"),
        ("pt_2", "train"),
        ("pt_3", "validation"),
    ]
    assert len((tmp_path / "mapping.csv").read_text().splitlines()) == 4
    with pytest.raises(ConfigError, match="split: unknown 'dev'; allowed: train, validation, test"):
        convert([], tmp_path, split="dev")


def test_a_split_that_was_removed_may_be_converted_again(tmp_path):
    convert([renamed(made(), "a")], tmp_path)
    convert([renamed(made(), "b")], tmp_path, split="test")
    shutil.rmtree(tmp_path / "train-pats")
    assert convert([renamed(made(), "a")], tmp_path).patients == {"pt_3": "a"}
    assert (tmp_path / "mapping.csv").read_text() == ("split,patient,case_id,group_id\ntest,pt_2,b,b\ntrain,pt_3,a,a\n")


def test_two_cases_of_one_patient_are_pointed_out(tmp_path):
    cases = [dataclasses.replace(made(), case_id=f"p-{number}", group_id="p") for number in (1, 2)]
    (remark,) = convert(cases, tmp_path).remarks
    assert remark.startswith("pt_1 and pt_2: cases of one patient")


def test_a_patient_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    from ctan.intake import convert as module

    written = []

    def stops(patient, folder):
        if written:
            (folder / "ct.csv").write_text(",data\n")
            raise KeyboardInterrupt
        written.append(folder)
        write(patient, folder)

    write = module.write_patient
    monkeypatch.setattr(module, "write_patient", stops)
    with pytest.raises(KeyboardInterrupt):
        convert([renamed(made(), "a"), renamed(made(), "b")], tmp_path)
    assert [path.name for path in (tmp_path / "train-pats").iterdir()] == ["pt_1"]
    assert (tmp_path / "mapping.csv").read_text().splitlines()[1:] == ["train,pt_1,a,a"]
    read_back(tmp_path)
