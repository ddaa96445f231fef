"""HAM10000: dermatoscopic pictures of pigmented skin lesions, the lesion's outline and its diagnosis.

Raw layout: `HAM10000_metadata.csv`; `HAM10000_images_part_1/` and `_part_2/` (or one folder `HAM10000_images/`) with
`ISIC_<7 digits>.jpg`, 600 x 450 RGB; `HAM10000_segmentations_lesion_tschandl/` (or `masks/`) with
`ISIC_<7 digits>_segmentation.png`, one channel, 0 and 255. One lesion may have several pictures, so cases are grouped
by `lesion_id`. How large a pixel is on the skin is not known: spacing is 1 by convention, distances are in pixels.
Sources: Tschandl et al., "The HAM10000 dataset", Scientific Data 5 (2018); masks: Tschandl et al., "Human-computer
collaboration for skin cancer recognition", Nature Medicine 26 (2020).
"""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from ctan.config import DataConfig, ValidationConfig
from ctan.datasets.base import Augmentation, Case, Expectation, File, ImageSpec, RawCase, between
from ctan.datasets.contents import files_in
from ctan.datasets.ham10000_table import CLASSES, OFFICIAL_NUMBERS, SOURCE, TABLE_FILE, read_table
from ctan.errors import CaseError, DataError
from ctan.files import sha256_of_digests
from ctan.tasks import Classification, Segmentation, Task

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_FOLDERS = ("HAM10000_images_part_1", "HAM10000_images_part_2", "HAM10000_images")
MASK_FOLDERS = ("HAM10000_segmentations_lesion_tschandl", "masks")
MASK_ENDING = "_segmentation.png"
SEXES = ("female", "male")
CONFIRMATIONS = ("histo", "follow_up", "consensus", "confocal")
LOCALIZATIONS = ("abdomen", "acral", "back", "chest", "ear", "face", "foot", "genital", "hand", "lower extremity",
                 "neck", "scalp", "trunk", "upper extremity")  # fmt: skip
_PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
_MIN_EDGE, _MAX_EDGE = 64, 10_000  # pixels
_LESION_SHARE = (0.0005, 0.995)  # of the picture
_JPEG_SCAN, _JPEG_END, _PNG_END = b"\xff\xda", b"\xff\xd9", b"IEND"

# Mean and standard deviation of red, green and blue over the training pictures, as often published for HAM10000
# (0.763, 0.546, 0.570 and 0.141, 0.153, 0.170 of full scale), in whole grey levels.
RGB = ImageSpec("rgb", "uint8", 3, low=0, high=255, mean=(195, 139, 145), std=(36, 39, 43), outside=0, unit="")


