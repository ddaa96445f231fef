"""What is added to a model once it is trained: calibrated probabilities, and a fingerprint of what it learned from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ctan.inference.fingerprint import MOST_CASES, Seen, fingerprint
from ctan.inference.load import LoadedModel
from ctan.inference.why import exchanged
from ctan.inputs import network_input
from ctan.records import Calibration, MeanExchange, ModelRecord

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ctan.networks import Exchange
    from ctan.store import Store


_EXCHANGE_CASES = 20


def with_trust(
    record: ModelRecord,
    weights: Mapping[str, Tensor],
    device: torch.device,
    store: Store,
    cases: tuple[Sequence[str], Sequence[str]],
    say: Callable[[str], None],
) -> ModelRecord:
    """Return a model's record with temperatures and fingerprint.

    At most 200 cases of each kind are shown to the model, chosen by the hashes of their ids.

    Args:
        record: of the model, as it is without.
        weights: that will be asked.
        device: to compute on.
        store: that it learned from.
        cases: those that its weights were fitted to, and those that at most chose the epoch.
        say: told of each temperature.
    """
    from ctan.networks import build_network

    network = build_network(record.arch, record.tasks, record.in_channels, record.network)
    network.load_state_dict(weights)
    model = LoadedModel(network.eval().to(device), record, device)
    train, tuning = map(_some, cases)
    calibration = _calibration(model, store, tuning)
    for name, found in calibration.items():
        say(f"{name}: {found}")

    def seen() -> Iterator[Seen]:
        for held_out, case_ids in ((False, train), (True, tuning)):
            for case_id in case_ids:
                yield Seen(store.load(case_id), store.geometry(case_id), held_out)

    known = fingerprint(model, seen(), len(cases[0]))
    taken = _exchange(model, store, tuning[:_EXCHANGE_CASES])
    return record.model_copy(update={"calibration": calibration, "fingerprint": known, "exchange": taken})


def _exchange(model: LoadedModel, store: Store, case_ids: Sequence[str]) -> MeanExchange | None:
    images = (network_input(store.load(case_id), model.spec, model.inputs) for case_id in case_ids)
    found = [one for image in images if (one := exchanged(model, image)) is not None]
    return mean_exchange(found) if found else None


def mean_exchange(found: Sequence[Exchange]) -> MeanExchange:
    """Return the mean over images of what tasks take from each other."""

    def mean(some: Sequence[Mapping[str, float]]) -> dict[str, float]:
        return {pair: round(float(np.mean([values[pair] for values in some])), 6) for pair in some[0]}

    stages = tuple(mean([one.stages[number] for one in found]) for number, _ in enumerate(found[0].stages))
    attention = {
        pair: _from_the_front(np.mean([one.attention[pair] for one in found], axis=0)) for pair in found[0].attention
    }
    entropy = mean([one.entropy for one in found])
    return MeanExchange(stages=stages, entropy=entropy, attention=attention, num_cases=len(found))


def _from_the_front(attention: npt.NDArray[np.floating]) -> tuple[tuple[float, ...], ...]:
    """Return a map as rows; of a volume (posterior, left, inferior) its sum over the first axis, superior first."""
    seen = attention if attention.ndim == 2 else attention.sum(axis=0).T
    return tuple(tuple(round(float(value), 6) for value in row) for row in seen)


def _calibration(model: LoadedModel, store: Store, case_ids: Sequence[str]) -> dict[str, Calibration]:
    asked = [task for task in model.tasks if task.head == "image"]
    if not asked or not case_ids:
        return {}
    cases = [store.load(case_id) for case_id in case_ids]
    raws = [model.raw_arrays(network_input(case, model.spec, model.inputs)[None]) for case in cases]
    found = {}
    for task in asked:
        fitted = task.fitted_temperature(np.stack([raw[task.name][0] for raw in raws]), cases)
        if fitted is not None:
            found[task.name] = Calibration(**asdict(fitted))
    return found


def _some(case_ids: Sequence[str]) -> list[str]:
    ranked = sorted(case_ids, key=lambda case_id: hashlib.sha256(case_id.encode()).digest())
    return sorted(ranked[:MOST_CASES])
