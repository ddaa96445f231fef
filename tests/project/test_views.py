"""Contact sheet, `figures.npz` and report look at a volume in the same way."""

from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from matplotlib.figure import Figure
from PIL import Image

from ctan.cases import CT, Case, DataSpec, ImageSpec
from ctan.datasets import get_dataset
from ctan.drawing import DPI, png
from ctan.evaluation.figures import pictures
from ctan.intake.contact_sheet import contact_sheet
from ctan.report.dose import Contours, hu_window, slices_picture
from ctan.views import SOFT_TISSUE, VIEWS, box_around, contoured, ct_window, focus, grey_range, patient

OPENKBP, STOIC = (get_dataset(name).spec for name in ("openkbp", "stoic"))
ENDS = (("A", "P"), ("R", "L"), ("S", "I"))  # of the axes (posterior, left, inferior): of index 0, and of the last
SHAPE, EDGE_MM = (34, 46, 40), 8 / 6  # 8 mm around the patient are the 6 voxels of `figures.npz`
BODY, HOT, ORGAN = np.s_[8:26, 9:37, 7:33], np.s_[12:15, 20:25, 21:24], np.s_[10:20, 26:34, 9:15]
EVERYTHING = [slice(None)] * 3


def mask(region: Any) -> npt.NDArray[np.bool_]:
    found = np.zeros(SHAPE, bool)
    found[region] = True
    return found


@pytest.fixture
def planned() -> Case:
    """A body in air with a brighter anterior, right and superior part, a target at its hottest place, and an organ."""
    ct = np.random.default_rng(0).integers(0, 60, SHAPE).astype(np.uint16)
    ct[BODY] += 1000
    ct[8:14, 9:18, 7:15] += 300
    dose = np.where(mask(BODY), 20, 0).astype(np.float32)
    dose[HOT] = 70
    masks = {"PTV70": mask(HOT), "LeftParotid": mask(ORGAN), "possible_dose_mask": mask(BODY)}
    return Case("pt_1", "pt_1", "", (EDGE_MM,) * 3, {"ct": ct}, masks, {"dose": dose}, "0" * 64)


def views_of(case: Case, spec: DataSpec) -> dict[str, dict[str, npt.NDArray[Any]]]:
    found: dict[str, dict[str, npt.NDArray[Any]]] = {view.name: {} for view in VIEWS}
    for key, array in pictures(case, {}, (), spec).items():
        _, view, what = key.split("/")
        found[view][what] = array
    return found


def drawn_report(case: Case, spec: DataSpec) -> Figure:
    figure = slices_picture(views_of(case, spec), Contours((), tuple(spec.targets), {}), spec.image)
    assert figure is not None
    return figure


def letters(axes: Any) -> dict[str, tuple[float, float]]:
    return {text.get_text(): text.get_position() for text in axes.texts if len(text.get_text()) == 1}


# Views


def test_a_slice_is_the_volume_at_its_index_with_rows_down_and_columns_to_the_right() -> None:
    p, l, i = np.indices((3, 4, 5))  # noqa: E741
    volume = 100 * p + 10 * l + i
    axial, coronal, sagittal = (view.cut(volume, 2, EVERYTHING) for view in VIEWS)
    assert axial.tolist() == [[100 * p + 10 * l + 2 for l in range(4)] for p in range(3)]  # noqa: E741
    assert coronal.tolist() == [[200 + 10 * l + i for l in range(4)] for i in range(5)]  # noqa: E741
    assert sagittal.tolist() == [[100 * p + 20 + i for p in range(3)] for i in range(5)]


def test_channels_stay_in_front_and_the_box_is_that_of_the_volume() -> None:
    volume = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    box = [slice(1, 3), slice(0, 2), slice(2, 5)]
    for view in VIEWS:
        both = view.cut(volume, 2, box)
        assert both.shape == (2, *(box[axis].stop - box[axis].start for axis in (view.rows, view.columns)))
        np.testing.assert_array_equal(both[1], view.cut(volume[1], 2, box))


def test_letters_name_the_ends_of_the_axes_that_are_drawn() -> None:
    assert [view.name for view in VIEWS] == ["axial", "coronal", "sagittal"]
    for view in VIEWS:
        assert {view.axis, view.rows, view.columns} == {0, 1, 2}
        assert view.letters == (ENDS[view.rows][0], *ENDS[view.columns])
        assert view.edges_mm((1.0, 2.0, 3.0)) == (view.rows + 1, view.columns + 1)


# What is shown


def test_the_box_is_the_patient_with_its_margins_inside_the_image(planned: Case) -> None:
    body = patient(planned, OPENKBP)
    np.testing.assert_array_equal(body, mask(BODY))
    assert box_around(body, (2, 20, 7)) == [slice(6, 28), slice(0, 46), slice(0, 40)]


def test_where_no_patient_can_be_told_everything_is_shown(planned: Case) -> None:
    air = replace(planned, images={"ct": np.zeros(SHAPE, np.uint16)})
    assert patient(air, OPENKBP).all()
    mr = ImageSpec(name="mr", modality="mr", dtype="float32", low=0, high=100)
    values = {"mr": np.where(mask(BODY), 50, 5).astype(np.float32)}
    for threshold, expected in ((None, mask(EVERYTHING[0])), (20.0, mask(BODY))):
        spec = OPENKBP.model_copy(update={"image": mr.model_copy(update={"body_threshold": threshold})})
        np.testing.assert_array_equal(patient(replace(planned, images=values), spec), expected)


