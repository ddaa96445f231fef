"""What a served model is asked with and what it answers: columns by name and type, told by the model's description.

One row a case. Arrays travel as the bytes of NumPy's own `.npy` (type and shape in the file, nothing pickled): lists of
numbers would be four times as long and lose the type. Pictures travel as the files they are.
"""

from __future__ import annotations

import binascii
import io
import json
import math
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ctan.cases import POSSIBLE_DOSE_MASK, Prediction
from ctan.errors import DataError
from ctan.records import ModelRecord

IMAGE, SPACING, PRESCRIPTION, WARNINGS = "image", "spacing_mm", "prescription_gy", "warnings"
Kind = Literal["binary", "double", "doubles", "string", "strings"]
_DIMS_OF_PICTURE = 2
_WIDEST = 2.0**16  # range of values that mean something
_SMALL = 8  # voxels along each axis of the example of a volume
_SMALL_PICTURE = 64  # pixels
_ARRAY = "the bytes of a .npy file"
_PNG = b"\x89PNG"


@dataclass(frozen=True)
class Column:
    """A column of a request or an answer.

    Attributes:
        name: of the column.
        kind: of its values.
        meaning: what stands in it, for people.
        required: whether every case must have it.
    """

    name: str
    kind: Kind
    meaning: str
    required: bool = True


def is_picture(record: ModelRecord) -> bool:
    """Say whether a model is asked about pictures, which travel as files; else about volumes, which are arrays.

    So are slices of volumes: nobody has a picture file of where dose is possible.
    """
    return record.spec.spatial_dims == _DIMS_OF_PICTURE and not record.spec.has_dose


def request_columns(record: ModelRecord) -> tuple[Column, ...]:
    """Return what a model is asked with."""
    spec, shown = record.spec, record.inputs.shown
    if is_picture(record):
        return (Column(IMAGE, "binary", "a picture as the file it is, in the data set's format"),)
    axes = ", ".join(("posterior", "left", "inferior")[: spec.spatial_dims])
    channels = f"(channels, {axes})" if spec.image.num_channels > 1 else f"({axes})"
    unit = "HU" if spec.image.modality == "ct" else "raw values"
    columns = [
        Column(IMAGE, "binary", f"{channels}, {unit}; {_ARRAY}"),
        Column(SPACING, "doubles", f"edges of a voxel in mm, ({axes})"),
    ]
    if PRESCRIPTION in spec.facts:  # else all cases have that of the description
        columns.append(Column(PRESCRIPTION, "double", "highest prescribed dose, Gy", required=False))
    if spec.has_dose:
        columns.append(Column(POSSIBLE_DOSE_MASK, "binary", f"where dose can be, 0 and 1; {_ARRAY}", required=False))
        needed = {"ct": (), "ct+targets": tuple(spec.targets), "oracle": spec.structures}[shown]
        columns += [Column(name, "binary", f"contoured, 0 and 1; {_ARRAY}", required=False) for name in needed]
    return tuple(columns)


def answer_columns(record: ModelRecord) -> tuple[Column, ...]:
    """Return what a model answers; a column whose task could not be predicted is null."""
    axes = (2,) * record.spec.spatial_dims
    zeros = (np.zeros((task.num_outputs, *(axes if task.head == "dense" else ())), np.float32) for task in record.tasks)
    parts = [task.answer(array) for task, array in zip(record.tasks, zeros, strict=True)]
    columns: list[Column] = []
    for name, value in flat(Prediction.joined(parts), picture=is_picture(record)).items():
        columns.append(Column(name, *_kind(name, value, record), required=False))
    return (*columns, Column(WARNINGS, "strings", "what a person should know, a sentence each"))


def flat(prediction: Prediction, picture: bool) -> dict[str, Any]:
    """Return a prediction as the values of a row: masks and doses as bytes, labels and numbers as they are."""
    row: dict[str, Any] = {}
    for label, classes in prediction.probabilities.items():
        row[label] = max(classes, key=lambda name: classes[name])
        row |= {f"{label}_{name}": float(value) for name, value in classes.items()}
    row |= {name: float(value) for name, value in prediction.numbers.items()}
    arrays = {**prediction.masks, **prediction.doses, **prediction.maps}
    return row | {name: _encoded(array, picture) for name, array in arrays.items()}


def example(record: ModelRecord) -> dict[str, Any]:
    """Return a small request that the model answers: a ball of water, or a patch of colour."""
    if is_picture(record):
        return {IMAGE: _example_picture(record)}
    spec = record.spec
    places = np.indices((_SMALL,) * spec.spatial_dims) - (_SMALL - 1) / 2
    radius = np.sqrt((places**2).sum(axis=0))
    ball = radius < 0.4 * _SMALL
    low, high, dtype = spec.image.low, spec.image.high, np.dtype(spec.image.dtype)
    if spec.image.modality == "ct":
        low, high, dtype = -1000.0, 0.0, np.dtype(np.int16)
    elif high - low > _WIDEST:  # any value may occur, as in MR
        low, high = 0.0, 1000.0
    image = np.where(ball, high, low).astype(dtype)
    if spec.image.num_channels > 1:
        image = np.stack([image] * spec.image.num_channels)
    spacing = record.grid.spacing_mm or (4.0,) * spec.spatial_dims
    row: dict[str, Any] = {IMAGE: npy(image), SPACING: [float(edge) for edge in spacing]}
    for column in request_columns(record)[2:]:
        if column.name == PRESCRIPTION:
            row[column.name] = max(spec.targets.values())
        else:
            row[column.name] = npy(ball if column.name == POSSIBLE_DOSE_MASK else radius < 0.2 * _SMALL)
    return row


