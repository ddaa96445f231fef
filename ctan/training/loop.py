"""The training loop: read top to bottom, it is all there is."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

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
from ctan.precision import Precision, resolve_precision
from ctan.provenance import machine_facts
from ctan.ranks import Ranks, are_started, num_processes
from ctan.records import HISTORY_FILE, Grid, ModelRecord, SeenGroups
from ctan.store import StorePointer, open_store
from ctan.store.layout import WORKING
from ctan.supervise import halvings, restarts
from ctan.tasks import Task, tasks_of
from ctan.tracking.lineage import OWNER_MARK
from ctan.tracking.runs import training_run
from ctan.training.balance import gradient_figures, task_gradients
from ctan.training.begin import cases_of, check_batch, denormals_are_zero, facts_of, network_grid, seed_everything
from ctan.training.checkpoint import CheckpointKey, Position
from ctan.training.checkpoints import Checkpoints
from ctan.training.compiled import Compute, compiled
from ctan.training.console import Console
from ctan.training.data import Batch, EpochOrder, TrainingCases, hold, make_loader
from ctan.training.history import write_history
from ctan.training.labels import fitted_to, kept_back
from ctan.training.optim import clip_gradients
from ctan.training.parallel import check_equal
from ctan.training.portions import Portions, check_network
from ctan.training.session import Best, Session
from ctan.training.step import Step
from ctan.training.stopping import Stop, stopping
from ctan.training.tuning import tuning_error
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
    tasks = tasks_of(store.spec)
    hidden = kept_back(store, train_ids, tasks, config)
    tasks = fitted_to(store, train_ids, tasks, hidden)
    order = EpochOrder(len(train_ids), config.training.batch_size, seed, ranks)
    cases = TrainingCases(store, train_ids, tasks, config, seed, hidden)
    tuning_cases = TrainingCases(store, ranks.share(tuning_ids), tasks, config, None)
    loader, tuning = make_loader(cases, order, config), make_loader(tuning_cases, None, config)
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
        compute = None
        if not session.finished:
            cases.held = tuning_cases.held = hold(store, [*train_ids, *tuning_ids], config.training.cases_in_memory)
            if config.training.compile:
                shape = (portion or share, session.network.in_channels, *network_grid(config))
                compute = compiled(session.network, shape, precision, ranks, console.say)
        facts = facts_of(session, config)
        told = console, checkpoints, stop, compute
        loop = _Loop(ranks, session, tasks, config, precision, loader, order, tuning, len(tuning_ids), *told)
        if ranks.is_main:
            origin = {**(lineage or {}), OWNER_MARK: checkpoints.address}
            with training_run(config, pointer, arch, fold, seed, session.run_id or left or None, origin) as run:
                session.run_id = run.run_id
                checkpoints.owner.note_run(run.run_id)
                stop.marks += [run.mark_killed, checkpoints.owner.drop]
                described = {"precision": precision, "device": ranks.device.type, "num_processes": str(ranks.size)}
                if crashes := restarts():
                    described |= {"restarts": str(len(crashes)), "restart_reasons": ", ".join(crashes)}
                if config.training.compile and not session.finished:
                    described["compiled"] = str(compute is not None).lower()
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
                weights, ids = session.evaluated_weights(config), (train_ids, tuning_ids)
                save_network(model_dir, weights, with_trust(record, weights, ranks.device, store, ids, console.say))
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
    compute: Compute | None = None

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
            self._save(self.ranks.is_main and self.checkpoints.is_due, *self.ranks.any(self.stop.is_wanted))
            self.console.epoch(epoch, losses, self.session.seconds - seconds_before, note)

    def _train_epoch(self, epoch: int, log: Log) -> None:
        session, position = self.session, self.session.position
        extra = self.config.training.foreground_weight
        step = Step(session.network, session.weighting, self.tasks, self.precision, self.ranks, extra, self.compute)
        self.order.start(epoch, position.step)
        session.network.train()
        started = time.perf_counter()
        for batch in self.loader:
            portion = session.portions.size(position)
            losses = step.in_portions(batch, portion) if portion else step.forward(batch)
            if self.config.training.gradient_cosine and position.step == 0 and not portion:
                of_tasks = {task.name: losses[task.name] for task in self.tasks}
                log(epoch + 1, gradient_figures(task_gradients(of_tasks, step.parameters, self.ranks)))
            if not portion:
                step.backward(losses)
            clip_gradients(session.network.independent_parts(), self.config.training.gradient_clip)
            session.optimizer.step()
            session.schedule.step()
            session.ema.update_parameters(session.network)
            position.step += 1
            session.num_steps_done += 1
            is_last = position.step == self.order.steps_per_epoch
            saves = self.ranks.is_main and self.checkpoints.is_due
            stops, reads = self.ranks.any(self.stop.is_wanted, saves or self.console.is_due)  # the same everywhere
            if stops or reads or is_last:
                self._read(step)
                self.console.step(epoch, position.step, self._means())
            now = time.perf_counter()  # of an accelerator, whose work is done in parallel, true when it was waited for
            session.seconds, started = session.seconds + now - started, now
            self._save(saves, stops)

    def _read(self, step: Step) -> None:
        """Add the losses of the steps since the last time to the epoch's sums."""
        try:
            for losses in step.read():
                for name, value in losses.items():
                    self.session.sums[name] = self.session.sums.get(name, 0.0) + value
        except DataError as error:
            where = f"in epoch {self.session.position.epoch + 1}"
            way_out = "try a smaller training.learning_rate or training.precision=fp32"
            raise DataError(f"{error} {where}: {way_out}") from error

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

    def _tune(self, epoch: int) -> float | None:
        """Score the tuning cases with the averaged weights when it is time; keep the best."""
        every = self.config.training.tuning_every or (1 if self.config.training.early_stopping_patience else 0)
        if not every or ((epoch + 1) % every and epoch + 1 < self.config.training.epochs):
            return None
        network = self.session.ema.module.eval()
        error = tuning_error(network, self.tuning, self.num_tuning, self.tasks, self.precision, self.ranks, self.stop)
        if error < self.session.best.error:
            weights = {name: value.cpu().clone() for name, value in network.state_dict().items()}
            self.session.best = Best(error, epoch, weights)
        rate = self.session.schedule.get_last_lr()[0]
        row = {"epoch": epoch + 1, "task": "tuning", "loss": error, "weight": 1.0, "learning_rate": rate}
        self.session.history.append(row)
        return error

    def _stops_early(self, epoch: int) -> bool:
        patience = self.config.training.early_stopping_patience
        return bool(patience) and epoch - self.session.best.epoch >= patience

    def _save(self, is_due: bool, stops: bool) -> None:
        """Save when it is time, when training is complete, and before it ends because somebody wants it to.

        Losses of all steps were read before: what is saved had finite ones.
        """
        last = self.session.finished or stops
        if self.ranks.is_main and (last or is_due):
            self.checkpoints.save(self.session.state(), last)
        if stops and not self.session.finished:
            if self.stop.is_wanted:
                self.stop.end()
            raise SystemExit(128 + signal.SIGTERM)
