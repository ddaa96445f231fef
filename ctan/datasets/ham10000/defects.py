"""Damages that copies of HAM10000 have in circulation, to plant in phantoms."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from ctan.datasets.ham10000.format import IMAGE_FOLDERS, MASK_ENDING, MASK_FOLDERS
from ctan.datasets.ham10000.table import COLUMNS, TABLE_FILE
from ctan.errors import ConfigError

_WORDS = {
    "akiec": "Actinic keratoses",
    "bcc": "Basal cell carcinoma",
    "bkl": "Benign keratosis-like lesions",
    "df": "Dermatofibroma",
    "mel": "Melanoma",
    "nv": "Melanocytic nevi",
    "vasc": "Vascular lesions",
}

Rows = list[dict[str, str]]


def check_defects(defects: Sequence[str], num_images: int) -> None:
    """Refuse defects that are not known, or more of them than pictures.

    Raises:
        ConfigError: listing the known names.
    """
    unknown = [name for name in defects if name not in DEFECTS]
    if unknown:
        raise ConfigError(f"defects: unknown {', '.join(unknown)}; known: {', '.join(DEFECTS)}")
    if len(defects) > num_images:
        raise ConfigError(f"defects: {len(defects)} of them, but {num_images} pictures; each needs one of its own")


def spoil(root: Path, image_id: str, defect: str) -> None:
    """Plant a defect in one picture of a folder; those called `table-...` change the table as a whole."""
    DEFECTS[defect](root, image_id)


def _image(root: Path, image_id: str) -> Path:
    return next(path for folder in IMAGE_FOLDERS if (path := root / folder / f"{image_id}.jpg").is_file())


def _mask(root: Path, image_id: str) -> Path:
    return root / MASK_FOLDERS[0] / f"{image_id}{MASK_ENDING}"


def _change_rows(root: Path, change: Callable[[Rows], Rows], columns: Sequence[str] = COLUMNS) -> None:
    path = root / TABLE_FILE
    rows = change(list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline=""))))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\r\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    path.write_bytes(text.getvalue().encode())


def _change_row(root: Path, image_id: str, change: Callable[[dict[str, str]], Rows]) -> None:
    """Put the rows that `change` returns in the place of a picture's row."""
    _change_rows(
        root, lambda rows: [new for row in rows for new in (change(row) if row["image_id"] == image_id else [row])]
    )


def _set(column: str, value: str | Callable[[str], str]) -> Callable[[Path, str], None]:
    """Return a defect that changes one value of a picture's row."""

    def defect(root: Path, image_id: str) -> None:
        _change_row(root, image_id, lambda row: [row | {column: value(row[column]) if callable(value) else value}])

    return defect


def _set_all(column: str, value: Callable[[str], str]) -> Callable[[Path, str], None]:
    def defect(root: Path, _: str) -> None:
        _change_rows(root, lambda rows: [row | {column: value(row[column])} for row in rows])

    return defect


def _two_diagnoses(root: Path, image_id: str) -> None:
    """Add a picture's row again, for a picture that is not there, with another diagnosis."""
    _change_row(
        root,
        image_id,
        lambda row: [row, row | {"image_id": "ISIC_9999999", "dx": "nv" if row["dx"] != "nv" else "mel"}],
    )


def _cut(which: Callable[[Path, str], Path], share: float, root: Path, image_id: str) -> None:
    path = which(root, image_id)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


def _zero_tail(root: Path, image_id: str) -> None:
    """Keep the length of a picture's file, as a download that was broken off and reserved its place before."""
    path = _image(root, image_id)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2].ljust(len(content), b"\0"))


def _convert_image(mode: str, file_format: str, suffix: str, root: Path, image_id: str) -> None:
    from PIL import Image

    path = _image(root, image_id)
    with Image.open(path) as picture:
        converted = picture.convert(mode)
    path.unlink()
    converted.save(path.with_suffix(suffix), format=file_format)


def _shrink_image(root: Path, image_id: str) -> None:
    from PIL import Image

    path = _image(root, image_id)
    with Image.open(path) as picture:
        small = picture.resize((48, 36))
    small.save(path, format="JPEG")


