"""Looking at cases of a source as their raw files say."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ctan.cases import Case, DataSpec
from ctan.config import RunConfig
from ctan.datasets import get_dataset
from ctan.errors import CtanError, DataError
from ctan.intake.contact_sheet import write_contact_page, write_contact_sheet, write_empty_page
from ctan.sources import open_source
from ctan.store.manifest import MANIFEST_FILE, read_manifest

_NUM_SHOWN = 2  # cases of each split on the contact sheet


def show_cases(source: str, case_ids: Sequence[str], output: Path, config: RunConfig) -> None:
    """Draw cases as their raw files say, see `ctan.intake.contact_sheet`.

    Args:
        source: see `ctan.datasets.open_source`.
        case_ids: which cases.
        output: PNG of one case, or HTML page of any number.
        config: settings of the data set.

    Raises:
        DataError: when the source has no such case.
    """
    with _read_cases(source, case_ids, config) as (cases, spec):
        write_contact_sheet(cases, spec, output)


def show_few(source: str, manifest_dir: Path, output: Path, config: RunConfig) -> None:
    """Draw the first cases of each split of a manifest. Never fails: what goes wrong is said on the page and stderr.

    Args:
        source: that was ingested.
        manifest_dir: output of ingestion.
        output: HTML page.
        config: settings of the data set.
    """
    try:
        with _read_cases(source, _few_of_each_split(manifest_dir), config) as (cases, spec):
            write_contact_page(cases, spec, output)
    except Exception as error:  # a picture for a person is no reason to stop
        why = (
            f"{output.name}: no case could be shown ({error if isinstance(error, CtanError) else type(error).__name__})"
        )
        print(why, file=sys.stderr)
        with suppress(OSError):
            write_empty_page(get_dataset(config.data).spec, output, why)


@contextmanager
def _read_cases(source: str, case_ids: Sequence[str], config: RunConfig) -> Iterator[tuple[Iterator[Case], DataSpec]]:
    """Yield cases of a source, read one by one, and the description of their data."""
    dataset = get_dataset(config.data)
    with open_source(source, dataset) as raw_dir:
        found = {raw.case_id: raw for raw in dataset.find(raw_dir)}
        absent = [case_id for case_id in case_ids if case_id not in found]
        if absent:
            some = ", ".join(list(found)[:5])
            raise DataError(f"{', '.join(absent)}: not among the {len(found)} cases of the source: {some}, ...")
        yield (dataset.read(found[case_id]) for case_id in case_ids), dataset.spec


def _few_of_each_split(manifest_dir: Path) -> list[str]:
    rows = read_manifest(manifest_dir / MANIFEST_FILE).select(["case_id", "split"]).to_pylist()
    splits = dict.fromkeys(row["split"] for row in rows)
    of_split = {split: [row["case_id"] for row in rows if row["split"] == split] for split in splits}
    return [case_id for ids in of_split.values() for case_id in ids[:_NUM_SHOWN]]
