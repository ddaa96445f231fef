"""Synthetic HAM10000: raw files in exactly that format, small, the same bytes wherever they are written.

A phantom is a lesion on skin with hairs, texture, a dark rim of the picture and uneven light. Diagnosis decides the
ranges that size, outline, colours and their pattern are drawn from. The ranges overlap, and one lesion in five looks
half like another diagnosis, so that the diagnosis must be learned and cannot be learned without error.

Everything is computed with additions, products, quotients and square roots, which round alike on every platform.
Ids start at 9000001: no real picture of HAM10000 has such a number.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ctan.datasets.ham10000.format import IMAGE_FOLDERS, MASK_ENDING, MASK_FOLDERS
from ctan.datasets.ham10000.table import COLUMNS, TABLE_FILE
from ctan.errors import ConfigError, DataError

Plane = npt.NDArray[np.float64]
Colour = tuple[float, float, float]

PHANTOM_SHAPE = (112, 150)  # height, width; real pictures are 450 x 600
FIRST_NUMBER = 9_000_001
_SHARES = {  # of the pictures of HAM10000, commonest first
    "nv": 0.6695,
    "mel": 0.1111,
    "bkl": 0.1097,
    "bcc": 0.0513,
    "akiec": 0.0327,
    "vasc": 0.0142,
    "df": 0.0115,
}
_ANOTHER_VIEW = 0.25  # chance that a picture shows a lesion that was there before
_ATYPICAL = 0.2  # chance that a lesion looks half like another diagnosis
_QUALITY = 85  # of the JPEG


class _Look(NamedTuple):
    """How lesions of a diagnosis look on average. Lengths are in units of half the picture's height.

    `red`, `green`, `blue` (0..255) are the main colour; `dark` to `scales` are how much of a pattern shows, 0 to 1.
    """

    size: float
    asymmetry: float  # amplitude of the slow waves of the outline, as a share of the radius
    irregularity: float  # amplitude of its quick waves
    softness: float  # width of the border
    red: float
    green: float
    blue: float
    dark: float  # nearly black blotches
    veil: float  # blue-grey veil
    lacunes: float  # red lakes
    pale: float  # white centre
    scales: float  # small bright spots


_LOOKS = {
    "akiec": _Look(0.55, 0.08, 0.05, 0.40, 194, 112, 104, 0.0, 0.0, 0.15, 0.1, 0.6),
    "bcc": _Look(0.50, 0.09, 0.04, 0.30, 198, 128, 126, 0.1, 0.5, 0.2, 0.1, 0.1),
    "bkl": _Look(0.55, 0.07, 0.04, 0.10, 165, 122, 98, 0.1, 0.1, 0.0, 0.0, 0.6),
    "df": _Look(0.40, 0.04, 0.02, 0.40, 180, 124, 108, 0.0, 0.0, 0.0, 0.8, 0.1),
    "mel": _Look(0.65, 0.15, 0.07, 0.20, 124, 78, 68, 0.8, 0.5, 0.1, 0.1, 0.1),
    "nv": _Look(0.48, 0.05, 0.02, 0.18, 152, 98, 76, 0.3, 0.0, 0.0, 0.0, 0.0),
    "vasc": _Look(0.40, 0.05, 0.03, 0.12, 176, 72, 84, 0.1, 0.1, 0.8, 0.0, 0.0),
}
_JITTER = _Look(0.10, 0.03, 0.015, 0.05, 16, 16, 16, 0.25, 0.2, 0.2, 0.2, 0.25)  # largest change of one lesion
_LEAST = _Look(0.22, 0.01, 0.005, 0.06, 0, 0, 0, 0, 0, 0, 0, 0)

# What a pattern's spots are coloured, and how many of them fit into the picture's height.
_PATTERNS: dict[str, tuple[Colour, int]] = {
    "dark": ((62, 42, 42), 7),
    "veil": ((112, 116, 142), 5),
    "lacunes": ((142, 28, 48), 12),
    "scales": ((232, 212, 200), 26),
}
_PALE: Colour = (236, 206, 200)
_SKIN, _HAIR = (222, 164, 160), (70, 55, 50)
_PLACES = ("back", "lower extremity", "trunk", "upper extremity", "abdomen", "face")
_PLACES_IN_THE_SUN = ("face", "scalp", "neck", "ear", "hand", "unknown")


def write_ham10000_phantoms(
    output_dir: Path,
    num_train: int,
    num_validation: int,
    seed: int,
    defects: Sequence[str] = (),
    shape: tuple[int, int] = PHANTOM_SHAPE,
) -> None:
    """Write synthetic lesions in the raw format of HAM10000, see `ctan.datasets.ham10000.reader`.

    There is no official split, so both numbers are added up. Every diagnosis is there twice, as two lesions, from 14
    pictures on; further pictures bring the diagnoses towards their shares in HAM10000.

    Args:
        output_dir: receives the table, both folders of pictures and the folder of masks.
        num_train: pictures.
        num_validation: further pictures.
        seed: the same seed gives the same bytes; those of a picture depend on seed, number and shape only.
        defects: names of `ctan.datasets.ham10000.defects`; the first one spoils the first picture, and so on.
        shape: height and width in pixels.

    Raises:
        ConfigError: when a defect is not known, or there are more of them than pictures.
        DataError: when the folder holds a metadata table already.
    """
    from ctan.datasets.ham10000.defects import check_defects, spoil

    num_images = num_train + num_validation
    check_defects(defects, num_images)
    if min(shape) < 64:
        raise ConfigError(f"shape: pictures of {shape[1]} x {shape[0]} pixels; expected 64 or more along each edge")
    table = output_dir / TABLE_FILE
    if table.exists():
        raise DataError(f"{table}: exists already; phantoms are written to a new folder only")
    for folder in (*IMAGE_FOLDERS[:2], MASK_FOLDERS[0]):
        (output_dir / folder).mkdir(parents=True, exist_ok=True)
    rows = []
    for number, (lesion, diagnosis) in enumerate(_plan(num_images, seed)):
        image_id = f"ISIC_{FIRST_NUMBER + number:07d}"
        rgb, mask = lesion_picture(
            diagnosis, np.random.default_rng([seed, 0, lesion]), np.random.default_rng([seed, 1, number]), shape
        )
        _write_picture(
            rgb,
            mask,
            output_dir / IMAGE_FOLDERS[number % 2] / f"{image_id}.jpg",
            output_dir / MASK_FOLDERS[0] / f"{image_id}{MASK_ENDING}",
        )
        rows.append(_table_row(image_id, lesion, diagnosis, np.random.default_rng([seed, 2, lesion])))
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerows([COLUMNS, *sorted(rows)])  # by lesion, not by picture
    table.write_bytes(text.getvalue().encode())
    for number, defect in enumerate(defects):
        spoil(output_dir, f"ISIC_{FIRST_NUMBER + number:07d}", defect)


def _plan(num_images: int, seed: int) -> list[tuple[int, str]]:
    """Return lesion number and diagnosis of every picture; the first n do not depend on how many follow."""
    plan: list[tuple[int, str]] = []
    lesions: dict[str, list[int]] = {diagnosis: [] for diagnosis in _SHARES}
    counts = dict.fromkeys(_SHARES, 0)
    num_lesions = 0
    for number in range(num_images):
        if number < 2 * len(_SHARES):
            diagnosis = list(_SHARES)[number % len(_SHARES)]
        else:
            diagnosis = max(_SHARES, key=lambda name: _SHARES[name] * (number + 1) - counts[name])
        rng = np.random.default_rng([seed, 3, number])
        if len(lesions[diagnosis]) >= 2 and rng.random() < _ANOTHER_VIEW:
            lesion = lesions[diagnosis][int(rng.integers(len(lesions[diagnosis])))]
        else:
            lesion, num_lesions = num_lesions, num_lesions + 1
            lesions[diagnosis].append(lesion)
        counts[diagnosis] += 1
        plan.append((lesion, diagnosis))
    return plan


def _table_row(image_id: str, lesion: int, diagnosis: str, rng: np.random.Generator) -> tuple[str, ...]:
    """Return a row of the table; pictures of one lesion differ in the image id only."""
    young = diagnosis in ("nv", "vasc", "df")
    age = str(5 * int(rng.integers(4, 15) if young else rng.integers(9, 18)))
    sun = diagnosis in ("akiec", "bcc", "bkl") and rng.random() < 0.6
    place = str(rng.choice(_PLACES_IN_THE_SUN if sun else _PLACES))
    confirmed = str(rng.choice(["histo", "follow_up", "consensus"])) if young else "histo"
    sex = "male" if rng.random() < 0.54 else "female"
    if rng.random() < 0.03:
        age, sex = "", "unknown"
    return f"HAM_{FIRST_NUMBER + lesion:07d}", image_id, diagnosis, confirmed, age, sex, place


def lesion_picture(
    diagnosis: str, lesion_rng: np.random.Generator, view_rng: np.random.Generator, shape: tuple[int, int]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Draw one picture of a lesion.

    Args:
        diagnosis: which ranges its look is drawn from.
        lesion_rng: decides what the lesion looks like.
        view_rng: decides place, direction, light, hairs and noise.
        shape: height and width in pixels.

    Returns:
        (height, width, 3) colours and (height, width) mask of the lesion.
    """
    look, tone = _look(diagnosis, lesion_rng), lesion_rng.uniform(-14, 14)
    y, x = _grid(shape)
    radius, outline = _outline(look, lesion_rng, view_rng, x, y)
    inside = np.clip((outline - radius) / look.softness + 0.5, 0, 1)

    skin = np.array(_SKIN) + tone + view_rng.uniform(-5, 5, 3)
    picture = (
        skin + 14 * (_spots(view_rng, shape, 9) - 0.5)[..., None] + 10 * (_spots(view_rng, shape, 30) - 0.5)[..., None]
    )
    lesion = _lesion_colours(look, radius / outline, view_rng, shape)
    picture = _mixed(picture, lesion, inside)
    for _ in range(int(view_rng.integers(0, 6))):
        picture = _mixed(picture, np.array(_HAIR), _hair(view_rng, x, y))
    corner = x * x + y * y
    picture = picture * (1 - view_rng.uniform(0, 0.22) * corner * corner / (1 + corner))[..., None]
    picture = picture * view_rng.uniform(0.93, 1.07) * view_rng.uniform(0.97, 1.03, 3)
    picture = picture + view_rng.integers(-5, 6, picture.shape)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8), radius <= outline


def _look(diagnosis: str, rng: np.random.Generator) -> _Look:
    """Return how one lesion looks: the average of its diagnosis, changed at random, sometimes half another one."""
    mean = np.array(_LOOKS[diagnosis])
    other = np.array(_LOOKS[str(rng.choice(sorted(_LOOKS)))])
    if rng.random() < _ATYPICAL:
        mean = (mean + other) / 2
    changed = mean + np.array(_JITTER) * rng.uniform(-1, 1, len(mean))
    return _Look(*np.maximum(changed, _LEAST).tolist())


def _grid(shape: tuple[int, int]) -> tuple[Plane, Plane]:
    """Return rows and columns in units of half the picture's height, 0 in the middle."""
    height, width = shape
    rows, columns = np.mgrid[0:height, 0:width]
    return (2 * rows + 1 - height) / height, (2 * columns + 1 - width) / height


def _direction(rng: np.random.Generator) -> tuple[float, float]:
    """Return cosine and sine of a random angle, without computing either."""
    while True:
        x, y = rng.uniform(-1, 1, 2).tolist()
        square = x * x + y * y
        if 0.01 < square <= 1:
            length = float(np.sqrt(square))
            return x / length, y / length


def _outline(
    look: _Look, lesion_rng: np.random.Generator, view_rng: np.random.Generator, x: Plane, y: Plane
) -> tuple[Plane, Plane]:
    """Return for every pixel its distance to the lesion's middle and how far the lesion reaches in its direction.

    The reach is a sum of waves cos(k angle), sin(k angle): slow ones make the lesion asymmetric, quick ones its border
    irregular. They follow from cos and sin of the angle itself by their recurrence.
    """
    (cosine, sine), (down, right) = _direction(view_rng), view_rng.uniform(-0.13, 0.13, 2)
    size = look.size * view_rng.uniform(0.9, 1.1)
    stretch = lesion_rng.uniform(1, 1.2)
    along = (cosine * (x - right) + sine * (y - down)) / (size * stretch)
    across = (cosine * (y - down) - sine * (x - right)) * stretch / size
    radius = np.maximum(np.sqrt(along * along + across * across), 1e-6)
    first = np.stack([along / radius, across / radius])
    before, wave = np.stack([np.ones_like(radius), np.zeros_like(radius)]), first
    reach = np.ones_like(radius)
    for frequency in range(1, 10):
        amplitude = look.asymmetry if frequency <= 3 else look.irregularity
        weights = amplitude * lesion_rng.uniform(-1, 1, 2)
        reach = reach + weights[0] * wave[0] + weights[1] * wave[1]
        before, wave = wave, 2 * first[0] * wave - before
    return radius, np.maximum(reach, 0.3)


