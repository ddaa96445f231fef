"""Pictures of a dose: DVH curves, DVH criteria, and slices with contours over the CT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ctan.cases import CT, ImageSpec
from ctan.cases.volumes import HU_OFFSET
from ctan.drawing import (
    DOSE_COLOURS,
    INK,
    MUTED,
    Lettering,
    annotate,
    draw_dose,
    draw_outline,
    frame,
    scale_bar,
    size_mm,
    style,
)
from ctan.report.style import criterion_label
from ctan.views import VIEWS, ct_window, first_channel, grey_range

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from ctan.report.data import Arrays

_LETTERING = Lettering(size=8, name_size=8, bar_side="right", bar_height=0.03, rimmed=False)
_DIFFERENCE_COLOURS = "RdBu_r"
_LINES: dict[str, Any] = {"true_contours": "-", "predicted_contours": (0, (2.2, 1.2)), "targets": ":"}
_LABELS = {"true_contours": "true", "predicted_contours": "predicted", "targets": "target"}
_CRITERION_MARKERS = ("o", "s", "^", "D", "v", "P")


@dataclass(frozen=True)
class Contours:
    """How contours are drawn.

    Attributes:
        structures: in the order of the masks.
        targets: in the order of the target masks; they lie thin on every slice, for they are given, not predicted.
        colours: structure or target -> colour.
    """

    structures: tuple[str, ...]
    targets: tuple[str, ...]
    colours: Mapping[str, str]


def dvh_chart(curves: pd.DataFrame, colours: Mapping[str, str]) -> Figure | None:
    """Draw the dose-volume histograms of each case, planned solid and predicted dashed; None without curves.

    Args:
        curves: `case_id structure level_gy dose_gy planned predicted` of one model.
        colours: structure -> colour, also the order of the legend.
    """
    case_ids = list(dict.fromkeys(curves["case_id"]))
    if not case_ids:
        return None
    with style():
        num_columns = min(2, len(case_ids))
        num_rows = -(-len(case_ids) // num_columns)
        figure = Figure(figsize=(10, 0.5 + 3.4 * num_rows), layout="constrained")
        panels = figure.subplots(num_rows, num_columns, squeeze=False, sharex=True, sharey=True).ravel()
        for axes, case_id in zip(panels, case_ids, strict=False):
            _dvh_panel(axes, curves[curves["case_id"] == case_id], colours, case_id)
        for axes in panels[len(case_ids) :]:
            axes.set_visible(False)
        present = set(curves["structure"])
        handles = [Line2D([], [], color=colours[name], label=name) for name in colours if name in present]
        handles += [Line2D([], [], color=INK, label="planned")]
        handles += [Line2D([], [], color=INK, linestyle=(0, (3, 1.5)), label="predicted")]
        handles += [Line2D([], [], color=INK, marker="v", linestyle="", label="prescribed")]
        figure.legend(handles=handles, loc="outside right center")
    return figure


def _dvh_panel(axes: Axes, rows: pd.DataFrame, colours: Mapping[str, str], case_id: str) -> None:
    for name, curve in rows.groupby("structure", sort=False):
        colour = colours.get(str(name), MUTED)
        axes.plot(curve["dose_gy"], 100 * curve["planned"], color=colour, linewidth=1.5)
        axes.plot(curve["dose_gy"], 100 * curve["predicted"], color=colour, linewidth=1.5, linestyle=(0, (3, 1.5)))
        level_gy = float(curve["level_gy"].iloc[0])
        if np.isfinite(level_gy):
            axes.plot(level_gy, 100, color=colour, marker="v", markersize=6, clip_on=False, zorder=3)
    axes.set(title=case_id, xlabel="dose (Gy)", ylabel="volume (%)", xlim=(0, None), ylim=(0, 101))
    axes.label_outer()


def criteria_chart(rows: pd.DataFrame, targets: Mapping[str, float], colours: Mapping[str, str]) -> Figure | None:
    """Draw predicted against planned DVH criteria, targets and organs at risk apart; None without criteria.

    Args:
        rows: the `dvh` rows of one model, `structure` such as `PTV70:D_95`, `predicted` and `planned` in Gy.
        targets: names of the targets.
        colours: structure -> colour.
    """
    rows = rows.dropna(subset=["predicted", "planned"])
    if rows.empty:
        return None
    names = rows["structure"].str.partition(":")
    rows = rows.assign(structure=names[0], criterion=names[2])
    groups = [("Targets", rows[rows["structure"].isin(list(targets))])]
    groups.append(("Organs at risk", rows[~rows["structure"].isin(list(targets))]))
    groups = [(title, group) for title, group in groups if not group.empty]
    with style():
        figure = Figure(figsize=(10, 4.6), layout="constrained")
        for axes, (title, group) in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups, strict=True):
            _criteria_panel(axes, group, colours, title)
    return figure


def _criteria_panel(axes: Axes, rows: pd.DataFrame, colours: Mapping[str, str], title: str) -> None:
    criteria = list(dict.fromkeys(rows["criterion"]))
    markers = {name: _CRITERION_MARKERS[i % len(_CRITERION_MARKERS)] for i, name in enumerate(criteria)}
    for (structure, criterion), points in rows.groupby(["structure", "criterion"], sort=False):
        axes.scatter(
            points["planned"],
            points["predicted"],
            s=16,
            alpha=0.75,
            linewidths=0,
            marker=markers[criterion],
            color=colours.get(str(structure), MUTED),
        )
    values = rows[["planned", "predicted"]].to_numpy()
    low, high = float(values.min()), float(values.max())
    pad = 0.04 * (high - low) or 1.0
    limits = (max(0.0, low - pad), high + pad)
    axes.plot(limits, limits, color=MUTED, linewidth=1, zorder=0)
    axes.set(title=title, xlim=limits, ylim=limits, xlabel="planned (Gy)", ylabel="predicted (Gy)", aspect="equal")
    present = set(rows["structure"])
    handles = [Line2D([], [], color=MUTED, marker=markers[c], linestyle="", label=criterion_label(c)) for c in criteria]
    handles += [
        Line2D([], [], color=colours[name], marker="o", linestyle="", label=name) for name in colours if name in present
    ]
    axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1, 0.5), markerscale=0.8, fontsize=8)


def slices_picture(views: Mapping[str, Arrays], contours: Contours, image: ImageSpec = CT) -> Figure | None:
    """Draw the image with contours, planned dose, predicted dose and their difference, a row a view.

    None without views.

    True contours are solid, predicted ones dashed; colours are shared by all views of the case.

    Args:
        views: view -> what -> array, one case of `figures.npz`.
        contours: how contours are drawn.
        image: describes the image, of which the first channel is drawn.
    """
    shown = [(v, {**views[v.name], "grey": _grey(views[v.name], image)}) for v in VIEWS if v.name in views]
    if not shown:
        return None
    columns = _columns(shown[0][1])
    sizes = [size_mm(arrays["grey"].shape, arrays["spacing_mm"]) for _, arrays in shown]
    width_mm = max(width for _, width in sizes)
    limits = _limits([arrays for _, arrays in shown])
    with style():
        layout = _Layout(len(columns), tuple(height / width_mm for height, _ in sizes))
        figure = Figure(figsize=layout.size)
        for row, (view, arrays) in enumerate(shown):
            for column, what in enumerate(columns):
                axes = figure.add_axes(layout.slice_box(row, column))
                _slice(axes, arrays, what, contours, limits)
                frame(axes, sizes[row], width_mm)
                annotate(axes, view, _LETTERING, name=True)
                if column == 0:
                    scale_bar(axes, _LETTERING)
                if row == 0:
                    title = _TITLES[what] if image.modality == "ct" else _TITLES[what].replace("CT", "image")
                    axes.set_title(title, color=INK)
        _colour_bars(figure, layout, columns, limits)
        _contour_legend(figure, [arrays for _, arrays in shown], contours)
    return figure


def hu_window(image: ImageSpec) -> tuple[float, float]:
    """Return the HU that are drawn black and white in the slices of a CT."""
    low, high = ct_window(image)
    return low - HU_OFFSET, high - HU_OFFSET


def _grey(arrays: Arrays, image: ImageSpec) -> npt.NDArray[np.float32]:
    """Return an image as grey values, 0 black and 1 white; beyond that where the window cuts off."""
    values = first_channel(arrays[image.name], 2).astype(np.float32)
    low, high = hu_window(image) if image.modality == "ct" else grey_range(values, image)
    return (values - np.float32(low)) / np.float32(high - low)


@dataclass(frozen=True)
class _Layout:
    """Where slices lie, in inches: all columns equally wide, so that a millimetre is as long in every slice.

    Attributes:
        num_columns: slices side by side.
        aspects: height / width of each row.
    """

    num_columns: int
    aspects: tuple[float, ...]

    width: ClassVar[float] = 11.0
    gap: ClassVar[float] = 0.06
    top: ClassVar[float] = 0.3  # titles
    bottom: ClassVar[float] = 0.95  # colour bars and legend

    @property
    def column_width(self) -> float:
        return (self.width - self.gap * 3) / 4

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of the figure."""
        width = self.num_columns * (self.column_width + self.gap) - self.gap
        return width, self.top + self.bottom + sum(self.column_width * a + self.gap for a in self.aspects)

    def slice_box(self, row: int, column: int) -> tuple[float, float, float, float]:
        """Return left, bottom, width, height of a slice as shares of the figure."""
        width, height = self.size
        below = sum(self.column_width * a + self.gap for a in self.aspects[row + 1 :])
        left, low = column * (self.column_width + self.gap), self.bottom + below + self.gap
        return left / width, low / height, self.column_width / width, self.column_width * self.aspects[row] / height

    def bar_box(self, first: int, last: int) -> tuple[float, float, float, float]:
        """Return the place of a colour bar below the columns `first` to `last`."""
        width, height = self.size
        left = first * (self.column_width + self.gap) + 0.2
        right = last * (self.column_width + self.gap) + self.column_width - 0.2
        return left / width, (self.bottom - 0.14) / height, (right - left) / width, 0.13 / height


