"""Pictures (2D images) with the outlines of what is there and what was predicted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ctan.drawing import INK, style
from ctan.views import first_channel

if TYPE_CHECKING:
    from ctan.report.data import Arrays

_COLUMNS = 3
_TRUE, _PREDICTED = "#ffffff", "#35e0ff"


def outlines_picture(cases: Mapping[str, Arrays], image: str, captions: Mapping[str, str]) -> Figure | None:
    """Draw pictures with the true outline solid and the predicted one dashed; None without pictures.

    Args:
        cases: case id -> the arrays of its view `picture` in `figures.npz`.
        image: name of the image, (3, H, W) uint8 in colours; of all others one channel is drawn in grey.
        captions: case id -> second line of the title.
    """
    if not cases:
        return None
    num_rows = -(-len(cases) // _COLUMNS)
    with style():
        figure = Figure(figsize=(10, 2.9 * num_rows + 0.4), layout="constrained")
        panels = list(figure.subplots(num_rows, _COLUMNS, squeeze=False).flat)
        for axes, (case_id, arrays) in zip(panels, cases.items(), strict=False):
            picture, grey = arrays[image], arrays[image].shape[:-2] != (3,)
            axes.imshow(first_channel(picture, 2) if grey else np.moveaxis(picture, 0, -1), cmap="gray")
            for kind, colour, line in (("true_contours", _TRUE, "-"), ("predicted_contours", _PREDICTED, "--")):
                for mask in arrays.get(kind, ()):
                    if mask.any() and not mask.all():
                        axes.contour(mask, levels=[0.5], colors=[colour], linewidths=1.4, linestyles=[line])
            axes.set_title("\n".join(filter(None, (case_id, captions.get(case_id, "")))), fontsize=8)
            axes.set_axis_off()
        for axes in panels[len(cases) :]:
            axes.set_visible(False)
        handles = [
            Line2D([], [], color=INK, label="true (white)"),
            Line2D([], [], color=_PREDICTED, linestyle="--", label="predicted"),
        ]
        if any("true_contours" in arrays for arrays in cases.values()):
            figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure
