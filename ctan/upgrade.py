"""Bringing what release 0.1 left in a workspace over: registry, ledger, table of sides; stores are packed again.

A plan is a list of changes, a line each, which are shown or carried out. Carried out twice the second plan is empty.

What matters most is who trained and who measured: release 0.1 divided anew at every ingestion, from shares and a seed,
and wrote it only into the manifest of each store. Those go into the table of sides, the champion's first, so that
nobody that a model has learnt from measures it now.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctan.changes import Change
from ctan.errors import ConfigError, CtanError, DataError
from ctan.files import sha256_of_file, write_text
from ctan.sources.buckets import check_root, is_remote, join
from ctan.sources.places import recorded, recorded_repository, remember, remember_repository
from ctan.store.layout import FORMAT_VERSION, STORE_FILE
from ctan.store.manifest import MANIFEST_FILE, NO_FOLD
from ctan.store.pointer import stores_folder
from ctan.tracking.ledger import Ledger
from ctan.tracking.lineage import is_synthetic
from ctan.tracking.registry import CHAMPION
from ctan.workspace import workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

    from ctan.cluster.schedule import Schedule
    from ctan.config import RunConfig

_CHAIN = (  # what a version carries of its training since, so that it outlives its run
    "arch",
    "fold",
    "seed",
    "git_commit",
    "code_hash",
    "config_hash",
    "store_key",
    "data_hash",
    "profile",
    "pipeline_run",
    "image",
    "data_source",
    "data_version",
    "data_repository",
    "data_revision",
    "data_commit",
    "data_path",
    "data_md5",
    "settings_hash",
    "pipeline_code_hash",
)
_PLACES = {"data_source": recorded, "data_repository": recorded_repository}  # tags that held paths of this machine
_RANK_DIGITS = 16
_FIELDS_OF_KFP = 6


def plan(store_root: str = "") -> list[Change]:
    """Return what is to be done in the workspace, in the order in which it is done; changes nothing.

    Args:
        store_root: folder or `s3://bucket/prefix` of the stores; empty: in the workspace.

    Raises:
        ConfigError: when the workspace is not there.
        DataError: when the ledger is damaged.
        TrackingError: when the registry cannot be used.
    """
    from ctan.tracking.server import connect, is_embedded, prepare, tracking_errors, tracking_uri

    if is_embedded(tracking_uri()) and not workspace().is_dir():
        raise ConfigError(f"{workspace()}: no such workspace; name the folder that holds mlflow.db and store")
    root = store_root or str(workspace() / "store")
    check_root(root, "store_root")
    uri = prepare()
    client = connect()
    with tracking_errors(uri, "reading the registry"):
        versions = _versions(client)
        changes = [*_of_tags(client, versions), *_of_sides(versions, root)]
    names = sorted({version.name for version in versions})
    return [*changes, *_of_ledgers(root, names), *_of_stores(root), *_of_checkpoints(), *_of_champions(versions)]


def of_schedules(schedules: Iterable[Schedule]) -> list[Change]:
    """Say which recurring runs still run a pipeline of another release, with the command that replaces each.

    They would write into the same ledger, whose chain an older ctan does not know.
    """
    from ctan.parameters import BY_NAME

    said = []
    for schedule in schedules:
        given = {name: value for name, value in schedule.parameters.items() if value not in ("", [], 0)}
        kept = {name: value for name, value in given.items() if name in BY_NAME}
        gone = sorted(set(given) - set(BY_NAME))
        arguments = " ".join(f"{name}={_shell(value)}" for name, value in kept.items())
        lost = f"; {', '.join(gone)} is no parameter any more" if gone else ""
        name, times = _shell(schedule.name), _shell(_cron(schedule.trigger))
        command = f"ctan schedule --name {name} --cron {times} {arguments}".rstrip()
        said.append(Change(f"schedule {schedule.name}: runs what it was made with{lost}; replace it: {command}"))
    return said


def _cron(trigger: str) -> str:
    """Return a schedule's times as `ctan schedule` takes them: KFP's have seconds first."""
    fields = trigger.split()
    if len(fields) == _FIELDS_OF_KFP:
        return " ".join(fields[1:])
    return f"@every {fields[1]}s" if fields[:1] == ["every"] else trigger


def _shell(value: Any) -> str:
    import shlex

    return shlex.quote(value if isinstance(value, str) else json.dumps(value))


def _versions(client: MlflowClient) -> list[ModelVersion]:
    """Return every version of every registered model: champions first, then the newest."""
    found = []
    for model in client.search_registered_models():
        aliases = model.aliases
        for one in client.search_model_versions(f"name='{model.name}'"):
            version = client.get_model_version(model.name, one.version)
            found.append((str(aliases.get(CHAMPION)) != str(version.version), -int(version.version), version))
    return [version for _, _, version in sorted(found, key=lambda item: (item[0], item[2].name, item[1]))]


def _of_tags(client: MlflowClient, versions: list[ModelVersion]) -> Iterator[Change]:
    """Let versions carry their chain, and replace paths of this machine by their hashes."""
    for version in versions:
        run = _run_tags(client, version)
        new = {name: run[name] for name in _CHAIN if run.get(name) and name not in version.tags}
        new |= _without_places({**version.tags, **new})
        if new:
            yield Change(
                f"version {version.version} of {version.name}: its chain and no paths ({len(new)} tags)",
                partial(_set_version_tags, client, version, new, {**run, **version.tags}),
            )
    from ctan.tracking.server import all_runs

    paths = [run for run in all_runs(client) if _without_places(run.data.tags)]
    if paths:
        yield Change(
            f"{len(paths)} MLflow runs: the path of their source becomes a hash of it",
            partial(_hide_paths, client, paths),
        )


def _without_places(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the tags that hold a path of this machine, as they are to be."""
    found = {name: (tags[name], hidden(tags[name])) for name, hidden in _PLACES.items() if tags.get(name)}
    return {name: after for name, (before, after) in found.items() if before != after}


