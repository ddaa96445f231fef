"""Folders for the data set `folder`, made from the real data that CTAN_TEST_DATA names."""

from __future__ import annotations

import csv
import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import yaml

needs_data = pytest.mark.skipif("CTAN_TEST_DATA" not in os.environ, reason="needs CTAN_TEST_DATA")
ORGANS = {"colon": 20, "sacrum": 25, "femur_left": 75, "femur_right": 76}
DIAGNOSES = ["akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"]


def pelvis(name: str) -> sitk.Image:
    """Return `ct` or `organs` of the pelvis."""
    return sitk.ReadImage(str(Path(os.environ["CTAN_TEST_DATA"]) / "ct" / f"pelvis_{name}.nii.gz"))


def real_nnunet(folder: Path, num_cases: int = 4) -> Path:
    """Cut the pelvis CT into cases, one above the other, of an nnU-Net v2 folder."""
    ct, organs = pelvis("ct"), pelvis("organs")
    values = np.zeros(sitk.GetArrayFromImage(organs).shape, np.uint8)
    for number, value in enumerate(ORGANS.values(), start=1):
        values[sitk.GetArrayFromImage(organs) == value] = number
    labels = sitk.GetImageFromArray(values)
    labels.CopyInformation(organs)
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    height = ct.GetSize()[2] // num_cases
    for number in range(num_cases):
        piece = slice(height * number, height * (number + 1))
        sitk.WriteImage(ct[:, :, piece], str(folder / "imagesTr" / f"piece_{number}_0000.nii.gz"))
        sitk.WriteImage(labels[:, :, piece], str(folder / "labelsTr" / f"piece_{number}.nii.gz"))
    described = {"channel_names": {"0": "CT"}, "numTraining": num_cases, "file_ending": ".nii.gz"}
    described["labels"] = {"background": 0} | {name: number for number, name in enumerate(ORGANS, start=1)}
    (folder / "dataset.json").write_text(json.dumps(described))
    return folder


def rows_of_ham10000() -> dict[str, dict[str, str]]:
    """Return the rows of the small dermoscopy pictures by image."""
    with tarfile.open(Path(os.environ["CTAN_TEST_DATA"]) / "ham10000" / "small-200x150.tar") as archive:
        name = next(name for name in archive.getnames() if name.endswith("HAM10000_metadata.csv"))
        content = archive.extractfile(name)
        assert content is not None
        return {row["image_id"]: row for row in csv.DictReader(io.StringIO(content.read().decode()))}


def real_pictures(folder: Path, count: int) -> Path:
    """Unpack the first dermoscopy pictures into a plain folder with masks, a table and a `dataset.yaml`."""
    rows = rows_of_ham10000()
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    with tarfile.open(Path(os.environ["CTAN_TEST_DATA"]) / "ham10000" / "small-200x150.tar") as archive:
        members = {Path(member.name).name: member for member in archive.getmembers() if member.isfile()}
        chosen = [name for name in sorted(rows) if f"{name}.jpg" in members][:count]
        for name in chosen:
            for part, file in (("images", f"{name}.jpg"), ("masks", f"{name}_segmentation.png")):
                content = archive.extractfile(members[file])
                assert content is not None
                (folder / part / file).write_bytes(content.read())
    lines = ["image_id,lesion_id,dx"] + [f"{name},{rows[name]['lesion_id']},{rows[name]['dx']}" for name in chosen]
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    described = {
        "name": "skin",
        "image": {"files": ["images/{case}.jpg"], "modality": "photo"},
        "masks": {"Lesion": "masks/{case}_segmentation.png"},
        "table": {"file": "table.csv", "case": "image_id", "group": "lesion_id"},
        "labels": {"diagnosis": {"column": "dx", "classes": DIAGNOSES}},
    }
    (folder / "dataset.yaml").write_text(yaml.safe_dump(described))
    return folder
