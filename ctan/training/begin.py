"""What a training begins with: its cases, its random numbers, what it costs."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from ctan.cases import SPLIT_TRAIN
from ctan.config import RunConfig
from ctan.errors import ConfigError, DataError
from ctan.networks import count_macs, count_parameters
from ctan.ranks import Ranks
from ctan.store import Store
from ctan.training.session import Session


def check_batch(config: RunConfig, ranks: Ranks) -> None:
    """Refuse more processes than a step has cases."""
    if ranks.size > config.training.batch_size:
        raise ConfigError(
            f"{ranks.size} processes were started for a training.batch_size of {config.training.batch_size}, the cases "
            f"a step of all processes together: start fewer, or raise it"
        )


@contextmanager
def denormals_are_zero() -> Iterator[None]:
    """Let numbers below 1e-38 be zero for a training: they cost a processor a hundred times as much as others."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def seed_everything(seed: int) -> None:
    """Seed every random number generator."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def cases_of(store: Store, fold: int, config: RunConfig) -> tuple[list[str], list[str]]:
    """Return the ids of the cases that train and of those that tune."""
    if not 0 <= fold < config.data.num_folds:
        raise ConfigError(f"fold: {fold} is not in 0..{config.data.num_folds - 1} (data.num_folds)")
    train_ids = store.case_ids(split=SPLIT_TRAIN, not_fold=fold)
    tuning_ids = store.case_ids(split=SPLIT_TRAIN, fold=fold)
    if not train_ids or not tuning_ids:
        raise DataError(
            f"fold {fold} leaves {len(train_ids)} cases to train on and {len(tuning_ids)} to tune on: "
            f"both need at least one. Use more training cases or fewer data.num_folds."
        )
    return train_ids, tuning_ids


def network_grid(config: RunConfig) -> tuple[int, ...]:
    """Return the voxels that the network sees at once."""
    grid = config.preprocess.grid_shape
    return tuple(map(min, config.network.patch_shape or grid, grid))


def facts_of(session: Session, config: RunConfig) -> dict[str, int]:
    """Return parameters and multiply-accumulates of one case's forward pass."""
    shape = (1, session.network.in_channels, *config.preprocess.grid_shape)
    return {
        "num_parameters": count_parameters(session.network),
        "macs_per_case": count_macs(session.network, shape),
    }
