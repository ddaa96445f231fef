"""The pictures of the report, as PNG bytes; every function draws one figure from plain tables."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from ctan.evaluation.cases import EVALUATION

# colour-blind safe (Okabe and Ito)
ARCH_COLOURS = {"stl": "#6e6e6e", "hps": "#e69f00", "mtan": "#009e73", "ctan": "#0072b2"}
_OTHERS = ("#cc79a7", "#d55e00", "#56b4e9", "#f0e442")
_STRUCTURES = ("#1f77b4", "#ff7f0e", "#2ca02c", "#17a589", "#9467bd", "#8c564b", "#e377c2", "#bcbd22", "#17becf",
               "#d62728", "#7f7f7f")  # fmt: skip
_DPI = 120
_MIN_DOSE_SHOWN_GY = 3.0


def colour_of(arch: str, archs: Sequence[str]) -> str:
    """Return the colour of an architecture, the same in every figure."""
    unknown = [name for name in archs if name not in ARCH_COLOURS]
    return ARCH_COLOURS.get(arch) or _OTHERS[unknown.index(arch) % len(_OTHERS)]


def improvement(architectures: Sequence[Mapping[str, Any]], reference: str, role: str = EVALUATION) -> bytes:
    """Draw the relative improvement over the reference with its interval, a row an architecture and task."""
    entries = [entry for entry in architectures if entry["relative_improvement"].get(role)]
    archs = [entry["arch"] for entry in architectures]
    labels, rows = [], []
    for entry in entries:
        for task, gain in entry["relative_improvement"][role].items():
            if gain["value"] is not None:
                labels.append(f"{entry['arch'].upper()}, {task}")
                rows.append((gain["value"], gain["low"], gain["high"], entry["arch"], task == "average"))
    figure, (axes,) = _figure(8.5, 0.9 + 0.3 * max(len(rows), 1))
    for y, (value, low, high, arch, average) in enumerate(rows):
        colour = colour_of(arch, archs)
        axes.plot([low, high], [y, y], color=colour, lw=3 if average else 1.6, solid_capstyle="round")
        axes.plot(value, y, "o", color=colour, ms=8 if average else 5)
    axes.axvline(0, color="#444", lw=1)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlabel(f"improvement over {reference.upper()} (%), right is better")
    axes.grid(axis="x", color="#e3e6ea")
    return _png(figure)


def structures(architectures: Sequence[Mapping[str, Any]]) -> bytes:
    """Draw the Dice of every structure on the evaluation cases, a bar an architecture."""
    names = list(architectures[0]["structures"])
    archs = [entry["arch"] for entry in architectures]
    figure, (axes,) = _figure(11, 3.2)
    width = 0.8 / len(archs)
    for i, entry in enumerate(architectures):
        heights = [entry["structures"].get(name, np.nan) for name in names]
        x = np.arange(len(names)) + (i - (len(archs) - 1) / 2) * width
        axes.bar(x, heights, width * 0.92, color=colour_of(entry["arch"], archs), label=entry["arch"].upper())
    axes.set_xticks(range(len(names)), names)
    axes.set_ylim(0, 1)
    axes.set_ylabel("Dice")
    axes.grid(axis="y", color="#e3e6ea")
    axes.set_axisbelow(True)
    axes.legend(ncols=len(archs), frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 1.16))
    return _png(figure)


def losses(histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> bytes:
    """Draw the training loss of every task by epoch, a line a model.

    Args:
        histories: label (`ctan`, or `ctan fold 0 seed 1`) -> rows of `history.parquet`.
    """
    tasks = list(dict.fromkeys(row["task"] for rows in histories.values() for row in rows if row["task"] != "tuning"))
    archs = list(dict.fromkeys(label.split()[0] for label in histories))
    figure, panels = _figure(11, 3.0, len(tasks))
    for axes, task in zip(panels, tasks, strict=True):
        for label, rows in histories.items():
            points = [(row["epoch"], row["loss"]) for row in rows if row["task"] == task]
            colour = colour_of(label.split()[0], archs)
            axes.plot(*zip(*points, strict=True), marker="o", ms=3, lw=1.5, color=colour, label=label.upper())
        axes.set_title(task or "total", fontsize=10)
        axes.set_xlabel("epoch")
        axes.grid(color="#e3e6ea")
        if all(line.get_ydata().min() > 0 for line in axes.get_lines()):  # type: ignore[union-attr]
            axes.set_yscale("log")
    panels[0].set_ylabel("training loss")
    panels[-1].legend(frameon=False, fontsize=8)
    return _png(figure)


def per_case(values: Mapping[str, Mapping[str, Sequence[float]]]) -> bytes:
    """Draw every evaluation case as a point, a panel a metric, a column a model.

    Args:
        values: metric label -> model -> values of the cases.
    """
    figure, panels = _figure(11, 3.2, len(values))
    rng = np.random.default_rng(0)
    for axes, (label, models) in zip(panels, values.items(), strict=True):
        archs = list(models)
        for x, (arch, points) in enumerate(models.items()):
            jitter = rng.uniform(-0.16, 0.16, len(points))
            axes.plot(x + jitter, points, "o", ms=3.5, alpha=0.65, color=colour_of(arch, archs))
            axes.plot([x - 0.25, x + 0.25], [np.median(points)] * 2, color="#222", lw=1.5)
        axes.set_xticks(range(len(archs)), [arch.upper() for arch in archs], fontsize=8)
        axes.set_title(f"{label}, a point a case, bar: median", fontsize=9)
        axes.grid(axis="y", color="#e3e6ea")
    return _png(figure)


def dvh(rows: Sequence[Mapping[str, Any]], title: str) -> bytes:
    """Draw DVH curves of one case, planned solid and predicted dashed.

    Args:
        rows: of `dvh.parquet`, one case and model.
        title: above the figure.
    """
    figure, (axes,) = _figure(9.5, 4.4)
    for i, name in enumerate(dict.fromkeys(row["structure"] for row in rows)):
        curve = [row for row in rows if row["structure"] == name]
        dose = [row["dose_gy"] for row in curve]
        colour = _STRUCTURES[i % len(_STRUCTURES)]
        axes.plot(dose, [100 * row["planned"] for row in curve], color=colour, lw=1.6, label=name)
        axes.plot(dose, [100 * row["predicted"] for row in curve], color=colour, lw=1.4, ls="--")
    axes.set(xlabel="dose (Gy)", ylabel="volume that receives at least this dose (%)", ylim=(0, 101), xlim=(0, None))
    axes.set_title(title, fontsize=10)
    axes.grid(color="#e3e6ea")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), title="solid: planned\ndashed: predicted",
                title_fontsize=8)  # fmt: skip # noqa: E501
    return _png(figure)


def criteria(points: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> bytes:
    """Draw predicted against planned DVH criteria, a panel a group.

    Args:
        points: group (criterion) -> (planned, predicted) in Gy.
    """
    figure, panels = _figure(11, 2.7, len(points))
    for axes, (label, (planned, predicted)) in zip(panels, points.items(), strict=True):
        axes.plot(planned, predicted, "o", ms=3, alpha=0.6, color=ARCH_COLOURS["ctan"])
        low, high = min(*planned, *predicted), max(*planned, *predicted)
        axes.plot([low, high], [low, high], color="#888", lw=1)
        axes.set_title(label, fontsize=9)
        axes.set_xlabel("planned (Gy)", fontsize=8)
        axes.set_aspect("equal", adjustable="datalim")
        axes.grid(color="#e3e6ea")
    panels[0].set_ylabel("predicted (Gy)", fontsize=8)
    return _png(figure)


def slices(figures: Mapping[str, npt.NDArray[Any]], case_id: str, structure_names: Sequence[str]) -> bytes:
    """Draw planned dose, predicted dose and their difference on the CT, a row a view, with contours.

    Args:
        figures: content of `figures.npz`.
        case_id: which case.
        structure_names: names of the contours, in order.
    """
    views = [view for view in ("axial", "coronal", "sagittal") if f"{case_id}/{view}/ct" in figures]
    first = {what: figures[f"{case_id}/{views[0]}/{what}"] for what in ("planned", "predicted")}
    top = max(float(first["planned"].max()), float(first["predicted"].max()), 1.0)
    extents = []
    for view in views:
        shape, spacing = figures[f"{case_id}/{view}/ct"].shape, figures[f"{case_id}/{view}/spacing_mm"]
        extents.append((shape[1] * spacing[1], shape[0] * spacing[0]))
    heights = [height / width for width, height in extents]
    figure = Figure(figsize=(11, 0.8 + 3.35 * sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(views), 3, squeeze=False, gridspec_kw={"height_ratios": heights})
    for view, (width, height), row in zip(views, extents, panels, strict=True):
        get = {what: figures[f"{case_id}/{view}/{what}"] for what in ("ct", "planned", "predicted")}
        shown = ((get["planned"], "planned"), (get["predicted"], "predicted"))
        for axes, (dose, name) in zip(row, shown, strict=False):
            dose_map = _overlay(axes, get["ct"], dose, "jet", 0, top, dose >= _MIN_DOSE_SHOWN_GY, (width, height))
            axes.set_title(f"{view}, {name} dose", fontsize=9)
            _contours(axes, figures, f"{case_id}/{view}", structure_names, (width, height))
        difference = get["predicted"] - get["planned"]
        differs = np.abs(difference) >= 1
        difference_map = _overlay(row[2], get["ct"], difference, "RdBu_r", -15, 15, differs, (width, height))
        row[2].set_title(f"{view}, predicted - planned", fontsize=9)
        figure.colorbar(dose_map, ax=row[:2].tolist(), shrink=0.8, label="Gy")
        figure.colorbar(difference_map, ax=row[2], shrink=0.8, label="Gy")
    return _png(figure)


def structure_colour(index: int) -> str:
    """Return the colour of the structure at a position."""
    return _STRUCTURES[index % len(_STRUCTURES)]


def _overlay(
    axes: Axes,
    ct: npt.NDArray[Any],
    dose: npt.NDArray[Any],
    colours: str,
    low: float,
    high: float,
    shown: npt.NDArray[np.bool_],
    size_mm: tuple[float, float],
) -> Any:
    extent = (0, size_mm[0], size_mm[1], 0)
    axes.imshow(ct, cmap="gray", vmin=-250, vmax=350, extent=extent, interpolation="nearest")
    masked = np.ma.masked_array(dose, ~shown)
    drawn = axes.imshow(masked, cmap=colours, vmin=low, vmax=high, alpha=0.5, extent=extent, interpolation="nearest")
    axes.set_axis_off()
    return drawn


def _contours(
    axes: Axes,
    figures: Mapping[str, npt.NDArray[Any]],
    prefix: str,
    names: Sequence[str],
    size_mm: tuple[float, float],
) -> None:
    if f"{prefix}/true_contours" not in figures:
        return
    extent = (0, size_mm[0], 0, size_mm[1])
    pairs = zip(figures[f"{prefix}/true_contours"], figures[f"{prefix}/predicted_contours"], strict=True)
    for i, (true, predicted) in enumerate(pairs):
        colour = to_rgba(structure_colour(i))
        for mask, style in ((true, "solid"), (predicted, "dashed")):
            if mask.any() and not mask.all() and i < len(names):
                axes.contour(mask.astype(float), [0.5], colors=[colour], linestyles=style, linewidths=1.2,
                             extent=extent, origin="upper")  # fmt: skip


def _figure(width: float, height: float, num_panels: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(1, num_panels, squeeze=False)[0])
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    return figure, panels


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, dpi=_DPI)
    return stream.getvalue()