def _lesion_colours(look: _Look, depth: Plane, rng: np.random.Generator, shape: tuple[int, int]) -> Plane:
    """Return the lesion's colours at every pixel; `depth` is 0 in its middle and 1 at its border."""
    shade = 16 * (_spots(rng, shape, 8) - 0.5) + 14 * (_spots(rng, shape, 22) - 0.5)
    colours = np.array([look.red, look.green, look.blue]) + shade[..., None]
    for name, (colour, spots_per_height) in _PATTERNS.items():
        spots = np.clip(6 * (_spots(rng, shape, spots_per_height) - 0.58), 0, 1)
        colours = _mixed(colours, np.array(colour), min(getattr(look, name), 1) * spots)
    centre = np.clip(1.5 - 3 * depth, 0, 1)
    return _mixed(colours, np.array(_PALE), 0.8 * min(look.pale, 1) * centre)


def _mixed(below: Plane, above: Plane, weight: Plane) -> Plane:
    return below + (above - below) * weight[..., None]


def _spots(rng: np.random.Generator, shape: tuple[int, int], per_height: int) -> Plane:
    """Return smooth noise within 0..1: random values on a coarse grid, joined without edges."""
    height, width = shape
    rows, columns = (np.arange(size) * per_height / height for size in (height, width))
    coarse = rng.random((int(rows[-1]) + 2, int(columns[-1]) + 2))
    top, left = rows.astype(int), columns.astype(int)
    down, right = rows - top, columns - left
    down, right = (part * part * (3 - 2 * part) for part in (down, right))
    upper, lower = coarse[top], coarse[top + 1]
    between = upper + (lower - upper) * down[:, None]
    return between[:, left] + (between[:, left + 1] - between[:, left]) * right


def _hair(rng: np.random.Generator, x: Plane, y: Plane) -> Plane:
    """Return how much a slightly bent hair covers every pixel."""
    cosine, sine = _direction(rng)
    along, across = cosine * x + sine * y, cosine * y - sine * x
    away = np.abs(across - rng.uniform(-1, 1) - rng.uniform(-0.3, 0.3) * along * along)
    return 0.8 * np.clip(1.5 - away / rng.uniform(0.012, 0.02), 0, 1)


def _write_picture(rgb: npt.NDArray[np.uint8], mask: npt.NDArray[np.bool_], image_path: Path, mask_path: Path) -> None:
    from PIL import Image

    Image.fromarray(rgb).save(image_path, format="JPEG", quality=_QUALITY)
    Image.fromarray(np.where(mask, np.uint8(255), np.uint8(0))).save(mask_path, format="PNG")
