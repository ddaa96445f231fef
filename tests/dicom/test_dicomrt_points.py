"""Dose-volume numbers of contours: those of the contour itself and of the dose between voxels, not of whole voxels."""

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from matplotlib.path import Path as Outline
from scipy import ndimage

from ctan.cases import Case
from ctan.cases.covered import PER_EDGE, doses_inside
from ctan.cases.volumes import to_case_axes
from ctan.config import EvaluationConfig
from ctan.dicom.contours import mask_of
from ctan.dicom.patient import _covered, _in_case_axes
from ctan.dicom.writers import PatientHeader
from ctan.intake.build import preprocess
from ctan.intake.measure import case_row
from ctan.settings import load_config
from ctan.store import open_store
from ctan.store.manifest import MANIFEST_FILE, QUARANTINE_FILE, QUARANTINE_SCHEMA, SCHEMA, write_manifest
from ctan.tasks import DoseRegression
from tests.helpers.dicom import CONTOURS, KEY, SLICES_Z, box, dataset_of, write_patient

SIZE, SPACING, ORIGIN = (40, 36, 7), (4.7, 4.7, 3.0), (-90.0, -80.0, 10.0)  # x, y, z
PERCENTS = (1, 2, 5, 50, 95, 98, 99)
FINE = 16


def grid(direction=(1, 0, 0, 0, 1, 0, 0, 0, 1), size=SIZE):
    image = sitk.Image([int(n) for n in size], sitk.sitkFloat32)
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN)
    image.SetDirection([float(value) for value in direction])
    return image


def star(place, seed):
    """Return a round, dented contour in mm around the middle of the grid."""
    random = np.random.default_rng(seed)
    angle = np.arange(90) * 2 * np.pi / 90
    radius = 22 + 5 * np.sin(3 * angle + random.uniform(0, 6)) + random.uniform(0, 4)
    x, y = radius * np.cos(angle) + random.uniform(-2, 2), 0.8 * radius * np.sin(angle)
    return np.stack([x, y, np.full(90, ORIGIN[2] + SPACING[2] * place)], 1)


def steep_dose():
    """Return a dose (z, y, x) that falls by 1 Gy a mm at its edge, and not along z."""
    x, y = (start + edge * np.arange(size) for start, edge, size in zip(ORIGIN[:2], SPACING[:2], SIZE[:2], strict=True))
    away = np.hypot(x[None] - 6, y[:, None] + 3)
    return np.repeat((70 / (1 + np.exp((away - 24) / 17)))[None], SIZE[2], axis=0).astype(np.float32)


def fine_doses(contours, dose):
    """Return the dose at 16 x 16 points a voxel that lie inside by matplotlib, between voxels by scipy."""
    found = []
    for points in contours:
        index = (points - ORIGIN) / SPACING
        places = [np.arange(n * FINE) / FINE + 0.5 / FINE - 0.5 for n in SIZE[:2]]
        x, y = (axis.ravel() for axis in np.meshgrid(*places))
        inside = Outline(index[:, :2]).contains_points(np.stack([x, y], 1))
        places = [np.full(inside.sum(), index[0, 2]), y[inside], x[inside]]
        found.append(ndimage.map_coordinates(dose.astype(np.float64), places, order=1, mode="nearest"))
    return np.concatenate(found)


def case_of(contours, dose):
    """Return a case of one structure with a dose (z, y, x), and the dose as the case has it."""
    image = grid()
    filled = mask_of(contours, image, "test")
    masks = {"PTV": _in_case_axes(filled.mask, image)}
    masks["possible_dose_mask"] = np.ones(masks["PTV"].shape, bool)
    held = sitk.GetImageFromArray(dose)
    held.CopyInformation(image)
    values, spacing_mm = to_case_axes(held)
    covered = {"PTV": _covered(filled.outline, image)}
    image = {"ct": np.zeros(values.shape, np.uint16)}
    return Case("a", "a", "train", spacing_mm, image, masks, {"dose": values}, "", covered=covered)


def of_points(patient):
    return doses_inside(
        patient, patient.masks["PTV"], patient.covered["PTV"], [patient.doses["dose"]], patient.dose_known
    )


@pytest.mark.parametrize("seed", range(2))
def test_doses_of_a_contour_are_those_of_an_independent_fine_rasterisation(seed):
    contours, dose = [star(place, seed + place) for place in (2, 3, 4)], steep_dose()
    patient, expected = case_of(contours, dose), fine_doses(contours, dose)
    found = of_points(patient)
    (inside,) = found.doses
    assert len(inside) * found.share == pytest.approx(len(expected) / FINE**2, rel=2e-3)
    np.testing.assert_allclose(np.percentile(inside, PERCENTS), np.percentile(expected, PERCENTS), atol=0.1)
    assert inside.mean(dtype=float) == pytest.approx(expected.mean(), abs=0.02)
    voxels = patient.doses["dose"][patient.masks["PTV"]]  # what was reported before
    assert np.abs(np.percentile(voxels, PERCENTS) - np.percentile(expected, PERCENTS)).max() > 0.3


def test_of_a_large_structure_an_eighth_of_the_points_tells_the_same(monkeypatch):
    patient = case_of([star(place, 3) for place in range(1, 6)], steep_dose())
    every = of_points(patient)
    monkeypatch.setattr("ctan.cases.covered._MOST_POINTS", 1000)
    some = of_points(patient)
    assert some.share == 1 / 8
    assert len(some.doses[0]) * 8 == pytest.approx(len(every.doses[0]), rel=0.01)
    percents = (5, 50, 95)  # of 300 voxels, far fewer than what is large
    np.testing.assert_allclose(
        np.percentile(some.doses[0], percents), np.percentile(every.doses[0], percents), atol=0.15
    )
    assert some.doses[0].mean(dtype=float) == pytest.approx(every.doses[0].mean(dtype=float), abs=0.05)


def test_scores_and_curves_are_of_the_contour_and_others_of_whole_voxels():
    patient = case_of([star(place, place) for place in (2, 3, 4)], steep_dose())
    spec = _Spec(structures=("PTV",), targets={"PTV": 60.0})
    predicted = patient.doses["dose"] + np.float32(1)
    (inside,) = of_points(patient).doses
    config = EvaluationConfig(clinical_goals=("PTV D95% > 50 Gy",))
    rows = DoseRegression("dose").rows(predicted, patient, spec, config)
    planned = {row["structure"]: row["planned"] for row in rows if row["metric"] == "dvh"}
    (goal,) = (row["planned"] for row in rows if row["metric"] == "goal")
    assert goal == pytest.approx(planned["PTV:D_95"], abs=1e-4)
    assert planned["PTV:D_95"] == pytest.approx(np.percentile(inside, 5), abs=1e-4)
    assert [row["value"] for row in rows] == pytest.approx([1.0] * 5, abs=1e-4)
    curve = {row["dose_gy"]: row["planned"] for row in DoseRegression("dose").curves(predicted, patient, spec)}
    assert curve[50.0] == pytest.approx(np.mean(inside >= 50), abs=1e-6)
    whole = Case(**{**vars(patient), "covered": {}})
    rows = DoseRegression("dose").rows(predicted, whole, spec, config)
    voxels = patient.doses["dose"][patient.masks["PTV"]]
    assert rows[2]["planned"] == pytest.approx(np.percentile(voxels, 5), abs=1e-4)


class _Spec:
    def __init__(self, **values):
        vars(self).update(values)


def test_dose_that_is_not_known_takes_no_part_beside_the_points_either():
    """Its zeros would drag the doses of neighbours down."""
    contours, dose = [star(3, 1)], np.full(SIZE[::-1], 40, np.float32)
    patient = case_of(contours, dose)
    known = np.ones(patient.shape, bool)
    known[:, 20:] = False
    cut = np.where(known, patient.doses["dose"], 0)
    found = doses_inside(patient, patient.masks["PTV"], patient.covered["PTV"], [cut], known)
    whole = of_points(patient)
    assert found.doses[0].min() == pytest.approx(40, abs=1e-4)
    assert found.known_share == pytest.approx(len(found.doses[0]) / len(whole.doses[0]), abs=1e-9)
    assert 0.3 < found.known_share < 0.7


