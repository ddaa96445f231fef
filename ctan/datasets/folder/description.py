"""`dataset.yaml`: what a folder of images, masks and a table holds, as a typed model; and the `DataSpec` it means.

File names are patterns: `{case}` stands for the id of a case, such as `imagesTr/{case}_0000.nii.gz`.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from ctan.cases import CT, DOSE_KNOWN, POSSIBLE_DOSE_MASK, Augmentation, DataSpec, ImageSpec
from ctan.cases.volumes import HU_OFFSET
from ctan.config import Settings
from ctan.datasets.folder.sides import mirrored_pairs, unpaired
from ctan.tasks import Classification, Segmentation

VOLUMES = (".nii", ".nii.gz", ".nrrd", ".mha")
PICTURES = (".png", ".jpg", ".jpeg")
SERIES = "/"  # a folder with the slices of one DICOM series
LOSSY = (".jpg", ".jpeg")
CONTOURING = "contouring"  # name of the task that all structures belong to
_COLOURS = 3
_WIDEST = 1e30  # window of values that can be anything
RESERVED = (
    "dataset",
    "case_id",
    "group_id",
    "split",
    "fold",
    "sha256",
    "shape",
    "spacing_mm",
    "extent",
    "missing",
    "unknown",
)
_NAME = r"[A-Za-z][A-Za-z0-9_.+-]*"


def ending_of(pattern: str) -> str:
    """Return the ending of a file's name that says its format, or "" when it is none that can be read."""
    known = sorted((*VOLUMES, *PICTURES, SERIES), key=len, reverse=True)
    return next((ending for ending in known if pattern.lower().endswith(ending)), "")


def _pattern(pattern: str) -> str:
    """Return a pattern that names files inside the folder, in a format that can be read."""
    path = PurePosixPath(pattern)
    if path.is_absolute() or ".." in path.parts or "\\" in pattern:
        raise ValueError(f"{pattern!r}: expected a name inside the folder, with / between its parts")
    if "{case}" not in pattern or re.search(r"[*?\[\]]", pattern) or re.sub(r"\{case\}", "", pattern).count("{"):
        raise ValueError(f"{pattern!r}: expected {{case}} where the id of the case stands, and no other wildcard")
    if pattern.lower().endswith((".tif", ".tiff")):
        raise ValueError(f"{pattern!r}: TIFF is a picture to some programs and a volume to others; save PNG or NIfTI")
    if not ending_of(pattern):
        allowed = f"{', '.join((*VOLUMES, *PICTURES))}, or / for a folder with a DICOM series"
        raise ValueError(f"{pattern!r}: unknown format; allowed: {allowed}")
    return pattern


