"""What both sides of a comparison computed, compared: a sentence for the table, or an end where it is not the same."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ctan.dicom.names import RoiNames
from ctan.dicom.settings import DicomConfig

Arrays = Mapping[str, np.ndarray]
MOST_GY = 1e-5
WRONG = 0.05  # share of a volume that nobody explains by how an edge is drawn


def names(options: Mapping[str, object]) -> RoiNames:
    """Return which structure an ROI name is."""
    return RoiNames(DicomConfig.model_validate(options))


def patients(
    ours: Arrays, theirs: Arrays, options: Mapping[str, object], volumes_cc: Mapping[str, float], voxel_cc: float
) -> str:
    """Compare a patient: CT and dose must be equal, masks are compared by Dice and with known volumes.

    Args:
        ours: `ct`, `dose`, `mask <structure>`, (z, y, x).
        theirs: `mask <ROI>`, and what of the others the tool reads.
        options: how ROI names become structures.
        volumes_cc: structure -> its volume, from the contours or from the planning system.
        voxel_cc: volume of a voxel.
    """
    said = []
    if "ct" in theirs:
        if not np.array_equal(ours["ct"], np.clip(np.rint(theirs["ct"]), -1024, 3071)):
            raise SystemExit("CT: the two sides read different values")
        said.append("CT equal")
    if "dose" in theirs:
        where = ours["mask possible_dose_mask"] & ours["mask dose_known"]
        if (apart := float(np.abs(ours["dose"] - theirs["dose"])[where].max())) > MOST_GY:
            raise SystemExit(f"dose: {apart:.2e} Gy apart, expected at most {MOST_GY:g}")
        said.append(f"dose within {apart:.0e} Gy")
    told = names(options)
    pairs = {told(key[5:].replace("_", " ")): array > 0 for key, array in theirs.items() if key.startswith("mask ")}
    pairs = {name: mask for name, mask in pairs.items() if f"mask {name}" in ours}
    if not pairs:
        raise SystemExit("masks: no structure that both sides have")
    dice = {name: _dice(ours[f"mask {name}"], mask) for name, mask in pairs.items()}
    lowest = min(dice, key=lambda name: dice[name])
    said.append(f"{len(dice)} masks, Dice from {dice[lowest]:.3f} ({lowest}) to {max(dice.values()):.3f}")
    known = [name for name in pairs if name in volumes_cc]
    for side, masks in (("ctan", {name: ours[f"mask {name}"] for name in pairs}), ("the peer", pairs)):
        found = {name: np.count_nonzero(masks[name]) * voxel_cc for name in known}
        off = {name: found[name] / volumes_cc[name] - 1 for name in known}
        wrong = sorted((name for name in known if abs(off[name]) > WRONG), key=lambda name: -abs(off[name]))
        if wrong:
            each = ", ".join(f"{name} {found[name]:.1f} of {volumes_cc[name]:.1f} cc" for name in wrong)
            said.append(f"{side} is WRONG: {each}")
        elif known:
            said.append(f"{side}'s volumes within {100 * max(map(abs, off.values())):.1f} %")
    return "; ".join(said)


def equal(ours: Arrays, theirs: Arrays) -> str:
    """Compare all arrays of one side with the other's."""
    for name, array in ours.items():
        if not np.array_equal(array, theirs[name].astype(array.dtype)):
            raise SystemExit(f"{name}: the two sides read different values")
    return f"{len(ours)} arrays equal"


def losses(ours: Arrays, theirs: Arrays) -> str:
    """Compare trainings of different networks: both losses are finite and fell (noise of variance 1 is what is learnt).

    Every output has a target of variance 1, so that a sum over several outputs begins above their number.
    """
    found = [float(side["loss"]) for side in (ours, theirs)]
    if not np.isfinite(found).all():
        raise SystemExit(f"losses {found}: a side does not train")
    return "other networks: a multiply-accumulate is compared; both losses finite"


def volumes(ours: Arrays, theirs: Arrays) -> str:
    """Compare answers on the whole grid and by windows: the same outputs, close but for what a window cannot see."""
    for name, array in ours.items():
        if array.shape != theirs[name].shape:
            raise SystemExit(f"{name}: shapes {array.shape} and {theirs[name].shape}")
    apart = {name: float(np.abs(array - theirs[name]).mean()) for name, array in ours.items()}
    said = ", ".join(f"{name} {value:.1e} apart in the mean" for name, value in apart.items())
    return f"one network; windows see less: {said}"


def _dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * np.count_nonzero(one & other) / max(1, np.count_nonzero(one) + np.count_nonzero(other))


def planned_volumes_cc(table: Path, options: Mapping[str, object]) -> dict[str, float]:
    """Return the volumes in a planning system's DVH table: `<structure>_DVH` and `% of 12.3 cc` head its columns."""
    told = names(options)
    with table.open() as stream:
        head = next(csv.reader(stream))
    found = {}
    for column in range(0, len(head) - 1, 2):
        if volume := re.search(r"% of ([\d.]+) cc", head[column + 1]):
            words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", head[column].split("_")[0])
            found[told(words)] = float(volume[1])
    return {name: value for name, value in found.items() if name}
