"""Forgetting one subject (a patient, a lesion): from stores, tables, pages and MLflow; which models saw it is listed.

Stores are removed whole, and packed again from raw files that do not hold it any more. Ledgers are chained and hold no
ids, so that they stay. Ids of its cases are looked up first and kept in a note until all is done: killed half-way, the
same command goes on.
"""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctan.changes import Change
from ctan.errors import CtanError, DataError, TrackingError
from ctan.files import sha256_of_file, sha256_of_json, write_json, write_text
from ctan.redact import ENDINGS, Subject, affected, without
from ctan.sources import buckets, objects
from ctan.store.layout import STORE_FILE
from ctan.store.manifest import MANIFEST_FILE
from ctan.store.pointer import stores_folder
from ctan.store.shelf import Shelf
from ctan.workspace import workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_APART = ("store", "cache", "raw", "mlartifacts", "checkpoints")  # folders of the workspace that are not walked through
BEYOND = (
    "raw files at their source, and backups",
    "artifacts of pipeline runs in Kubeflow's pipeline root (delete those runs there)",
    "older versions of objects where a bucket keeps them",
    "weights of the models listed above: train them again without the subject, or retire them",
)


def plan(group: str, store_root: str = "", also: Sequence[Path] = ()) -> list[Change]:
    """Return what is to be done, and what cannot be; changes nothing.

    Args:
        group: id of the patient or lesion, as tables name it.
        store_root: folder or `s3://bucket/prefix` of the stores; empty: in the workspace.
        also: further folders with outputs of ctan, such as predictions.

    Raises:
        DataError: when nothing that can be reached knows it, or it is one case of a larger group.
    """
    root = store_root or str(workspace() / "store")
    buckets.check_root(root, "store_root")
    client, unreached = _client()
    subject = _subject(group, root, [workspace(), *also], client)
    changes = [
        *_of_models(client, subject, root),
        *_of_stores(root, subject),
        *_of_shards(root, subject),
        *_of_ledger_tables(root, subject),
        *_of_ledgers(root, subject),
        *_of_files(subject, also),
        *(_of_mlflow(client, subject) if client else ()),
        *_of_raw_copies(),
        *_of_sides(root, subject),  # the last, with the note: what knows the subject by its own id
    ]
    if any(change.do for change in changes) or _note(group).exists():
        note = partial(write_json, _note(group), {"group": group, "cases": sorted(subject.cases)})
        changes = [Change("a note of the ids, until all is done", note), *changes]
        changes.append(Change("the note is removed", partial(_note(group).unlink, missing_ok=True)))
    return [*changes, *unreached, *(Change(f"not reached: {what}") for what in BEYOND)]


def _note(group: str) -> Path:
    return workspace() / f".forgetting-{sha256_of_json(group)[:16]}.json"


def _client() -> tuple[MlflowClient | None, list[Change]]:
    from ctan.tracking.server import connect, prepare

    try:
        prepare()
        return connect(), []
    except TrackingError as error:
        return None, [Change(f"not reached: MLflow ({error}); run again when it can be")]


def _subject(group: str, root: str, folders: Iterable[Path], client: MlflowClient | None) -> Subject:
    """Look up the cases of a group in every table that can be reached."""
    cases: set[str] = set()
    known = False
    if (note := _note(group)).exists():
        cases, known = set(json.loads(note.read_text(encoding="utf-8"))["cases"]), True
    others: set[str] = set()
    for content in _tables(root, folders, client):
        for case_id, of_group in _pairs(content):
            if of_group == group:
                cases.add(case_id)
                known = True
            elif case_id == group:
                others.add(of_group)
    known = known or any(group in groups for _, groups in _sides(root))
    if others and not known:
        raise DataError(f"{group}: is one case of {', '.join(sorted(others))}; name that, a subject is forgotten whole")
    if not known:
        raise DataError(f"{group}: no table of {root}, {workspace()} or MLflow knows such a patient or lesion")
    return Subject(group, frozenset(cases))


def _tables(root: str, folders: Iterable[Path], client: MlflowClient | None) -> Iterator[bytes]:
    for folder in folders:
        yield from (path.read_bytes() for path in sorted(folder.rglob("*.parquet")) if path.is_file())
    if buckets.is_remote(root):
        for name in buckets.list_objects(root):
            if name.endswith(".parquet"):
                yield objects.read_object(buckets.join(root, name)) or b""
    else:
        yield from (path.read_bytes() for path in sorted(Path(root).expanduser().rglob("*.parquet")))
    if client is not None:
        for run in _runs(client):
            for path in _artifacts(client, run):
                if path.endswith(".parquet"):
                    yield _downloaded(client, run, path)


