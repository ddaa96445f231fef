"""A search for settings by the tuning error: `ctan tune`.

Optuna proposes (Akiba et al. 2019; tree-structured Parzen estimator) and stops what is worse than the median so far.
The study is a file of its own: the same command goes on with it, and with the training that was cut short.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ctan.errors import CtanError, DataError, StoppedError
from ctan.files import sha256_of_json, write_text
from ctan.process import is_gone, this_process
from ctan.records import HISTORY_FILE
from ctan.settings import with_overrides
from ctan.sources import buckets
from ctan.sources.objects import read_object
from ctan.tuning.space import Searched, default_space

if TYPE_CHECKING:
    import optuna

    from ctan.config import RunConfig
    from ctan.store import StorePointer

_JOURNAL = "study.journal"
_OWNER = "owner"  # attribute of a trial: the process that works on it
_RANDOM_FIRST = 5  # trials before the proposals follow from others
_MOST_FAILURES = 3  # in a row, without any success: the settings are wrong, not the proposal


@dataclass(frozen=True)
class Tuned:
    """What a search came to.

    Attributes:
        profile: the file with the best settings.
        error: their tuning error.
        trial: their number, from 0.
        values: setting -> value.
        num_trials, num_pruned, num_failed: of the study, so far.
    """

    profile: Path
    error: float
    trial: int
    values: Mapping[str, Any]
    num_trials: int
    num_pruned: int
    num_failed: int

    def __str__(self) -> str:
        values = ", ".join(f"{field}={_short(value)}" for field, value in self.values.items())
        return (
            f"{self.num_trials} trials ({self.num_pruned} stopped early, {self.num_failed} failed); the best is trial "
            f"{self.trial}, tuning error {self.error:.4f}: {values}"
        )


def tune(
    pointer: StorePointer,
    arch: str,
    fold: int,
    seed: int,
    config: RunConfig,
    root: str | Path,
    num_trials: int,
    space: Sequence[Searched] = (),
    profile: Path | None = None,
    say: Callable[[str], None] = print,
    pipeline_run: str = "",
    alone: bool = False,
) -> Tuned:
    """Search settings of one architecture by the error on its tuning cases; evaluation cases are not looked at.

    Every trial is a training with an MLflow run of its own below one of the study. The tuning fold chooses, so that
    the error of what it chose is too good: compare by `ctan run` or `ctan evaluate`.

    Args:
        pointer: the store.
        arch: architecture.
        fold: its cases tune.
        seed: of the trainings and the search.
        config: settings that are not searched, and the number of epochs of a trial.
        root: folder or `s3://bucket/prefix` of studies and their checkpoints.
        num_trials: of the study, those of an earlier call included.
        space: what is searched; empty: `default_space`.
        profile: file to write; None: beside the study.
        say: told what happens, a line each.
        pipeline_run: that searches, recorded with the trainings; empty: the study.
        alone: nobody else works on this study: a trial whose process ran elsewhere, so that it cannot be seen whether
            it lives, was cut short.

    Raises:
        ConfigError: for a setting that does not exist or a value that it does not allow.
        DataError: when no trial came to an end.
    """
    import optuna

    from ctan.store import open_store
    from ctan.tracking.lineage import PIPELINE_RUN

    config = config.model_copy(
        update={"training": config.training.model_copy(update={"tuning_every": config.training.tuning_every or 1})}
    )
    space = tuple(space) or default_space(config, open_store(pointer, ()).spec)
    for searched in space:
        for value in searched.choices or (searched.low, searched.high):
            _changed(config, {searched.field: value})
    decides = [arch, fold, seed, pointer.key, config.hash(), [vars(searched) for searched in space]]
    name = f"{arch}-{sha256_of_json(decides)[:12]}"
    place = _Place.of(root, name)
    folder, tags = place.folder, {PIPELINE_RUN: pipeline_run or f"tune {name}"}
    study = _study(folder, name)
    while (trial := _next(study, num_trials, seed, alone)) is not None:
        place.keep()
        values = {searched.field: searched.suggest(trial) for searched in space}
        shown = ", ".join(f"{field}={_short(value)}" for field, value in values.items())
        say(f"trial {trial.number + 1} of {num_trials}: {shown}")
        try:
            error = _train(pointer, arch, fold, seed, _changed(config, values), place, name, trial, tags)
        except CtanError as failure:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            place.keep()
            say(f"trial {trial.number + 1} failed: {failure}")
            finished = [one.state for one in study.trials if one.state.is_finished()]
            if len(finished) >= _MOST_FAILURES and not any(state != optuna.trial.TrialState.FAIL for state in finished):
                raise
            continue
        if error is None:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            say(f"trial {trial.number + 1} stopped: worse than the median of the others at the same epoch")
        else:
            study.tell(trial, error)
            say(f"trial {trial.number + 1}: tuning error {error:.4f}")
        place.keep()
    return _result(study, config, arch, fold, seed, profile or folder / "profile.yaml")


def _changed(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """Return settings with some of them changed.

    Raises:
        ConfigError: naming the field.
    """
    overrides = [f"{field}={yaml.safe_dump(value, default_flow_style=True).strip()}" for field, value in values.items()]
    return with_overrides(config.model_dump(mode="json"), [text.removesuffix("\n...") for text in overrides], "tune")


@dataclass(frozen=True)
class _Place:
    """Where a study lies.

    Attributes:
        folder: here.
        address: the bucket's folder that holds it for whoever goes on with it elsewhere; empty: there is none.
    """

    folder: Path
    address: str = ""

    @classmethod
    def of(cls, root: str | Path, name: str) -> _Place:
        """Return a place whose folder is as it was left."""
        if not buckets.is_remote(root):
            made = cls(Path(root) / name)
        else:
            address = buckets.join(str(root), name)
            made = cls(buckets.cache_folder("tuning", address), address)
        made.folder.mkdir(parents=True, exist_ok=True)
        if made.address and (found := read_object(buckets.join(made.address, _JOURNAL))):
            (made.folder / _JOURNAL).write_bytes(found)
        return made

    def keep(self) -> None:
        """Let the study be gone on with from here."""
        if self.address:
            buckets.upload_file(self.folder / _JOURNAL, buckets.join(self.address, _JOURNAL))

    def trial(self, number: int) -> tuple[Path, str]:
        """Return the folder of a trial's files, and the root of its checkpoints."""
        folder = self.folder / f"trial-{number}"
        return folder, buckets.join(self.address or str(self.folder), folder.name, "checkpoints")

    def clear(self, number: int) -> None:
        """Remove what a trial left."""
        folder, checkpoints = self.trial(number)
        shutil.rmtree(folder)
        if self.address:
            buckets.remove(checkpoints, first="")


