"""The channels a network sees, the same for training and inference."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ctan.config import RunConfig
from ctan.datasets import get_dataset

if TYPE_CHECKING:
    from ctan.cases import ImageSpec, StoredCase

_DISTANCE_SCALE_MM = 50.0


def num_input_channels(config: RunConfig) -> int:
    """Return how many channels `network_input` makes."""
    dataset = get_dataset(config.data)
    num_image = dataset.image.num_channels
    if config.data.inputs == "ct" or not dataset.has_dose:
        return num_image
    num_organs = len(dataset.structures) - len(dataset.targets) if config.data.inputs == "oracle" else 0
    return num_image + 2 + int(config.data.signed_distance) + num_organs


def network_input(stored: StoredCase, config: RunConfig) -> npt.NDArray[np.float32]:
    """Return the network's input for one case on the working grid.

    Channels: the image, `(clip(v, low, high) - mean) / std` with the data set's numbers (CT: `clip(v, 0, 2524) / 1000 -
    1.024`). With a dose and unless `data.inputs` is `ct`: the target map, the largest prescription of the targets over
    the case's highest one, the possible-dose mask, optionally the signed distance to the targets (mm / 50), and for
    `oracle` the contoured organs at risk.

    Returns:
        (C, D, H, W) float32; pictures (C, H, W).
    """
    dataset = get_dataset(config.data)
    channels = list(_image_channels(stored, dataset.image))
    if config.data.inputs == "ct" or not dataset.has_dose:
        return np.stack(channels)
    highest_gy = max(dataset.targets.values())
    target_map = np.zeros(stored.dose_mask.shape, np.float32)
    for name, level_gy in dataset.targets.items():
        mask = stored.masks[dataset.structures.index(name)]
        target_map[mask] = np.maximum(target_map[mask], level_gy / highest_gy)
    channels += [target_map, stored.dose_mask.astype(np.float32)]
    if config.data.signed_distance:
        channels.append(stored.target_distance.astype(np.float32) / _DISTANCE_SCALE_MM)
    if config.data.inputs == "oracle":
        organs = [i for i, name in enumerate(dataset.structures) if name not in dataset.targets]
        channels += list(stored.masks[organs].astype(np.float32))
    return np.stack(channels)


def _image_channels(stored: StoredCase, spec: ImageSpec) -> npt.NDArray[np.float32]:
    """Return the normalised image, (channels, D, H, W) float32."""
    values = stored.image[spec.name]
    values = (values if spec.num_channels > 1 else values[None]).astype(np.float32)
    per_channel = (-1,) + (1,) * (values.ndim - 1)
    mean, std = (np.asarray(number, np.float32).reshape(per_channel) for number in (spec.mean, spec.std))
    return (np.clip(values, spec.low, spec.high) - mean) / std
