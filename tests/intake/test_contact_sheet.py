"""A contact sheet shows the whole case the right way round, on one scale, with what is known of it."""

import io
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.colors import same_color
from PIL import Image

from ctan.cases import POSSIBLE_DOSE_MASK, Case
from ctan.datasets import get_dataset
from ctan.drawing import structure_colours
from ctan.errors import ConfigError, DataError
from ctan.intake.contact_sheet import contact_sheet, write_contact_sheet
from ctan.intake.look import show_few
from ctan.settings import load_config
from ctan.tasks import tasks_of

OPENKBP, STOIC, HAM10000 = (get_dataset(name).spec for name in ("openkbp", "stoic", "ham10000"))
SHAPE, SPACING = (30, 40, 20), (4.0, 4.0, 2.5)
PTV70, PAROTID = np.s_[10:16, 18:24, 8:12], np.s_[10:18, 26:34, 4:12]


def mask(region, shape=SHAPE):
    found = np.zeros(shape, bool)
    found[region] = True
    return found


@pytest.fixture
def planned():
    """A body from which only a corner block sticks out in brightness: anterior, right and superior."""
    ct = np.zeros(SHAPE, np.uint16)
    ct[3:27, 4:36] = 1064
    ct[3:9, 4:12, :6] = 1250
    dose = np.zeros(SHAPE, np.float32)
    dose[6:22, 10:30, 4:16] = 20
    dose[PTV70] = 70
    masks = {"PTV70": mask(PTV70), "LeftParotid": mask(PAROTID), POSSIBLE_DOSE_MASK: dose > 0}
    return Case("pt_7", "pt_7", "train", SPACING, {"ct": ct}, masks, {"dose": dose}, "0" * 64)


@pytest.fixture
def scan(planned):
    """A chest CT: no structure, no dose, one label that is not known."""
    return replace(
        planned, case_id="12", masks={}, doses={}, labels={"covid": "negative"}, facts={"age": 45.0, "sex": "female"}
    )


@pytest.fixture
def picture():
    shape = (60, 90)
    image = np.random.default_rng(0).integers(0, 256, (3, *shape), np.uint8)
    lesion = {"Lesion": mask(np.s_[20:40, 30:60], shape)}
    return Case("ISIC_1", "HAM_1", "", (1.0, 1.0), {"rgb": image}, lesion, {}, "0" * 64, {"diagnosis": "nv"})


def panels(figure):
    return {axes.get_label(): axes for axes in figure.axes if axes.get_label() != "dose"}


def texts(figure):
    return [text.get_text() for text in figure.texts]


def letters(axes):
    return {text.get_text(): text.get_position() for text in axes.texts if len(text.get_text()) == 1}


def indices_of(figure, view):
    """Return the slices' indices, which are written on them from 1 on."""
    shown = [axes for name, axes in panels(figure).items() if name.startswith(view)]
    return [int(text.get_text().split("/")[0]) - 1 for axes in shown for text in axes.texts if "/" in text.get_text()]


def test_a_volume_has_five_slices_a_view_and_the_middle_one_meets_the_hottest_dose(planned):
    figure = contact_sheet(planned, OPENKBP)
    hottest = [round(axis.mean()) for axis in np.nonzero(planned.doses["dose"] == 70)]
    contoured = np.argwhere(planned.masks["PTV70"] | planned.masks["LeftParotid"])
    for axis, view in enumerate(("coronal", "sagittal", "axial")):
        indices = indices_of(figure, view)
        assert indices == sorted(set(indices))
        assert (len(indices), indices[2]) == (5, hottest[axis])
        inside = [contoured[:, axis].min() <= index <= contoured[:, axis].max() for index in indices]
        assert sum(inside) >= 4


def test_without_dose_slices_go_through_the_structures_and_without_those_through_the_patient(planned, scan):
    figure = contact_sheet(replace(planned, masks={"LeftParotid": mask(PAROTID)}, doses={}), OPENKBP)
    middle = [indices_of(figure, view)[2] for view in ("coronal", "sagittal", "axial")]
    assert middle == [round(axis.mean()) for axis in np.nonzero(mask(PAROTID))]
    figure = contact_sheet(scan, STOIC)
    middle = [indices_of(figure, view)[2] for view in ("coronal", "sagittal", "axial")]
    assert middle == [round(axis.mean()) for axis in np.nonzero(scan.images["ct"])]


def test_the_patient_lies_the_right_way_round_and_the_letters_say_so(planned):
    """The bright block is anterior, right and superior: up and on the left in every view that shows it."""
    bright = replace(planned, masks={"PTV70": mask(np.s_[3:9, 4:12, 0:6])}, doses={})
    shown = panels(contact_sheet(bright, OPENKBP))
    for view, expected in {"axial": ("A", "R", "L"), "coronal": ("S", "R", "L"), "sagittal": ("S", "A", "P")}.items():
        axes = [axes for name, axes in shown.items() if name.startswith(view)][2]
        ct = axes.images[0].get_array()
        rows, columns = np.nonzero(ct == 1250)
        assert rows.mean() < ct.shape[0] / 2
        assert columns.mean() < ct.shape[1] / 2
        top, left, right = expected
        places = letters(axes)
        assert set(places) == set(expected)
        assert places[top][1] > 0.9
        assert places[left][0] < 0.1 < 0.9 < places[right][0]


