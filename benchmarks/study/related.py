"""Pictures of two tasks with a dial for how much they have in common: `python -m benchmarks.study.related FOLDER`.

A faint ellipse lies on faint stripes. One task is its contour. The other is a number, made of two things that are drawn
apart: how tall the ellipse is for its width, which whoever finds its contour knows, and how steep the stripes are,
which says nothing of the contour. The dial mixes them: at 1 the number is a matter of the contour alone, at 0 of the
stripes alone. Pictures and contours are the same at every setting, and the number's spread is.
"""

from __future__ import annotations

import argparse
import csv
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import yaml
from PIL import Image

SHAPE = (48, 64)


def main() -> None:
    """Write a folder for `--dataset folder`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="written; must not exist")
    parser.add_argument("--relatedness", type=float, default=0.5, help="0 to 1")
    parser.add_argument("--cases", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    if not 0 <= asked.relatedness <= 1:
        parser.error("--relatedness is from 0 to 1")
    write(asked.folder, asked.relatedness, asked.cases, asked.seed)


def write(folder: Path, relatedness: float, cases: int, seed: int = 0) -> None:
    """Write pictures, contours, numbers and their description."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    norm = math.hypot(relatedness, 1 - relatedness)
    with (folder / "table.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["case", "number"])
        for case in range(cases):
            picture, mask, tallness, steepness = draw(np.random.default_rng([seed, case]))
            number = (relatedness * tallness + (1 - relatedness) * steepness) / norm
            table.writerow([f"case_{case:04d}", f"{number:.6f}"])
            Image.fromarray(picture).save(folder / "images" / f"case_{case:04d}.png")
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "masks" / f"case_{case:04d}.png")
    described = {
        "name": f"related{round(100 * relatedness)}",
        "image": {"files": ["images/{case}.png"], "modality": "other"},
        "masks": {"Ellipse": "masks/{case}.png"},
        "table": {"file": "table.csv", "case": "case"},
        "numbers": {"number": {"column": "number", "unit": "1"}},
    }
    (folder / "dataset.yaml").write_text(yaml.safe_dump(described, sort_keys=False))


def draw(rng: np.random.Generator) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_], float, float]:
    """Return a picture, the ellipse in it, and the two things that numbers are made of, each uniform in -1 to 1."""
    tallness, steepness = rng.uniform(-1, 1, 2)
    radius, stretch = rng.uniform(5, 9), math.exp(0.5 * tallness)
    centre = [rng.uniform(14, size - 14) for size in SHAPE]
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    mask = ((rows - centre[0]) / (radius * stretch)) ** 2 + ((columns - centre[1]) / (radius / stretch)) ** 2 <= 1
    angle = math.pi / 4 * (1 + steepness)
    stripes = np.sin((rows * math.cos(angle) + columns * math.sin(angle)) * 0.9 + rng.uniform(0, 2 * math.pi))
    picture = 128 + 7 * stripes + 22 * mask + rng.normal(0, 25, SHAPE)
    return picture.clip(0, 255).astype(np.uint8), mask, float(tallness), float(steepness)


if __name__ == "__main__":
    main()
