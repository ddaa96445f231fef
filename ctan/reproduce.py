"""Training a registered version again, from raw files to weights, and comparing the weights."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ctan import steps
from ctan.errors import DataError
from ctan.files import sha256_of_file
from ctan.provenance import git_commit
from ctan.records import MODEL_FILE, WEIGHTS_FILE, Member, ModelRecord
from ctan.settings import config_from_values
from ctan.workspace import workspace

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

    from ctan.config import RunConfig

EXPERIMENT = "ctan-reproductions"
_EXPERIMENT_VARIABLE, _THREADS_VARIABLE = "MLFLOW_EXPERIMENT_NAME", "OMP_NUM_THREADS"


@dataclass(frozen=True)
class Reproduction:
    """What training again came to.

    Attributes:
        version: `models:/NAME/VERSION`.
        run_id: of the new training.
        same_weights: whether the files of the weights are equal byte by byte.
        max_difference: largest absolute difference of any weight.
        num_differing: tensors that differ.
        remarks: what is not as it was, and may explain a difference.
        folder: where the new model lies.
    """

    version: str
    run_id: str
    same_weights: bool
    max_difference: float
    num_differing: int
    remarks: tuple[str, ...]
    folder: Path

    def __str__(self) -> str:
        result = (
            "the same weights, byte by byte"
            if self.same_weights
            else f"other weights: {self.num_differing} tensors differ, by up to {self.max_difference:.3g}"
        )
        return "\n".join([f"{self.version} trained again: {result}", *self.remarks, f"the new model: {self.folder}"])


def reproduce(reference: str, source: str = "", store_root: str = "") -> Reproduction:
    """Train a registered version again and compare the weights: equal on the same CPU, data, settings and code.

    Number of threads and precision are set to those of its training; processor, instructions and version of PyTorch
    cannot be, and are named where they differ.

    Of an ensemble every member is trained again. Raw files are read, validated and packed anew (a store that has the
    very same content is used), training starts from nothing. Its MLflow run lies in the experiment
    `ctan-reproductions`; the registry is left alone.

    Args:
        reference: `models:/NAME@ALIAS` or `models:/NAME/VERSION`.
        source: raw files; empty for what the version was trained on, pinned to its version.
        store_root: where stores lie; empty for the workspace.

    Raises:
        DataError: when the version was not registered by ctan, or the raw files are not those it was trained on.
        TrackingError: when there is no such version.
    """
    version, model_dir, folder = _fetch(reference)
    record = ModelRecord.load(model_dir)
    config = _on_this_machine(config_from_values(record.config, str(model_dir / MODEL_FILE)), record)
    source = source or _source_of(version.tags)
    if not source:
        raise DataError(f"{reference}: this machine does not know what it was trained on; give --source")
    _, settings, origin = steps.resolve(source, config, store_root)
    steps.ingest(settings, origin, str(folder / "manifest"))
    steps.gate(steps.validate(str(folder / "manifest"), str(folder / "validated"), str(folder / "validation.html")))
    steps.preprocess(source, str(folder / "validated"), str(folder / "store.json"), store_root)
    _check_data(folder / "store.json", record, reference, source)
    training = (str(folder / "store.json"), str(folder / "validated"))
    trainings: Sequence[ModelRecord | Member] = record.members or (record,)
    targets = [folder / f"member-{number}" for number in range(len(record.members))] or [folder / "model"]
    with _experiment(EXPERIMENT), _threads(record.machine.get("threads", "")):
        for one, target in zip(trainings, targets, strict=True):
            steps.train(
                *training,
                record.arch,
                one.fold,
                one.seed,
                str(target),
                str(folder / "checkpoints"),
                micro_batches=one.micro_batches,
            )
    if record.members:
        from ctan.inference.ensemble import describe_ensemble, save_ensemble

        first = ModelRecord.load(targets[0]).run_id
        save_ensemble(folder / "model", targets, describe_ensemble(targets).model_copy(update={"run_id": first}))
    result = _compare(f"models:/{version.name}/{version.version}", record, model_dir, folder / "model", version.tags)
    _record(result)
    return result


def _fetch(reference: str) -> tuple[ModelVersion, Path, Path]:
    """Return the version, the folder its model was fetched to, and the folder to work in."""
    from ctan.tracking.reference import NotComparableError, download_model
    from ctan.tracking.registry import named_version
    from ctan.tracking.server import connect, prepare, tracking_errors

    uri = prepare()
    client = connect()
    with tracking_errors(uri, f"fetching {reference}"):
        version = named_version(client, reference)
        time = datetime.now().strftime("%Y-%m-%d-%H%M%S")
        folder = workspace() / "reproductions" / f"{version.name}-{version.version}-{time}"
        (folder / "original").mkdir(parents=True)
        try:
            return version, download_model(version, folder / "original"), folder
        except NotComparableError as error:
            raise DataError(f"{reference}: was not registered by ctan, there is nothing to train again") from error


def _source_of(tags: Mapping[str, str]) -> str:
    """Return what a version was trained on; of a folder that DVC pinned the version, as the folder moves on."""
    from ctan.sources.places import recalled

    if tags.get("data_commit"):
        return recalled("dvc:{data_repository}@{data_commit}:{data_path}".format_map(tags))
    return recalled(tags.get("data_source", ""))


def _check_data(pointer_file: Path, record: ModelRecord, reference: str, source: str) -> None:
    from ctan.store import StorePointer

    pointer = StorePointer.load(pointer_file)
    if pointer.data_hash != record.data_hash:
        raise DataError(
            f"{reference}: the {pointer.num_cases} cases of {source} are not those it was trained on "
            f"(their hash is {pointer.data_hash[:12]}, not {record.data_hash[:12]}); "
            f"give the raw files of that version with --source"
        )


def _compare(version: str, record: ModelRecord, original: Path, again: Path, tags: Mapping[str, str]) -> Reproduction:
    from safetensors.numpy import load_file

    before, after = (load_file(folder / WEIGHTS_FILE) for folder in (original, again))
    differences = {name: float(abs(before[name] - after[name]).max()) for name in before}
    new = ModelRecord.load(again)
    return Reproduction(
        version,
        new.run_id,
        sha256_of_file(original / WEIGHTS_FILE) == sha256_of_file(again / WEIGHTS_FILE),
        max(differences.values()),
        sum(value > 0 for value in differences.values()),
        tuple(_remarks(record, new, tags)),
        again,
    )


def _remarks(before: ModelRecord, after: ModelRecord, tags: Mapping[str, str]) -> Iterator[str]:
    """Yield what is not as it was."""
    if before.code_hash != after.code_hash or before.store_key != after.store_key:
        commit = tags.get("git_commit", "unknown")
        yield f"the code is another one: it was trained at commit {commit}, this is {git_commit() or 'unknown'}"
    was_on = {"device": before.device, "precision": before.precision, **before.machine}
    is_on = {"device": after.device, "precision": after.precision, **after.machine}
    for name, was in was_on.items():
        if was != is_on.get(name, was):
            yield f"{name} was {was}, is now {is_on[name]}"
    if not before.machine:
        yield "threads and processor of its training are not known: another number of threads gives other last bits"
    if after.device != "cpu":
        yield "on a GPU equal weights are not promised: some of its sums depend on the order of threads"


def _record(result: Reproduction) -> None:
    """Note the outcome with the new training."""
    from ctan.tracking.server import connect, tracking_errors, tracking_uri

    client = connect()
    with tracking_errors(tracking_uri(), "recording the comparison"):
        client.set_tag(result.run_id, "reproduces", result.version)
        client.set_tag(result.run_id, "same_weights", str(result.same_weights).lower())


def _on_this_machine(config: RunConfig, record: ModelRecord) -> RunConfig:
    """Return the settings with the precision that `auto` was decided to be then."""
    import torch

    from ctan.precision import resolve_precision

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if resolve_precision(config.training.precision, device) == record.precision:
        return config
    training = config.training.model_copy(update={"precision": record.precision})
    return config.model_copy(update={"training": training})


@contextmanager
def _threads(number: str) -> Iterator[None]:
    """Compute with as many threads as then, also in processes that training starts."""
    import torch

    if not number.isdigit() or int(number) < 1:
        yield
        return
    before, variable = torch.get_num_threads(), os.environ.get(_THREADS_VARIABLE)
    torch.set_num_threads(int(number))
    os.environ[_THREADS_VARIABLE] = number
    try:
        yield
    finally:
        torch.set_num_threads(before)
        os.environ.pop(_THREADS_VARIABLE)
        if variable is not None:
            os.environ[_THREADS_VARIABLE] = variable


@contextmanager
def _experiment(name: str) -> Iterator[None]:
    previous = os.environ.get(_EXPERIMENT_VARIABLE)
    os.environ[_EXPERIMENT_VARIABLE] = name
    try:
        yield
    finally:
        if previous is None:
            del os.environ[_EXPERIMENT_VARIABLE]
        else:
            os.environ[_EXPERIMENT_VARIABLE] = previous
