"""A training step of every architecture: as PyTorch computes it by itself, and as ctan does.

    python benchmarks/train_step.py [--profile smoke|cpu|gpu] [--rounds N] [--arch NAME ...] [--precision fp32|bf16]

After it: CTAN's step over that of HPS (aim: 1.25 at most); the forward pass of a step and a whole prediction by case
(`evaluate` asks without gradients; aim: no slower); and what a case costs that is loaded from a store of phantoms or
held in memory, augmented as in training, beside the step (aim: at most 5% of it, on a CPU where nothing runs ahead).

"PyTorch" is the same network with every convolution left to the library and AdamW without `fused`. Both ways do the
same step (forward, loss, backward, clipping, optimiser, moving average) in turn in one process, one thread, and the
table shows medians of the processor time. Peak memory is of a process that does two steps one way, less what it had
before. Gradients of both ways are compared before a row is printed.

A processor with bfloat16 stands in for one without by `ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2`, set before
the start.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.optim import AdamW

from ctan import steps
from ctan.config import RunConfig
from ctan.datasets import get_dataset
from ctan.inputs import Inputs
from ctan.memory import keep_freed_memory
from ctan.networks import build_network, convolutions, count_macs, count_parameters
from ctan.parameters import DEFAULT_ARCHITECTURES
from ctan.precision import Precision, autocast, resolve_precision
from ctan.settings import load_config
from ctan.store import StorePointer, open_store
from ctan.tasks import tasks_of
from ctan.training.data import TrainingCases, Wanted, hold
from ctan.training.optim import clip_gradients, make_ema, make_optimizer
from ctan.training.weighting import EqualWeighting

CPU = torch.device("cpu")
PLAIN = convolutions._is_plain_volume
WAYS = ("PyTorch", "ctan")
LARGEST_DIFFERENCE = 0.05  # of the gradients' norm in fp32, which instance norms over few voxels amplify
# What planning makes of the packaged data sets: grid, stages, cases a step.
SIZES: dict[tuple[str, str], tuple[list[int], int, int]] = {
    ("smoke", "openkbp"): ([40, 64, 48], 3, 1),
    ("smoke", "ham10000"): ([64, 96], 4, 4),
    ("cpu", "openkbp"): ([96, 128, 128], 5, 1),
    ("cpu", "ham10000"): ([144, 192], 5, 8),
    ("gpu", "openkbp"): ([96, 128, 128], 5, 2),
    ("gpu", "ham10000"): ([336, 448], 6, 32),
}


def never(x: Tensor) -> bool:
    """Leave every convolution to the library."""
    del x
    return False


class Way:
    """One network and how its steps are computed."""

    def __init__(self, way: str, arch: str, dataset: str, config: RunConfig, precision: Precision) -> None:
        torch.manual_seed(0)
        spec = get_dataset(dataset).spec
        self.tasks = tasks_of(spec)
        self.way, self.precision, self.config = way, precision, config
        self.network = build_network(
            arch, self.tasks, Inputs.of(config.data).num_channels(spec), config.network
        ).train()
        self.optimizer = make_optimizer(self.network, EqualWeighting([t.name for t in self.tasks]), config.training)
        if way == "PyTorch":
            self.optimizer = AdamW(self.optimizer.param_groups, fused=False)
        self.ema = make_ema(self.network, config.training)
        shape = (config.training.batch_size, self.network.in_channels, *config.preprocess.grid_shape)
        self.image = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        self.wanted: dict[str, Tensor] = {}

    def gradients(self) -> Tensor:
        """Return the gradients of a step, as one vector."""
        for parameter in self.network.parameters():
            parameter.grad = None
        convolutions._is_plain_volume = PLAIN if self.way == "ctan" else never
        with autocast(CPU, self.precision):
            outputs = self.network(self.image)
        for name, output in outputs.items():
            if name not in self.wanted:
                self.wanted[name] = torch.randn(output.shape, generator=torch.Generator().manual_seed(2))
        torch.stack([(y.float() - self.wanted[name]).square().mean() for name, y in outputs.items()]).sum().backward()
        return torch.cat([p.grad.flatten() for p in self.network.parameters() if p.grad is not None])

    def forward(self) -> None:
        """Do the part of a step that `evaluate` does too."""
        convolutions._is_plain_volume = PLAIN if self.way == "ctan" else never
        with autocast(CPU, self.precision):
            self.network.train()(self.image)

    def evaluate(self) -> None:
        """Predict the same cases one by one, as `evaluate` does, activations included."""
        convolutions._is_plain_volume = PLAIN if self.way == "ctan" else never
        with torch.no_grad(), autocast(CPU, self.precision):
            for image in self.image:
                outputs = self.network.eval()(image[None])
                for task in self.tasks:
                    task.activate(outputs[task.name])
        self.network.train()

    def step(self) -> None:
        """Do a step."""
        self.gradients()
        clip_gradients(self.network.independent_parts(), self.config.training.gradient_clip)
        self.optimizer.step()
        self.ema.update_parameters(self.network)


def in_a_process(work: Callable[..., Any], *given: object) -> Any:
    """Return what a function gives in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, given)


