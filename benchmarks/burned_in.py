"""How often text is seen in real pictures that hold none, and how often in the same pictures with text drawn into them.

python benchmarks/burned_in.py FOLDER [--pictures N]
"""

from __future__ import annotations

import argparse
import io
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ctan.intake.burned_in import holds_text

TEXTS = ("DOE JOHN", "1957-03-12", "ID 4711-22", "Mustermann, E")
COLOURS = {"white": (255, 255, 255), "black": (0, 0, 0), "yellow": (255, 255, 0), "green": (0, 255, 0)}
HEIGHTS = (8, 10, 12, 14, 18, 24, 32)  # of the font, pixels


def seen(picture: Image.Image) -> bool:
    return holds_text(np.moveaxis(np.asarray(picture.convert("RGB")), -1, 0))


def drawn(picture: Image.Image, height: int, colour: tuple[int, int, int], rng: random.Random) -> Image.Image:
    """Return a copy with a line of text anywhere in it, saved as JPEG."""
    picture = picture.convert("RGB")
    draw, font, text = ImageDraw.Draw(picture), ImageFont.load_default(height), rng.choice(TEXTS)
    left = rng.randint(0, max(0, picture.width - int(draw.textlength(text, font))))
    draw.text((left, rng.randint(0, picture.height - height - 2)), text, fill=colour, font=font)
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=90)
    return Image.open(stream)


def hits(files: list[Path], rng: random.Random) -> Iterator[str]:
    for height in HEIGHTS:
        found = {
            name: sum(seen(drawn(Image.open(file), height, colour, rng)) for file in files) / len(files)
            for name, colour in COLOURS.items()
        }
        yield f"{height:2} px: " + ", ".join(f"{name} {share:.0%}" for name, share in found.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int, default=100, help="with text drawn into them")
    asked = parser.parse_args()
    files = sorted(asked.folder.rglob("*.jpg"))
    alarms = [file.name for file in files if seen(Image.open(file))]
    print(f"text seen in {len(alarms)} of {len(files):,} pictures: {', '.join(alarms[:20])}", flush=True)
    rng = random.Random(0)  # noqa: S311
    for line in hits(rng.sample(files, min(asked.pictures, len(files))), rng):
        print(line, flush=True)


if __name__ == "__main__":
    main()
