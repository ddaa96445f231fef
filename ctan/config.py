"""Every setting, as typed frozen models.

Knows nothing of how anything is computed. Units are in the field names or descriptions. `ctan.settings` reads them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from ctan import plugins
from ctan.config_training import NetworkConfig as NetworkConfig
from ctan.config_training import NoOptions as NoOptions
from ctan.config_training import NumProcesses as NumProcesses
from ctan.config_training import Settings as Settings
from ctan.config_training import TrainingConfig as TrainingConfig
from ctan.errors import ConfigError
from ctan.files import sha256_of_json
from ctan.goals import Goal
from ctan.parameters import DEFAULT_ARCHITECTURES
from ctan.variants import ALLOWED, architecture_of, changes_of

SETTINGS_VERSION = 2  # see `ctan.migrations`
SYNTHETIC_SUFFIX = "-phantom"  # of the names of models that learned from phantoms
PLANNED = "planned"  # value of a field that is left to the data, see `ctan.intake.planning`
PLANNED_FIELDS = (
    ("preprocess", "grid_shape"),
    ("preprocess", "grid_spacing_mm"),
    ("network", "num_stages"),
    ("training", "batch_size"),
)  # what may be


def _known(group: str, name: str) -> str:
    """Return the name of a plug that is installed."""
    try:
        return plugins.check(group, name, "")
    except ConfigError as error:
        raise ValueError(str(error).removeprefix(": ")) from error


class ReadingConfig(Settings):
    """What reading a raw case may cost. Checked before memory is taken; nothing here changes what a case becomes."""

    max_file_bytes: int = Field(2**30, gt=0, description="largest raw file in bytes")
    max_voxels: int = Field(2**29, gt=0, description="largest image in voxels (pixels), such as 1024 x 1024 x 512")
    max_inflated_bytes: int = Field(2**31, gt=0, description="most bytes that an image is unpacked to")
    case_seconds: float = Field(
        600.0, gt=0, description="a case that takes longer to read is quarantined and its process ended"
    )


class DataConfig(Settings):
    """Which data set, what the networks see of it, and how it is split."""

    dataset: str = Field("openkbp", description="data set, see `ctan data list`")
    inputs: Literal["ct", "ct+targets", "oracle"] = Field(
        "ct+targets",
        description="ct: planning CT alone; ct+targets: and the physician's targets; "
        "oracle: and the true OAR contours (an upper bound, never a fair result)",
    )
    signed_distance: bool = Field(
        False, description="add the signed distance to the targets (mm/50, clipped) as a channel"
    )
    num_folds: int = Field(5, ge=2, description="folds the training patients are divided into; fold f tunes")
    split_seed: int = Field(0, ge=0, description="seed of sides and folds; another one is another table of sides")
    max_train_cases: int | None = Field(
        None, ge=2, description="use only N training cases: those of the lowest hash ranks, so fewer are part of more"
    )
    max_evaluation_cases: int | None = Field(
        None, ge=1, description="use only N evaluation cases, chosen alike; either number leaves the other part whole"
    )
    evaluation_share: float = Field(
        0.2, gt=0, lt=1, description="share of the cases that only measures, where there is no official split"
    )
    test_share: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share that is sealed, likewise: reaches only `ctan evaluate MODEL SOURCE --split test`",
    )
    split: str = Field(
        "",
        description="a split of one's own, which fills the table of sides once: a CSV file case,split[,fold]; "
        "nnU-Net's splits_final.json; or nnunet for the folds that nnU-Net makes itself",
    )
    evaluation_fold: int | None = Field(
        None, ge=0, description="fold of nnU-Net's that measures instead of tuning; null: none"
    )
    sides: str = Field(
        "", pattern=r"^[\w.-]*$", description="table of sides, beside the stores; empty: the data set's name"
    )
    reading: ReadingConfig = ReadingConfig()
    options: dict[str, Any] = Field({}, description="settings of the data set's own, such as names of structures")

    @field_validator("dataset")
    @classmethod
    def _is_known(cls, name: str) -> str:
        return _known(plugins.DATASETS, name)

    @model_validator(mode="after")
    def _leaves_training(self) -> DataConfig:
        if self.evaluation_share + self.test_share >= 1:
            raise ValueError("evaluation_share and test_share leave nothing to train on; their sum must be below 1")
        return self


class ValidationConfig(Settings):
    """The gate between raw data and everything else."""

    max_quarantined_share: float = Field(
        0.05, ge=0, le=1, description="stop when a larger share of the cases is quarantined"
    )
    max_dose_gy: float = Field(100.0, gt=0, description="largest plausible dose in Gy")
    max_unknown_target_share: float = Field(
        0.0, ge=0, lt=1, description="share of a target that may lie outside the dose grid, where its dose is not known"
    )
    min_spacing_mm: float = Field(0.5, gt=0, description="smallest plausible voxel edge in mm")
    max_spacing_mm: float = Field(10.0, gt=0, description="largest plausible voxel edge in mm")
    target_dose_tolerance: float = Field(
        0.20,
        gt=0,
        lt=1,
        description="mean dose in a target may differ from its prescription by this share; lower levels lie beside "
        "higher ones and receive more",
    )


class PreprocessConfig(Settings):
    """The working grid; planned from the data unless it is set. Axes are those of the data set."""

    grid_shape: tuple[int, ...] = Field(
        (96, 128, 128), min_length=2, max_length=3, description="voxels of the working grid per axis; pictures have two"
    )
    grid_spacing_mm: tuple[float, ...] | None = Field(
        None,
        description="voxel edges of the working grid in mm per axis; null: native, nothing is resampled. "
        "Data sets of pictures ignore it: the whole picture is resized",
    )
    cases_per_shard: int = Field(
        4, ge=1, description="most cases in one shard of the store; each new case writes about as many anew"
    )


class PlanningConfig(Settings):
    """What ingestion derives from the data: grid, voxel size, batch size and depth, unless they are set."""

    max_grid_voxels: int = Field(
        1_600_000, ge=1000, description="largest working grid in voxels; larger images get coarser voxels"
    )
    step_voxels: int = Field(
        1_600_000, ge=1000, description="voxels of all images of a training step: what the batch size follows from"
    )
    covered_share: float = Field(
        0.95, gt=0, le=1, description="share of the training cases that the working grid shows whole, per axis"
    )


class EvaluationConfig(Settings):
    """Scoring."""

    confidence: float = Field(0.95, gt=0, lt=1, description="coverage of the intervals")
    test_time_flip: bool = Field(False, description="average with the prediction for the flipped image")
    num_figure_cases: int = Field(
        3, ge=0, description="cases shown in the report with slices and DVH, spread from the worst to the best"
    )
    hd95: bool = Field(False, description="also compute HD95 and surface Dice (slow on the native grid)")
    surface_tolerance_mm: float = Field(
        2.0, gt=0, description="surfaces nearer than this agree in the surface Dice; pixels, in pictures"
    )
    clinical_goals: tuple[str, ...] = Field(
        (),
        description='goals of plans, such as "SpinalCord D0.1cc < 45 Gy", "PTV70 D95% > 66.5 Gy", "Lung V20Gy < 30 %"',
    )
    num_processes: NumProcesses = Field(
        "auto", description="processes that share the cases; auto: one for every visible GPU, one on a CPU"
    )
    ensemble: bool = Field(False, description="judge the chosen architecture's folds and seeds as one averaged model")
    in_training_pod: bool = Field(
        False, description="score a model right after its training, in the same pod: `evaluate` needs no GPU then"
    )

    @field_validator("clinical_goals")
    @classmethod
    def _are_goals(cls, goals: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(Goal.parse(goal)) for goal in goals)


class PromotionConfig(Settings):
    """The gate in front of the registry. Percentages are of each task's scale: 1 for ratios, 7.9 Gy for a dose."""

    model_name: str = Field("", description="registered model; empty: ctan-<dataset>, and -phantom of synthetic data")
    enabled: bool = Field(True, description="false: compare only, touch no registry")
    approval: Literal["none", "required"] = Field(
        "none",
        description="required: a model that passes gets the alias candidate and waits for `ctan registry approve`",
    )
    min_cases: int = Field(10, ge=2, description="fewer common evaluation cases decide nothing")
    min_improvement_percent: float = Field(
        0.0, ge=0, description="the lower bound of the mean improvement over the champion must be above it"
    )
    non_inferior: bool = Field(
        False, description="a cheaper model may replace the champion when that bound is above -margin_percent"
    )
    margin_percent: float = Field(3.0, ge=0, description="no task may be worse than by this (one-sided 95 % bound)")
    task_margins_percent: dict[str, float] = Field({}, description="task -> margin of its own")
    calibration_margin_percent: float = Field(
        3.0, ge=0, description="the Brier score of a diagnosis may not be worse than by this (one-sided 95 % bound)"
    )
    subgroups: dict[str, tuple[float, ...]] = Field(
        {},
        description="facts that no group may suffer by, such as {sex: [], age: [50, 70], spacing: [2], missing: []}; "
        "numbers are the edges of bands",
    )
    subgroup_margin_percent: float = Field(5.0, ge=0, description="margin of each task within a subgroup")
    min_subgroup_cases: int = Field(20, ge=2, description="smaller subgroups are reported and decide nothing")
    max_looks: int = Field(
        10, ge=1, description="comparisons after which the evaluation cases are used up: bounds get stricter each time"
    )
    drift_source: str = Field(
        "",
        description="incoming cases, as for `ctan drift`: a retraining trains when they are no longer like those that "
        "the champion learned from; empty: nobody looks",
    )
    drift_threshold: float = Field(0.3, ge=0, le=1, description="least distance of a distribution that is such a drift")
    new_line: bool = Field(
        False, description="a champion that cannot be compared is followed by a first model, judged by baselines alone"
    )


