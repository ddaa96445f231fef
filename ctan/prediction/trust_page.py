"""The part of a case's page that says how far the answer may be trusted."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from ctan import html
from ctan.cases import DataSpec
from ctan.drawing import png, style
from ctan.html import Markup, element
from ctan.prediction.ask import Answer
from ctan.prediction.measure import spread_maps
from ctan.records import PredictionRecord
from ctan.views import first_channel

_DPI = 110
_FAINT = 0.05  # of the largest spread: below it the image is seen alone
_SURE = (
    "How far mirror images and members of an ensemble are apart: the standard deviation of a probability, or of a dose "
    "in Gy, its mean inside the structure; of labels the entropy: 0 where one class is sure, 1 where all are alike. "
    "A network can be sure and wrong."
)
_LIKE = (
    "p: how often a case from where the training cases come from is as unusual. Outside: so rarely that one in twenty "
    "of such cases is called so by chance, over both views."
)
_VIEWS = {"measures": "image, grid and targets", "bottleneck": "the network's bottleneck"}


def trust(answer: Answer, record: PredictionRecord, spec: DataSpec) -> list[object]:
    """Return how sure the models are, and how the case stands to those that they learned from."""
    parts: list[object] = []
    rows = [
        [task, name or "everywhere", f"{value:.3f}"]
        for task, values in record.uncertainty.items()
        for name, value in values.items()
    ]
    if rows:
        parts += [element("h2", "How sure"), html.table(["task", "in", "spread"], rows)]
        parts += [_map(answer, name, array[0], spec) for name, array in spread_maps(answer).items()]
        parts.append(element("p", _SURE, class_="soft"))
    judged = [
        [_VIEWS.get(view, view), f"{one.p:.3g}", "yes" if one.outside else "no", str(one.num_cases)]
        for view, one in record.unusual.items()
    ]
    if judged:
        parts += [
            element("h2", "Like what was learned from"),
            html.table(["seen by", "p", "outside", "compared with"], judged, text=True),
            element("p", _LIKE, class_="soft"),
        ]
    out = [
        [name, f"{value:.4g}", f"{mean:.4g}", f"{deviation:+.1f}"]
        for one in record.unusual.values()
        for name, (value, mean, deviation) in one.features.items()
    ]
    if out:
        parts.append(html.table(["out", "here", "in training", "deviations"], out))
    return parts


def _map(answer: Answer, name: str, array: npt.NDArray[np.float32], spec: DataSpec) -> Markup:
    """Return the slice where the models are farthest apart."""
    shown = first_channel(answer.case.images[spec.image.name], spec.spatial_dims)
    values = array
    if spec.spatial_dims > 2:
        number = int(np.argmax(array.sum(axis=(0, 1))))
        shown, values = shown[:, :, number], array[:, :, number]
    with style():
        figure = Figure(figsize=(5.2, 4.2))
        axes = figure.add_subplot()
        axes.imshow(shown, cmap="gray")
        seen = np.ma.masked_less(values, _FAINT * max(float(array.max()), 1e-12))
        drawn = axes.imshow(seen, cmap="magma", alpha=0.7, vmin=0)
        figure.colorbar(drawn, ax=axes, shrink=0.8)
        axes.set_axis_off()
        figure.tight_layout()
        made = png(figure, _DPI)
    said = name.replace("_", " ")
    return html.image(made, f"Map of the {said}", f"The {said}, in the slice where it is largest.")
