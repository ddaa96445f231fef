"""How the tasks' gradients stand to each other, against values worked out by hand."""

from __future__ import annotations

import pytest
import torch

from ctan.training.balance import gradient_figures, task_gradients
from tests.helpers.ranks import ALONE


def test_cosines_and_norms_are_those_of_the_weights_that_tasks_share_and_of_their_own() -> None:
    shared, own, alone = (torch.nn.Parameter(torch.tensor(value)) for value in ([1.0, 2.0], [3.0], [1.0]))
    losses = {
        "a": shared[0] * 3 + shared[1] * 4 + own.sum() * 100,  # gradient (3, 4) on the shared weights
        "b": shared[0] * 4 - shared[1] * 3 + shared[1] * 6,  # (4, 3)
        "c": -shared[0] * 3 - shared[1] * 4,
        "d": alone.sum(),
    }
    assert gradient_figures(task_gradients(losses, [shared, own, alone], ALONE)) == {
        "gradient_cosine/a/b": pytest.approx(24 / 25),
        "gradient_cosine/a/c": pytest.approx(-1),
        "gradient_cosine/b/c": pytest.approx(-24 / 25),
        "gradient_norm/shared/a": 5,
        "gradient_norm/own/a": 100,
        "gradient_norm/shared/b": 5,
        "gradient_norm/shared/c": 5,
        "gradient_norm/own/d": 1,
    }
    sum(losses.values()).backward()  # the graph is still there
    assert shared.grad is not None