class RunConfig(Settings):
    """Everything a run depends on. Printed in full and logged with every run."""

    schema_version: Literal[2] = 2
    profile: str = "cpu"
    architectures: Annotated[tuple[str, ...], Field(min_length=1)] = DEFAULT_ARCHITECTURES
    variant: str = Field("", description="set by training: what an architecture has other than the rest of the run")
    folds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    data: DataConfig = DataConfig()
    validation: ValidationConfig = ValidationConfig()
    planning: PlanningConfig = PlanningConfig()
    preprocess: PreprocessConfig = PreprocessConfig()
    network: NetworkConfig = NetworkConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    promotion: PromotionConfig = PromotionConfig()

    @field_validator("architectures")
    @classmethod
    def _are_known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for item in names:
            _known(plugins.NETWORKS, architecture_of(item))
            if wrong := [one for one in changes_of(item) if not one.startswith(ALLOWED) or "=" not in one]:
                raise ValueError(f"{wrong[0]!r}: expected FIELD=VALUE of {', '.join(ALLOWED)}")
        return tuple(" ".join(item.split()) for item in names)

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        for name in ("architectures", "folds", "seeds"):
            values = getattr(self, name)
            if len(set(values)) != len(values):
                raise ValueError(f"{name} lists a value twice: {list(values)}")
        for fold in self.folds:
            if not 0 <= fold < self.data.num_folds:
                raise ValueError(f"folds: {fold} is not in 0..{self.data.num_folds - 1} (data.num_folds)")
        dims, preprocess = self.network.spatial_dims, self.preprocess
        self._check_patch()
        if "grid_shape" not in preprocess.model_fields_set and dims != len(preprocess.grid_shape):
            return self  # ingestion plans the grid
        if len(preprocess.grid_shape) != dims:
            raise ValueError(
                f"preprocess.grid_shape {list(preprocess.grid_shape)} has {len(preprocess.grid_shape)} axes, "
                f"network.spatial_dims is {dims}"
            )
        if preprocess.grid_spacing_mm is not None and len(preprocess.grid_spacing_mm) != dims:
            raise ValueError(f"preprocess.grid_spacing_mm {list(preprocess.grid_spacing_mm)}: expected {dims} numbers")
        step = self.network.io_stride * 2 ** (self.network.num_stages - 1)
        for size in self.preprocess.grid_shape:
            if size % step:
                raise ValueError(
                    f"preprocess.grid_shape {list(self.preprocess.grid_shape)} must be divisible by {step} "
                    f"(io_stride {self.network.io_stride}, {self.network.num_stages} stages)"
                )
            if size // step < 2:
                raise ValueError(
                    f"network.num_stages {self.network.num_stages} leaves {size // step} voxels of {size}: "
                    f"use fewer stages or a larger preprocess.grid_shape"
                )
        return self

    def _check_patch(self) -> None:
        network, patch = self.network, self.network.patch_shape
        step = network.io_stride * 2 ** (network.num_stages - 1)
        if patch and (len(patch) != network.spatial_dims or any(size % step or size // step < 2 for size in patch)):
            raise ValueError(
                f"network.patch_shape {list(patch)}: expected {network.spatial_dims} multiples of {step} from "
                f"{2 * step} on (io_stride {network.io_stride}, {network.num_stages} stages)"
            )

    @property
    def model_name(self) -> str:
        """Name of the registered model of real data."""
        return self.promotion.model_name or f"ctan-{self.data.dataset}"

    def name_of(self, synthetic: bool) -> str:
        """Return the registered model's name for real or synthetic data, which never share one.

        Raises:
            ConfigError: when real data were to be registered under the name of synthetic ones.
        """
        marked = self.model_name.endswith(SYNTHETIC_SUFFIX)
        if marked and not synthetic:
            raise ConfigError(
                f"promotion.model_name: {self.model_name!r} is a name of synthetic data, these are real; choose one "
                f"that does not end in {SYNTHETIC_SUFFIX}"
            )
        return self.model_name + (SYNTHETIC_SUFFIX if synthetic and not marked else "")

    def hash(self, *sections: str) -> str:
        """Return the SHA-256 of the named sections (all when none is named)."""
        value = self.model_dump(mode="json", include=set(sections) if sections else None)
        return sha256_of_json(value)

    def to_yaml(self) -> str:
        """Return the settings as YAML in the order they are declared; `planned` where the data decides."""
        values = self.model_dump(mode="json")
        for section, name in PLANNED_FIELDS:
            if name not in getattr(self, section).model_fields_set:
                values[section][name] = PLANNED
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
