"""What an answer hangs on: where a label comes from, what a dose owes to each target, what tasks take from others.

Integrated gradients in a few lines and not by captum: one method on one kind of input needs no further library.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from ctan.cases import StoredCase
from ctan.inference.load import LoadedModel
from ctan.inputs import network_input
from ctan.tasks import Task

if TYPE_CHECKING:
    from ctan.networks import Exchange, Network

Floats = npt.NDArray[np.float32]
_DETAIL = 8  # parts of an image that a detail is smaller than
STEPS = 64  # of the path; its ends are not on it (midpoints)


@dataclass(frozen=True)
class Why:
    """What the answers about one case hang on; maps lie on the working grid.

    Attributes:
        saliency: label -> map of how much each place speaks for the predicted class, or against it (negative).
        targets: target -> mean change of the dose in Gy, where dose is possible, when the network is not shown it.
        target_maps: target -> the change itself, Gy.
        exchange: what tasks take from each other; None of architectures that do not exchange.
    """

    saliency: dict[str, Floats] = field(default_factory=dict)
    targets: dict[str, float] = field(default_factory=dict)
    target_maps: dict[str, Floats] = field(default_factory=dict)
    exchange: Exchange | None = None


def why(model: LoadedModel, stored: StoredCase) -> Why:
    """Return what a model's answers about a case hang on; a hundred times the work of the answers themselves."""
    image = network_input(stored, model.spec, model.inputs)
    labels = {task.name: saliency(model, image, task.name) for task in model.tasks if task.name in model.spec.labels}
    maps = _without_each_target(model, stored)
    possible = stored.possible_dose
    means = {name: float(np.abs(change[possible]).mean()) if possible.any() else 0.0 for name, change in maps.items()}
    return Why(labels, means, maps, exchanged(model, image))


def saliency(model: LoadedModel, image: Floats, task: str) -> Floats:
    """Return integrated gradients of the predicted class' logit, summed over channels, (*grid).

    Sundararajan et al., "Axiomatic Attribution for Deep Networks", ICML 34 (2017). All places together sum to the
    difference of the logit between the image and where the path starts: the image without its details (a Gaussian of
    an eighth of its size). An even image would not do: convolution and norm see no contrast on the way from there, as
    every image on it is a multiple of the last.

    Args:
        model: with a task of this name, whose head is an image's.
        image: (C, *grid).
        task: a label.
    """
    import torch

    whole = torch.from_numpy(np.ascontiguousarray(image))[None].to(model.device)
    start = torch.from_numpy(without_details(image))[None].to(model.device)
    with torch.no_grad():
        chosen = int(model.raw(whole)[task].argmax())
    total = torch.zeros_like(whole)
    for step in range(STEPS):
        point = (start + (whole - start) * ((step + 0.5) / STEPS)).requires_grad_(True)
        (slope,) = torch.autograd.grad(model.network(point)[task][0, chosen], point)
        total += slope
    found: Floats = (total / STEPS * (whole - start))[0].sum(dim=0).cpu().numpy()
    return found


def without_details(image: Floats) -> Floats:
    """Return an image (C, *grid) through a Gaussian of an eighth of its size."""
    from scipy.ndimage import gaussian_filter

    blurred: Floats = gaussian_filter(image, [0.0, *(size / _DETAIL for size in image.shape[1:])]).astype(np.float32)
    return blurred


def exchanged(model: LoadedModel, image: Floats) -> Exchange | None:
    """Return what the tasks take from each other when they look at an image, (C, *grid); None where they do not."""
    import torch

    network = cast("Network", model.network)
    with torch.no_grad():
        return network.exchanged(torch.from_numpy(np.ascontiguousarray(image))[None].to(model.device))


def _is_dose(task: Task) -> bool:
    return bool(task.answer(np.zeros((task.num_outputs, 1, 1, 1), np.float32)).doses)


def _without_each_target(model: LoadedModel, stored: StoredCase) -> dict[str, Floats]:
    """Return how the dose changes when the network is not shown a target; nothing where it is shown none."""
    doses = [task.name for task in model.tasks if task.head == "dense" and _is_dose(task)]
    if not doses or model.inputs.shown == "ct":
        return {}
    full = model.predict(stored)[doses[0]][0]
    found = {}
    for name in model.spec.targets:
        index = model.spec.structures.index(name)
        if stored.masks[index].any():
            masks = stored.masks.copy()
            masks[index] = False
            found[name] = full - model.predict(replace(stored, masks=masks))[doses[0]][0]
    return found