class HAM10000:
    """The reader and the tasks of HAM10000; implements `ctan.datasets.base.Dataset`."""

    name = "ham10000"
    spatial_dims: Literal[2, 3] = 2
    image = RGB
    structures = ("Lesion",)
    targets: Mapping[str, float] = {}
    has_dose = False
    labels: Mapping[str, tuple[str, ...]] = {"diagnosis": CLASSES}
    facts: Mapping[str, Literal["string", "float64"]] = {
        "age": "float64", "sex": "string", "localization": "string", "dx_type": "string"
    }  # fmt: skip
    strata: tuple[str, ...] = ("label_diagnosis",)
    tables: tuple[str, ...] = (TABLE_FILE,)
    keeps_native = True
    whole_image = True
    augmentation = Augmentation(flip_axes=(0, 1), rotate_plane=(0, 1), max_scale=0.1, colour=True)
    licence = f"CC BY-NC 4.0; HAM10000, P. Tschandl et al., Scientific Data 5 (2018), {SOURCE}"

    def __init__(self, config: DataConfig | None = None) -> None:
        self.config = config or DataConfig()

    def tasks(self) -> tuple[Task, ...]:
        """Return contouring of the lesion and its diagnosis."""
        return Segmentation("lesion", self.structures), Classification("diagnosis", CLASSES)

    def find(self, raw_dir: Path) -> list[RawCase]:
        """List every picture by its id. What is wrong with one is told by `read`, so that none is lost silently.

        Raises:
            DataError: when the folder holds no picture or no folder of masks, or the table as a whole is damaged.
        """
        pictures = _pictures(raw_dir)
        if not pictures:
            expected = ", ".join(f"{folder}/ISIC_<7 digits>.jpg" for folder in IMAGE_FOLDERS)
            found = "found none" if raw_dir.is_dir() else "the folder does not exist"
            raise DataError(f"{raw_dir}: no pictures of HAM10000, expected {expected}; {found}")
        if not any((raw_dir / folder).is_dir() for folder in MASK_FOLDERS):
            raise DataError(
                f"{raw_dir}: no folder of masks, expected {' or '.join(MASK_FOLDERS)}; it is part of {SOURCE}"
            )
        table = read_table(raw_dir)
        return [RawCase(case_id, table.lesion_of(case_id), "", paths[0]) for case_id, paths in pictures.items()]

    def files(self, raw_dir: Path) -> Iterator[File]:
        """List the pictures, and the masks of those."""
        image_ids = set()
        for folder in IMAGE_FOLDERS:
            for file in files_in(raw_dir / folder):
                if file.name.lower().endswith(_PICTURES):
                    image_ids.add(file.name.rpartition(".")[0])
                    yield file
        for folder in MASK_FOLDERS:
            for file in files_in(raw_dir / folder, MASK_ENDING):
                if file.name.removesuffix(MASK_ENDING) in image_ids:
                    yield file

    def remarks(self, raw_dir: Path) -> list[str]:
        """Say which part of the data set this is, and what shows that the table or the folders were changed."""
        table, pictures = read_table(raw_dir), _pictures(raw_dir)
        found = []
        num_absent = sum(len(rows) for image_id, rows in table.rows.items() if image_id not in pictures)
        if num_absent:
            found.append(
                f"{num_absent:,} of {table.num_rows:,} rows of the table have no image here: a part of the data set"
            )
        official = [image_id for number in OFFICIAL_NUMBERS if (image_id := f"ISIC_{number:07d}") in table.rows]
        if 0 < len(official) < len(OFFICIAL_NUMBERS):
            num_lost = len(OFFICIAL_NUMBERS) - len(official)
            found.append(f"{num_lost:,} of the {len(OFFICIAL_NUMBERS):,} official rows are missing in {TABLE_FILE}")
        if table.nameless:
            lines = ", ".join(map(str, table.nameless[:5])) + (", ..." if len(table.nameless) > 5 else "")
            found.append(f"rows of {TABLE_FILE} without an image_id: {len(table.nameless):,} (line {lines})")
        if table.has_byte_order_mark:
            found.append(f"{TABLE_FILE} starts with a byte order mark: a spreadsheet program saved this copy again")
        num_spare = sum(
            path.name.removesuffix(MASK_ENDING) not in pictures
            for folder in MASK_FOLDERS
            for path in (raw_dir / folder).glob(f"*{MASK_ENDING}")
        )
        if num_spare:
            found.append(f"masks without an image here: {num_spare:,}")
        return found

    def read(self, raw: RawCase) -> Case:
        """Read one picture, its mask and its row.

        Raises:
            CaseError: naming the file, what was expected and what was found.
        """
        try:
            return _read(raw)
        except DataError as error:
            raise CaseError(raw.case_id, str(error)) from error

    def expectations(self, limits: ValidationConfig) -> list[Expectation]:
        """Return what must hold of age, sex, place, confirmation and the lesion's share of the picture.

        One diagnosis a lesion, one row an image and the size of the picture are checked in reading.
        """
        low, high = _LESION_SHARE

        def one_of(column: str, values: Sequence[str], sentence: str) -> Expectation:
            arguments = {"column": column, "value_set": list(values)}
            return Expectation(column.replace("_", "-"), sentence, "", "ExpectColumnValuesToBeInSet", arguments)

        return [
            Expectation("lesion-present", "The lesion is outlined", "", "ExpectColumnValuesToNotBeNull",
                        {"column": "voxels_Lesion"}),
            between("lesion-share", "share_Lesion", low, high, "",
                    f"The lesion fills between {low:.2%} and {high:.1%} of the picture"),
            one_of("label_diagnosis", CLASSES, f"The diagnosis is one of {', '.join(CLASSES)}"),
            between("age", "age", 0, 120, "years", "The age, where known, is between 0 and 120 years"),
            one_of("sex", SEXES, f"The sex, where known, is one of {', '.join(SEXES)}"),
            one_of("localization", LOCALIZATIONS, f"The place, where known, is one of {', '.join(LOCALIZATIONS)}"),
            one_of("dx_type", CONFIRMATIONS, f"The diagnosis was confirmed by one of {', '.join(CONFIRMATIONS)}"),
        ]  # fmt: skip

    def write_phantoms(
        self, output_dir: Path, num_train: int, num_validation: int, seed: int, defects: Sequence[str] = ()
    ) -> None:
        """Write synthetic lesions, see `ctan.datasets.ham10000_phantom`."""
        from ctan.datasets.ham10000_phantom import write_ham10000_phantoms

        write_ham10000_phantoms(output_dir, num_train, num_validation, seed, defects)


def _pictures(root: Path) -> dict[str, list[Path]]:
    """Return image id -> its files, in the order of the ids; more than one file is a fault."""
    found: dict[str, list[Path]] = {}
    for folder in IMAGE_FOLDERS:
        for path in sorted((root / folder).glob("*")):
            if path.suffix.lower() in _PICTURES and not path.name.startswith("."):
                found.setdefault(path.stem, []).append(path)
    return dict(sorted(found.items()))


