"""Whether CT, contours and dose lie where they belong: moved or turned round, none of them fits better.

Two outlines of the body, the contour that was drawn and the edge of a dose that ends at the skin, are moved over the
body that the CT shows; the hottest region is moved over, and turned round on, the targets. Where that is better by more
than it is in 202 real patients (OpenKBP) there is a sign that one of them lies elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ctan.errors import DataError

Mask = npt.NDArray[np.bool_]
Spacing = tuple[float, float, float]
Outlined = tuple[Mask, Mask]

_DIRECTIONS = (("posterior", "anterior"), ("left", "right"), ("inferior", "superior"))
_MOST_EDGE = 64  # voxels an edge that volumes are compared on
_REACH_MM = 60.0
_LEAST_MM = 5.0
_BODY_GAIN = 0.07  # of what outlines have in common; of 202 real patients 0.004 at most but for one (0.065)
_TARGET_GAIN = 0.05  # share of the targets; of 202 real patients 0.028 at most, turned round never
_CLEAR_GAIN = 0.15
_LITTLE_LESS = 0.8  # of a dose: where all doses are alike nothing says where the targets are
_FEWEST = 50  # voxels of targets
_CLIPPED = 0.7  # share of the air in its grid that a dose must spare to end at the skin
_NO_DOSE = 1e-4  # of the highest
_SQUARE = 0.01  # share of a pixel's edge
_IN_AIR = 0.15  # share of all structures; of 202 real patients 0.08 at most


def body_signs(what: str, outline: Mask, seen: Mask, spacing_mm: Spacing) -> list[str]:
    """Say whether an outline of the body would fit the CT better elsewhere.

    Args:
        what: it is, for the message.
        outline: (posterior, left, inferior).
        seen: what the CT shows as body.
        spacing_mm: of both.
    """
    step = _steps(seen.shape)
    outline, seen = outline[step], seen[step] & outline[step].any(axis=(0, 1))
    if not outline.any() or not seen.any():
        return []
    overlap, best, moved = _moved(outline, seen, _coarse(spacing_mm, step))
    both = int(np.count_nonzero(outline)) + int(np.count_nonzero(seen))
    here, there = overlap / (both - overlap), best / (both - best)
    if there - here < _BODY_GAIN or max(map(abs, moved)) < _LEAST_MM:
        return []
    alike = f"{what} and the CT's body are alike by {here:.0%}"
    other = f"moved {_by(moved)} by {there:.0%}"
    return [alike, other] if there - here > _CLEAR_GAIN else [f"{alike}, {other}"]


def air_signs(structures: Mask, seen: Mask) -> list[str]:
    """Say whether much of all structures lies in the air around what the CT shows as body."""
    total = int(np.count_nonzero(structures))
    share = np.count_nonzero(structures & ~seen) / total if total else 0.0
    return [f"{share:.0%} of all structures lie in what the CT shows as air"] if share > _IN_AIR else []


def dosed_body(dose: npt.NDArray[np.floating], known: Mask, seen: Mask) -> Mask | None:
    """Return where there is any dose; None where the dose does not end at the skin, or that cannot be seen.

    Args:
        dose: (posterior, left, inferior), as it was exported, in air too.
        known: the dose grid.
        seen: what the CT shows as body.
    """
    dosed = (dose > _NO_DOSE * float(dose.max(initial=0.0))) & known
    air = known & ~seen
    num_air = int(np.count_nonzero(air))
    if not num_air or not dosed.any() or np.count_nonzero(air & ~dosed) < _CLIPPED * num_air:
        return None
    return dosed


def target_signs(
    targets: Mask,
    dose: npt.NDArray[np.floating],
    known: Mask,
    spacing_mm: Spacing,
    exchanged: npt.NDArray[np.floating] | None = None,
) -> list[str]:
    """Say whether the dose would cover the targets better elsewhere, turned round, or with its PixelSpacing exchanged.

    The hottest region, as large as the targets, is compared with them. A clear difference counts twice.

    Args:
        targets: (posterior, left, inferior), all of them.
        dose: the same axes.
        known: the dose grid, a box.
        spacing_mm: of all.
        exchanged: the dose as it would be with rows and columns of its spacing exchanged.
    """
    if not known.any():
        return []
    box = tuple(_range(np.asarray(known.any(axis=tuple(a for a in range(3) if a != axis)))) for axis in range(3))
    step = _steps(known[box].shape)
    there, here = targets[box][step], dose[box][step]
    size = int(np.count_nonzero(there))
    if size < _FEWEST or size == there.size:
        return []
    hot = _hottest(here, size)
    overlap, best, moved = _moved(there, hot, _coarse(spacing_mm, step))  # the targets are moved, so the dose is not
    others = [(best, f"moved {_by([-mm for mm in moved])}")] if max(map(abs, moved)) >= _LEAST_MM else []
    for axis, ends in enumerate(_DIRECTIONS):
        turned = int(np.count_nonzero(there & np.flip(hot, axis)))
        others.append((turned, f"turned round from {ends[1]} to {ends[0]}"))
    if exchanged is not None:
        other = int(np.count_nonzero(there & _hottest(exchanged[box][step], size)))
        others.append((other, "with the two numbers of its PixelSpacing exchanged"))
    best, how = max(others, key=lambda pair: pair[0])
    gain = (best - overlap) / size
    if gain < _TARGET_GAIN:
        return []
    covers = f"the hottest part of the dose covers {overlap / size:.0%} of the targets"
    would = f"{how} it would cover {best / size:.0%}"
    return [covers, would] if gain > _CLEAR_GAIN else [f"{covers}, {would}"]


def is_square(spacing_mm: tuple[float, float]) -> bool:
    """Return whether pixels are square."""
    return abs(spacing_mm[0] - spacing_mm[1]) <= _SQUARE * max(spacing_mm)


def square_signs(
    spacing_mm: tuple[float, float], read: Outlined | None = None, exchanged: Outlined | None = None
) -> list[str]:
    """Say that pixels of a CT are not square, as scanners make them, and whether they fit better the other way round.

    Args:
        spacing_mm: of columns and rows, not square.
        read: an outline of the body, and what the CT shows as body where the outline may be; None where there is none.
        exchanged: the same with the two numbers exchanged.
    """
    signs = [f"the CT's pixels are {spacing_mm[0]:g} x {spacing_mm[1]:g} mm, not square as scanners make them"]
    if read is not None and exchanged is not None:
        here, other = (_alike(*both) for both in (read, exchanged))
        if other - here > _BODY_GAIN:
            signs.append(f"body and CT are alike by {here:.0%}, with the two numbers exchanged by {other:.0%}")
    return signs


def judged_fit(signs: Sequence[str], refuse: bool) -> tuple[str, ...]:
    """Return a remark for a single sign that CT, contours and dose lie elsewhere, or for all where none is refused.

    Raises:
        DataError: when two signs agree, and `refuse` is set.
    """
    if len(signs) > 1 and refuse:
        raise DataError(
            f"CT, contours and dose do not fit each other: {'; '.join(signs)}; export all of them again, or set "
            f"data.options.contradictions to remark to read them as they are"
        )
    return (f"CT, contours and dose: {'; '.join(signs)}; look at them",) if signs else ()


def _moved(part: Mask, whole: Mask, spacing_mm: Spacing) -> tuple[int, int, list[float]]:
    """Return how much of a part lies in the whole, how much at most when the part is moved, and by how many mm."""
    from scipy import fft

    sizes = [fft.next_fast_len(2 * edge - 1, real=True) for edge in part.shape]
    both = [fft.rfftn(volume.astype(np.float32), sizes) for volume in (whole, part)]
    shared = fft.irfftn(both[0] * np.conj(both[1]), sizes)
    within = [min(int(_REACH_MM / mm), edge - 1) for mm, edge in zip(spacing_mm, part.shape, strict=True)]
    moves = [np.r_[0 : most + 1, -most:0] for most in within]
    found = shared[np.ix_(*moves)]
    at = np.unravel_index(int(np.argmax(found)), found.shape)
    moved = [float(move[index]) * mm for move, index, mm in zip(moves, at, spacing_mm, strict=True)]
    return round(float(found[0, 0, 0])), round(float(found[at])), moved


def _hottest(dose: npt.NDArray[np.floating], size: int) -> Mask:
    """Return the voxels with the highest dose, as many as asked for, and those with little less; none without dose."""
    least = float(np.partition(dose.ravel(), -size)[-size])
    return (dose >= _LITTLE_LESS * least) & (dose > 0)


def _alike(one: Mask, other: Mask) -> float:
    return float(np.count_nonzero(one & other)) / max(1, int(np.count_nonzero(one | other)))


def _range(taken: Mask) -> slice:
    places = np.flatnonzero(taken)
    return slice(int(places[0]), int(places[-1]) + 1)


def _steps(shape: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(None, None, -(-edge // _MOST_EDGE)) for edge in shape)


def _coarse(spacing_mm: Spacing, step: Sequence[slice]) -> Spacing:
    first, second, third = (edge * one.step for edge, one in zip(spacing_mm, step, strict=True))
    return first, second, third


def _by(moved: Sequence[float]) -> str:
    """Return a movement in words, without what is no more than rounding."""
    named = [
        f"{abs(mm):.0f} mm to {ends[0] if mm > 0 else ends[1]}"
        for mm, ends in zip(moved, _DIRECTIONS, strict=True)
        if abs(mm) >= _LEAST_MM / 2
    ]
    return f"about {' and '.join(named)}"