_TITLES = {
    "image": "CT",
    "contours": "CT and contours",
    "planned": "planned dose",
    "predicted": "predicted dose",
    "difference": "predicted − planned",
}


def _columns(arrays: Arrays) -> list[str]:
    columns = ["contours"] if "true_contours" in arrays else []
    columns += [what for what in ("planned", "predicted") if what in arrays]
    if not columns:
        return ["image"]
    return columns + (["difference"] if {"planned", "predicted"} <= arrays.keys() else [])


def _limits(views: Sequence[Arrays]) -> tuple[float, float]:
    """Return the ends of the scales of dose and difference in Gy, the same for all views of a case."""
    doses = [np.nan_to_num(arrays["planned"]).max() for arrays in views if "planned" in arrays]
    both = [a for a in views if {"planned", "predicted"} <= a.keys()]
    differences = [np.nan_to_num(np.abs(a["predicted"] - a["planned"])).ravel() for a in both]
    largest = float(np.percentile(np.concatenate(differences), 99.7)) if differences else 0.0
    return max(1.1 * float(max(doses, default=0.0)), 1.0), max(5.0, 5 * np.ceil(largest / 5))


def _slice(axes: Axes, arrays: Arrays, what: str, contours: Contours, limits: tuple[float, float]) -> None:
    height, width = size_mm(arrays["grey"].shape, arrays["spacing_mm"])
    placed: dict[str, Any] = {"extent": (0, width, height, 0), "interpolation": "bilinear"}
    axes.imshow(arrays["grey"], cmap="gray", vmin=0, vmax=1, **placed)
    if what in ("planned", "predicted"):
        draw_dose(axes, arrays[what].astype(np.float32), limits[0], 0.8, **placed)
    elif what == "difference":
        difference = arrays["predicted"].astype(np.float32) - arrays["planned"]
        alpha = 0.85 * np.clip(np.abs(np.nan_to_num(difference)) / (0.3 * limits[1]), 0, 1)
        axes.imshow(difference, cmap=_DIFFERENCE_COLOURS, vmin=-limits[1], vmax=limits[1], alpha=alpha, **placed)
    if "targets" in arrays:
        _draw_contours(axes, arrays, arrays["targets"], contours.targets, contours, _LINES["targets"])
    for kind in ("true_contours", "predicted_contours"):
        if kind in arrays and _is_drawn(kind, what):
            known = arrays["known"] | (kind == "predicted_contours")
            _draw_contours(
                axes, arrays, arrays[kind] & known[:, None, None], contours.structures, contours, _LINES[kind]
            )