def test_slices_go_through_the_hottest_dose_else_the_region_else_the_middle(planned: Case) -> None:
    region = contoured(planned, OPENKBP)
    np.testing.assert_array_equal(region, mask(HOT) | mask(ORGAN))
    assert focus(planned, region) == [13, 22, 22]
    organ = replace(planned, doses={}, masks={"LeftParotid": mask(ORGAN), "unknown": mask(BODY)})
    assert focus(organ, contoured(organ, OPENKBP)) == [14, 30, 12]  # 14.5 and 29.5 go to the even neighbour
    cold = replace(organ, doses={"dose": np.zeros(SHAPE, np.float32)})
    assert focus(cold, contoured(cold, OPENKBP)) == [14, 30, 12]
    assert focus(organ, np.zeros(SHAPE, bool)) == [17, 23, 20]


def test_sheet_and_figures_show_the_same_voxels(planned: Case) -> None:
    """Both leave 8 mm around the patient here, and both go through the hottest dose."""
    sheet, views = contact_sheet(planned, OPENKBP), views_of(planned, OPENKBP)
    for view in VIEWS:
        (middle,) = (axes for axes in sheet.axes if axes.get_label() == f"{view.name} 3")
        shown = np.asarray(middle.images[0].get_array())
        assert np.ptp(shown) > 1000
        np.testing.assert_array_equal(shown - 1024.0, views[view.name]["ct"])
        np.testing.assert_array_equal(views[view.name]["spacing_mm"], [EDGE_MM] * 2)


def test_the_first_channel_of_a_ct_decides_what_is_shown(planned: Case) -> None:
    two = OPENKBP.model_copy(update={"image": CT.model_copy(update={"num_channels": 2})})
    ct = planned.images["ct"]
    alone, both = views_of(planned, OPENKBP), views_of(replace(planned, images={"ct": np.stack([ct, 0 * ct])}), two)
    for view in VIEWS:
        assert both[view.name]["ct"].shape == (2, *alone[view.name]["ct"].shape)
        np.testing.assert_array_equal(both[view.name]["ct"][0], alone[view.name]["ct"])


# Grey values


def test_a_display_window_comes_first_in_sheet_and_report(planned: Case) -> None:
    lung = CT.model_copy(update={"display": (1024.0 - 1350, 1024.0 + 150)})
    for spec in (OPENKBP, STOIC):
        described = spec.model_copy(update={"image": lung})
        sheet = contact_sheet(planned, described)
        shown = {axes.images[0].get_clim() for axes in sheet.axes if axes.get_label() != "dose"}
        assert shown == {(-326.0, 1174.0)}
    assert hu_window(lung) == (-1350, 150)
    grey = drawn_report(planned, OPENKBP.model_copy(update={"image": lung})).axes[0].images[0].get_array()
    hu = views_of(planned, OPENKBP)["axial"]["ct"]
    np.testing.assert_allclose(grey, (hu + 1350) / 1500, atol=1e-6)


def test_a_ct_without_a_display_window_is_shown_in_that_of_soft_tissue_or_the_callers(planned: Case) -> None:
    values = planned.images["ct"]
    assert SOFT_TISSUE == (1024 - 160, 1024 + 240) == ct_window(CT) == grey_range(values, CT)
    assert hu_window(CT) == (-160, 240)
    assert grey_range(values, CT, (CT.low, CT.high)) == (0, 2524)


def test_an_image_without_a_common_scale_has_its_own() -> None:
    mr = ImageSpec(name="mr", modality="mr", dtype="float32", low=-50, high=300, per_case=True)
    values = np.linspace(0, 1000, 1001)
    assert grey_range(values, mr) == pytest.approx((5, 995))
    assert grey_range(np.full(7, 3.0), mr) == (3, 4)
    assert grey_range(values, mr.model_copy(update={"per_case": False})) == (-50, 300)
    assert grey_range(values, mr.model_copy(update={"display": (1.0, 2.0)})) == (1, 2)


# What is written on it


def test_sheet_and_report_name_the_same_sides_in_the_same_places(planned: Case) -> None:
    sheet, report = contact_sheet(planned, OPENKBP), drawn_report(planned, OPENKBP)
    for row, view in enumerate(VIEWS):
        (middle,) = (axes for axes in sheet.axes if axes.get_label() == f"{view.name} 3")
        assert tuple(letters(middle)) == view.letters
        assert letters(report.axes[row]) == letters(middle)


@pytest.mark.parametrize("draw", [contact_sheet, drawn_report])
def test_a_scale_bar_is_fifty_millimetres_long_where_its_slice_says_so(planned: Case, draw: Any) -> None:
    figure = draw(replace(planned, spacing_mm=(3.0, 3.0, 3.0)), OPENKBP)
    bars = [axes for axes in figure.axes if any(text.get_text() == "50 mm" for text in axes.texts)]
    assert len(bars) == 3
    for axes in bars:
        (line,) = axes.lines
        assert np.ptp(line.get_xdata()) == pytest.approx(50)
        assert len(set(line.get_ydata())) == 1
        assert axes.get_xlim()[0] < min(line.get_xdata()) < max(line.get_xdata()) < axes.get_xlim()[1]
    with Image.open(io.BytesIO(png(figure))) as image:
        pixels = np.asarray(image.convert("L"))
    figure.set_dpi(DPI)
    for axes in bars:
        (line,) = axes.lines
        (start, y), (end, _) = axes.transData.transform(line.get_xydata())
        row = pixels[len(pixels) - 1 - int(y), round(start) - 8 : round(end) + 8]
        assert abs((row > 127).sum() - (end - start)) <= 1


def test_looking_at_volumes_needs_no_matplotlib() -> None:
    code = "import sys, ctan.views, ctan.evaluation.figures; assert 'matplotlib' not in sys.modules, 'imported'"
    subprocess.run([sys.executable, "-c", code], check=True)
