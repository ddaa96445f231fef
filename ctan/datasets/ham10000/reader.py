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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from ctan import versions
from ctan.cases import Augmentation, Case, DataSpec, ImageSpec, Prediction, RawCase
from ctan.config import ReadingConfig, ValidationConfig
from ctan.datasets.base import Dataset, Expectation, between
from ctan.datasets.ham10000.format import IMAGE_FOLDERS, MASK_ENDING, MASK_FOLDERS
from ctan.datasets.ham10000.table import CLASSES, OFFICIAL_NUMBERS, SOURCE, TABLE_FILE, read_table
from ctan.datasets.listing import File, files_in, files_of_kind, ids_of
from ctan.datasets.outputs import Asked, write_plain, write_png
from ctan.datasets.pictures import TURNED, decode_mask, decode_picture
from ctan.errors import CaseError, DataError
from ctan.files import sha256_of_digests
from ctan.reading import is_plain_id, printable, read_bytes
from ctan.tasks import Classification, Segmentation

_Decoded = TypeVar("_Decoded")
SEXES = ("female", "male")
CONFIRMATIONS = ("histo", "follow_up", "consensus", "confocal")
LOCALIZATIONS = (
    "abdomen",
    "acral",
    "back",
    "chest",
    "ear",
    "face",
    "foot",
    "genital",
    "hand",
    "lower extremity",
    "neck",
    "scalp",
    "trunk",
    "upper extremity",
)
_PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
_LESION_SHARE = (0.0005, 0.995)  # of the picture
_MAX_FILE_BYTES = 2**28  # of a picture or a mask
COVERED_BORDER = "the mask covers most of the picture's border (is it inverted?)"

# Mean and standard deviation of red, green and blue over the training pictures, as often published for HAM10000
# (0.763, 0.546, 0.570 and 0.141, 0.153, 0.170 of full scale), in whole grey levels.
RGB = ImageSpec(
    name="rgb", modality="photo", dtype="uint8", num_channels=3, low=0, high=255, mean=(195, 139, 145), std=(36, 39, 43)
)


