"""The look of every figure: colours of text and structures, style, and how a figure becomes a PNG."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt

from ctan.cases import ImageSpec
from ctan.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, FAINT = "#1f2933", "#5f6b7a", "#d5dbe3"
DPI = 160  # half as much again as a figure is shown at, so that it is sharp on dense screens

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


def first_channel(values: npt.NDArray[Any], num_axes: int) -> npt.NDArray[Any]:
    """Return what is drawn in grey of an image (*axes) or (channels, *axes)."""
    return values[0] if values.ndim > num_axes else values


def grey_range(values: npt.NDArray[Any], image: ImageSpec) -> tuple[float, float]:
    """Return the raw values drawn black and white: as described; without a common scale, the image's own.

    Args:
        values: of the image, any shape.
        image: describes it.
    """
    if image.display is not None:
        return image.display
    if not image.per_case:
        return image.low, image.high
    low, high = (float(value) for value in np.percentile(values, (0.5, 99.5)))
    return low, high if high > low else low + 1