def _pairs(content: bytes) -> Iterator[tuple[str, str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(io.BytesIO(content), columns=["case_id", "group_id"])
    except (OSError, pa.ArrowException, KeyError):
        return
    yield from zip(table["case_id"].to_pylist(), table["group_id"].to_pylist(), strict=True)


def _of_models(client: MlflowClient | None, subject: Subject, root: str) -> Iterator[Change]:
    """List the registered versions that learned from the subject."""
    from ctan.records import ModelRecord
    from ctan.tracking.reference import NotComparableError, download_model
    from ctan.tracking.server import tracking_errors, tracking_uri

    if client is None:
        return
    with tracking_errors(tracking_uri(), "listing models"):
        versions = [version for model in client.search_registered_models() for version in _of_model(client, model.name)]
    for version in versions:
        name = f"models:/{version.name}/{version.version}"
        with tempfile.TemporaryDirectory() as folder:
            try:
                record = ModelRecord.load(download_model(version, Path(folder)))
            except (NotComparableError, CtanError, OSError) as error:
                yield Change(f"{name}: cannot be asked ({error})")
                continue
        if record.seen is not None:
            saw = record.seen.holds(subject.group)
        else:
            saw = any(row == (subject.group, "train") for row in _store_rows(root, record.store_key))
        if saw:
            yield Change(f"{name}: learned from it")
        elif record.seen is None:
            yield Change(f"{name}: does not say whom it learned from (an earlier release)")


def _of_model(client: MlflowClient, name: str) -> list[Any]:
    return [client.get_model_version(name, one.version) for one in client.search_model_versions(f"name='{name}'")]


def _store_rows(root: str, key: str) -> list[tuple[str, str]]:
    import pyarrow.parquet as pq

    content = _read(root, f"stores/{key}/{MANIFEST_FILE}")
    if content is None:
        return []
    table = pq.read_table(io.BytesIO(content), columns=["group_id", "split"])
    return list(zip(table["group_id"].to_pylist(), table["split"].to_pylist(), strict=True))


def _read(root: str, name: str) -> bytes | None:
    if buckets.is_remote(root):
        return objects.read_object(buckets.join(root, name))
    path = Path(root).expanduser() / name
    return path.read_bytes() if path.is_file() else None


def _of_stores(root: str, subject: Subject) -> Iterator[Change]:
    folder = stores_folder(root)
    local = [path for path in sorted(folder.glob(f"*/{MANIFEST_FILE}")) if _holds(path.read_bytes(), subject)]
    for path in local:
        yield Change(f"store {path.parent.name}: removed, packed again without it", partial(_remove_store, path.parent))
    if buckets.is_remote(root):
        stores = buckets.join(root, "stores")
        for name in sorted(buckets.list_objects(stores)):
            key, _, rest = name.partition("/")
            if rest == MANIFEST_FILE and _holds(objects.read_object(buckets.join(stores, name)) or b"", subject):
                address = buckets.join(stores, key)
                yield Change(f"store {address}: removed, packed again without it", partial(_remove_remote, address))


def _of_shards(root: str, subject: Subject) -> Iterator[Change]:
    """Remove the shards of its cases; they are those of removed stores, or of none yet."""
    shelf = Shelf(root)
    if names := shelf.names_about(subject.cases):
        yield Change(f"{shelf.address}: {len(names)} files of shards with it, removed", partial(shelf.remove, names))


def _remove_store(folder: Path) -> None:
    (folder / STORE_FILE).unlink(missing_ok=True)  # first, so that nothing half-removed counts as a store
    for path in sorted(folder.iterdir()):
        if path.name != MANIFEST_FILE:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(folder)  # the manifest last: by it a store that was removed half-way is found again


def _remove_remote(address: str) -> None:
    names = sorted(buckets.list_objects(address), key=lambda name: (name == MANIFEST_FILE, name != STORE_FILE))
    for name in names:
        objects.remove_object(buckets.join(address, name))


def _holds(content: bytes, subject: Subject) -> bool:
    return any(subject.ids & {case_id, group} for case_id, group in _pairs(content))


def _of_ledger_tables(root: str, subject: Subject) -> Iterator[Change]:
    """Take the rows of the subject out of the per-case tables that are kept beside a ledger."""
    if buckets.is_remote(root):
        address = buckets.join(root, "ledger")
        for name in sorted(buckets.list_objects(address)):
            at = buckets.join(address, name)
            if not name.endswith(".parquet"):
                continue
            before = objects.read_object(at) or b""
            after = without(name, before, subject)
            if after is not None and after != before:
                yield Change(f"{at}: its rows are taken out", partial(_write_table, at, after))
        folder = buckets.cache_folder("ledger", root)  # the workspace's own copies
    else:
        folder = Path(root).expanduser() / "ledger"
    for path in sorted(folder.glob("*/*.parquet")):
        before = path.read_bytes()
        after = without(path.name, before, subject)
        if after is not None and after != before:
            yield Change(f"{path}: its rows are taken out", partial(_write_local_table, path, after))


def _write_table(address: str, content: bytes) -> None:
    import hashlib

    objects.remove_object(f"{address}.sha256")  # a table without is better than one beside the hash of another
    objects.write_object(address, content)
    objects.write_object(f"{address}.sha256", (hashlib.sha256(content).hexdigest() + "\n").encode())


def _write_local_table(path: Path, content: bytes) -> None:
    from ctan.files import atomic_path

    beside = path.with_name(f"{path.name}.sha256")
    beside.unlink(missing_ok=True)
    with atomic_path(path) as unfinished:
        unfinished.write_bytes(content)
    write_text(beside, sha256_of_file(path) + "\n")


def _of_ledgers(root: str, subject: Subject) -> Iterator[Change]:
    """See that no ledger names the subject: its lines are chained and stay."""
    if buckets.is_remote(root):
        names = [name for name in buckets.list_objects(buckets.join(root, "ledger")) if name.endswith(".jsonl")]
    else:
        names = [path.name for path in sorted((Path(root).expanduser() / "ledger").glob("*.jsonl"))]
    for name in sorted(names):
        if subject.is_named((_read(root, f"ledger/{name}") or b"").decode(errors="replace")):
            yield Change(f"not reached: ledger {name} names it in a line; lines are chained and stay")


def _of_files(subject: Subject, also: Sequence[Path]) -> Iterator[Change]:
    """Go through runs, steps, tests, reproductions, predictions: every folder of the workspace but those of others."""
    home = workspace()
    folders = [path for path in sorted(home.iterdir()) if path.name not in _APART] if home.is_dir() else []
    for folder in (*folders, *also):
        if folder.is_dir():
            for path, do in affected(folder, subject):
                yield Change(f"{path}: without it, or removed", do)


def _of_raw_copies() -> Iterator[Change]:
    """Remove copies of raw data that were fetched: they hold it, and are fetched again from a source that does not."""
    folder = workspace() / "raw"
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not path.name.startswith("."):
            yield Change(f"{path}: copy of raw data, removed", partial(_remove_any, path))


def _remove_any(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def _sides(root: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    from ctan.intake.sides_files import read_sides

    if buckets.is_remote(root):
        names = [name for name in buckets.list_objects(buckets.join(root, "sides")) if name.endswith(".json")]
    else:
        names = [path.name for path in sorted((Path(root).expanduser() / "sides").glob("*.json"))]
    for name in sorted(names):
        table = name.removesuffix(".json")
        yield table, read_sides(root, table)["groups"]


def _of_sides(root: str, subject: Subject) -> Iterator[Change]:
    from ctan.intake.sides_files import updated

    def change(value: Mapping[str, Any]) -> dict[str, Any]:
        groups = {group: row for group, row in value["groups"].items() if group != subject.group}
        return {**value, "groups": groups, "seen": {}}  # what was seen held it: the next run looks again

    for table, groups in _sides(root):
        if subject.group in groups:
            yield Change(f"table of sides {table}: its row is taken out", partial(updated, root, table, change))


def _runs(client: MlflowClient) -> Iterator[Run]:
    from ctan.tracking.server import all_runs, tracking_errors, tracking_uri

    with tracking_errors(tracking_uri(), "looking through runs"):
        yield from all_runs(client, deleted=True)


def _artifacts(client: MlflowClient, run: Run, path: str = "") -> Iterator[str]:
    for found in client.list_artifacts(run.info.run_id, path or None):
        if found.is_dir:
            yield from _artifacts(client, run, found.path)
        else:
            yield found.path


def _downloaded(client: MlflowClient, run: Run, path: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return Path(client.download_artifacts(run.info.run_id, path, folder)).read_bytes()


def _of_mlflow(client: MlflowClient, subject: Subject) -> Iterator[Change]:
    for run in _runs(client):
        for name, value in run.data.tags.items():
            if subject.is_named(value):
                tag = partial(client.set_tag, run.info.run_id, name, subject.replaced(value))
                yield Change(f"runs:/{run.info.run_id}: tag {name} without it", tag)
        for path in _artifacts(client, run):
            where = f"runs:/{run.info.run_id}/{path}"
            if subject.names_file(Path(path)):
                yield Change(f"{where}: removed", partial(_delete, run, path))
            elif Path(path).suffix in ENDINGS:
                before = _downloaded(client, run, path)
                after = without(path, before, subject)
                if after is None:
                    yield Change(f"{where}: removed", partial(_delete, run, path))
                elif after != before:
                    yield Change(f"{where}: without it", partial(_log, client, run, path, after))


def _delete(run: Run, path: str) -> None:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    get_artifact_repository(run.info.artifact_uri).delete_artifacts(path)


def _log(client: MlflowClient, run: Run, path: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / Path(path).name
        file.write_bytes(content)
        parent = Path(path).parent.as_posix()
        client.log_artifact(run.info.run_id, str(file), None if parent == "." else parent)