def _set_version_tags(
    client: MlflowClient, version: ModelVersion, new: Mapping[str, str], known: Mapping[str, str]
) -> None:
    for name, value in new.items():
        if name in _PLACES and known.get(name):
            _remember(name, known[name])
        client.set_model_version_tag(version.name, version.version, name, value)


def _hide_paths(client: MlflowClient, runs: list[Any]) -> None:
    for run in runs:
        for name, value in _without_places(run.data.tags).items():
            _remember(name, run.data.tags[name])
            client.set_tag(run.info.run_id, name, value)


def _remember(name: str, value: str) -> None:
    (remember if name == "data_source" else remember_repository)(value)


def _run_tags(client: MlflowClient, version: ModelVersion) -> dict[str, str]:
    from mlflow.exceptions import MlflowException

    try:
        return dict(client.get_run(str(version.run_id)).data.tags)
    except MlflowException:
        return {}  # deleted and collected


def _of_sides(versions: list[ModelVersion], root: str) -> Iterator[Change]:
    """Write down who trained and who measured, as the stores of registered versions say."""
    from ctan.intake.sides_files import read_sides

    tables: defaultdict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    pseudonyms: dict[str, str] = {}
    for version in versions:
        try:
            name, rows, key = _rows_of(version, root)
        except CtanError as error:
            yield Change(f"version {version.version} of {version.name}: its sides are not known ({error})")
            continue
        for group, row in rows.items():
            tables[name].setdefault(group, row)
        pseudonyms.setdefault(name, key)
    for name, rows in tables.items():
        known = read_sides(root, name)["groups"]
        new = {group: row for group, row in rows.items() if group not in known}
        if new:
            sides = Counter(row["side"] for row in new.values())
            counted = ", ".join(f"{count:,} {side}" for side, count in sorted(sides.items()))
            yield Change(
                f"table of sides {name}: {len(new):,} groups keep the side that they had ({counted})",
                partial(_add_rows, root, name, new, pseudonyms[name]),
            )


def _rows_of(version: ModelVersion, root: str) -> tuple[str, dict[str, dict[str, Any]], str]:
    """Return the name of the table of sides, the rows, and what tells the key of pseudonyms, of one version.

    Raises:
        CtanError: when its model or its store is not there.
    """
    from ctan.datasets import get_dataset
    from ctan.intake.sides import table_name
    from ctan.records import ModelRecord
    from ctan.settings import config_from_values
    from ctan.tracking.reference import NotComparableError, download_model

    with tempfile.TemporaryDirectory() as folder:
        try:
            record = ModelRecord.load(download_model(version, Path(folder)))
        except (NotComparableError, OSError) as error:
            raise DataError(f"its model cannot be loaded: {error}") from error
    config = config_from_values(record.config, f"{version.name} version {version.version}")
    if is_synthetic(version.tags):
        raise DataError("it learned from phantoms, which have no table")
    dataset = get_dataset(config.data)
    rows = _groups(_manifest(root, record.store_key), dataset.spec.strata, config)
    return table_name(dataset.spec.dataset, config.data, False), rows, dataset.pseudonyms


