"""The training loop: read top to bottom, it is all there is."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from ctan import plugins
from ctan.cases import SPLIT_TRAIN
from ctan.config import RunConfig
from ctan.errors import DataError, StoppedError
from ctan.inference import save_network
from ctan.inference.trust import with_trust
from ctan.inputs import Inputs
from ctan.launch import run_in_processes
from ctan.networks import with_options
from ctan.precision import Precision, autocast, resolve_precision
from ctan.provenance import machine_facts
from ctan.ranks import Ranks, are_started, num_processes
from ctan.records import HISTORY_FILE, Grid, ModelRecord, SeenGroups
from ctan.store import StorePointer, open_store
from ctan.store.layout import WORKING
from ctan.supervise import halvings, restarts
from ctan.tasks import Task, fitted, tasks_of
from ctan.tracking.lineage import OWNER_MARK
from ctan.tracking.runs import training_run
from ctan.training.balance import gradient_figures, task_gradients
from ctan.training.begin import cases_of, check_batch, denormals_are_zero, facts_of, seed_everything
from ctan.training.checkpoint import CheckpointKey, Position
from ctan.training.checkpoints import Checkpoints
from ctan.training.console import Console
from ctan.training.data import Batch, EpochOrder, TrainingCases, make_loader, to_device
from ctan.training.history import write_history
from ctan.training.optim import clip_gradients
from ctan.training.parallel import check_equal
from ctan.training.portions import Portions, check_network
from ctan.training.session import Best, Session
from ctan.training.step import Step
from ctan.training.stopping import Stop, stopping
from ctan.variants import name_of


@dataclass(frozen=True)
class TrainSummary:
    """What one training came to.

    Attributes:
        epochs: complete epochs.
        losses: mean training loss of the last epoch by task, `""` for the total.
        step_seconds: mean seconds of an optimiser step, data loading included.
        best_epoch: epoch (from 1) with the best tuning error, 0 when it was not measured.
    """

    arch: str
    fold: int
    seed: int
    run_id: str
    epochs: int
    losses: dict[str, float]
    step_seconds: float
    num_parameters: int
    macs_per_case: int
    best_epoch: int
    best_tuning_error: float | None


def train(
    pointer: StorePointer,
    arch: str,
    fold: int,
    seed: int,
    config: RunConfig,
    checkpoint_root: str | Path,
    model_dir: Path,
    lineage: Mapping[str, str] | None = None,
    micro_batches: Sequence[tuple[int, int, int]] | None = None,
    watch: Watch | None = None,
) -> TrainSummary:
    """Train one architecture; go on from its checkpoint when there is one.

    Args:
        pointer: the store to read cases from.
        arch: architecture, see `ctan.networks`.
        fold: its cases tune, the other training cases train.
        seed: of weights, order and augmentation.
        config: all settings.
        checkpoint_root: folder or `s3://bucket/prefix` for checkpoints, one sub-folder a training.
        model_dir: receives `model.safetensors`, `model.json` and `history.parquet`.
        lineage: tags of the MLflow run, see `ctan.tracking.lineage`.
        micro_batches: to follow, of a training that is done again; None: decided here.
        watch: told of each tuning error and its epoch (from 1); True ends the training. Can be pickled.

    Raises:
        StoppedError: when `watch` said so.
        ConfigError: for an unknown architecture or fold.
        DataError: when the fold leaves nothing to train on, or the checkpoint is damaged or of another training, or its
            bucket cannot be used.
    """
    plugins.check(plugins.NETWORKS, arch, "arch")
    settings = config.training
    wanted = num_processes(
        settings.num_processes, settings.batch_size, "training.num_processes", "a training.batch_size of"
    )
    given = (pointer, arch, fold, seed, config, checkpoint_root, model_dir, lineage, micro_batches, watch)
    if wanted == 1 or are_started():
        return train_here(*given)
    again = "Training again with the same settings goes on from the last checkpoint."
    summary: TrainSummary = run_in_processes("ctan.training.loop:train_here", wanted, *given, again=again)
    return summary


@denormals_are_zero()
def train_here(
    pointer: StorePointer,
    arch: str,
    fold: int,
    seed: int,
    config: RunConfig,
    checkpoint_root: str | Path,
    model_dir: Path,
    lineage: Mapping[str, str] | None = None,
    micro_batches: Sequence[tuple[int, int, int]] | None = None,
    watch: Watch | None = None,
) -> TrainSummary:
    """Train in this process, which is one of several where `torchrun` started it. See `train`."""
    ranks = Ranks.here()
    check_batch(config, ranks)
    precision = resolve_precision(config.training.precision, ranks.device)
    torch.use_deterministic_algorithms(ranks.device.type == "cpu", warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    seed_everything(seed)

    with ranks.one_a_machine_first():
        store = open_store(pointer, (WORKING,))
    train_ids, tuning_ids = cases_of(store, fold, config)
    tasks = fitted(tasks_of(store.spec), store.labels(train_ids), store.numbers(train_ids))
    order = EpochOrder(len(train_ids), config.training.batch_size, seed, ranks)
    loader = make_loader(TrainingCases(store, train_ids, tasks, config, seed), order, config)
    tuning = make_loader(TrainingCases(store, ranks.share(tuning_ids), tasks, config, None), None, config)
    session = Session.start(arch, tasks, store.spec, config, order.steps_per_epoch, ranks)

    key = CheckpointKey.of(pointer, arch, tasks, fold, seed, config)
    checkpoints = Checkpoints(checkpoint_root, key, config.training.checkpoint_minutes)
    label = f"{name_of(arch, config.variant)} fold {fold} seed {seed}"
    console = Console(label, config.training.epochs, order.steps_per_epoch, not ranks.is_main)
    with checkpoints.owned(console.say, ranks.is_main) as left, stopping() as stop:
        saved = ranks.from_main(checkpoints.load() if ranks.is_main else None)
        if saved is not None:
            session.restore(saved)
            position = session.position
            resumed = f"resumed after {position.epoch} epochs and {position.step} steps"
            console.say(f"already trained, {position.epoch} epochs" if session.finished else resumed)
        share = -(-config.training.batch_size // ranks.size)
        if micro_batches is not None:
            session.portions = Portions(micro_batches)
        elif not session.finished:
            session.portions.begin(session.position, share, config.training.micro_batch, halvings())
        if portion := session.portions.size(session.position):
            check_network(session.network, "training.micro_batch")
            console.say(f"{portion} of its {share} cases at a time")
        facts = facts_of(session, config)
        loop = _Loop(
            ranks, session, tasks, config, precision, loader, order, tuning, len(tuning_ids), console, checkpoints, stop
        )
        if ranks.is_main:
            origin = {**(lineage or {}), OWNER_MARK: checkpoints.address}
            with training_run(config, pointer, arch, fold, seed, session.run_id or left or None, origin) as run:
                session.run_id = run.run_id
                checkpoints.owner.note_run(run.run_id)
                stop.marks += [run.mark_killed, checkpoints.owner.drop]
                described = {"precision": precision, "device": ranks.device.type, "num_processes": str(ranks.size)}
                if crashes := restarts():
                    described |= {"restarts": str(len(crashes)), "restart_reasons": ", ".join(crashes)}
                if session.portions.changes:
                    described["micro_batches"] = str(session.portions.changes)
                run.set_tags(described | {name: str(value) for name, value in facts.items()})
                with console.live():
                    loop.run(run.log_epoch, watch)
                record = ModelRecord(
                    arch=arch,
                    variant=config.variant,
                    fold=fold,
                    seed=seed,
                    spec=store.spec,
                    inputs=Inputs.of(config.data),
                    tasks=tasks,
                    in_channels=session.network.in_channels,
                    network=with_options(arch, config.network),
                    grid=Grid.of(config.preprocess),
                    compute_precision=config.training.precision,
                    test_time_flip=config.evaluation.test_time_flip,
                    precision=precision,
                    device=ranks.device.type,
                    epochs=session.position.epoch,
                    step_seconds=session.seconds / max(1, session.num_steps_done),
                    store_key=pointer.key,
                    data_hash=pointer.data_hash,
                    code_hash=key.code_hash,
                    config_hash=config.hash(),
                    versions=store.versions,
                    run_id=run.run_id,
                    run_url=run.url,
                    tracking_uri=run.tracking_uri,
                    machine=machine_facts(),
                    micro_batches=tuple(session.portions.changes),
                    seen=SeenGroups.of(map(store.group_id, store.case_ids(split=SPLIT_TRAIN)), salt=pointer.data_hash),
                    config=config.model_dump(mode="json"),
                    **facts,
                )
                write_history(model_dir / HISTORY_FILE, session.history)
                weights, cases = session.evaluated_weights(config), (train_ids, tuning_ids)
                save_network(model_dir, weights, with_trust(record, weights, ranks.device, store, cases, console.say))
                run.log_model(model_dir)
        else:
            loop.run()
        ranks.wait()
        return TrainSummary(
            arch=arch,
            fold=fold,
            seed=seed,
            run_id=session.run_id,
            epochs=session.position.epoch,
            losses={row["task"]: row["loss"] for row in session.history if row["epoch"] == session.position.epoch},
            step_seconds=session.seconds / max(1, session.num_steps_done),
            best_epoch=session.best.epoch + 1,
            best_tuning_error=session.best.error if session.best.epoch >= 0 else None,
            **facts,
        )


Log = Callable[[int, Mapping[str, float]], None]
Watch = Callable[[int, float], bool]


def _log_nothing(_: int, __: Mapping[str, float]) -> None:
    pass


@dataclass
class _Loop:
    ranks: Ranks
    session: Session
    tasks: Sequence[Task]
    config: RunConfig
    precision: Precision
    loader: DataLoader[Batch]
    order: EpochOrder
    tuning: DataLoader[Batch]
    num_tuning: int
    console: Console
    checkpoints: Checkpoints
    stop: Stop

    def run(self, log: Log = _log_nothing, watch: Watch | None = None) -> None:
        """Train until the schedule is complete or early stopping says so.

        Args:
            log: told of the figures of an epoch.
            watch: told of the tuning error, in the first process; see `train`.
        """
        while not self.session.finished:
            epoch = self.session.position.epoch
            seconds_before = self.session.seconds
            self._train_epoch(epoch, log)
            check_equal(self.session.network, self.ranks)
            losses = self._end_epoch(epoch)
            error = self._tune(epoch)
            note = f", tuning error {error:.4f}" if error is not None else ""
            log(epoch + 1, self._values(losses, error))
            if error is not None and self.ranks.from_main(watch is not None and watch(epoch + 1, error)):
                raise StoppedError(f"stopped after epoch {epoch + 1}, by its tuning error")
            self.session.position = Position(epoch + 1)
            self.session.finished = epoch + 1 >= self.config.training.epochs or self._stops_early(epoch)
            self._save_if_due()
            self.console.epoch(epoch, losses, self.session.seconds - seconds_before, note)

    def _train_epoch(self, epoch: int, log: Log) -> None:
        session, position = self.session, self.session.position
        extra = self.config.training.foreground_weight
        step = Step(session.network, session.weighting, self.tasks, self.precision, self.ranks, extra)
        self.order.start(epoch, position.step)
        session.network.train()
        started = time.perf_counter()
        for batch in self.loader:
            portion = session.portions.size(position)
            losses = self._losses(step, batch, portion)
            if self.config.training.gradient_cosine and position.step == 0 and not portion:
                of_tasks = {task.name: losses[task.name] for task in self.tasks}
                log(epoch + 1, gradient_figures(task_gradients(of_tasks, step.parameters, self.ranks)))
            if not portion:
                step.backward(losses)
            clip_gradients(session.network.independent_parts(), self.config.training.gradient_clip)
            session.optimizer.step()
            session.schedule.step()
            session.ema.update_parameters(session.network)
            for name, value in losses.items():
                session.sums[name] = session.sums.get(name, 0.0) + value.item()
            position.step += 1
            session.num_steps_done += 1
            now = time.perf_counter()
            session.seconds, started = session.seconds + now - started, now
            self.console.step(epoch, position.step, self._means())
            self._save_if_due()

    def _losses(self, step: Step, batch: Batch, portion: int) -> dict[str, torch.Tensor]:
        """Return the losses of a step; in portions its gradients are set then."""
        try:
            return step.in_portions(batch, portion) if portion else step.forward(batch)
        except DataError as error:
            raise DataError(
                f"{error} in epoch {self.session.position.epoch + 1}: try a smaller training.learning_rate or "
                f"training.precision=fp32"
            ) from error

    def _means(self) -> dict[str, float]:
        return {name: value / self.session.position.step for name, value in self.session.sums.items()}

    def _end_epoch(self, epoch: int) -> dict[str, float]:
        """Turn the epoch's sums into history rows and tell the task weighting; return the mean losses."""
        session, losses = self.session, self._means()
        weights, rate = session.weighting.weights(), session.schedule.get_last_lr()[0]
        for name, loss in losses.items():
            weight = weights.get(name, 1.0)
            row = {"epoch": epoch + 1, "task": name, "loss": loss, "weight": weight, "learning_rate": rate}
            session.history.append(row)
        session.weighting.end_epoch(losses)
        session.sums = {}
        return losses

    def _values(self, losses: dict[str, float], error: float | None) -> dict[str, float]:
        """Return what MLflow records of the epoch."""
        session = self.session
        values = {f"train/{name}/loss" if name else "train/loss": loss for name, loss in losses.items()}
        values |= {f"train/{name}/weight": weight for name, weight in session.weighting.weights().items()}
        values |= {
            "train/learning_rate": float(session.schedule.get_last_lr()[0]),
            "train/step_seconds": session.seconds / max(1, session.num_steps_done),
        }
        if error is not None:
            values |= {"tuning/error": error, "tuning/best_error": session.best.error}
        return values

    @torch.no_grad()
    def _tune(self, epoch: int) -> float | None:
        """Score the tuning cases with the averaged weights when it is time; keep the best."""
        every = self.config.training.tuning_every or (1 if self.config.training.early_stopping_patience else 0)
        if not every or ((epoch + 1) % every and epoch + 1 < self.config.training.epochs):
            return None
        network, found = self.session.ema.module.eval(), []
        for cpu_batch in self.tuning:
            if self.stop.is_wanted and self.ranks.size == 1:
                self.stop.end()  # in the middle of an epoch's end there is nothing to save
            batch = to_device(cpu_batch, self.ranks.device)
            with autocast(self.ranks.device, self.precision):
                outputs = network(batch["image"])
            found.append([task.error(outputs[task.name], batch["targets"][task.name]) for task in self.tasks])
        errors = [error for of_case in self.ranks.joined(found, self.num_tuning) for error in of_case]
        error = sum(errors) / len(errors)
        if error < self.session.best.error:
            weights = {name: value.cpu().clone() for name, value in network.state_dict().items()}
            self.session.best = Best(error, epoch, weights)
        rate = self.session.schedule.get_last_lr()[0]
        row: dict[str, Any] = {
            "epoch": epoch + 1,
            "task": "tuning",
            "loss": error,
            "weight": 1.0,
            "learning_rate": rate,
        }
        self.session.history.append(row)
        return error

    def _stops_early(self, epoch: int) -> bool:
        patience = self.config.training.early_stopping_patience
        return bool(patience) and epoch - self.session.best.epoch >= patience

    def _save_if_due(self) -> None:
        """Save when it is time, when training is complete, and before it ends because somebody wants it to."""
        stops = self.ranks.any(self.stop.is_wanted)  # after the same step everywhere
        last = self.session.finished or stops
        if self.ranks.is_main and (last or self.checkpoints.is_due):
            self.checkpoints.save(self.session.state(), last)
        if stops and not self.session.finished:
            if self.stop.is_wanted:
                self.stop.end()
            raise SystemExit(128 + signal.SIGTERM)
