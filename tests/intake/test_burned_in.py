"""Text that was drawn into a picture, which may be a name, is remarked; what looks like it is not."""

from __future__ import annotations

import io
import os
import random
import tarfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw, ImageFont

from ctan.datasets import get_dataset
from ctan.intake.burned_in import REMARK, holds_text
from ctan.intake.ingest import ingest
from ctan.settings import load_config

REAL = os.environ.get("CTAN_TEST_DATA")
SKIN = (224, 170, 150)


def skin(rng: np.random.Generator, size: tuple[int, int] = (300, 400)) -> Image.Image:
    """Return a smooth, noisy picture of skin with a dark lesion."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    lesion = np.hypot(rows - size[0] / 2, (columns - size[1] / 2) * 0.8) < size[0] / 4
    values = np.array(SKIN) * (1 - 0.55 * lesion[..., None]) + rng.normal(0, 4, (*size, 3))
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def pixels(picture: Image.Image) -> npt.NDArray[np.uint8]:
    """Return what a JPEG of it holds, (3, height, width)."""
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=90)
    return np.moveaxis(np.asarray(Image.open(stream)), -1, 0)


def written(picture: Image.Image, height: int, colour: tuple[int, int, int], text: str) -> Image.Image:
    drawn = picture.copy()
    ImageDraw.Draw(drawn).text((20, 15), text, fill=colour, font=ImageFont.load_default(height))
    return drawn


WHITE, BLACK, YELLOW = (255, 255, 255), (0, 0, 0), (255, 255, 0)


@pytest.mark.parametrize(("height", "colour"), [(14, WHITE), (14, BLACK), (18, WHITE), (24, YELLOW), (36, BLACK)])
@pytest.mark.parametrize("text", ["DOE JOHN", "ID 4711-22", "Mustermann, E"])
def test_text_of_usual_sizes_and_colours_is_seen(height: int, colour: tuple[int, int, int], text: str) -> None:
    assert holds_text(pixels(written(skin(np.random.default_rng(0)), height, colour, text)))


def test_grey_pictures_and_large_ones_are_looked_at_too() -> None:
    large = written(skin(np.random.default_rng(1), (1500, 2000)), 90, (255, 255, 255), "DOE JOHN")
    assert holds_text(pixels(large))
    grey = np.asarray(written(skin(np.random.default_rng(1)), 20, (255, 255, 255), "DOE JOHN").convert("L"))
    assert holds_text(grey)
    assert holds_text(grey[None])


def hairs(draw: ImageDraw.ImageDraw, rng: random.Random) -> None:
    for _ in range(60):
        ends = [rng.randint(0, 399), rng.randint(0, 299), rng.randint(0, 399), rng.randint(0, 299)]
        draw.line(ends, fill=(40, 25, 20), width=rng.choice((1, 2)))


def bubbles(draw: ImageDraw.ImageDraw, rng: random.Random) -> None:
    for _ in range(80):
        x, y, size = rng.randint(0, 399), rng.randint(0, 299), rng.randint(3, 12)
        draw.ellipse((x, y, x + size, y + size), fill=(255, 255, 255))


def ruler(draw: ImageDraw.ImageDraw, rng: random.Random) -> None:
    for index in range(60):
        draw.line((20 + 6 * index, 280, 20 + 6 * index, 268 if index % 5 else 260), fill=(0, 0, 0), width=1)


@pytest.mark.parametrize("drawn", [hairs, bubbles, ruler])
@pytest.mark.parametrize("seed", range(5))
def test_hairs_bubbles_and_scales_are_no_text(drawn: object, seed: int) -> None:
    picture = skin(np.random.default_rng(seed))
    drawn(ImageDraw.Draw(picture), random.Random(seed))  # type: ignore[operator]
    assert not holds_text(pixels(picture))


def test_an_ingestion_remarks_the_case_and_no_other(tmp_path: Path) -> None:
    get_dataset("ham10000").write_phantoms(tmp_path / "raw", 6, 2, 0)
    config = load_config("smoke", {"data.dataset": "ham10000"})
    found = ingest(str(tmp_path / "raw"), tmp_path / "before", config, num_workers=0)
    assert not any(REMARK in remark for remark in found.remarks), "phantoms hold none"
    path = sorted((tmp_path / "raw").rglob("*.jpg"))[2]
    written(Image.open(path), 18, (255, 255, 255), "DOE JOHN 1957").save(path, quality=95)
    found = ingest(str(tmp_path / "raw"), tmp_path / "after", config, num_workers=0)
    (said,) = [remark for remark in found.remarks if REMARK in remark]
    assert said == f"{REMARK}: 1 case ({path.stem})"


@pytest.mark.skipif(not REAL, reason="CTAN_TEST_DATA names no real data")
def test_few_real_pictures_raise_a_false_alarm() -> None:
    """1,000 of the 8,020 that `benchmarks/burned_in.py` looks at."""
    with tarfile.open(Path(str(REAL)) / "ham10000" / "small-200x150.tar") as archive:
        names = sorted(name for name in archive.getnames() if name.endswith(".jpg"))
        alarms = 0
        for name in random.Random(0).sample(names, 1000):
            stream = archive.extractfile(name)
            assert stream is not None
            alarms += holds_text(np.moveaxis(np.asarray(Image.open(io.BytesIO(stream.read()))), -1, 0))
    assert alarms <= 2
