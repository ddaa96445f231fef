"""`DataSpec`: what all cases of a data set have in common, and what a model needs to know of them for ever.

Ingestion writes it beside the manifest; it is copied into `store.json` and `model.json`, and read from there: after the
store nobody asks a data set's module, so a trained model answers the same whatever becomes of the module.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ctan.errors import DataError
from ctan.files import read_json, sha256_of_json, write_json
from ctan.seals import check_file

SPEC_FILE = "dataset.json"
SPEC_VERSION = 1
_MOST_SHOWN = 160  # characters of a value in a message
_MOST_PROBLEMS = 3  # in a message


class Description(BaseModel):
    """Base of what is written down once and read for ever: immutable, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def checked(cls, value: Any, what: str, where: str, advice: str) -> Self:
        """Return a description from what was written down.

        Args:
            value: as read.
            what: it should be, for errors.
            where: file it comes from, for errors.
            advice: what to do when it cannot be used.

        Raises:
            DataError: naming the fields that are missing, unknown or wrong.
        """
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise DataError(f"{where}: not {what}: {_problems(error)}; {advice}") from error


def _problems(error: ValidationError) -> str:
    """Return what is missing, then what is wrong, in words."""
    found = error.errors()
    missing = [".".join(map(str, problem["loc"])) for problem in found if problem["type"] == "missing"]
    wrong = [f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in found if p["type"] != "missing"]
    return "; ".join(([f"lacks {', '.join(missing)}"] if missing else []) + wrong[:_MOST_PROBLEMS])


