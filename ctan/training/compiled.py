"""The network compiled by `torch.compile`, where that works."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ctan.networks import Network
from ctan.precision import Precision, autocast
from ctan.ranks import Ranks
from ctan.training.parallel import announce, looks_at_cases

Compute = Callable[[Tensor], dict[str, Tensor]]


def compiled(
    network: Network, shape: Sequence[int], precision: Precision, ranks: Ranks, say: Callable[[str], None]
) -> Compute | None:
    """Return what computes the network's outputs by compiled code; None where the compiler fails in any process.

    It is tried on an empty image, forward and backward, so that a compiler that is missing or fails is found before
    the first step. Weights, gradients, buffers and random numbers are afterwards what they were.

    Args:
        network: on its device, prepared for the processes that share a step.
        shape: of a step's image, (B, C, ...).
        precision: of the network.
        ranks: the processes.
        say: told why it is computed without.

    Raises:
        torch.OutOfMemoryError: when memory is not enough, which has nothing to do with the compiler.
    """
    for module in network.modules():
        if looks_at_cases(module):  # keys of the cases are other numbers in every step: each would be compiled anew
            module.forward = torch.compiler.disable(module.forward)
    compute: Compute = torch.compile(network, dynamic=False)
    buffers = [buffer.clone() for buffer in network.buffers()]
    reason = ""
    with torch.random.fork_rng():
        try:
            _try(compute, network, shape, precision, ranks)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # of Dynamo, Inductor, Triton, a C++ compiler: there is no common kind
            reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    for buffer, before in zip(network.buffers(), buffers, strict=True):
        buffer.detach().copy_(before)
    network.zero_grad(set_to_none=True)
    (fails,) = ranks.any(bool(reason))
    if fails:
        say(f"training.compile: torch.compile fails ({reason or 'in another process'}); computed without it")
        torch.compiler.reset()
        return None
    return compute


def _try(compute: Compute, network: Network, shape: Sequence[int], precision: Precision, ranks: Ranks) -> None:
    nobody: dict[str, Any] = {"key": [0] * shape[0], "counts": [True] * shape[0]}
    announce(network, nobody)
    with autocast(ranks.device, precision):
        outputs = compute(torch.zeros(*shape, device=ranks.device))
    coarser = [raw for raws in network.take_coarser().values() for raw in raws]
    torch.stack([output.float().mean() for output in (*outputs.values(), *coarser)]).sum().backward()