class ImageSection(Settings):
    """The image of every case.

    Attributes:
        files: one pattern a channel, or one of colour pictures, which hold all. With `/` at the end: a DICOM series.
        modality: `ct` in Hounsfield units, `mr`, `photo` or `other`.
        channels: their names; empty: one channel (a photo: red, green, blue).
        dtype: that keeps the values exactly; None: `uint8` of photos, `float32` of all else; CT is always HU + 1024.
        window: lowest and highest value that the networks tell apart (CT: HU); None: all of them.
        normalise: `per_case`: by mean and deviation of the case's own non-zero values, as MR needs; `fixed`: by `mean`
            and `std`, or the window's middle and half width. None: fixed for CT and photos, else per case.
        mean, std: one number, or one a channel, in the unit of the values (CT: HU).
        display: values drawn black and white (CT: HU); None: the window.
        body_threshold: value above which a voxel belongs to the patient; None where that cannot be told, and the
            working grid covers the whole image. CT: -300 HU.
        unit: of the values.
        spacing_mm: edges of a pixel along rows and columns; pictures only, 1 where it is not known.
        exif: what becomes of a picture whose EXIF data ask viewers to turn it.
    """

    files: tuple[str, ...] = Field(min_length=1)
    modality: Literal["ct", "mr", "photo", "other"]
    channels: tuple[str, ...] = ()
    dtype: Literal["uint8", "uint16", "int16", "float32"] | None = None
    window: tuple[float, float] | None = None
    normalise: Literal["per_case", "fixed"] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    display: tuple[float, float] | None = None
    body_threshold: float | None = None
    unit: str = ""
    spacing_mm: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (1.0, 1.0)
    exif: Literal["refuse", "turn", "ignore"] = "refuse"

    _patterns = field_validator("files")(lambda files: tuple(_pattern(pattern) for pattern in files))

    @model_validator(mode="after")
    def _consistent(self) -> ImageSection:
        if len({ending_of(pattern) in PICTURES for pattern in self.files}) > 1:
            raise ValueError(f"files: volumes and pictures together ({', '.join(self.files)})")
        if len(self.files) > 1 and len(self.files) != self.num_channels:
            raise ValueError(f"files: {len(self.files)} patterns for {self.num_channels} channels, expected one each")
        if len(self.files) == 1 and self.num_channels > 1 and (not self.is_picture or self.num_channels != _COLOURS):
            raise ValueError(f"files: expected a pattern for each of the channels {', '.join(self.channels)}")
        if self.modality == "ct" and SERIES in {ending_of(pattern) for pattern in self.files}:
            raise ValueError("files: a DICOM series of CT belongs to --dataset prostate, which checks its HU; or NIfTI")
        if self.modality == "ct" and (self.dtype or self.normalise == "per_case" or self.is_picture):
            raise ValueError("modality: ct means volumes in Hounsfield units, stored as HU + 1024; choose other")
        is_open = self.window is None and self.mean is None and self.dtype in (None, "float32")
        if self.normalise == "fixed" and is_open and self.modality in ("mr", "other"):
            raise ValueError("normalise: fixed needs a window, or mean and std")
        if (self.mean is None) != (self.std is None) or (self.mean and self.normalise == "per_case"):
            raise ValueError("mean and std: give both or none, and none with normalise: per_case")
        return self

    @property
    def is_picture(self) -> bool:
        """Whether cases are pictures (2D) and not volumes."""
        return ending_of(self.files[0]) in PICTURES

    @property
    def num_channels(self) -> int:
        """Channels of the image."""
        return len(self.channels) or (_COLOURS if self.modality == "photo" and len(self.files) == 1 else 1)

    def spec(self) -> ImageSpec:
        """Return how a network sees the image."""
        if self.modality == "ct":
            return self._ct()
        dtype = self.dtype or ("uint8" if self.modality == "photo" else "float32")
        if dtype == "float32":
            widest: tuple[float, float] = (-_WIDEST, _WIDEST)
        else:
            limits = np.iinfo(dtype)
            widest = (float(limits.min), float(limits.max))
        low, high = self.window or widest
        per_case = (self.normalise or ("fixed" if self.modality == "photo" else "per_case")) == "per_case"
        middle, half = ((0.0,), (1.0,)) if per_case else (((low + high) / 2,), ((high - low) / 2,))
        return ImageSpec(
            name="rgb" if self.modality == "photo" and self.num_channels == _COLOURS else self.modality,
            modality=self.modality,
            dtype=dtype,
            num_channels=self.num_channels,
            low=low,
            high=high,
            mean=self.mean or middle,
            std=self.std or half,
            per_case=per_case,
            unit=self.unit,
            display=self.display,
            body_threshold=self.body_threshold,
        )

    def _ct(self) -> ImageSpec:
        """Return the description of CT, where the numbers of the folder are HU and those of ctan HU + 1024."""
        changed: dict[str, Any] = {"num_channels": self.num_channels}
        if self.window is not None:
            low, high = (value + HU_OFFSET for value in self.window)
            changed |= {"low": low, "high": high, "mean": ((low + high) / 2,), "std": ((high - low) / 2,)}
        if self.mean is not None and self.std is not None:
            changed |= {"mean": tuple(value + HU_OFFSET for value in self.mean), "std": self.std}
        if self.display is not None:
            changed["display"] = tuple(value + HU_OFFSET for value in self.display)
        if self.body_threshold is not None:
            changed["body_threshold"] = self.body_threshold + HU_OFFSET
        return ImageSpec.model_validate(CT.model_dump() | changed)


