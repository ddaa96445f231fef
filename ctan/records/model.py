"""`model.json`: all that is needed to ask a trained model for ever, and where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from ctan.cases import DataSpec
from ctan.cases.spec import Description
from ctan.config import NetworkConfig, PreprocessConfig
from ctan.inputs import Inputs
from ctan.records.base import Record, SavedTask
from ctan.records.names import HISTORY_FILE, MODEL_FILE, WEIGHTS_FILE
from ctan.records.seen import SeenGroups
from ctan.records.trust import Calibration, Fingerprint, MeanExchange
from ctan.variants import name_of


class Grid(Description):
    """A working grid.

    Attributes:
        shape: voxels per axis.
        spacing_mm: edges of a voxel; None: as native.
    """

    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...] | None = None

    @classmethod
    def of(cls, config: PreprocessConfig) -> Grid:
        """Return the working grid of settings."""
        return cls(shape=config.grid_shape, spacing_mm=config.grid_spacing_mm)

    def __str__(self) -> str:
        return f"{list(self.shape)} voxels of {list(self.spacing_mm) if self.spacing_mm else 'native'} mm"


class Member(Description):
    """One training of an ensemble.

    Attributes:
        fold, seed, run_id: which training.
        weights_sha256: of its own weights file.
        calibration: of its probabilities.
        micro_batches: as of the record.
    """

    fold: int
    seed: int
    run_id: str
    weights_sha256: str
    micro_batches: tuple[tuple[int, int, int], ...] = ()
    calibration: Mapping[str, Calibration] = {}


class ModelRecord(Record):
    """A trained model.

    Attributes:
        arch, fold, seed: which training.
        spec: the description of the data it learned from.
        inputs: what it sees besides the image.
        tasks: what it predicts.
        in_channels: of its input.
        network: what it was built with.
        grid: it works on.
        compute_precision: as asked for; `"auto"` is decided on the machine that computes.
        test_time_flip: predictions are averaged with those for the flipped image, unless asked otherwise.
        precision, device: of its training.
        num_parameters, macs_per_case, epochs, step_seconds: what it costs.
        store_key, data_hash, code_hash, config_hash: what it was made from.
        versions: of the code that made the store, see `ctan.versions.of_store`; none of models of earlier releases.
        run_id, run_url, tracking_uri: its MLflow run.
        seen: the groups on the training side, its tuning fold included, which chose the epoch; None: not recorded, as
            in models of release 0.1.
        calibration: of the probabilities of labels, by task; none of models of earlier formats.
        fingerprint: what it learned from, as numbers a case; None of models of earlier formats.
        exchange: what tasks take from each other; None of architectures without exchange, and of earlier formats.
        machine: threads, instructions and processor of its training, see `ctan.provenance.machine_facts`.
        micro_batches: from which epoch and step on how many cases of its share a process took at a time, where that was
            not all of it; 0: all.
        variant: what it has other than the rest of its run, such as `"ctab=false"`, see `ctan.variants`.
        members: of an ensemble, whose answers are averaged; `model.safetensors` holds the weights of each, their names
            behind its number, `"0.encoder..."`. Parameters and multiply-accumulates are the sum, `fold`, `seed` and
            what is said of training that of the first member.
        config: all settings of its training. A record for people and for training again; nothing else reads it.
    """

    file = MODEL_FILE
    version = 4
    what = "the description of a trained model"
    advice = "expected the folder that `ctan train` writes"
    beside = (WEIGHTS_FILE, HISTORY_FILE)

    format_version: Literal[4] = 4
    arch: str
    fold: int
    seed: int
    spec: DataSpec
    inputs: Inputs
    tasks: tuple[SavedTask, ...]
    in_channels: int
    network: NetworkConfig
    grid: Grid
    compute_precision: Literal["auto", "fp32", "bf16"]
    test_time_flip: bool
    precision: str
    device: str
    num_parameters: int
    macs_per_case: int
    epochs: int
    step_seconds: float
    store_key: str
    data_hash: str
    code_hash: str
    config_hash: str
    versions: Mapping[str, int] = {}
    run_id: str
    run_url: str = ""
    tracking_uri: str = ""
    machine: Mapping[str, str] = {}
    micro_batches: tuple[tuple[int, int, int], ...] = ()
    seen: SeenGroups | None = None
    calibration: Mapping[str, Calibration] = {}
    fingerprint: Fingerprint | None = None
    exchange: MeanExchange | None = None
    variant: str = ""
    members: tuple[Member, ...] = ()
    config: Mapping[str, Any]

    @property
    def name(self) -> str:
        """What comparisons call it: its architecture, and what it has other than the rest of its run."""
        return name_of(self.arch, self.variant)

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return self.spec.dataset

    @classmethod
    def upgraded(cls, value: Mapping[str, Any], version: int, where: str) -> Mapping[str, Any]:
        from ctan.records.release_0_1 import upgraded_model, with_inputs

        if version == 1:
            value = upgraded_model(value, where, cls.advice)
        value = with_inputs(value) if version < 3 else value
        return {**value, "format_version": cls.version}