@pytest.mark.parametrize("spacing", [SPACING, (1.0, 1.0, 5.0), (3.0, 2.0, 1.0)])
def test_a_millimetre_is_as_long_in_every_slice_and_direction(planned, spacing):
    figure = contact_sheet(replace(planned, spacing_mm=spacing), OPENKBP)
    width, height = figure.get_size_inches()
    scales = []
    for axes in panels(figure).values():
        box = axes.get_position()
        scales += [np.ptp(axes.get_xlim()) / (box.width * width), np.ptp(axes.get_ylim()) / (box.height * height)]
        assert axes.images[0].get_extent()[1:3] == pytest.approx(
            np.array(axes.images[0].get_array().shape)[::-1]
            * np.array(spacing)[{"axial": [1, 0], "coronal": [1, 2], "sagittal": [0, 2]}[axes.get_label().split()[0]]]
        )
    assert scales == pytest.approx([scales[0]] * len(scales))


def test_panels_do_not_overlap_and_lie_on_the_sheet(planned, scan, picture):
    for case, dataset in ((planned, OPENKBP), (scan, STOIC), (picture, HAM10000)):
        boxes = [axes.get_position() for axes in contact_sheet(case, dataset).axes]
        for number, box in enumerate(boxes):
            assert 0 <= box.x0 < box.x1 <= 1
            assert 0 <= box.y0 < box.y1 <= 1
            assert not any(box.overlaps(other) for other in boxes[number + 1 :])


def test_contours_have_the_colours_of_the_report_and_a_legend(planned):
    figure = contact_sheet(planned, OPENKBP)
    (pairs,) = (task.mirrored_pairs for task in tasks_of(OPENKBP) if task.kind == "segmentation")
    colours = structure_colours(OPENKBP.structures, OPENKBP.targets, pairs)
    legend = {
        text.get_text(): line.get_color()
        for text, line in zip(figure.legends[0].get_texts(), figure.legends[0].get_lines(), strict=True)
    }
    assert legend == {name: colours[name] for name in ("PTV70", "LeftParotid")}
    middle = [axes for name, axes in panels(figure).items() if name.startswith("axial")][2]
    drawn = [contour.get_edgecolor()[0] for contour in middle.collections]
    assert [same_color(a, colours[b]) for a, b in zip(drawn, legend, strict=True)] == [True, True]
    # The outline of the target is that of its voxels, in mm from the corner of the shown part.
    outline = np.concatenate([path.vertices for path in middle.collections[0].get_paths()])
    assert np.ptp(outline, axis=0) == pytest.approx([6 * SPACING[1], 6 * SPACING[0]])


def test_dose_is_washed_over_the_ct_with_a_bar_where_there_is_one(planned):
    figure = contact_sheet(planned, OPENKBP)
    middle = [axes for name, axes in panels(figure).items() if name.startswith("axial")][2]
    assert len(middle.images) == 2
    assert middle.images[1].get_array().max() == 70
    alpha = middle.images[1].get_alpha()
    assert alpha.min() == 0 < alpha.max() < 1
    assert [axes.get_xlabel() for axes in figure.axes if axes.get_label() == "dose"] == ["dose (Gy)"]
    without = contact_sheet(replace(planned, doses={}), OPENKBP)
    assert all(len(axes.images) == 1 for axes in panels(without).values())
    assert len(without.axes) == 15


def test_title_and_foot_say_what_is_known(planned, scan, picture):
    size = "30 × 40 × 20 voxels of 4.00 × 4.00 × 2.50 mm (AP, LR, SI)"
    assert texts(contact_sheet(planned, OPENKBP)) == [
        "openkbp  pt_7",
        f"{size} · largest dose 70.0 Gy",
        OPENKBP.licence,
    ]
    assert texts(contact_sheet(scan, STOIC)) == [
        "stoic  12",
        f"{size} · covid: negative · severity: unknown · age 45 · sex female",
        STOIC.licence,
    ]
    assert texts(contact_sheet(picture, HAM10000))[:2] == ["ham10000  ISIC_1", "60 × 90 pixels · diagnosis: nv"]


def test_a_volume_without_structures_is_shown_in_the_window_of_its_data_set(planned, scan):
    figure = contact_sheet(scan, STOIC)
    assert len(panels(figure)) == 15
    assert not figure.legends
    assert {axes.images[0].get_clim() for axes in panels(figure).values()} == {(STOIC.image.low, STOIC.image.high)}
    planning = panels(contact_sheet(planned, OPENKBP)).values()
    assert {axes.images[0].get_clim() for axes in planning} == {(1024 - 160, 1024 + 240)}