class LabelMapSection(Settings):
    """A file a case whose values name structures.

    Attributes:
        file: its pattern.
        values: structure -> its value, or values of a region; regions may overlap. 0 is background.
        regions_class_order: the value that nnU-Net pastes for each structure, in its order; needed where there are
            regions, because a label map cannot be written without.
        ignore: value of voxels nobody looked at; a case that has some is refused.
    """

    file: str
    values: dict[str, tuple[int, ...]] = Field(min_length=1)
    regions_class_order: tuple[int, ...] = ()
    ignore: int | None = None

    _pattern = field_validator("file")(_pattern)

    @field_validator("values", mode="before")
    @classmethod
    def _as_tuples(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {name: (value,) if isinstance(value, int) else value for name, value in values.items()}

    @model_validator(mode="after")
    def _consistent(self) -> LabelMapSection:
        if ending_of(self.file) in LOSSY:
            raise ValueError(f"file: {self.file}: JPEG changes values; save label maps as PNG")
        for name, values in self.values.items():
            if not values or 0 in values or len(set(values)) != len(values):
                raise ValueError(f"values: {name} is {list(values)}; expected whole numbers, each once and none 0")
            if self.ignore in values:
                raise ValueError(f"values: {name} contains {self.ignore}, the value to ignore")
        if self.regions_class_order:
            if len(self.regions_class_order) != len(self.values):
                raise ValueError(
                    f"regions_class_order: {len(self.regions_class_order)} values for {len(self.values)} structures"
                )
            for name, value in zip(self.values, self.regions_class_order, strict=True):
                if value not in self.values[name]:
                    raise ValueError(f"regions_class_order: {value} stands for {name}, which is {self.values[name]}")
        elif any(len(values) > 1 for values in self.values.values()):
            raise ValueError("regions_class_order: needed, because structures with several values are regions")
        return self


class TableSection(Settings):
    """A table (CSV) with a row a case.

    Attributes:
        file: its name.
        case: column with the case's id.
        group: column with the patient (lesion, ...), whose cases stay in one split; empty: every case is its own.
        split: column with the official split: train, validation, test, or empty where ingestion decides.
        unknown: cells that mean "not known".
    """

    file: str
    case: str
    group: str = ""
    split: str = ""
    unknown: tuple[str, ...] = ("",)


class LabelColumn(Settings):
    """A label of the whole image: its column, and the classes in order (of two the second is the positive one)."""

    column: str
    classes: tuple[str, ...] = Field(min_length=2)


class NumberColumn(Settings):
    """A number of the whole image that is to be predicted: its column and unit."""

    column: str
    unit: str = ""


class TestSection(Settings):
    """Cases of an official test split that lie elsewhere (nnU-Net's imagesTs and labelsTs): the same patterns."""

    files: tuple[str, ...] = Field(min_length=1)
    label_map: str

    _patterns = field_validator("files")(lambda files: tuple(_pattern(pattern) for pattern in files))
    _pattern = field_validator("label_map")(_pattern)


class FolderDescription(Settings):
    """Content of `dataset.yaml`.

    Attributes:
        name: of the data set; models are registered as `ctan-<name>`.
        image, label_map, table: see each section.
        masks: structure -> pattern of its own mask file, 0 and one other value. A file that is missing: not known.
        empty_masks: a mask without a voxel: the structure is `absent` from the case, or `unknown`.
        labels, numbers: what is to be predicted of the whole image, from the table.
        facts: further columns to keep, `text` or `number`.
        strata: labels and facts that splits are balanced by; None: the labels.
        mirrored_pairs: (left, right) structures; None: told from their names.
        augmentation: random changes that leave a case plausible; None: what is safe.
        test: an official test split.
        keeps_native: the store keeps native images, to score on.
        licence: and source, in a line.
        notes: what a person should know, printed by ingestion.
    """

    format_version: Literal[1] = 1
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    image: ImageSection
    label_map: LabelMapSection | None = None
    masks: dict[str, str] = Field({})
    empty_masks: Literal["absent", "unknown"] = "absent"
    table: TableSection | None = None
    labels: dict[str, LabelColumn] = Field({})
    numbers: dict[str, NumberColumn] = Field({})
    facts: dict[str, Literal["text", "number"]] = Field({})
    strata: tuple[str, ...] | None = None
    mirrored_pairs: tuple[tuple[str, str], ...] | None = None
    augmentation: Augmentation | None = None
    test: TestSection | None = None
    keeps_native: bool = True
    licence: str = ""
    notes: tuple[str, ...] = ()

    @field_validator("masks")
    @classmethod
    def _mask_patterns(cls, masks: dict[str, str]) -> dict[str, str]:
        for pattern in masks.values():
            if ending_of(_pattern(pattern)) in LOSSY:
                raise ValueError(f"{pattern}: JPEG changes values; save masks as PNG")
        return masks

    @model_validator(mode="after")
    def _consistent(self) -> FolderDescription:
        self._check_names()
        patterns = [self.label_map.file] if self.label_map else []
        for pattern in (*patterns, *self.masks.values()):
            if ending_of(pattern) == SERIES:
                raise ValueError(f"{pattern}: masks are files of voxels ({', '.join(VOLUMES)}), no DICOM")
            if (ending_of(pattern) in PICTURES) != self.image.is_picture:
                raise ValueError(
                    f"{pattern}: a mask of a {'picture' if self.image.is_picture else 'volume'} is one too"
                )
        if self.test and (self.label_map is None or (self.table and self.table.split)):
            raise ValueError("test: needs a label_map, and no column for splits in the table")
        columns = {**self.labels, **self.numbers, **self.facts}
        if self.table is None and columns:
            raise ValueError(f"table: needed for {', '.join(columns)}")
        if not (self.structures or self.labels or self.numbers):
            raise ValueError("nothing to predict: expected label_map, masks, labels or numbers")
        for name in self.strata or ():
            if name not in {**self.labels, **self.facts}:
                raise ValueError(f"strata: {name} is neither a label nor a fact")
        lonely = unpaired(self.structures, self.pairs)
        flips = self.augmentation.flip_axes if self.augmentation else ()
        if 1 in flips and lonely:
            raise ValueError(
                f"augmentation: a flip along axis 1 swaps left and right, but {', '.join(lonely)} has no partner; "
                "name it in mirrored_pairs or leave the flip out"
            )
        return self

    def _check_names(self) -> None:
        for name in self.structures:
            if not re.fullmatch(_NAME, name) or name in (POSSIBLE_DOSE_MASK, DOSE_KNOWN):
                raise ValueError(f"{name!r} cannot be the name of a structure; allowed: letters, digits, _ . + -")
        if twice := [name for name in self.masks if self.label_map and name in self.label_map.values]:
            raise ValueError(f"masks: {', '.join(twice)} in label_map too")
        if taken := [
            name for name in self.facts if name in RESERVED or name.startswith(("label_", "number_", "voxels_"))
        ]:
            raise ValueError(f"facts: {', '.join(taken)} is a column of the manifest already; rename it in the table")
        tasks = [*([CONTOURING] if self.structures else []), *self.labels, *self.numbers]
        for name in tasks:
            if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name) or tasks.count(name) > 1:
                raise ValueError(f"{name!r} cannot be the name of a task; expected letters, digits, _ and -, each once")

    @property
    def structures(self) -> tuple[str, ...]:
        """Structures of label map and masks, in order."""
        return (*(self.label_map.values if self.label_map else ()), *self.masks)

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """(left, right) structures."""
        return mirrored_pairs(self.structures) if self.mirrored_pairs is None else self.mirrored_pairs

    def spec(self) -> DataSpec:
        """Return the description that travels with the data."""
        tasks: list[Any] = []
        if self.structures:
            tasks.append(Segmentation(CONTOURING, self.structures, self.pairs))
        tasks += [Classification(name, classes=label.classes) for name, label in self.labels.items()]
        tasks += [{"kind": "regression", "name": name, "unit": n.unit} for name, n in self.numbers.items()]
        strata = tuple(self.labels) if self.strata is None else self.strata
        return DataSpec(
            dataset=self.name,
            spatial_dims=2 if self.image.is_picture else 3,
            image=self.image.spec(),
            tasks=tuple(tasks),
            structures=self.structures,
            labels={name: label.classes for name, label in self.labels.items()},
            numbers={name: number.unit for name, number in self.numbers.items()},
            facts={name: "string" if kind == "text" else "float64" for name, kind in self.facts.items()},
            strata=tuple(f"label_{name}" if name in self.labels else name for name in strata),
            mirrored_pairs=self.pairs,
            augmentation=self.augmentation or self._safe_changes(),
            keeps_native=self.keeps_native,
            whole_image=self.image.is_picture,
            licence=self.licence,
        )

    def _safe_changes(self) -> Augmentation:
        """Return changes that do no harm whatever is shown: small turns; of colour photos without sides, also flips."""
        if not self.image.is_picture:
            return Augmentation(rotate_plane=(0, 1), max_rotate_degrees=10, max_scale=0.1)
        if self.image.modality != "photo":
            return Augmentation(rotate_plane=(0, 1), max_rotate_degrees=10, max_scale=0.1)
        sided = bool(self.pairs or unpaired(self.structures, self.pairs))
        return Augmentation(
            flip_axes=() if sided else (0, 1),
            rotate_plane=(0, 1),
            max_rotate_degrees=10 if sided else 180,
            max_scale=0.1,
            colour=self.image.num_channels == _COLOURS,
        )
