"""A training step of any network in fp32 on one thread: forward, loss, backward, clipping, optimiser."""

from __future__ import annotations

import torch
from serve import serve
from torch.utils.flop_counter import FlopCounterMode


def serve_steps(network: torch.nn.Module, optimizer: torch.optim.Optimizer, shape: list[int]) -> None:
    """Do a step at every `go`; the result is the loss before it."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    image = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    wanted: list[torch.Tensor] = []

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        found = network(image)
        outputs = list(found.values()) if isinstance(found, dict) else [found]
        if not wanted:
            wanted.extend(torch.randn(y.shape, generator=torch.Generator().manual_seed(2)) for y in outputs)
        loss = torch.stack([(y - one).square().mean() for y, one in zip(outputs, wanted, strict=True)]).sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 12.0)
        optimizer.step()
        return float(loss)

    def facts() -> dict[str, float]:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(image)
        return {"macs": counter.get_total_flops() // 2}

    serve(step, lambda loss: {"loss": torch.tensor(loss).numpy()}, facts)