def peak_bytes(*given: Any) -> int:
    """Return the memory that two steps take beside the libraries."""
    prepare()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    made = Way(*given)
    made.step()
    made.step()
    return 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def measure(arch: str, dataset: str, config: RunConfig, precision: Precision, rounds: int) -> dict[str, Any]:
    """Return seconds a step by way, the size of the network, and how far the gradients lie apart."""
    prepare()
    made = {way: Way(way, arch, dataset, config, precision) for way in WAYS}
    first, second = (made[way].gradients() for way in WAYS)
    ours = made["ctan"]
    works = {**{way: made[way].step for way in WAYS}, "forward": ours.forward, "evaluate": ours.evaluate}
    seconds = in_turn(works, rounds)
    network = made["ctan"].network
    return {
        "seconds": seconds,
        "parameters": count_parameters(network),
        "macs": count_macs(network, (1, network.in_channels, *config.preprocess.grid_shape)),
        "difference": float((first - second).norm() / first.norm()),
    }


def in_turn(works: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median processor seconds of each work; the first round does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            start = time.process_time()
            work()
            if number:
                seconds[name].append(time.process_time() - start)
    return {name: statistics.median(found) for name, found in seconds.items()}


def loading(config: RunConfig, rounds: int) -> dict[str, float]:
    """Return the processor seconds of a case that is read from a store, and of one that is held in memory."""
    prepare()
    with tempfile.TemporaryDirectory() as name:
        manifest, pointer = f"{name}/manifest", f"{name}/store.json"
        source, settings, origin = steps.resolve("phantom:train=4,validation=1,seed=0", config, name)
        with contextlib.redirect_stdout(io.StringIO()):
            steps.ingest(settings, origin, manifest, num_workers=0)
            steps.preprocess(source, manifest, pointer, name, num_workers=1)
        store = open_store(StorePointer.load(Path(pointer)))
        ids = store.case_ids(split="train")
        cases = TrainingCases(store, ids, tasks_of(store.spec), config, 0)
        held = TrainingCases(store, ids, tasks_of(store.spec), config, 0)
        held.held = hold(store, ids, 1.0)
        numbers = itertools.count()
        works = {"store": lambda: cases[Wanted(next(numbers), 0)], "memory": lambda: held[Wanted(next(numbers), 0)]}
        return in_turn(works, 4 * rounds)


def prepare() -> None:
    """Set the process up as a training step of ctan is."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    keep_freed_memory()


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", choices=["smoke", "cpu", "gpu"], default="smoke")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--arch", nargs="+", default=list(DEFAULT_ARCHITECTURES))
    parser.add_argument("--dataset", nargs="+", default=["openkbp", "ham10000"], choices=["openkbp", "ham10000"])
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    chosen = parser.parse_args()
    precision = resolve_precision(chosen.precision, CPU)
    table = Table(title=f"a training step, profile {chosen.profile}, {precision}, one thread", title_justify="left")
    columns = ("network", "parameters", "GMAC a case", "PyTorch ms", "ctan ms", "ratio", "cases/s", "memory", "ratio")
    for name in columns:
        table.add_column(name, justify="left" if name == "network" else "right")
    console, said = Console(width=140), list[str]()
    for dataset in chosen.dataset:
        shape, stages, batch = SIZES[chosen.profile, dataset]
        settings: dict[str, Any] = {"data.dataset": dataset, "preprocess.grid_shape": shape}
        settings |= {"network.num_stages": stages, "training.batch_size": batch}
        config, times = load_config(chosen.profile, settings), dict[str, dict[str, float]]()
        for arch in chosen.arch:
            found = in_a_process(measure, arch, dataset, config, precision, chosen.rounds)
            if precision == "fp32" and found["difference"] > LARGEST_DIFFERENCE:
                raise SystemExit(
                    f"{arch}: the gradients of both ways lie {found['difference']:.1e} of their norm apart"
                )
            times[arch] = found["seconds"]
            peaks = [in_a_process(peak_bytes, way, arch, dataset, config, precision) for way in WAYS]
            theirs, ours = (found["seconds"][way] for way in WAYS)
            table.add_row(
                f"{arch} {'x'.join(map(str, shape))}, batch {batch}",
                f"{found['parameters']:,}",
                f"{found['macs'] / 1e9:.2f}",
                f"{1000 * theirs:.0f}",
                f"{1000 * ours:.0f}",
                f"{ours / theirs:.2f}",
                f"{batch / ours:.1f}",
                f"{peaks[1] / 2**20:.0f} MiB",
                f"{peaks[1] / peaks[0]:.2f}",
            )
        said += in_words(dataset, batch, times, in_a_process(loading, config, chosen.rounds))
    console.print(table)
    console.print("\n".join(said), highlight=False)


def in_words(
    dataset: str, batch: int, times: Mapping[str, Mapping[str, float]], load: Mapping[str, float]
) -> list[str]:
    """Return what the times of a data set come to."""
    said = []
    if {"ctan", "hps"} <= times.keys():
        said.append(f"{dataset}: CTAN / HPS, a step: {times['ctan']['ctan'] / times['hps']['ctan']:.2f}")
    for arch, of_arch in times.items():
        forward, evaluate = (1000 * of_arch[name] / batch for name in ("forward", "evaluate"))
        said.append(f"{dataset}, {arch}: forward of a step {forward:.0f} ms a case, evaluate {evaluate:.0f} ms")
    fastest = 1000 * min(of_arch["ctan"] for of_arch in times.values()) / batch
    for where, seconds in load.items():
        share = 1000 * seconds / (1000 * seconds + fastest)
        said.append(f"{dataset}: a case from {where} {1000 * seconds:.1f} ms, {share:.1%} of load and fastest step")
    return said


if __name__ == "__main__":
    main()
