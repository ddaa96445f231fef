"""Downloading the public data sets from their official places, or from a mirror in S3.

OpenKBP: github.com/ababier/open-kbp (folder `provided-data`). HAM10000: Harvard Dataverse, doi:10.7910/DVN/DBW86T.
STOIC: bucket `stoic2021-training`, without credentials (registry.opendata.aws/stoic2021-training). HAM10000 and STOIC
are for non-commercial use (CC BY-NC 4.0).
"""

from __future__ import annotations

import difflib
import re
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from ctan.errors import ConfigError, DataError
from ctan.files import atomic_path
from ctan.sources.http import HttpSource, list_dataverse, list_github
from ctan.sources.s3 import S3Source, S3Uri, s3_client
from ctan.sources.transfer import Ledger, RemoteFile, Source, TransferSummary, transfer
from ctan.sources.trust import require_secure

OPENKBP_REPOSITORY = "ababier/open-kbp"
HAM10000_DOI = "doi:10.7910/DVN/DBW86T"
STOIC_BUCKET, STOIC_REGION = "s3://stoic2021-training", "eu-west-3"

# Of an archive: the official ones hold 5,000 and 10,015 pictures of 0.3 MB.
_MAX_PICTURES = 100_000
_MAX_PICTURE_BYTES = 64 * 2**20

Subset = int | Sequence[str] | None


@dataclass(frozen=True)
class _Layout:
    """Which files of a source belong to the data set.

    Attributes:
        cases: pattern of a case's files: group `name` is the path to fetch to, `case` the case, `split` where it is in.
        always: pattern of files that every subset needs, with the group `name`.
        num_always: how many of these there must be.
    """

    cases: str
    always: str
    num_always: int


_LAYOUTS = {
    "openkbp": _Layout(
        r"(?:provided-data/)?(?P<name>(?P<split>train|validation|test)-pats/(?P<case>pt_\d+)/\w+\.csv)", "(?P<name>)", 0
    ),
    "ham10000": _Layout(
        r"(?P<name>(?P<split>)HAM10000_(images_part_[12]|segmentations_lesion_tschandl)/"
        r"(?P<case>ISIC_\d+)(_segmentation)?\.(jpg|png))",
        r"(?P<name>HAM10000_metadata(\.csv)?|HAM10000_(images_part_[12]|segmentations_lesion_tschandl)\.zip)",
        1,
    ),
    "stoic": _Layout(r"(?P<name>(?P<split>)data/mha/(?P<case>\d+)\.mha)", r"(?P<name>metadata/reference\.csv)", 1),
}


def download(
    dataset: str,
    output_dir: Path,
    *,
    subset: Subset = None,
    num_workers: int = 8,
    source: str | None = None,
    endpoint: str | None = None,
    region: str | None = None,
) -> TransferSummary:
    """Download a public data set; what is complete already is left alone.

    Args:
        dataset: `openkbp`, `ham10000` or `stoic`.
        output_dir: receives the raw files as the data set's module reads them.
        subset: the first N cases of each split, or the ids of cases; None for all.
        num_workers: files fetched at the same time.
        source: a mirror `s3://bucket/prefix` with the raw files, signed where there are credentials; None for the
            official place.
        endpoint: the server's address where it is not the official one: of S3, Dataverse or GitHub (Enterprise).
        region: of the bucket.

    Raises:
        ConfigError: an unknown data set, case or source.
        DataError: naming the files that could not be fetched and why; what was fetched stays.
    """
    if dataset not in _LAYOUTS:
        raise ConfigError(f"dataset: {dataset!r} cannot be downloaded; allowed: {', '.join(_LAYOUTS)}")
    if isinstance(subset, int) and subset < 1:
        raise ConfigError(f"subset: {subset} cases; expected at least one")
    origin, files = _open(dataset, num_workers, source, endpoint, region)
    chosen = select(dataset, files, subset)
    summary = transfer(chosen, origin, output_dir, num_workers, f"download {dataset}")
    ledger = Ledger(output_dir)
    for file in chosen:
        if file.name.endswith(".zip"):
            _unpack(file, output_dir, ledger)
    return summary


def _open(
    dataset: str, num_workers: int, source: str | None, endpoint: str | None, region: str | None
) -> tuple[Source, list[RemoteFile]]:
    """Return where the files come from and what is there."""
    require_secure(endpoint or "", "endpoint")
    if source is not None or dataset == "stoic":
        uri = S3Uri.parse(source or STOIC_BUCKET)
        region = region or (None if source else STOIC_REGION)
        s3 = S3Source(uri, s3_client(endpoint, region, public=source is None, num_connections=num_workers))
        return s3, s3.listing()
    http = HttpSource(num_workers)
    if dataset == "ham10000":
        return http, list_dataverse(http, endpoint or "https://dataverse.harvard.edu", HAM10000_DOI)
    return http, list_github(http, endpoint or "https://github.com", OPENKBP_REPOSITORY)


