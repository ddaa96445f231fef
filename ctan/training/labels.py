"""Labels that a training does without: what a task is worth of which few cases are labelled."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ctan.config import RunConfig
from ctan.errors import ConfigError
from ctan.intake.splits import hash_rank
from ctan.store import Store
from ctan.tasks import Task, fitted

KeptBack = Mapping[str, frozenset[str]]


def kept_back(store: Store, case_ids: Sequence[str], tasks: Sequence[Task], config: RunConfig) -> KeptBack:
    """Return the training cases whose labels a task does not see, by task (`training.label_share`).

    Groups (patients, lesions) keep their labels in the order of a keyed hash, so that a smaller share is a part of a
    larger one; at least one group does.

    Args:
        store: that the cases lie in.
        case_ids: all that train.
        tasks: what is learnt.
        config: the run's settings.

    Raises:
        ConfigError: for a share of a task that the data do not have.
    """
    shares, names = config.training.label_share, [task.name for task in tasks]
    if unknown := sorted(set(shares) - set(names)):
        raise ConfigError(
            f"training.label_share: the data have no task {', '.join(unknown)}; they have {', '.join(names)}"
        )
    group_of = {case_id: store.group_id(case_id) for case_id in case_ids}
    ranked = sorted(set(group_of.values()), key=lambda group: hash_rank(group, config.data.split_seed))
    found = {}
    for name, share in shares.items():
        labelled = set(ranked[: max(1, math.ceil(share * len(ranked)))])
        found[name] = frozenset(case_id for case_id, group in group_of.items() if group not in labelled)
    return found


def fitted_to(store: Store, case_ids: Sequence[str], tasks: Sequence[Task], hidden: KeptBack) -> tuple[Task, ...]:
    """Return the tasks with what each needs to know of its labelled cases as a whole."""
    found: list[Task] = []
    for task in tasks:
        ids = [case_id for case_id in case_ids if case_id not in hidden.get(task.name, ())]
        found += fitted([task], store.labels(ids), store.numbers(ids))
    return tuple(found)