class HAM10000(Dataset):
    """The reader and the tasks of HAM10000; see `ctan.datasets.base.Dataset`."""

    name = "ham10000"
    version = 1
    to_train = ("picture", "mask", "row")
    to_predict = ("picture",)
    tables = (TABLE_FILE,)
    signs = IMAGE_FOLDERS
    uses: ClassVar[Mapping[str, int]] = {"pictures": versions.PICTURES}
    spec = DataSpec(
        dataset="ham10000",
        spatial_dims=2,
        image=RGB,
        tasks=(Segmentation("lesion", ("Lesion",)), Classification("diagnosis", CLASSES)),
        structures=("Lesion",),
        labels={"diagnosis": CLASSES},
        facts={"age": "float64", "sex": "string", "localization": "string", "dx_type": "string"},
        strata=("label_diagnosis",),
        whole_image=True,
        augmentation=Augmentation(flip_axes=(0, 1), rotate_plane=(0, 1), max_scale=0.1, colour=True),
        licence=f"CC BY-NC 4.0; HAM10000, P. Tschandl et al., Scientific Data 5 (2018), {SOURCE}",
    )
    profiles: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "smoke": {
            "preprocess": {"grid_shape": [64, 96], "grid_spacing_mm": None},
            "network": {"num_stages": 4},
            "training": {"batch_size": 4},
        },
    }

    def find(self, raw_dir: Path) -> list[RawCase]:
        """List every picture by its id. What is wrong with one is told by `read`, so that none is lost silently.

        Raises:
            DataError: when the folder holds no picture or no folder of masks, or the table as a whole is damaged.
        """
        if self.purpose == "predict":
            return _anywhere(raw_dir)
        pictures = _pictures(raw_dir)
        if not pictures:
            expected = ", ".join(f"{folder}/ISIC_<7 digits>.jpg" for folder in IMAGE_FOLDERS)
            found = "found none" if raw_dir.is_dir() else "the folder does not exist"
            raise DataError(f"{raw_dir}: no pictures of HAM10000, expected {expected}; {found}")
        if not any((raw_dir / folder).is_dir() for folder in MASK_FOLDERS):
            raise DataError(
                f"{raw_dir}: no folder of masks, expected {' or '.join(MASK_FOLDERS)}; it is part of {SOURCE}"
            )
        table = read_table(raw_dir, self.config.reading)
        return [
            RawCase(case_id, table.lesion_of(case_id), "", paths[0], strata=(table.diagnosis_of(case_id),))
            for case_id, paths in pictures.items()
        ]

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
        table, pictures = read_table(raw_dir, self.config.reading), _pictures(raw_dir)
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
            path.name.removesuffix(MASK_ENDING) not in pictures and not path.name.startswith(".")
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
            if "mask" in self.needed:
                return _read(raw, self.config.reading)
            return _picture_alone(raw, self.config.reading)
        except DataError as error:
            raise CaseError(raw.case_id, str(error)) from error

    def write(self, raw: RawCase, case: Case, prediction: Prediction, asked: Asked, folder: Path) -> None:
        """Write the lesion as the data set has masks, `<image id>_segmentation.png`, as viewers show the picture."""
        del asked
        write_plain(case, replace(prediction, masks={}), folder)
        for mask in prediction.masks.values():
            write_png(mask, folder / f"{raw.case_id}{MASK_ENDING}")

    def expectations(self, limits: ValidationConfig) -> list[Expectation]:
        """Return what must hold of age, sex, place, confirmation and the lesion's share of the picture.

        One diagnosis a lesion, one row an image and the size of the picture are checked in reading.
        """
        low, high = _LESION_SHARE

        def one_of(column: str, values: Sequence[str], sentence: str) -> Expectation:
            arguments = {"column": column, "value_set": list(values)}
            return Expectation(column.replace("_", "-"), sentence, "", "ExpectColumnValuesToBeInSet", arguments)

        return [
            Expectation(
                "lesion-present",
                "The lesion is outlined",
                "",
                "ExpectColumnValuesToNotBeNull",
                {"column": "voxels_Lesion"},
            ),
            between(
                "lesion-share",
                "share_Lesion",
                low,
                high,
                "",
                f"The lesion fills between {low:.2%} and {high:.1%} of the picture",
            ),
            one_of("label_diagnosis", CLASSES, f"The diagnosis is one of {', '.join(CLASSES)}"),
            between("age", "age", 0, 120, "years", "The age, where known, is between 0 and 120 years"),
            one_of("sex", SEXES, f"The sex, where known, is one of {', '.join(SEXES)}"),
            one_of("localization", LOCALIZATIONS, f"The place, where known, is one of {', '.join(LOCALIZATIONS)}"),
            one_of("dx_type", CONFIRMATIONS, f"The diagnosis was confirmed by one of {', '.join(CONFIRMATIONS)}"),
        ]

    def write_phantoms(
        self, output_dir: Path, num_train: int, num_validation: int, seed: int, defects: Sequence[str] = ()
    ) -> None:
        """Write synthetic lesions, see `ctan.datasets.ham10000.phantom`."""
        from ctan.datasets.ham10000.phantom import write_ham10000_phantoms

        write_ham10000_phantoms(output_dir, num_train, num_validation, seed, defects)


def _pictures(root: Path) -> dict[str, list[Path]]:
    """Return image id -> its files, in the order of the ids; more than one file is a fault."""
    found: dict[str, list[Path]] = {}
    for folder in IMAGE_FOLDERS:
        for path in sorted((root / folder).glob("*")):
            if path.suffix.lower() in _PICTURES and not path.name.startswith("."):
                found.setdefault(printable(path.stem), []).append(path)
    return dict(sorted(found.items()))


