"""The channels a network sees, the same for training and inference."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ctan.cases import POSSIBLE_DOSE_MASK, Case, DataSpec, ImageSpec, StoredCase
from ctan.config import DataConfig
from ctan.errors import DataError

_DISTANCE_SCALE_MM = 50.0


@dataclass(frozen=True)
class Inputs:
    """What a network sees besides the image; recorded with the model.

    Attributes:
        shown: `"ct"`: the image alone; `"ct+targets"`: and targets and possible-dose mask where there is a dose;
            `"oracle"`: and the true organs.
        signed_distance: the signed distance to the targets is a channel too.
        mask: `"possible"`: where dose can be, which is told without a dose. `"known"`: where it can be and is known, as
            models saw it whose mask was cut from the dose grid.
        levels: of the targets: `"case"`: each case's own; `"data"`: the defaults of the description, as older models
            saw them.
    """

    shown: Literal["ct", "ct+targets", "oracle"] = "ct+targets"
    signed_distance: bool = False
    mask: Literal["possible", "known"] = "possible"
    levels: Literal["case", "data"] = "case"

    @classmethod
    def of(cls, config: DataConfig) -> Inputs:
        """Return what the settings choose."""
        return cls(config.inputs, config.signed_distance)

    def to_json(self) -> dict[str, Any]:
        """Return the choice as JSON-able values."""
        return asdict(self)

    def num_channels(self, spec: DataSpec) -> int:
        """Return how many channels `network_input` makes."""
        if self.shown == "ct" or not spec.has_dose:
            return spec.image.num_channels
        num_organs = len(spec.organs) if self.shown == "oracle" else 0
        return spec.image.num_channels + 2 + int(self.signed_distance) + num_organs

    def lacking(self, case: Case, spec: DataSpec) -> list[str]:
        """Say what a case lacks of what the channels are made of; nothing when it has all.

        Args:
            case: at native resolution.
            spec: of the model's data.
        """
        lacking = [] if spec.image.name in case.images else [f"an image {spec.image.name!r}"]
        if self.shown == "ct" or not spec.has_dose:
            return lacking
        if not any(name in case.masks for name in spec.targets):
            lacking.append(f"a contoured target ({', '.join(spec.targets)})")
        if POSSIBLE_DOSE_MASK not in case.masks:
            lacking.append(f"where dose is possible ({POSSIBLE_DOSE_MASK})")
        if self.mask == "known" and "dose" not in case.doses:
            lacking.append("a dose (an earlier ctan cut one of its inputs from the dose grid: train it again)")
        if self.shown == "oracle" and not any(name in case.masks for name in spec.organs):
            lacking.append(f"contoured organs ({', '.join(spec.organs)})")
        return lacking

    def mirrored_channels(self, spec: DataSpec) -> list[int]:
        """Return the order of the channels after a left-right flip: paired organs (`oracle`) change places."""
        channels = list(range(self.num_channels(spec)))
        if self.shown != "oracle" or not spec.has_dose:
            return channels
        organs = spec.organs
        swap = dict(spec.mirrored_pairs) | {right: left for left, right in spec.mirrored_pairs}
        first = len(channels) - len(organs)
        return channels[:first] + [first + organs.index(swap.get(name, name)) for name in organs]


def network_input(stored: StoredCase, spec: DataSpec, inputs: Inputs) -> npt.NDArray[np.float32]:
    """Return the network's input for one case on the working grid.

    Channels: the image, `(clip(v, low, high) - mean) / std` with the numbers of the description (CT:
    `clip(v, 0, 2524) / 1000 - 1.024`). With a dose and unless the image alone is shown: the target map, the largest
    prescription of the targets over the case's highest one, the possible-dose mask, optionally the signed distance to
    the targets (mm / 50), and for `oracle` the contoured organs at risk.

    Returns:
        (C, D, H, W) float32; pictures (C, H, W).

    Raises:
        DataError: when the network saw a mask that was cut from the dose, and the case has no dose.
    """
    channels = list(_image_channels(stored, spec.image))
    if inputs.shown == "ct" or not spec.has_dose:
        return np.stack(channels)
    levels_gy = spec.targets if inputs.levels == "data" or not stored.levels_gy else stored.levels_gy
    highest_gy = max(levels_gy.values())
    target_map = np.zeros(stored.possible_dose.shape, np.float32)
    for name, level_gy in levels_gy.items():
        mask = stored.masks[spec.structures.index(name)]
        target_map[mask] = np.maximum(target_map[mask], level_gy / highest_gy)
    channels += [target_map, _dose_mask(stored, inputs).astype(np.float32)]
    if inputs.signed_distance:
        channels.append(stored.target_distance.astype(np.float32) / _DISTANCE_SCALE_MM)
    if inputs.shown == "oracle":
        channels += list(stored.masks[[spec.structures.index(name) for name in spec.organs]].astype(np.float32))
    return np.stack(channels)


def _dose_mask(stored: StoredCase, inputs: Inputs) -> npt.NDArray[np.bool_]:
    if inputs.mask == "possible":
        return stored.possible_dose
    if not stored.dose_known.size:
        raise DataError(
            f"{stored.case_id}: has no dose, and the model was trained by a ctan that cut one of its inputs from the "
            f"dose grid; train it again to predict cases without a dose"
        )
    return stored.dose_known


def _image_channels(stored: StoredCase, spec: ImageSpec) -> npt.NDArray[np.float32]:
    """Return the normalised image, (channels, D, H, W) float32."""
    values = stored.image[spec.name]
    values = (values if spec.num_channels > 1 else values[None]).astype(np.float32)
    per_channel = (-1,) + (1,) * (values.ndim - 1)
    if spec.per_case:
        return _z_scores(np.clip(values, spec.low, spec.high), per_channel)
    mean, std = (np.asarray(number, np.float32).reshape(per_channel) for number in (spec.mean, spec.std))
    return (np.clip(values, spec.low, spec.high) - mean) / std


def _z_scores(values: npt.NDArray[np.float32], per_channel: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Normalise each channel by the mean and deviation of its non-zero voxels; zero, the background of MR, stays 0."""
    inside = values != 0
    flat, known = values.reshape(len(values), -1), inside.reshape(len(values), -1)
    count = np.maximum(known.sum(axis=1), 1)
    mean = np.where(known, flat, 0).sum(axis=1, dtype=np.float64) / count
    spread = np.sqrt((np.where(known, flat - mean[:, None], 0) ** 2).sum(axis=1, dtype=np.float64) / count)
    scaled = (values - mean.reshape(per_channel)) / np.maximum(spread, 1e-6).reshape(per_channel)
    return np.where(inside, scaled, 0).astype(np.float32)