class ImageSpec(Description):
    """The image every case of a data set has, and how a network sees it.

    A network's input is `(clip(value, low, high) - mean) / std`, channel by channel; with `per_case` mean and standard
    deviation are those of the case's own values (of the non-zero ones where there are any).

    Attributes:
        name: key in `Case.images`.
        modality: what took it; `"ct"` has Hounsfield units, stored as HU + 1024.
        dtype: of the raw values in the store.
        num_channels: with more than one, arrays have a leading channel axis.
        low, high: window of values.
        mean, std: one number, or one a channel.
        per_case: mean and std are measured a case, as MR needs.
        outside: raw value outside the image.
        unit: of the raw values, for tables and plots.
        display: raw values drawn black and white; None: the window.
        body_threshold: raw value above which a voxel belongs to the patient; None where that cannot be told, and the
            whole image counts.
    """

    name: str
    modality: Literal["ct", "mr", "photo", "other"]
    dtype: Literal["uint8", "uint16", "int16", "float32"]
    num_channels: int = Field(1, ge=1)
    low: float
    high: float
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    per_case: bool = False
    outside: int = 0
    unit: str = ""
    display: tuple[float, float] | None = None
    body_threshold: float | None = None

    @property
    def working_dtype(self) -> str:
        """Type of the values on the working grid: CT fits 16 bits with a sign, which torch can convert."""
        return "int16" if self.modality == "ct" else self.dtype

    @model_validator(mode="after")
    def _consistent(self) -> ImageSpec:
        if self.low >= self.high:
            raise ValueError(f"image {self.name}: low {self.low:g} is not below high {self.high:g}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.num_channels):
                raise ValueError(
                    f"image {self.name}: {name} has {len(values)} numbers for {self.num_channels} channels"
                )
        if not all(value > 0 for value in self.std):
            raise ValueError(f"image {self.name}: std {list(self.std)} must be positive")
        return self


# CT as stored: HU + 1024 clipped to 0..4095; the network sees (clip(v, 0, 2524) - 1024) / 1000. Above -300 HU is body.
CT = ImageSpec(
    name="ct",
    modality="ct",
    dtype="uint16",
    low=0,
    high=2524,
    mean=(1024,),
    std=(1000,),
    unit="HU + 1024",
    body_threshold=1024 - 300,
)


class Augmentation(Description):
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


class DataSpec(Description):
    """The description of a data set.

    Attributes:
        format_version: of this description.
        dataset: name of the data set.
        spatial_dims: 2 for pictures, 3 for volumes.
        image: the image of every case.
        tasks: what is to be learnt, as `ctan.tasks.Task.to_json` writes it (tasks themselves may be given).
        structures: every structure a case may have, organs at risk first, then targets.
        targets: target structure -> default prescribed dose in Gy; a case may have its own (`Case.levels_gy`).
        has_dose: every case has `doses["dose"]` and `masks["possible_dose_mask"]`.
        labels: image-level label -> its classes.
        numbers: image-level number -> its unit.
        facts: further columns of the manifest, such as age.
        strata: columns of the manifest (`label_<name>` or facts) that splits and folds are balanced by.
        mirrored_pairs: (left, right) structures that a flip along `augmentation.left_right_axis` swaps.
        augmentation: plausible random changes.
        keeps_native: the store keeps native images, to score against and to draw.
        whole_image: the working grid shows the whole image, resized, instead of a part around the patient.
        licence: and source, in a line; printed with contact sheets.
    """

    format_version: Literal[1] = 1
    dataset: str
    spatial_dims: Literal[2, 3]
    image: ImageSpec
    tasks: tuple[Mapping[str, Any], ...] = Field(min_length=1)
    structures: tuple[str, ...] = ()
    targets: Mapping[str, float] = {}
    has_dose: bool = False
    labels: Mapping[str, tuple[str, ...]] = {}
    numbers: Mapping[str, str] = {}
    facts: Mapping[str, Literal["string", "float64"]] = {}
    strata: tuple[str, ...] = ()
    mirrored_pairs: tuple[tuple[str, str], ...] = ()
    augmentation: Augmentation = Augmentation()
    keeps_native: bool = True
    whole_image: bool = False
    licence: str = ""

    @field_validator("tasks", mode="before")
    @classmethod
    def _as_json(cls, tasks: Any) -> Any:
        return tuple(task.to_json() if hasattr(task, "to_json") else task for task in tasks)

    @model_validator(mode="after")
    def _consistent(self) -> DataSpec:
        for what, names in (("targets", self.targets), ("mirrored_pairs", [n for p in self.mirrored_pairs for n in p])):
            if unknown := [name for name in names if name not in self.structures]:
                raise ValueError(f"{what}: {', '.join(unknown)} not in structures ({', '.join(self.structures)})")
        if self.has_dose and not self.targets:
            raise ValueError("targets: a data set with a dose needs a target, whose prescription scales it")
        columns = {
            *self.facts,
            *(f"label_{name}" for name in self.labels),
            *(f"number_{name}" for name in self.numbers),
        }
        if unknown := [name for name in self.strata if name not in columns]:
            raise ValueError(
                f"strata: {', '.join(unknown)} not among labels, numbers and facts ({', '.join(sorted(columns))})"
            )
        return self

    @property
    def organs(self) -> tuple[str, ...]:
        """Structures that are not targets."""
        return tuple(name for name in self.structures if name not in self.targets)

    @property
    def sha256(self) -> str:
        """Return the hash of the description."""
        return sha256_of_json(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Return the description as JSON-able values."""
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, value: Any, where: str, advice: str) -> DataSpec:
        """Read what `to_json` returned.

        Args:
            value: the description.
            where: file it comes from, for errors.
            advice: what to do when it cannot be used.

        Raises:
            DataError: when it is something else, or of another version.
        """
        version = value.get("format_version") if isinstance(value, dict) else None
        if version != SPEC_VERSION:
            raise DataError(
                f"{where}: expected a description of the data of version {SPEC_VERSION}, found "
                f"{f'version {version}' if version is not None else 'none'}; {advice}"
            )
        return cls.checked(value, "a description of the data", where, advice)

    def save(self, folder: Path) -> None:
        """Write it beside a manifest, atomically."""
        write_json(folder / SPEC_FILE, self.to_json())

    @classmethod
    def load(cls, folder: Path) -> DataSpec:
        """Read the description that ingestion wrote beside a manifest.

        Raises:
            DataError: when it is missing or damaged.
        """
        path, advice = folder / SPEC_FILE, "run `ctan data ingest` again"
        check_file(path)
        return cls.from_json(read_json(path, advice), str(path), advice)


def check_same_spec(asked: DataSpec, found: DataSpec, where: str, advice: str) -> None:
    """Raise when what is asked of data is not what they are.

    Args:
        asked: what the settings, or a model, need.
        found: what the data say of themselves.
        where: file that says it.
        advice: what to do.

    Raises:
        DataError: naming every field that differs, with both values.
    """
    one, other = asked.to_json(), found.to_json()
    differing = [
        f"{name} {_short(other[name])} instead of {_short(one[name])}" for name in one if one[name] != other[name]
    ]
    if differing:
        raise DataError(f"{where}: not the data that are asked for: {'; '.join(differing)}; {advice}")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 3]}..."