def _anywhere(source: Path) -> list[RawCase]:
    """List the pictures to predict, at any depth, or the one that was given."""
    paths = [path for path in files_of_kind(source, _PICTURES) if not path.name.endswith(MASK_ENDING)]
    if not paths:
        raise DataError(f"{source}: no pictures to predict, expected JPEG files, or folders with some; found none")
    root = source.parent if source.is_file() else source
    ids = ids_of(paths, root, _PICTURES)
    return [RawCase(case_id, case_id, "", path) for case_id, path in zip(ids, paths, strict=True)]


def _picture_alone(raw: RawCase, limits: ReadingConfig) -> Case:
    """Read a picture of which nothing is known."""
    (image, turned), digest = _decoded(raw.path, lambda content: decode_picture(content, limits), limits)
    return Case(
        case_id=raw.case_id,
        group_id=raw.group_id,
        split=raw.split,
        spacing_mm=(1.0, 1.0),  # not known
        images={RGB.name: image},
        masks={},
        doses={},
        sha256=sha256_of_digests({"image": digest}),
        remarks=(TURNED,) if turned else (),
    )


def _read(raw: RawCase, limits: ReadingConfig) -> Case:
    root = raw.path.parent.parent
    if not is_plain_id(raw.case_id, "ISIC_"):
        raise DataError(f"{printable(raw.path.name)}: expected the name ISIC_<7 digits>, in plain digits")
    others = [
        path
        for folder in IMAGE_FOLDERS
        for suffix in {raw.path.suffix: None, **dict.fromkeys(_PICTURES)}
        if (path := root / folder / f"{raw.case_id}{suffix}").is_file() and not path.samefile(raw.path)
    ]
    if others:
        files = " and ".join(f"{path.parent.name}/{path.name}" for path in (raw.path, *others))
        raise DataError(f"{files}: two files of one image; keep the official one")
    facts = read_table(root, limits).facts_of(raw.case_id)
    (image, turned), image_hash = _decoded(raw.path, lambda content: decode_picture(content, limits), limits)
    mask_path = _mask_of(root, raw.case_id)
    mask, mask_hash = _decoded(mask_path, lambda content: decode_mask(content, image.shape[1:], limits), limits)
    digests = {"image": image_hash, "mask": mask_hash, "row": hashlib.sha256(facts.text.encode()).hexdigest()}
    remarks = [TURNED] if turned else []
    remarks += [COVERED_BORDER] if _covers_border(mask) else []
    return Case(
        case_id=raw.case_id,
        group_id=facts.lesion_id,
        split=raw.split,
        spacing_mm=(1.0, 1.0),  # not known
        images={RGB.name: image},
        masks={"Lesion": mask},
        doses={},
        sha256=sha256_of_digests(digests),
        labels={"diagnosis": facts.diagnosis},
        facts=facts.facts,
        remarks=tuple(remarks),
    )


def _mask_of(root: Path, case_id: str) -> Path:
    name = f"{case_id}{MASK_ENDING}"
    found = [path for folder in MASK_FOLDERS if (path := root / folder / name).exists() or path.is_symlink()]
    if not found:
        raise DataError(f"{name} missing in {' and '.join(MASK_FOLDERS)}; every image needs a mask")
    if len(found) > 1:
        raise DataError(f"{name}: in {' and in '.join(MASK_FOLDERS)}; keep the official one")
    return found[0]


def _decoded(path: Path, decode: Callable[[bytes], _Decoded], limits: ReadingConfig) -> tuple[_Decoded, str]:
    """Return what `decode` makes of a file, and the SHA-256 of its bytes; the file is named in errors."""
    try:
        content = read_bytes(path, limits, _MAX_FILE_BYTES)
        if not content:
            raise DataError("the file is empty")
        return decode(content), hashlib.sha256(content).hexdigest()
    except DataError as error:
        raise DataError(f"{path.name}: {error}") from error


def _covers_border(mask: npt.NDArray[np.bool_]) -> bool:
    """Return whether most of the outermost pixels are inside: rare for a lesion, usual for an inverted mask."""
    border = (mask[0], mask[-1], mask[1:-1, 0], mask[1:-1, -1])
    return 2 * sum(map(np.count_nonzero, border)) > sum(map(len, border))