def _read(raw: RawCase) -> Case:
    root = raw.path.parent.parent
    others = [
        path
        for folder in IMAGE_FOLDERS
        for suffix in {raw.path.suffix: None, **dict.fromkeys(_PICTURES)}
        if (path := root / folder / f"{raw.case_id}{suffix}").is_file() and not path.samefile(raw.path)
    ]
    if others:
        files = " and ".join(f"{path.parent.name}/{path.name}" for path in (raw.path, *others))
        raise DataError(f"{files}: two files of one image; keep the official one")
    facts = read_table(root).facts_of(raw.case_id)
    image_bytes, mask_bytes = _read_bytes(raw.path), _read_mask_bytes(root, raw.case_id)
    image = _decode_image(image_bytes, raw.path.name)
    mask = _decode_mask(mask_bytes, f"{raw.case_id}{MASK_ENDING}", image.shape[1:])
    contents = {"image": image_bytes, "mask": mask_bytes, "row": facts.text.encode()}
    return Case(
        case_id=raw.case_id,
        group_id=facts.lesion_id,
        split=raw.split,
        spacing_mm=(1.0, 1.0),  # not known
        images={RGB.name: image},
        masks={"Lesion": mask},
        doses={},
        sha256=sha256_of_digests({name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}),
        labels={"diagnosis": facts.diagnosis},
        facts=facts.facts,
    )


def _read_bytes(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path.name}: cannot be read ({error.strerror})") from error
    if not content:
        raise DataError(f"{path.name}: the file is empty")
    return content


def _read_mask_bytes(root: Path, case_id: str) -> bytes:
    name = f"{case_id}{MASK_ENDING}"
    found = [path for folder in MASK_FOLDERS if (path := root / folder / name).exists()]
    if not found:
        raise DataError(f"{name} missing in {' and '.join(MASK_FOLDERS)}; every image needs a mask")
    if len(found) > 1:
        raise DataError(f"{name}: in {' and in '.join(MASK_FOLDERS)}; keep the official one")
    return _read_bytes(found[0])


def _decode_image(content: bytes, name: str) -> npt.NDArray[np.uint8]:
    """Return a colour JPEG as (3, height, width)."""
    picture = _open(content, name, "JPEG")
    if not all(_MIN_EDGE <= edge <= _MAX_EDGE for edge in picture.size):
        width, height = picture.size
        raise DataError(f"{name}: {width} x {height} pixels, expected edges between {_MIN_EDGE} and {_MAX_EDGE:,}")
    if content.find(_JPEG_END, content.rfind(_JPEG_SCAN)) < 0:  # libjpeg fills what is missing with grey
        raise DataError(f"{name}: truncated, the JPEG has no end marker after {len(content):,} bytes")
    if picture.mode != "RGB":
        raise DataError(f"{name}: expected a colour picture (RGB), found {_channels(picture.mode)}")
    return np.ascontiguousarray(np.moveaxis(_pixels(picture, name), -1, 0))


def _decode_mask(content: bytes, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """Return a mask as (height, width)."""
    picture = _open(content, name, "PNG")
    if _PNG_END not in content[-32:]:
        raise DataError(f"{name}: truncated, the PNG has no end marker after {len(content):,} bytes")
    if picture.mode not in ("L", "1"):
        raise DataError(f"{name}: expected one channel with 0 and 255, found {_channels(picture.mode)}")
    if picture.size != shape[::-1]:
        (width, height), (rows, columns) = picture.size, shape
        raise DataError(
            f"{name}: the mask has {width} x {height} pixels, its image {columns} x {rows}; "
            f"they do not belong together, or one was resized"
        )
    values = _pixels(picture, name)
    if values.dtype == bool:
        return values
    found = np.unique(values)
    if not np.isin(found, (0, 255)).all():
        hint = "; it was saved with losses or resized" if found.size > 2 else ""
        few = ", ".join(map(str, found[:5])) + (", ..." if found.size > 5 else "")
        raise DataError(f"{name}: expected the values 0 and 255, found {few}{hint}")
    return values > 0


def _open(content: bytes, name: str, expected: str) -> Image:
    """Return a picture whose pixels are not decoded yet; its format is checked."""
    import PIL.Image

    try:
        picture = PIL.Image.open(io.BytesIO(content))
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, PIL.Image.DecompressionBombError) as error:
        raise DataError(f"{name}: not a picture that can be read, expected a {expected}") from error
    if picture.format != expected:
        raise DataError(f"{name}: expected a {expected}, found a {picture.format}")
    return picture


def _pixels(picture: Image, name: str) -> npt.NDArray[Any]:
    try:
        return np.asarray(picture)
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error) as error:
        raise DataError(f"{name}: broken {picture.format}: {error}") from error


def _channels(mode: str) -> str:
    words = {"L": "one grey channel", "1": "black and white", "P": "a palette", "RGBA": "RGB and transparency"}
    return f"{words.get(mode, 'another kind of picture')} (mode {mode})"
