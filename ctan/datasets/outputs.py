"""What is written of predictions where a format has nothing of its own: PNG, NIfTI and a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctan.cases import Case, Prediction
from ctan.cases.prediction import LABEL
from ctan.files import write_text

if TYPE_CHECKING:
    import numpy.typing as npt

TABLE_FILE = "predictions.csv"
Record = Mapping[str, Any]  # `prediction.json` of one case
_DIMS_OF_PICTURE = 2


@dataclass(frozen=True)
class Asked:
    """Which model predicted, and how its answer is to be written.

    Attributes:
        model: such as `"models:/ctan-prostate/3"`.
        key: SHA-256 of all that decides the prediction; what needs a new identity, such as a UID, is made of it.
        identified: who the patient is may be copied from the input.
    """

    model: str
    key: str
    identified: bool = False


def write_plain(case: Case, prediction: Prediction, folder: Path) -> None:
    """Write masks, doses and maps, a file each: PNG of pictures, NIfTI of volumes on the axes of the case."""
    for name, array in arrays_of(prediction).items():
        if len(case.shape) == _DIMS_OF_PICTURE:
            write_png(array, folder / f"{name}.png")
        else:
            write_volume(array, case.spacing_mm, folder / f"{name}.nii.gz")


def arrays_of(prediction: Prediction) -> dict[str, npt.NDArray[Any]]:
    """Return every array that is to be a file, by the file's name; a map of several outputs has a file each."""
    arrays: dict[str, npt.NDArray[Any]] = {**prediction.masks, **prediction.doses}
    for name, outputs in prediction.maps.items():
        arrays |= {f"{name}_{n}" if len(outputs) > 1 else name: output for n, output in enumerate(outputs)}
    return arrays


def write_png(array: npt.NDArray[Any], path: Path) -> None:
    """Write a mask as 0 and 255, other values as grey of 8 bits between the smallest and the largest."""
    import numpy as np
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    if array.dtype == bool:
        grey = array.astype(np.uint8) * 255
    else:
        low, high = float(array.min()), float(array.max())
        grey = np.rint((array - low) / max(high - low, 1e-12) * 255).astype(np.uint8)
    said = PngInfo()
    said.add_text("Comment", LABEL)
    Image.fromarray(grey).save(path, pnginfo=said)


def write_volume(array: npt.NDArray[Any], spacing_mm: Sequence[float], path: Path) -> None:
    """Write a volume (posterior, left, inferior) as an image whose first voxel is at 0 mm."""
    import numpy as np
    import SimpleITK as sitk

    plain = array.astype(np.uint8) if array.dtype == bool else array
    image = sitk.GetImageFromArray(np.ascontiguousarray(np.transpose(plain, (2, 0, 1))))
    y, x, z = (float(edge) for edge in spacing_mm)
    image.SetSpacing((x, y, z))
    image.SetDirection((1, 0, 0, 0, 1, 0, 0, 0, -1))
    sitk.WriteImage(image, str(path))


def write_table(records: Sequence[Record], folder: Path) -> None:
    """Write labels and numbers of all cases as `predictions.csv`; nothing where there are none.

    A label has a column with its likeliest class, and one with the probability of each class.
    """
    rows = []
    for record in records:
        row: dict[str, Any] = {"case_id": record["case_id"]}
        for label, classes in record["probabilities"].items():
            row[label] = max(classes, key=lambda name: float(classes[name]))
            row |= {f"{label}_{name}": round(value, 6) for name, value in classes.items()}
        rows.append(row | dict(record["numbers"]))
    if any(len(row) > 1 for row in rows):
        write_text(folder / TABLE_FILE, csv_of(rows))


def csv_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows of the same columns as comma-separated text."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()