@pytest.mark.parametrize(
    "direction",
    [
        (1, 0, 0, 0, 1, 0, 0, 0, 1),
        (-1, 0, 0, 0, -1, 0, 0, 0, 1),
        (1, 0, 0, 0, -1, 0, 0, 0, -1),
        (0, 1, 0, -1, 0, 0, 0, 0, 1),
        (0, 0, 1, 1, 0, 0, 0, 1, 0),
        (1, 0, 0, 0, 0, 1, 0, -1, 0),
    ],
)
def test_points_lie_where_the_image_lies_however_its_axes_run(direction):
    """As a mask of 8 x 8 as many voxels, turned by SimpleITK."""
    image = grid(direction)
    contours = [
        np.array([image.TransformContinuousIndexToPhysicalPoint([float(v) for v in p]) for p in outline])
        for outline in (
            [(10.2, 8.3, 2), (25.1, 9.2, 2), (19.7, 20.6, 2), (14.9, 11.3, 2)],
            [(9.1, 9.9, 3), (27.3, 12, 3), (12.4, 23.8, 3)],
        )
    ]
    filled = mask_of(contours, image, "test")
    fine = grid(direction, (SIZE[0] * PER_EDGE, SIZE[1] * PER_EDGE, SIZE[2]))
    dense = _dense(filled.mask.astype(bool), filled.outline[0], np.unpackbits(filled.outline[1], axis=1))
    held = sitk.GetImageFromArray(dense.astype(np.uint8))
    held.SetDirection(fine.GetDirection())
    expected = to_case_axes(held)[0].astype(bool)
    covered, mask = _covered(filled.outline, image), _in_case_axes(filled.mask, image)
    flat = np.repeat(np.repeat(np.moveaxis(mask, covered.axis, 0), 8, axis=1), 8, axis=2)
    shape = np.moveaxis(mask, covered.axis, 0).shape
    cells = flat.reshape(shape[0], shape[1], 8, shape[2], 8)
    index = np.unravel_index(covered.voxels, mask.shape)
    place = index[covered.axis]
    row, column = (index[axis] for axis in range(3) if axis != covered.axis)
    cells[place, row, :, column, :] = covered.inside
    np.testing.assert_array_equal(cells.reshape(flat.shape), np.moveaxis(expected, covered.axis, 0))


def _dense(mask, voxels, bits):
    """Return (slice, row, column) with 8 x 8 as many voxels a slice."""
    num_slices, rows, columns = mask.shape
    cells = np.repeat(np.repeat(mask, 8, axis=1), 8, axis=2).reshape(num_slices, rows, 8, columns, 8)
    place, row, column = np.unravel_index(voxels, mask.shape)
    cells[place, row, :, column, :] = bits.reshape(-1, 8, 8)
    return cells.reshape(num_slices, rows * 8, columns * 8)


def test_a_store_gives_back_the_points_of_every_structure(tmp_path, monkeypatch):
    monkeypatch.setenv("CTAN_DEID_KEY", KEY)
    header = PatientHeader(key="other", patient_id="MRN 4712")
    write_patient(tmp_path / "raw" / "a")
    contours = {**CONTOURS, "Bladder": [box(z, (-19, -8.3), (-19, -12.1)) for z in SLICES_Z[4:8]]}
    write_patient(tmp_path / "raw" / "b", header=header, contours=contours, position="HFP")
    config = load_config("smoke", {"data.dataset": "prostate", "data.options.prescription_gy": 60})
    dataset = dataset_of(prescription_gy=60)
    rows = [
        case_row(dataset.read(replace(raw, split="train")), dataset.spec, 0) for raw in dataset.find(tmp_path / "raw")
    ]
    dataset.spec.save(tmp_path / "manifest")
    write_manifest(rows, tmp_path / "manifest" / MANIFEST_FILE, SCHEMA(dataset.spec))
    write_manifest([], tmp_path / "manifest" / QUARANTINE_FILE, QUARANTINE_SCHEMA)
    pointer = preprocess(str(tmp_path / "raw"), tmp_path / "manifest", str(tmp_path / "root"), config, num_workers=1)
    store = open_store(pointer)
    numbers = set()
    for raw in dataset.find(tmp_path / "raw"):
        case, reference = dataset.read(raw), store.reference(raw.case_id)
        assert set(reference.covered) == set(case.covered) == {"Prostate", "Bladder", "PTV"}
        for name, covered in case.covered.items():
            np.testing.assert_array_equal(reference.covered[name].voxels, covered.voxels)
            np.testing.assert_array_equal(reference.covered[name].points, covered.points)
            assert reference.covered[name].axis == covered.axis == 2
        numbers.add(sum(len(covered.voxels) for covered in case.covered.values()))
    assert len(numbers) == 2  # the shorter one is filled up in the array, and comes back as it was
    assert not store.reference(raw.case_id, arrays=False).covered