def _study(folder: Path, name: str) -> optuna.Study:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(folder / _JOURNAL))),
        study_name=name,
        direction="minimize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=_RANDOM_FIRST - 1, n_warmup_steps=1),
    )


def _next(study: optuna.Study, num_trials: int, seed: int, alone: bool) -> optuna.Trial | None:
    """Return a trial whose process is gone, else a new one; None when there are enough.

    The sampler's seed follows from how many there are, so that a study that was interrupted proposes what one that was
    not proposes.
    """
    import optuna

    trials = study.get_trials(deepcopy=False)
    for found in trials:
        if found.state != optuna.trial.TrialState.RUNNING:
            continue
        gone = is_gone(found.user_attrs.get(_OWNER, ""))
        if gone or (gone is None and alone):
            trial = optuna.trial.Trial(study, found._trial_id)
            break
    else:
        if len(trials) >= num_trials:
            return None
        study.sampler = optuna.samplers.TPESampler(seed=seed * 100_003 + len(trials), n_startup_trials=_RANDOM_FIRST)
        trial = study.ask()
    trial.set_user_attr(_OWNER, this_process())
    return trial


@dataclass(frozen=True)
class Watch:
    """What a training tells of its tuning error, from the process that it runs in.

    Attributes:
        folder: of the study.
        study: its name.
        trial_id: of the trial.
    """

    folder: Path
    study: str
    trial_id: int

    def __call__(self, epoch: int, error: float) -> bool:
        """Take note of the error after an epoch (from 1); return whether to stop."""
        import optuna

        trial = optuna.trial.Trial(_study(self.folder, self.study), self.trial_id)
        trial.report(error, epoch)
        return trial.should_prune()


def _train(
    pointer: StorePointer,
    arch: str,
    fold: int,
    seed: int,
    config: RunConfig,
    place: _Place,
    name: str,
    trial: optuna.Trial,
    tags: Mapping[str, str],
) -> float | None:
    """Return the tuning error of what a training ends with; None when it was stopped."""
    from ctan.supervise import supervised

    folder, checkpoints = place.trial(trial.number)
    folder.mkdir(exist_ok=True)
    model_dir = folder / "model"
    arguments = {
        "pointer": pointer,
        "arch": arch,
        "fold": fold,
        "seed": seed,
        "config": config,
        "checkpoint_root": checkpoints,
        "model_dir": model_dir,
        "lineage": {**tags, "tuning_trial": str(trial.number)},
        "watch": Watch(place.folder, name, trial._trial_id),
    }
    found: float | None = None
    try:
        supervised("ctan.tuning.search:train_one", arguments, config.training.max_restarts)
        errors = list(_errors(model_dir))
        found = min(errors) if config.training.early_stopping_patience else errors[-1]
    except StoppedError:
        pass
    except CtanError:
        place.clear(trial.number)
        raise
    place.clear(trial.number)  # not when it is told to stop: the same command goes on from there
    return found


def train_one(**arguments: Any) -> None:
    """Do the training of a trial, in a process of its own."""
    from ctan.step_environment import prepare_step
    from ctan.training import train

    prepare_step()
    train(**arguments)


def _errors(model_dir: Path) -> Iterator[float]:
    import pyarrow.parquet as pq

    for row in pq.read_table(model_dir / HISTORY_FILE).to_pylist():
        if row["task"] == "tuning":
            yield row["loss"]


def _result(study: optuna.Study, config: RunConfig, arch: str, fold: int, seed: int, profile: Path) -> Tuned:
    import optuna

    states = [trial.state for trial in study.trials]
    if optuna.trial.TrialState.COMPLETE not in states:
        raise DataError(f"none of {len(states)} trials came to an end: raise --trials, or look at what they said")
    best = study.best_trial
    num_pruned = states.count(optuna.trial.TrialState.PRUNED)
    num_failed = states.count(optuna.trial.TrialState.FAIL)
    tuned = Tuned(profile, float(study.best_value), best.number + 1, best.params, len(states), num_pruned, num_failed)
    words = [
        f"ctan tune: {arch} on {config.data.dataset}, fold {fold}, seed {seed}.",
        f"{tuned}.",
        "Chosen by the tuning fold, whose error is therefore too good; evaluation cases were not looked at.",
    ]
    chosen = _changed(config, best.params)
    write_text(profile, "".join(f"# {line}\n" for line in words) + chosen.to_yaml())
    return tuned


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
