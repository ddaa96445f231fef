"""Contact sheets: a case as it was read, on one page, for a person to check before anything is learned from it.

A volume shows axial, coronal and sagittal slices on one scale, with contours and dose where it has them; a picture
shows itself and the outlines on it. Nothing here is needed to train; matplotlib is imported with the module.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ctan import html
from ctan.cases import Case, DataSpec, levels_of
from ctan.drawing import (
    DOSE_COLOURS,
    INK,
    MUTED,
    Lettering,
    annotate,
    draw_dose,
    draw_outline,
    frame,
    png,
    scale_bar,
    size_mm,
    structure_colours,
    style,
    write_figure_png,
)
from ctan.errors import ConfigError, DataError
from ctan.files import write_text
from ctan.html import Markup
from ctan.views import (
    SOFT_TISSUE,
    VIEWS,
    View,
    box_around,
    contoured,
    extent,
    first_channel,
    focus,
    grey_range,
    patient,
)

_MARGIN_MM = 8.0
_NUM_SLICES = 5  # a view; the middle one goes through the focus
_INSET_OF_STRUCTURES, _INSET_OF_BODY = 0.1, 0.2  # the outermost slices lie this share of the extent inside of it
_LETTERING = Lettering(size=7.5, name_size=8.5, bar_side="left", bar_height=0.04, rimmed=True)
_PAGE_DPI = 110  # of a page of several cases, as wide as the page
# Inches of a sheet.
_WIDTH, _GAP, _SIDE, _HEADER, _FOOTER, _BAR, _LEGEND_ROW = 11.0, 0.05, 0.15, 0.72, 0.34, 0.54, 0.22


def contact_sheet(case: Case, spec: DataSpec) -> Figure:
    """Draw one case.

    Slices of a volume go through the hottest part of the dose, else through the middle of the contoured structures,
    else through the middle of the patient, and on to either end. Grey values are those of `ImageSpec.display`; where it
    is open, a planning CT is shown in a soft-tissue window, a volume without structures in the data set's own.

    Args:
        case: at native resolution, as `Dataset.read` returns it.
        spec: whose case it is.
    """
    case = _finite(case)
    with style():
        return _volume_sheet(case, spec) if spec.spatial_dims == 3 else _picture_sheet(case, spec)


def _finite(case: Case) -> Case:
    """Return a case whose doses are 0 where they are not finite: whatever is wrong with it, it can be looked at."""
    return replace(case, doses={name: np.nan_to_num(dose, posinf=0, neginf=0) for name, dose in case.doses.items()})


def write_contact_sheet(cases: Iterable[Case], spec: DataSpec, path: Path) -> None:
    """Write contact sheets, atomically: a PNG of one case, or a self-contained HTML page of any number.

    Args:
        cases: drawn one after the other, so an iterator keeps one in memory.
        spec: whose cases they are.
        path: ends in `.png` or `.html`.

    Raises:
        ConfigError: when the path ends in something else, or a PNG is asked for several cases.
        DataError: when there is no case.
    """
    if path.suffix not in (".png", ".html"):
        raise ConfigError(f"contact sheet: expected a path that ends in .png or .html, found {path.name}")
    if path.suffix == ".html":
        write_contact_page(cases, spec, path)
        return
    first, left = _first(cases)
    if next(left, None) is not None:
        raise ConfigError(f"contact sheet: {path.name} holds one case; several need a path that ends in .html")
    write_figure_png(contact_sheet(first, spec), path)


def write_contact_page(cases: Iterable[Case], spec: DataSpec, path: Path) -> None:
    """Write a self-contained HTML page of any number of cases, whatever the path is called; see `write_contact_sheet`.

    A case that cannot be drawn costs its picture, not the page.

    Raises:
        DataError: when there is no case.
    """
    first, left = _first(cases)
    write_text(path, _page(chain([first], left), spec))


def write_empty_page(spec: DataSpec, path: Path, why: str) -> None:
    """Write a page that says why it shows no case."""
    title = f"{spec.dataset}: no contact sheet"
    write_text(path, html.page(title, html.element("h1", title), html.element("p", why)))


def _first(cases: Iterable[Case]) -> tuple[Case, Iterator[Case]]:
    left = iter(cases)
    first = next(left, None)
    if first is None:
        raise DataError("contact sheet: there is no case to draw")
    return first, left


def _page(cases: Iterable[Case], spec: DataSpec) -> str:
    sheets = [_sheet(case, spec) for case in cases]
    title = f"{spec.dataset}: contact sheet of {len(sheets)} {'case' if len(sheets) == 1 else 'cases'}"
    return html.page(title, html.element("h1", title), html.element("p", spec.licence, class_="soft"), *sheets)


def _sheet(case: Case, spec: DataSpec) -> Markup:
    """Return one case's sheet as part of a page; a sentence where it cannot be drawn."""
    try:
        drawn = png(contact_sheet(case, spec), _PAGE_DPI)
        return html.image(drawn, f"Contact sheet of {case.case_id}: {_about(_finite(case), spec)}")
    except Exception as error:
        return html.element("p", f"{case.case_id} could not be drawn ({type(error).__name__}).")


