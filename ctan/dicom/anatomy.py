"""Whether contours fit the CT and each other: the body that was drawn, dose and target; sides: `ctan.cases.sides`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ctan.errors import DataError

Mask = npt.NDArray[np.bool_]

_LEAST_OF_BODY = 0.5  # share of the drawn body that the CT shows a body in
_LITTLE_OF_BODY = 0.8
_LEAST_IN_BODY = 0.5  # share of a structure, or of all together
_LEAST_OF_TARGET = 0.5  # share of a target in the dose grid


def check_body(drawn: Mask | None, seen: Mask, structures: Mapping[str, Mask]) -> tuple[str, ...]:
    """Compare the body that was drawn, and the structures, with the body that the CT shows; return remarks.

    Raises:
        DataError: when they lie elsewhere: contours and CT do not belong together, or one is mirrored.
    """
    share = _share(np.any(list(structures.values()), axis=0), seen)
    if share < _LEAST_IN_BODY:
        raise DataError(
            f"RTSTRUCT: {1 - share:.0%} of its structures lie in what the CT shows as air; contours and CT do not fit "
            f"each other: export both again"
        )
    inside = {name: _share(mask, seen) for name, mask in structures.items()}
    remarks = [
        f"RTSTRUCT: {1 - share:.0%} of {name} lie in what the CT shows as air; check it"
        for name, share in inside.items()
        if share < _LEAST_IN_BODY
    ]
    if drawn is not None and (share := _share(drawn, seen)) < _LITTLE_OF_BODY:
        sentence = f"RTSTRUCT: the CT shows a body in {share:.0%} of the body contour only"
        if share < _LEAST_OF_BODY:
            raise DataError(f"{sentence}; contours and CT do not fit each other: export both again")
        remarks.append(sentence)
    return tuple(remarks)


def check_targets(structures: Mapping[str, Mask], targets: Sequence[str], known: Mask) -> None:
    """Refuse a dose grid that misses a target: its frames, or the whole grid, lie elsewhere.

    Raises:
        DataError: naming the target.
    """
    for name in targets:
        if name in structures and (share := _share(structures[name], known)) < _LEAST_OF_TARGET:
            raise DataError(
                f"RTDOSE: {1 - share:.0%} of {name} lies outside the dose grid; it is another plan's dose, or "
                f"GridFrameOffsetVector or ImagePositionPatient is wrong: export it again"
            )


def _share(part: Mask, whole: Mask) -> float:
    """Return the share of a part that lies in the whole; 1 of an empty part, as tiny ones are on few voxels."""
    size = int(np.count_nonzero(part))
    return float(np.count_nonzero(part & whole)) / size if size else 1.0
