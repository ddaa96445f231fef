"""Two-class pictures: a folder of pictures and a table that says of each whether something is there.

Raw layout: `pictures/<id>.png`, colours, any size, and `classes.csv` with the columns `id,patient,finding`, where
`finding` is `absent`, `present`, or empty where it is not known. There are no masks.

This module is all that a data set needs. It says what the data are (`spec`), which cases there are (`find`) and what
one case holds (`read`); splits, validation, the store, training, comparison and promotion follow from that.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import Field

from ctan.cases import Augmentation, Case, DataSpec, ImageSpec, RawCase
from ctan.config import Settings
from ctan.datasets import Dataset
from ctan.errors import CaseError, DataError
from ctan.tasks import Classification

CLASSES = ("absent", "present")  # of two classes the second is the positive one
TABLE = "classes.csv"


class Options(Settings):
    """The data set's own settings: `--set data.options.min_edge=64`."""

    min_edge: int = Field(16, ge=1, description="smallest edge of a picture in pixels")


class TwoClassPictures(Dataset):
    """Colour pictures of two classes; see `ctan.datasets.base.Dataset`."""

    name = "two-class-pictures"
    version = 1  # raise it when the same raw files give another case
    Options = Options
    spec = DataSpec(
        dataset="two-class-pictures",
        spatial_dims=2,
        image=ImageSpec(
            name="rgb", modality="photo", dtype="uint8", num_channels=3, low=0, high=255, mean=(128,), std=(64,)
        ),
        tasks=(Classification("finding", classes=CLASSES),),
        labels={"finding": CLASSES},
        strata=("label_finding",),
        whole_image=True,
        augmentation=Augmentation(flip_axes=(0, 1), rotate_plane=(0, 1), max_scale=0.1, colour=True),
        licence="synthetic",
    )

    def find(self, raw_dir: Path) -> list[RawCase]:
        """List every picture; what is wrong with one is told by `read`, so that none is lost silently."""
        paths = sorted((raw_dir / "pictures").glob("*.png"))
        if not paths:
            raise DataError(f"{raw_dir}: no pictures, expected pictures/<id>.png")
        rows = _rows(raw_dir)
        return [RawCase(path.stem, rows.get(path.stem, {}).get("patient") or path.stem, "", path) for path in paths]

    def read(self, raw: RawCase) -> Case:
        """Read one picture and its row."""
        row = _rows(raw.path.parents[1]).get(raw.case_id)
        if row is None:
            raise CaseError(raw.case_id, f"{TABLE}: no row for {raw.case_id}")
        finding = row["finding"]
        if finding not in ("", *CLASSES):
            raise CaseError(
                raw.case_id, f"{TABLE}: finding is {finding!r}, expected {' or '.join(CLASSES)}, or nothing"
            )
        content = raw.path.read_bytes()
        try:
            pixels = np.asarray(Image.open(raw.path))
        except (OSError, ValueError, SyntaxError) as error:
            raise CaseError(raw.case_id, f"{raw.path.name}: not a picture that can be read ({error})") from error
        if pixels.ndim != 3 or pixels.shape[2] != 3 or min(pixels.shape[:2]) < self.options.min_edge:
            raise CaseError(
                raw.case_id, f"{raw.path.name}: expected colours and edges of {self.options.min_edge} pixels"
            )
        return Case(
            case_id=raw.case_id,
            group_id=raw.group_id,
            split=raw.split,
            spacing_mm=(1.0, 1.0),  # not known
            images={"rgb": np.ascontiguousarray(np.moveaxis(pixels, -1, 0))},
            masks={},
            doses={},
            sha256=hashlib.sha256(content + finding.encode()).hexdigest(),
            labels={"finding": finding} if finding else {},
        )

    def write_phantoms(
        self, output_dir: Path, num_train: int, num_validation: int, seed: int, defects: Sequence[str] = ()
    ) -> None:
        """Write noise, with a bright square in every second picture: what `phantom:train=N` gives."""
        (output_dir / "pictures").mkdir(parents=True)
        lines = ["id,patient,finding"]
        for number in range(num_train + num_validation):
            rng = np.random.default_rng([seed, number])
            pixels = rng.integers(0, 120, (40, 48, 3)).astype(np.uint8)
            if number % 2:
                row, column = rng.integers(4, 20, 2)
                pixels[row : row + 14, column : column + 14] += 120
            Image.fromarray(pixels).save(output_dir / "pictures" / f"picture{number:03d}.png")
            lines.append(f"picture{number:03d},patient{number // 2},{CLASSES[number % 2]}")
        (output_dir / TABLE).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _rows(raw_dir: Path) -> dict[str, dict[str, str]]:
    """Return the table's rows by id."""
    try:
        with (raw_dir / TABLE).open(encoding="utf-8-sig", newline="") as stream:
            return {row["id"]: row for row in csv.DictReader(stream)}
    except (OSError, KeyError) as error:
        raise DataError(
            f"{raw_dir / TABLE}: expected a table with the columns id, patient, finding ({error})"
        ) from error