@pytest.mark.parametrize("value", [0, 1024])
def test_an_empty_scan_is_drawn_all_the_same(scan, planned, value):
    empty = {"ct": np.full(SHAPE, value, np.uint16)}
    assert len(panels(contact_sheet(replace(scan, images=empty), STOIC))) == 15
    nothing = replace(planned, images=empty, masks={}, doses={"dose": np.zeros(SHAPE, np.float32)})
    assert len(panels(contact_sheet(nothing, OPENKBP))) == 15


def test_a_picture_is_shown_alone_and_with_its_outline(picture):
    figure = contact_sheet(picture, HAM10000)
    assert list(panels(figure)) == ["picture", "outlines"]
    for axes in figure.axes:
        np.testing.assert_array_equal(axes.images[0].get_array(), picture.images["rgb"].transpose(1, 2, 0))
        box, size = axes.get_position(), figure.get_size_inches()
        assert box.width * size[0] / (box.height * size[1]) == pytest.approx(90 / 60)
    assert not figure.axes[0].collections
    outline = np.concatenate([path.vertices for path in figure.axes[1].collections[-1].get_paths()])
    assert outline.min(axis=0) == pytest.approx([30, 20])
    assert outline.max(axis=0) == pytest.approx([60, 40])
    assert list(panels(contact_sheet(replace(picture, masks={}), HAM10000))) == ["picture"]


# Files


def test_one_case_becomes_a_png_of_the_sheet(planned, tmp_path):
    path = tmp_path / "sheet.png"
    write_contact_sheet([planned], OPENKBP, path)
    with Image.open(path) as image:
        image.load()
        assert image.width == 1760
        assert len(image.convert("RGB").getcolors(1 << 20)) > 100
    before = path.read_bytes()
    write_contact_sheet([planned], OPENKBP, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


class Sources(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.images, self.links = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if tag == "img":
            self.images.append((found["alt"], found["src"]))
        self.links += [found[name] for name in ("href", "src") if name in found and tag != "img"]


def test_several_cases_become_one_page_that_needs_nothing_else(scan, tmp_path):
    import base64

    path = tmp_path / "sheets.html"
    write_contact_sheet((replace(scan, case_id=name) for name in ("1", "<2>")), STOIC, path)
    page = path.read_text()
    assert "stoic: contact sheet of 2 cases" in page
    assert STOIC.licence in page
    found = Sources(page)
    assert not found.links
    assert [alt.split(":")[0] for alt, _ in found.images] == ["Contact sheet of 1", "Contact sheet of <2>"]
    for _, source in found.images:
        content = base64.b64decode(source.removeprefix("data:image/png;base64,"))
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            assert image.width == 1210


def test_what_cannot_be_written_is_refused_and_leaves_nothing(scan, tmp_path):
    with pytest.raises(ConfigError, match=r"expected a path that ends in \.png or \.html, found sheet\.pdf"):
        write_contact_sheet([scan], STOIC, tmp_path / "sheet.pdf")
    with pytest.raises(ConfigError, match=r"sheet\.png holds one case; several need a path that ends in \.html"):
        write_contact_sheet([scan, scan], STOIC, tmp_path / "sheet.png")
    with pytest.raises(DataError, match="there is no case to draw"):
        write_contact_sheet([], STOIC, tmp_path / "sheet.html")
    assert not any(tmp_path.iterdir())


def test_a_dose_that_is_not_a_number_everywhere_can_still_be_looked_at(planned):
    dose = planned.doses["dose"].copy()
    dose[0, 0, :3] = np.nan, np.inf, -np.inf
    figure = contact_sheet(replace(planned, doses={"dose": dose}), OPENKBP)
    assert len(panels(figure)) == 15
    assert "largest dose 70.0 Gy" in " ".join(texts(figure))


def test_a_case_that_cannot_be_drawn_costs_its_picture_and_not_the_page(planned, tmp_path):
    path = tmp_path / "sheets.html"
    odd = replace(planned, case_id="odd", spacing_mm=(1e-320, 1.0, 1.0))
    write_contact_sheet([odd, planned], OPENKBP, path)
    assert "odd could not be drawn (" in path.read_text()
    assert [alt.split(":")[0] for alt, _ in Sources(path.read_text()).images] == ["Contact sheet of pt_7"]


def test_the_page_of_an_ingestion_never_fails_it(tmp_path, capsys):
    config = load_config("smoke")
    show_few("phantom:train=2,validation=1", tmp_path / "no manifest", tmp_path / "sheet.html", config)
    assert "no case could be shown" in (tmp_path / "sheet.html").read_text()
    assert "sheet.html: no case could be shown" in capsys.readouterr().err
    (tmp_path / "file").touch()
    show_few("phantom", tmp_path / "no manifest", tmp_path / "file" / "sheet.html", config)  # cannot be written
