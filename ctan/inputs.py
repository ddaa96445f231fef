"""The channels a network sees, the same for training and inference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ctan.config import RunConfig
from ctan.datasets import get_dataset

if TYPE_CHECKING:
    from ctan.store import StoredCase

CT_AIR = -1.024  # what network_input makes of air: pad with it, not with 0
_DOSE_SCALE_GY = 70.0
_DISTANCE_SCALE_MM = 50.0


def num_input_channels(config: RunConfig) -> int:
    """Return how many channels `network_input` makes."""
    if config.data.inputs == "ct":
        return 1
    dataset = get_dataset(config.data.dataset)
    num_oars = len(dataset.structures) - len(dataset.targets) if config.data.inputs == "oracle" else 0
    return 3 + int(config.data.signed_distance) + num_oars


def network_input(stored: StoredCase, config: RunConfig) -> npt.NDArray[np.float32]:
    """Return the network's input for one case on the working grid.

    Channels: CT `clip(v, 0, 2524) / 1000 - 1.024`; then, unless `data.inputs` is `ct`, the target map
    `max(PTV * prescription) / 70`, the possible-dose mask, optionally the signed distance to the targets
    (mm / 50), and for `oracle` the contoured organs at risk.

    Returns:
        (C, D, H, W) float32.
    """
    dataset = get_dataset(config.data.dataset)
    channels: list[npt.NDArray[Any]] = [np.clip(stored.image["ct"], 0, 2524).astype(np.float32) / 1000 + CT_AIR]
    if config.data.inputs != "ct":
        target_map = np.zeros(stored.dose_mask.shape, np.float32)
        for name, prescription_gy in dataset.targets.items():
            mask = stored.masks[dataset.structures.index(name)]
            target_map[mask] = np.maximum(target_map[mask], prescription_gy / _DOSE_SCALE_GY)
        channels += [target_map, stored.dose_mask.astype(np.float32)]
        if config.data.signed_distance:
            channels.append(stored.target_distance.astype(np.float32) / _DISTANCE_SCALE_MM)
    if config.data.inputs == "oracle":
        organs = [i for i, name in enumerate(dataset.structures) if name not in dataset.targets]
        channels += list(stored.masks[organs].astype(np.float32))
    return np.stack(channels)