def _change_mask(change: Callable[[int], int], mode: str, root: Path, image_id: str) -> None:
    """Change every value of a mask."""
    from PIL import Image

    path = _mask(root, image_id)
    with Image.open(path) as picture:
        changed = picture.point([change(value) for value in range(256)]).convert(mode)
    changed.save(path, format="PNG")


def _red_mask(root: Path, image_id: str) -> None:
    """Draw a mask in red instead of white."""
    from PIL import Image

    path = _mask(root, image_id)
    with Image.open(path) as picture:
        black = Image.new("L", picture.size)
        red = Image.merge("RGB", (picture, black, black))
    red.save(path, format="PNG")


def _resize_mask(edges: float, smooth: bool, root: Path, image_id: str) -> None:
    """Resize a mask by a factor; smoothly, and back to its size, so that its border becomes grey."""
    from PIL import Image

    path = _mask(root, image_id)
    with Image.open(path) as picture:
        size = picture.size
        method = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
        resized = picture.resize((int(size[0] * edges), int(size[1] * edges)), method)
    (resized.resize(size, method) if smooth else resized).save(path, format="PNG")


def _image_twice(root: Path, image_id: str) -> None:
    path = _image(root, image_id)
    other = next(folder for folder in IMAGE_FOLDERS[:2] if folder != path.parent.name)
    shutil.copyfile(path, root / other / path.name)


def _without_column(root: Path, _: str) -> None:
    _change_rows(root, list, [name for name in COLUMNS if name != "dx_type"])


def _rewrite_table(change: Callable[[bytes], bytes], root: Path, _: str) -> None:
    path = root / TABLE_FILE
    path.write_bytes(change(path.read_bytes()))


DEFECTS: dict[str, Callable[[Path, str], None]] = {
    "image-missing": lambda root, image_id: _image(root, image_id).unlink(),
    "image-empty": partial(_cut, _image, 0),
    "image-cut-at-half": partial(_cut, _image, 0.5),
    "image-cut-at-90-percent": partial(_cut, _image, 0.9),
    "image-zeros-at-the-end": _zero_tail,
    "image-grey": partial(_convert_image, "L", "JPEG", ".jpg"),
    "image-png": partial(_convert_image, "RGB", "PNG", ".png"),
    "image-png-named-jpg": partial(_convert_image, "RGB", "PNG", ".jpg"),
    "image-tiny": _shrink_image,
    "image-twice": _image_twice,
    "mask-missing": lambda root, image_id: _mask(root, image_id).unlink(),
    "mask-empty-file": partial(_cut, _mask, 0),
    "mask-cut": partial(_cut, _mask, 0.8),
    "mask-of-another-size": partial(_resize_mask, 0.5, False),
    "mask-grey-border": partial(_resize_mask, 0.5, True),
    "mask-ones": partial(_change_mask, lambda value: min(value, 1), "L"),
    "mask-in-colour": _red_mask,
    "mask-blank": partial(_change_mask, lambda _: 0, "L"),
    "mask-full": partial(_change_mask, lambda _: 255, "L"),
    "row-lost": lambda root, image_id: _change_row(root, image_id, lambda _: []),
    "row-twice": lambda root, image_id: _change_row(root, image_id, lambda row: [row, row]),
    "row-without-lesion": _set("lesion_id", ""),
    "diagnosis-in-words": _set("dx", lambda code: _WORDS[code]),
    "diagnosis-unknown": _set("dx", "scc"),
    "two-diagnoses": _two_diagnoses,
    "jpg-in-image-id": _set("image_id", lambda name: f"{name}.jpg"),
    "age-in-words": _set("age", "forty"),
    "age-implausible": _set("age", "450"),
    "sex-abbreviated": _set("sex", "f"),
    "table-diagnoses-in-words": _set_all("dx", lambda code: _WORDS[code]),
    "table-jpg-in-image-ids": _set_all("image_id", lambda name: f"{name}.jpg"),
    "table-without-a-column": _without_column,
    "table-semicolons": partial(_rewrite_table, lambda content: content.replace(b",", b";")),
    "table-byte-order-mark": partial(_rewrite_table, lambda content: b"\xef\xbb\xbf" + content),
    "table-missing": lambda root, _: (root / TABLE_FILE).unlink(),
}