def checked(row: Mapping[str, Any], columns: tuple[Column, ...]) -> dict[str, Any]:
    """Return a case's values, with the types that its columns name; what is optional and not given has no entry.

    Args:
        row: values by name. Bytes may be base64 text, as in JSON.
        columns: see `request_columns`.

    Raises:
        DataError: naming the column, what was expected and what was found, without values.
    """
    known = {column.name: column for column in columns}
    if unknown := sorted(set(map(str, row)) - set(known)):
        raise DataError(f"unknown column {', '.join(map(repr, unknown[:3]))}; expected {', '.join(known)}")
    found: dict[str, Any] = {}
    for name, column in known.items():
        value = row.get(name)
        if value is None or (isinstance(value, float) and math.isnan(value)):
            if column.required:
                raise DataError(f"{name}: is missing; expected {column.meaning}")
            continue
        found[name] = _value(value, column)
    return found


def _value(value: Any, column: Column) -> Any:
    if column.kind == "binary":
        if isinstance(value, str):
            try:
                value = b64decode("".join(value.split()), validate=True)
            except (binascii.Error, ValueError) as error:
                raise DataError(f"{column.name}: not base64; expected {column.meaning}, in base64") from error
        if not isinstance(value, bytes | bytearray) or not value:
            raise DataError(f"{column.name}: expected bytes ({column.meaning}), found {type(value).__name__}")
        return bytes(value)
    numbers = value if column.kind == "doubles" else [value]
    if not isinstance(numbers, list | tuple | np.ndarray):
        raise DataError(f"{column.name}: expected a list of numbers, found {type(value).__name__}")
    # A number in a text is what a spreadsheet makes of one: not guessed at.
    plain = [float(one) for one in numbers if isinstance(one, int | float | np.number) and not isinstance(one, bool)]
    if len(plain) != len(numbers) or not all(map(math.isfinite, plain)):
        raise DataError(f"{column.name}: expected {column.meaning}, as numbers")
    return plain if column.kind == "doubles" else plain[0]


def npy(array: npt.NDArray[Any]) -> bytes:
    """Return an array as the bytes of a `.npy` file; a mask as 0 and 1 of 8 bits."""
    stream = io.BytesIO()
    plain = array.astype(np.uint8) if array.dtype == bool else array
    np.save(stream, np.ascontiguousarray(plain), allow_pickle=False)
    return stream.getvalue()


def from_npy(content: bytes, name: str, max_voxels: int) -> npt.NDArray[Any]:
    """Return the array of a `.npy` file.

    Args:
        content: of the file.
        name: of the column, for errors.
        max_voxels: that it may have; asked before memory is.

    Raises:
        DataError: when it is none, is cut off, too large, or does not hold plain numbers.
    """
    stream = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
    except ValueError as error:
        raise DataError(f"{name}: expected {_ARRAY}, found something else") from error
    size = math.prod(shape)
    if dtype.kind not in "biuf":
        raise DataError(f"{name}: expected whole or floating-point numbers, found {dtype}")
    if size > max_voxels:
        raise DataError(f"{name}: {size:,} voxels; data.reading.max_voxels allows {max_voxels:,}")
    if len(content) - stream.tell() != size * dtype.itemsize:
        raise DataError(f"{name}: cut off, or longer than the shape {list(shape)} says")
    stream.seek(0)
    array: npt.NDArray[Any] = np.load(stream, allow_pickle=False)
    return array


def _encoded(array: npt.NDArray[Any], picture: bool) -> bytes:
    if not picture or array.dtype != bool or array.ndim != _DIMS_OF_PICTURE:
        return npy(array)
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(array.astype(np.uint8) * 255).save(stream, format="PNG")
    return stream.getvalue()


def _example_picture(record: ModelRecord) -> bytes:
    """Return a picture; PNG where the data set's own options name such files, else JPEG."""
    from PIL import Image

    options = json.dumps(record.config.get("data", {}).get("options", {}))
    ramp = np.linspace(60, 200, _SMALL_PICTURE).astype(np.uint8)
    shape = (_SMALL_PICTURE, _SMALL_PICTURE)
    pixels = np.broadcast_to(ramp, shape)
    if record.spec.image.num_channels > 1:
        pixels = np.stack([pixels, pixels.T, np.full(shape, 120, np.uint8)], axis=-1)
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, format="PNG" if ".png" in options else "JPEG")
    return stream.getvalue()


def _kind(name: str, value: Any, record: ModelRecord) -> tuple[Kind, str]:
    """Return the type and the meaning of a column, told by a value of it."""
    if isinstance(value, bytes):
        return "binary", f"on the grid of the image; {'PNG, 0 and 255' if value.startswith(_PNG) else _ARRAY}"
    if isinstance(value, str):
        return "string", "the likeliest class"
    of_label = any(name.startswith(f"{label}_") for label in record.spec.labels)
    return "double", "probability" if of_label else f"number, {record.spec.numbers.get(name, '')}".rstrip(", ")