def _about(case: Case, spec: DataSpec) -> str:
    """Return size, labels and facts in a line."""
    size = " × ".join(str(length) for length in case.shape)
    if spec.spatial_dims == 3:
        edges = " × ".join(f"{edge:.2f}" for edge in case.spacing_mm)
        parts = [f"{size} voxels of {edges} mm (AP, LR, SI)"]
    else:
        parts = [f"{size} pixels"]
    parts += [f"{label}: {case.labels.get(label, 'unknown')}" for label in spec.labels]
    for fact in spec.facts:
        if fact in case.facts:
            value = case.facts[fact]
            parts.append(f"{fact.replace('_', ' ')} {value if isinstance(value, str) else format(value, 'g')}")
    if "dose" in case.doses:
        parts.append(f"largest dose {case.doses['dose'].max():.1f} Gy")
    return " · ".join(parts)


def _write_around(figure: Figure, case: Case, spec: DataSpec) -> None:
    """Write the title, what is known of the case, and the licence."""
    width, height = figure.get_size_inches()
    place: dict[str, Any] = {"x": _SIDE / width, "ha": "left"}
    figure.text(
        y=1 - 0.12 / height,
        s=f"{spec.dataset}  {case.case_id}",
        va="top",
        color=INK,
        fontsize=13,
        weight="bold",
        **place,
    )
    figure.text(y=1 - 0.4 / height, s=_about(case, spec), va="top", color=INK, fontsize=9, **place)
    figure.text(y=0.1 / height, s=spec.licence, va="bottom", color=MUTED, fontsize=7.5, **place)


def _colours(case: Case, spec: DataSpec) -> dict[str, str]:
    """Return the colour of every structure: of the targets red for the highest level of this case."""
    levels_gy = levels_of(case, spec.targets) if spec.targets else {}
    return structure_colours(spec.structures, levels_gy, spec.mirrored_pairs)


# Volumes


def _volume_sheet(case: Case, spec: DataSpec) -> Figure:
    box = _box(case, spec)
    sizes_mm = [(part.stop - part.start) * edge for part, edge in zip(box, case.spacing_mm, strict=True)]
    width_mm = max(sizes_mm[view.columns] for view in VIEWS)
    shown = [name for name in _colours(case, spec) if name in case.masks and case.masks[name].any()]
    num_legend_columns = min(6, len(shown)) or 1
    bottom = _FOOTER + _LEGEND_ROW * -(-len(shown) // num_legend_columns) + (_BAR if "dose" in case.doses else 0)
    column = (_WIDTH - 2 * _SIDE - _GAP * (_NUM_SLICES - 1)) / _NUM_SLICES
    heights = [column * sizes_mm[view.rows] / width_mm for view in VIEWS]
    height = _HEADER + bottom + sum(heights) + _GAP * len(VIEWS)
    figure = Figure(figsize=(_WIDTH, height))
    _write_around(figure, case, spec)
    top, positions = _HEADER, _positions(case, spec)
    for view, row_height in zip(VIEWS, heights, strict=True):
        for number, index in enumerate(positions[view.axis]):
            left = _SIDE + number * (column + _GAP)
            place = (left / _WIDTH, 1 - (top + row_height) / height, column / _WIDTH, row_height / height)
            axes = figure.add_axes(place, label=f"{view.name} {number + 1}")
            _draw_slice(axes, case, spec, view, index, box)
            frame(axes, (sizes_mm[view.rows], sizes_mm[view.columns]), width_mm)
            annotate(axes, view, _LETTERING, name=number == 0, number=f"{index + 1}/{case.shape[view.axis]}")
            if number == 0:
                scale_bar(axes, _LETTERING)
        top += row_height + _GAP
    if "dose" in case.doses:
        _dose_bar(figure, case, bottom)
    if shown:
        colours = _colours(case, spec)
        handles = [Line2D([], [], color=colours[name], linewidth=2.5, label=name) for name in shown]
        figure.legend(
            handles=handles,
            loc="lower center",
            bbox_to_anchor=(0.5, (_FOOTER - 0.08) / height),
            ncols=num_legend_columns,
            fontsize=8.5,
            columnspacing=1.6,
            handlelength=1.4,
        )
    return figure


def _box(case: Case, spec: DataSpec) -> list[slice]:
    """Return the part of each axis that the patient fills, with a margin."""
    return box_around(patient(case, spec), [round(_MARGIN_MM / edge) for edge in case.spacing_mm])


def _positions(case: Case, spec: DataSpec) -> list[list[int]]:
    """Return the slices to show along each axis, from index 0 on: the middle one through the focus of the case."""
    region, share = contoured(case, spec), _INSET_OF_STRUCTURES
    if not region.any():
        region, share = patient(case, spec), _INSET_OF_BODY
    middle = focus(case, region)
    half = _NUM_SLICES // 2
    positions = []
    for axis, size in enumerate(case.shape):
        first, last = extent(region, axis)
        inset, centre = share * (last - first), middle[axis]
        low = max(0.0, min(first + inset, centre - half))  # where the region is thin, slices beside it
        high = min(size - 1.0, max(last - inset, centre + half))
        steps = [*np.linspace(low, centre, half + 1), *np.linspace(centre, high, half + 1)[1:]]
        positions.append([round(float(step)) for step in steps])
    return positions


def _draw_slice(axes: Axes, case: Case, spec: DataSpec, view: View, index: int, box: Sequence[slice]) -> None:
    """Draw CT, dose and contours; the axes of the plot are in mm."""
    image = first_channel(case.images[spec.image.name], len(case.shape))
    shown, edges_mm = view.cut(image, index, box), view.edges_mm(case.spacing_mm)
    height, width = size_mm(shown.shape, edges_mm)
    smooth = "bilinear" if max(shown.shape) < 300 else "auto"
    placed: dict[str, Any] = {"extent": (0, width, height, 0), "interpolation": smooth}
    low, high = _window(case, spec, image)
    axes.imshow(shown, cmap="gray", vmin=low, vmax=high, **placed)
    if "dose" in case.doses:
        draw_dose(axes, view.cut(case.doses["dose"], index, box), _largest_dose(case), 0.6, **placed)
    for name, colour in _colours(case, spec).items():
        if name in case.masks:
            draw_outline(axes, view.cut(case.masks[name], index, box), edges_mm, colour)


def _window(case: Case, spec: DataSpec, image: npt.NDArray[Any]) -> tuple[float, float]:
    """Return the raw values drawn black and white; contours and doses lie in soft tissue."""
    is_planned = bool(spec.structures) or "dose" in case.doses
    return grey_range(image, spec.image, SOFT_TISSUE if is_planned else (spec.image.low, spec.image.high))


def _largest_dose(case: Case) -> float:
    return max(float(case.doses["dose"].max()), 1e-6)


def _dose_bar(figure: Figure, case: Case, bottom: float) -> None:
    height = figure.get_figheight()
    axes = figure.add_axes((0.3, (bottom - 0.17) / height, 0.4, 0.12 / height), label="dose")
    norm = Normalize(0, _largest_dose(case))
    figure.colorbar(ScalarMappable(norm, DOSE_COLOURS), cax=axes, orientation="horizontal")
    axes.set_xlabel("dose (Gy)", labelpad=1, fontsize=8.5)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


# Pictures


def _picture_sheet(case: Case, spec: DataSpec) -> Figure:
    """Draw the picture alone, and once more with the outlines where there are any."""
    image = case.images[spec.image.name]
    image = np.moveaxis(image, 0, -1) if len(image) == 3 and image.ndim == 3 else first_channel(image, 2)
    outlines = {
        name: case.masks[name] for name in _colours(case, spec) if name in case.masks and case.masks[name].any()
    }
    num_panels = 2 if outlines else 1
    height_mm, width_mm = (size * edge for size, edge in zip(case.shape, case.spacing_mm, strict=True))
    column = (_WIDTH - 2 * _SIDE - _GAP) / 2
    row = column * height_mm / width_mm
    height = _HEADER + row + _FOOTER + (_LEGEND_ROW if outlines else 0)
    figure = Figure(figsize=(_WIDTH, height))
    _write_around(figure, case, spec)
    for panel in range(num_panels):
        left = _SIDE + panel * (column + _GAP)
        place = (left / _WIDTH, 1 - (_HEADER + row) / height, column / _WIDTH, row / height)
        axes = figure.add_axes(place, label="outlines" if panel else "picture")
        axes.imshow(image, extent=(0, width_mm, height_mm, 0), cmap="gray", aspect="auto")
        axes.set(xticks=[], yticks=[])
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        if panel:
            _draw_outlines(axes, outlines, case.spacing_mm, _colours(case, spec))
    return figure


def _draw_outlines(
    axes: Axes, outlines: Mapping[str, npt.NDArray[np.bool_]], spacing_mm: Sequence[float], colours: Mapping[str, str]
) -> None:
    for name, mask in outlines.items():
        draw_outline(axes, mask, spacing_mm, "white", linewidths=3.2, alpha=0.7)
        draw_outline(axes, mask, spacing_mm, colours[name], linewidths=1.6)
    handles = [Line2D([], [], color=colours[name], linewidth=2.5, label=name) for name in outlines]
    axes.legend(handles=handles, loc="upper right", bbox_to_anchor=(1, 0), ncols=len(handles), fontsize=8.5)