def _is_drawn(kind: str, what: str) -> bool:
    """Both contours on the CT; each dose with the contours it belongs to; the true ones on the difference."""
    return what == "contours" or (kind == "predicted_contours") == (what == "predicted")


def _draw_contours(axes: Axes, arrays: Arrays, masks: Any, names: Sequence[str], contours: Contours, line: Any) -> None:
    for name, mask in zip(names, masks, strict=True):
        draw_outline(axes, mask, arrays["spacing_mm"], contours.colours.get(name, MUTED), line)


def _colour_bars(figure: Figure, layout: _Layout, columns: list[str], limits: tuple[float, float]) -> None:
    doses = [i for i, what in enumerate(columns) if what in ("planned", "predicted")]
    bars = [(doses[0], doses[-1], Normalize(0, limits[0]), DOSE_COLOURS, "dose (Gy)", "max")] if doses else []
    if "difference" in columns:
        place, norm = columns.index("difference"), Normalize(-limits[1], limits[1])
        bars.append((place, place, norm, _DIFFERENCE_COLOURS, "predicted − planned (Gy)", "both"))
    for first, last, norm, colours, label, extend in bars:
        axes = figure.add_axes(layout.bar_box(first, last))
        bar = figure.colorbar(
            ScalarMappable(norm, colours), cax=axes, orientation="horizontal", extend=extend, extendfrac=0.03
        )
        bar.set_label(label, labelpad=1)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)


def _contour_legend(figure: Figure, views: Sequence[Arrays], contours: Contours) -> None:
    """Name the structures that a contour of the case shows."""
    kinds = [kind for kind in _LINES if kind in views[0]]
    if not kinds:
        return
    names = {kind: contours.targets if kind == "targets" else contours.structures for kind in kinds}
    seen = {
        name
        for arrays in views
        for kind in kinds
        for name, mask in zip(names[kind], arrays[kind], strict=True)
        if mask.any()
    }
    prescribed = views[0].get("levels_gy", ())  # of this case
    levels = {name: f" ({gy:g} Gy)" for name, gy in zip(contours.targets, prescribed, strict=False)}
    handles = [
        Line2D([], [], color=contours.colours.get(name, MUTED), linewidth=2, label=name + levels.get(name, ""))
        for name in (*contours.structures, *contours.targets)
        if name in seen
    ]
    handles += [Line2D([], [], color=INK, linestyle=_LINES[kind], label=_LABELS[kind]) for kind in kinds]
    figure.legend(handles=handles, loc="lower center", ncols=len(handles), fontsize=8, columnspacing=1.4)
