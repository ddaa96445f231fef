"""What all cases of a data set have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ImageSpec:
    """The image every case of a data set has, and how a network sees it.

    A network's input is `(clip(value, low, high) - mean) / std`, channel by channel.

    Attributes:
        name: key in `Case.images`.
        dtype: of the raw values in the store, `"uint16"` or `"uint8"`.
        num_channels: with more than one, arrays have a leading channel axis.
        low, high: window of values.
        mean, std: one number, or one a channel.
        outside: raw value outside the image.
        unit: of the raw values, for tables and plots.
    """

    name: str
    dtype: Literal["uint16", "uint8"]
    num_channels: int
    low: float
    high: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    outside: int
    unit: str


# CT as stored: HU + 1024 clipped to 0..4095; the network sees (clip(v, 0, 2524) - 1024) / 1000.
CT = ImageSpec("ct", "uint16", 1, low=0, high=2524, mean=(1024,), std=(1000,), outside=0, unit="HU + 1024")


@dataclass(frozen=True)
class Augmentation:
    """Which random changes leave a case of the data set plausible; how often is a setting (`TrainingConfig`).

    Attributes:
        flip_axes: axes that may be mirrored, counted from the first spatial one.
        left_right_axis: the axis whose mirroring swaps paired structures; None where sides do not matter.
        rotate_plane: the two axes of rotations; None for none.
        rotate_step_degrees: rotations are multiples of this; 0: any angle.
        max_rotate_degrees: largest angle.
        max_scale: largest change of size, such as 0.1.
        colour: random brightness, contrast and colour balance.
    """

    flip_axes: tuple[int, ...] = ()
    left_right_axis: int | None = None
    rotate_plane: tuple[int, int] | None = None
    rotate_step_degrees: float = 0.0
    max_rotate_degrees: float = 180.0
    max_scale: float = 0.0
    colour: bool = False
