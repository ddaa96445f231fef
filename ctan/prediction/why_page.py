"""The part of a case's page that says what the answers hang on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from ctan import html
from ctan.cases import DataSpec, StoredCase
from ctan.drawing import png, style
from ctan.html import Markup, element
from ctan.inference.why import Why
from ctan.networks import Exchange
from ctan.views import first_channel

_DPI = 110
_SALIENCY = (
    "Integrated gradients: red speaks for the predicted class, blue against it, beside the same image without its "
    "details. It shows what the network looked at, not whether that is right."
)
_TARGETS = "Mean change of the dose where dose is possible, when the network is not shown this target."
_EXCHANGE = (
    "How much a task takes from another, stage by stage: the norm of what it receives over the norm of its own view. "
    "Entropy of the attention in the bottleneck: 0 where it looks at one place, 1 where it looks everywhere alike."
)


def reasons(found: Why, stored: StoredCase, spec: DataSpec) -> list[object]:
    """Return what the answers hang on, as parts of a page."""
    image = first_channel(stored.image[spec.image.name], spec.spatial_dims)
    parts: list[object] = []
    if found.saliency or found.targets or found.exchange:
        parts.append(element("h2", "Why"))
    for label, values in found.saliency.items():
        parts.append(_picture(image, values, f"What speaks for the predicted {label}", signed=True))
    if found.saliency:
        parts.append(element("p", _SALIENCY, class_="soft"))
    if found.targets:
        rows = [[name, f"{value:.2f}"] for name, value in found.targets.items()]
        parts.append(html.table(["target", "dose owed to it, Gy"], rows))
        parts += [
            _picture(image, values, f"Dose, Gy, owed to {name}", signed=True)
            for name, values in found.target_maps.items()
        ]
        parts.append(element("p", _TARGETS, class_="soft"))
    if found.exchange is not None:
        parts += exchange_table(found.exchange)
        parts += [
            _picture(None, values, f"Where {pair.replace('<-', ' looks in ')} (bottleneck)", signed=False)
            for pair, values in found.exchange.attention.items()
        ]
    return parts


def exchange_table(exchange: Exchange) -> list[object]:
    """Return what tasks take from each other as a table and its meaning."""
    pairs = list(dict.fromkeys([*(pair for stage in exchange.stages for pair in stage), *exchange.entropy]))
    rows = [
        [
            pair.replace("<-", " from "),
            *(_number(stage, pair) for stage in exchange.stages),
            _number(exchange.entropy, pair),
        ]
        for pair in pairs
    ]
    columns = [f"stage {number}" for number, _ in enumerate(exchange.stages, 1)]
    return [html.table(["task", *columns, "entropy"], rows), element("p", _EXCHANGE, class_="soft")]


def _number(values: Mapping[str, float], pair: str) -> str:
    return f"{values[pair]:.3f}" if pair in values else ""


def _picture(image: npt.NDArray[Any] | None, values: npt.NDArray[np.float32], said: str, signed: bool) -> Markup:
    """Return the slice of a map where it is largest, over the image where there is one on its grid."""
    shown = values
    if values.ndim > 2:
        number = int(np.argmax(np.abs(values).sum(axis=(0, 1))))
        shown, image = values[:, :, number], None if image is None else image[:, :, number]
    most = max(float(np.abs(values).max()), 1e-12)
    with style():
        figure = Figure(figsize=(5.2, 4.2))
        axes = figure.add_subplot()
        if image is not None:
            axes.imshow(image, cmap="gray")
        limits: dict[str, Any] = (
            {"cmap": "RdBu_r", "vmin": -most, "vmax": most} if signed else {"cmap": "magma", "vmin": 0.0}
        )
        seen = shown if image is None else np.ma.masked_less(np.abs(shown), 0.03 * most)
        if image is not None:
            seen = np.ma.array(shown, mask=np.ma.getmaskarray(seen))
        drawn = axes.imshow(seen, alpha=1.0 if image is None else 0.6, **limits)
        figure.colorbar(drawn, ax=axes, shrink=0.8)
        axes.set_axis_off()
        figure.tight_layout()
        made = png(figure, _DPI)
    return html.image(made, said, f"{said}.")
