"""The look of every figure: colours of text and structures, style, what is written on slices, how it becomes a PNG."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.collections import PathCollection
from matplotlib.lines import Line2D
from matplotlib.patheffects import Normal, Stroke

from ctan.files import atomic_path
from ctan.views import View

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, FAINT = "#1f2933", "#5f6b7a", "#d5dbe3"
DPI = 160  # half as much again as a figure is shown at, so that it is sharp on dense screens
DOSE_COLOURS = "inferno"
_HIDDEN_SHARE = 0.08  # less dose than this share of the largest leaves the image visible
_SCALE_BAR_MM = 50.0
_MANY_POINTS = 200  # a marker of a vector figure takes a line of text

# Contours must be visible on a CT and on a dose, curves on white: saturated colours of middle brightness. Targets
# are warm, from the highest prescription down; organs at risk are not.
_TARGET_COLOURS = ("#e3001b", "#ff7f0e", "#e8b800", "#b5651d")
_ORGAN_COLOURS = ("#2f8fff", "#00a887", "#b44fd6", "#7cae00", "#00b5d8", "#8a6d55", "#f062a8", "#6a6ef0")
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e8ecf1",
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "figure.facecolor": "white",
}


@contextmanager
def style() -> Iterator[None]:
    """Apply the report's look while a figure is made."""
    with mpl.rc_context(_STYLE):
        yield


def png(figure: Figure, dpi: int = DPI) -> bytes:
    """Return a figure as PNG, the same bytes for the same figure."""
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def svg(figure: Figure) -> bytes:
    """Return a figure as SVG, the same bytes for the same figure; clouds of points in it are pixels.

    Letters are outlines: the page looks the same where its fonts are not installed.
    """
    for artist in figure.findobj(lambda one: isinstance(one, Line2D | PathCollection)):
        points = artist.get_xdata() if isinstance(artist, Line2D) else artist.get_offsets()  # type: ignore[attr-defined]
        artist.set_rasterized(len(np.asarray(points)) > _MANY_POINTS)
    buffer = io.BytesIO()
    with style(), mpl.rc_context({"svg.hashsalt": "ctan", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", dpi=DPI, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def write_figure_png(figure: Figure, path: Path, dpi: int = DPI) -> None:
    """Write a figure as PNG, atomically; how the documentation's pictures are made."""
    with atomic_path(path) as beside:
        beside.write_bytes(png(figure, dpi))


def structure_colours(
    structures: Sequence[str], targets: Mapping[str, float], mirrored_pairs: Sequence[tuple[str, str]] = ()
) -> dict[str, str]:
    """Return a colour for every structure, targets first: also the order of legends.

    Args:
        structures: names, in the data set's order.
        targets: target -> prescription in Gy: warm colours, red for the highest.
        mirrored_pairs: paired organs share a hue, the second of the pair is lighter.
    """
    ranked = sorted((name for name in structures if name in targets), key=lambda name: -targets[name])
    colours = {name: _TARGET_COLOURS[i % len(_TARGET_COLOURS)] for i, name in enumerate(ranked)}
    first_of = {second: first for first, second in mirrored_pairs if first in structures}
    organs = [name for name in structures if name not in targets and name not in first_of]
    colours |= {name: _ORGAN_COLOURS[i % len(_ORGAN_COLOURS)] for i, name in enumerate(organs)}
    colours |= {name: lighter(colours[first_of[name]]) for name in structures if name in first_of}
    return {name: colours[name] for name in (*ranked, *(name for name in structures if name not in targets))}


def lighter(colour: str, share: float = 0.45) -> str:
    """Return a hexadecimal colour moved towards white by `share`."""
    channels = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(c + (255 - c) * share):02x}" for c in channels)


# Slices


@dataclass(frozen=True)
class Lettering:
    """How slices are written on, in white.

    Attributes:
        size: of letters and numbers, in points.
        name_size: of the view's name, in points.
        bar_side: the lower corner that the scale bar lies in.
        bar_height: its distance from the lower edge, as a share of the slice's width.
        rimmed: with a black rim, readable on bright tissue as well.
    """

    size: float
    name_size: float
    bar_side: Literal["left", "right"]
    bar_height: float
    rimmed: bool

    def rim(self, width: float) -> list[Any]:
        """Return the effects of what is drawn, with a rim of `width` points in all."""
        return [Stroke(linewidth=width, foreground="black"), Normal()] if self.rimmed else []


def size_mm(shape: Sequence[int], edges_mm: Iterable[float]) -> tuple[float, float]:
    """Return height and width of a slice (rows, columns), which is drawn from (0, 0) in the upper left corner on."""
    height, width = (size * float(edge) for size, edge in zip(shape, edges_mm, strict=True))
    return height, width


def draw_dose(axes: Axes, dose: npt.NDArray[Any], largest_gy: float, opacity: float, **placed: Any) -> None:
    """Wash a dose over what is drawn; little dose leaves it visible.

    Args:
        axes: of the slice.
        dose: (rows, columns), Gy; NaN where it is not known, which leaves the image visible.
        largest_gy: the end of the scale.
        opacity: of the dose where it is not little.
        placed: as the image below was given to `imshow`.
    """
    alpha = opacity * np.clip((np.nan_to_num(dose) / largest_gy - _HIDDEN_SHARE / 2) / (_HIDDEN_SHARE / 2), 0, 1)
    axes.imshow(dose, cmap=DOSE_COLOURS, vmin=0, vmax=largest_gy, alpha=alpha, **placed)


def draw_outline(
    axes: Axes, mask: npt.NDArray[np.bool_], edges_mm: Iterable[float], colour: str, line: Any = "-", **how: Any
) -> None:
    """Draw the outline of a mask (rows, columns) on axes in mm; nothing where it is empty."""
    if mask.any():
        y_mm, x_mm = ((np.arange(size) + 0.5) * edge for size, edge in zip(mask.shape, edges_mm, strict=True))
        axes.contour(x_mm, y_mm, mask, levels=[0.5], colors=[colour], linestyles=[line], **({"linewidths": 1.1} | how))


def frame(axes: Axes, size: tuple[float, float], width_mm: float) -> None:
    """Show a slice on black, in the middle and on the scale of all.

    Args:
        axes: of the slice, in mm.
        size: height and width of the slice in mm.
        width_mm: of the widest slice.
    """
    height, width = size
    margin = (width_mm - width) / 2
    axes.set(xlim=(-margin, width + margin), ylim=(height, 0), xticks=[], yticks=[], facecolor="black", aspect="auto")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def annotate(axes: Axes, view: View, lettering: Lettering, name: bool, number: str = "") -> None:
    """Write on a framed slice: the patient's sides, and where wanted the view's name and the slice's number."""
    top, left, right = view.letters
    text: dict[str, Any] = {"color": "white", "transform": axes.transAxes, "path_effects": lettering.rim(1.6)}
    text["fontsize"] = lettering.size
    axes.text(0.5, 0.985, top, ha="center", va="top", **text)
    axes.text(0.015, 0.5, left, ha="left", va="center", **text)
    axes.text(0.985, 0.5, right, ha="right", va="center", **text)
    if number:
        axes.text(0.985, 0.02, number, ha="right", va="bottom", **text)
    if name:
        axes.text(0.015, 0.985, view.name, ha="left", va="top", **text | {"fontsize": lettering.name_size})


def scale_bar(axes: Axes, lettering: Lettering) -> None:
    """Draw a scale bar in a lower corner of a framed slice."""
    (left, right), low = axes.get_xlim(), axes.get_ylim()[0]
    width_mm = right - left
    low -= lettering.bar_height * width_mm
    if lettering.bar_side == "left":
        start = left + 0.03 * width_mm
        written, align = start, "left"
    else:
        start = right - 0.03 * width_mm - _SCALE_BAR_MM
        written, align = start + _SCALE_BAR_MM / 2, "center"
    bar: dict[str, Any] = {"linewidth": 2, "solid_capstyle": "butt", "path_effects": lettering.rim(3)}
    axes.plot([start, start + _SCALE_BAR_MM], [low, low], color="white", **bar)
    text: dict[str, Any] = {"color": "white", "fontsize": 7, "path_effects": lettering.rim(1.6)}
    axes.text(written, low - 0.015 * width_mm, f"{_SCALE_BAR_MM:.0f} mm", ha=align, va="bottom", **text)
