"""Which files of a folder are an image: by the patterns of the description, and to predict also without its layout."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from ctan.cases import RawCase
from ctan.datasets.folder.description import SERIES, FolderDescription
from ctan.datasets.listing import files_of_kind, ids_of
from ctan.errors import DataError


def matches(root: Path, pattern: str) -> dict[str, Path]:
    """Return case id -> file (or folder) of a pattern, in the order of the ids; hidden ones are left out."""
    is_folder, pattern = pattern.endswith(SERIES), pattern.rstrip(SERIES)
    first, *others = re.escape(pattern).split(re.escape("{case}"))
    expression = re.compile(
        first + r"(?P<case>[^/]+)" + "".join(r"(?P=case)" + part if n else part for n, part in enumerate(others))
    )
    found: dict[str, Path] = {}
    for path in root.glob(pattern.replace("{case}", "*")):
        match = expression.fullmatch(path.relative_to(root).as_posix())
        if match and (path.is_dir() if is_folder else path.is_file()) and not match["case"].startswith("."):
            found[match["case"]] = path
    return dict(sorted(found.items()))


def images_to_predict(source: Path, described: FolderDescription) -> list[RawCase]:
    """List the cases to predict: laid out as described, or files named like images, or of one file a case any files.

    Args:
        source: a folder, or the file of a case.
        described: what the model learned from.

    Raises:
        DataError: when there is none.
    """
    first = described.image.files[0]
    name = PurePosixPath(first).name
    found: dict[str, Path] = {}
    if source.is_dir():
        found = matches(source, first) or (matches(source, name) if "{case}" in name else {})
    if found:
        return [RawCase(case_id, case_id, "", path) for case_id, path in found.items()]
    if first.endswith(SERIES):
        if (
            len(described.image.files) > 1
            or not source.is_dir()
            or not any(path.is_file() for path in source.iterdir())
        ):
            raise DataError(f"{source}: no images to predict, expected folders {first} of DICOM slices; found none")
        return [RawCase(case_id, case_id, "", source) for case_id in ids_of([source], source)]
    ending = name.rpartition("{case}")[2]
    paths = files_of_kind(source, (ending.lower(),)) or files_of_kind(source, ("".join(Path(name).suffixes).lower(),))
    if not paths or (len(described.image.files) > 1 and not source.is_file()):
        raise DataError(f"{source}: no images to predict, expected {first} or {name}; found none")
    endings = (ending.lower(), "".join(Path(name).suffixes).lower())
    ids = ids_of(paths, source.parent if source.is_file() else source, endings)
    return [RawCase(case_id, case_id, "", path) for case_id, path in zip(ids, paths, strict=True)]


def image_files(raw: RawCase, described: FolderDescription) -> tuple[Path, list[str]]:
    """Return the folder that the files of a case to predict are named from, and their names."""
    patterns = described.image.files
    laid_out = [pattern.replace("{case}", raw.case_id) for pattern in patterns]
    if raw.path.as_posix().endswith(f"/{laid_out[0].rstrip(SERIES)}"):
        return raw.path.parents[len(PurePosixPath(laid_out[0]).parts) - 1], laid_out
    if len(patterns) == 1:
        return raw.path.parent, [raw.path.name + (SERIES if patterns[0].endswith(SERIES) else "")]
    return raw.path.parent, [PurePosixPath(name).name for name in laid_out]


__all__ = ["image_files", "images_to_predict", "matches"]