def _manifest(root: str, key: str) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    from ctan.sources.objects import read_object

    if is_remote(root):
        content = read_object(join(root, "stores", key, MANIFEST_FILE))
    else:
        path = stores_folder(root) / key / MANIFEST_FILE
        content = path.read_bytes() if path.is_file() else None
    if content is None:
        raise DataError(f"store {key} is not under {root} any more, and with it who trained and who measured")
    return list(pq.read_table(io.BytesIO(content)).to_pylist())


def _groups(rows: list[dict[str, Any]], strata: tuple[str, ...], config: RunConfig) -> dict[str, dict[str, Any]]:
    """Return group -> its row of the table of sides."""
    from ctan.intake.splits import hash_rank

    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        group = row["group_id"]
        entry = found.setdefault(
            group,
            {
                "side": row["split"],
                "rank": hash_rank(group, config.data.split_seed)[:_RANK_DIGITS],
                "cases": Counter(),
                "folds": {str(config.data.num_folds): row["fold"]} if row["fold"] != NO_FOLD else {},
            },
        )
        entry["cases"][json.dumps([row.get(name) for name in strata]) if strata else ""] += 1
    return {group: {**entry, "cases": dict(sorted(entry["cases"].items()))} for group, entry in found.items()}


def _add_rows(root: str, name: str, rows: Mapping[str, Any], pseudonyms: str) -> None:
    from ctan.intake.sides_files import updated

    def change(value: Mapping[str, Any]) -> dict[str, Any]:
        groups = {**rows, **value["groups"]}
        return {**value, "groups": dict(sorted(groups.items())), "pseudonyms": value.get("pseudonyms") or pseudonyms}

    updated(root, name, change)


def _of_ledgers(root: str, names: list[str]) -> Iterator[Change]:
    """Check every ledger, and put the SHA-256 beside per-case tables that have none."""
    for name in names:
        ledger = Ledger(root, name)
        entries = ledger.verify()
        if entries:
            yield Change(f"ledger of {name}: {entries} decisions are read as they are; the next one seals them")
        if is_remote(root):
            continue  # there a table is fetched, and kept anew, when it is next needed
        tables = sorted((ledger.path.parent / name).glob("*.parquet"))
        bare = [table for table in tables if not table.with_name(f"{table.name}.sha256").exists()]
        if bare:
            yield Change(f"ledger of {name}: {len(bare)} per-case tables get a SHA-256", partial(_seal_tables, bare))


def _seal_tables(tables: list[Path]) -> None:
    for table in tables:
        write_text(table.with_name(f"{table.name}.sha256"), sha256_of_file(table) + "\n")


def _of_stores(root: str) -> Iterator[Change]:
    """Say how many stores have to be packed again."""
    if is_remote(root) or not stores_folder(root).is_dir():
        return
    old = [path.parent.name for path in sorted(stores_folder(root).glob(f"*/{STORE_FILE}")) if _is_old(path)]
    if old:
        yield Change(
            f"{len(old)} stores of an older format are packed again by the next run ({', '.join(old)}); "
            f"`ctan store remove` frees their space"
        )


def _is_old(path: Path) -> bool:
    try:
        return bool(json.loads(path.read_bytes()).get("format_version") != FORMAT_VERSION)
    except (ValueError, AttributeError):
        return True


def _of_checkpoints() -> Iterator[Change]:
    folder = workspace() / "checkpoints"
    found = sorted(folder.glob("*/*.pt")) if folder.is_dir() else []
    old = [path for path in found if path.name not in ("a.pt", "b.pt")]
    if old:
        yield Change(f"{len(old)} checkpoints of an older format are not gone on from: these trainings start afresh")


def _of_champions(versions: list[ModelVersion]) -> Iterator[Change]:
    for version in versions:
        if CHAMPION in version.aliases:
            if is_synthetic(version.tags):
                said = "learned from phantoms: it does not count against models of patients"
            else:
                said = "stays, and is to be beaten; it loads and answers as before"
            yield Change(f"champion of {version.name}, version {version.version}: {said}")