def select(dataset: str, files: Sequence[RemoteFile], subset: Subset) -> list[RemoteFile]:
    """Choose the files of a listing that belong to the data set and to the subset, with the names they get here.

    Raises:
        ConfigError: a case that is not there, or a subset of archives.
        DataError: the listing is not one of this data set.
    """
    layout = _LAYOUTS[dataset]
    always: list[RemoteFile] = []
    cases: dict[tuple[str, str], list[RemoteFile]] = {}
    for file in files:
        if match := re.fullmatch(layout.cases, file.name):
            cases.setdefault((match["split"], match["case"]), []).append(replace(file, name=match["name"]))
        elif match := re.fullmatch(layout.always, file.name):
            name = match["name"]
            always.append(replace(file, name=f"{name}.csv" if name.endswith("metadata") else name))
    has_archives = any(file.name.endswith(".zip") for file in always)
    if len(always) < layout.num_always or not (cases or has_archives):
        shown = ", ".join(file.name for file in files[:5])
        raise DataError(f"{dataset}: the source does not hold this data set; it lists {len(files)} files: {shown}")
    if subset is None:
        wanted = set(cases)
    elif has_archives:
        raise ConfigError(
            f"subset: {dataset} comes in archives of all cases; download it whole and use fewer cases with "
            "data.max_train_cases"
        )
    else:
        wanted = _choose(list(cases), subset)
    return always + [file for key in sorted(wanted, key=_order) for file in cases[key]]


def _choose(cases: list[tuple[str, str]], subset: int | Sequence[str]) -> set[tuple[str, str]]:
    """Return the (split, case) of a subset."""
    if isinstance(subset, int):
        splits = {split for split, _ in cases}
        ordered = {split: sorted((key for key in cases if key[0] == split), key=_order) for split in splits}
        return {key for keys in ordered.values() for key in keys[:subset]}
    known = [case for _, case in cases]
    for case in subset:
        if case not in known:
            close = difflib.get_close_matches(case, known, n=3)
            hint = f"did you mean {', '.join(close)}?" if close else f"there are {len(known)}, such as {known[0]}"
            raise ConfigError(f"subset: the source has no case {case!r}; {hint}")
    return {key for key in cases if key[1] in set(subset)}


def _order(key: tuple[str, str]) -> tuple[str, int, str]:
    """Order cases by split and number: pt_2 before pt_10."""
    number = re.search(r"\d+", key[1])
    return key[0], int(number[0]) if number else 0, key[1]


def _require_sane(archive: str, items: Sequence[zipfile.ZipInfo], free: int) -> None:
    """Refuse an archive that would fill the disk: a small file may unpack to any size.

    Raises:
        DataError: too many files, one too large, or all of them larger than what is free.
    """
    total = sum(item.file_size for item in items)
    if len(items) > _MAX_PICTURES:
        raise DataError(f"{archive}: the archive holds {len(items):,} files, expected at most {_MAX_PICTURES:,}")
    if large := [item for item in items if item.file_size > _MAX_PICTURE_BYTES]:
        raise DataError(
            f"{archive}: a file of the archive has {large[0].file_size:,} bytes unpacked, a picture has at most "
            f"{_MAX_PICTURE_BYTES:,}"
        )
    if total > free:
        raise DataError(f"{archive}: unpacked it has {total / 1e9:.1f} GB, the disk has {free / 1e9:.1f} GB left")


def _unpack(file: RemoteFile, folder: Path, ledger: Ledger) -> None:
    """Unpack an archive of pictures to a folder of its name and remove it; done already where it is gone.

    Folders inside the archive and what macOS adds are left out: the pictures' names are unique.

    Raises:
        DataError: when the archive is damaged.
    """
    archive = folder / file.name
    if not archive.exists():
        return
    target = archive.with_suffix("")
    try:
        with zipfile.ZipFile(archive) as content, atomic_path(target) as beside:
            beside.mkdir()
            wanted = [
                (item, name)
                for item in content.infolist()
                if not item.is_dir()
                and "__MACOSX" not in item.filename
                and not (name := PurePosixPath(item.filename).name).startswith(".")
            ]
            _require_sane(file.name, [item for item, _ in wanted], shutil.disk_usage(folder).free)
            for item, name in wanted:
                with content.open(item) as packed, (beside / name).open("xb") as stream:
                    shutil.copyfileobj(packed, stream)  # checks the CRC-32, and stops at the size that is listed
            if target.is_dir():  # of an older archive
                shutil.rmtree(target)
    except FileExistsError as error:
        raise DataError(f"{file.name}: the archive holds two files {Path(error.filename).name}") from error
    except (zipfile.BadZipFile, EOFError) as error:
        raise DataError(f"{file.name}: the archive cannot be unpacked ({error})") from error
    ledger.add_unpacked(file, target.relative_to(folder).as_posix())
    archive.unlink()
