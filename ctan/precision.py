"""Which number format the networks compute in, the same rule for training and inference."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch

Precision = Literal["fp32", "bf16"]


def resolve_precision(wanted: Literal["auto", "fp32", "bf16"], device: torch.device) -> Precision:
    """Return the precision to compute in.

    Args:
        wanted: `"auto"` picks bf16 where the device computes in it: CPUs with AVX512_BF16 or AMX, CUDA GPUs
            since Ampere. Elsewhere bf16 is emulated and slower than fp32.
        device: where the network runs.
    """
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    abilities = torch.cpu.get_capabilities()
    return "bf16" if abilities.get("avx512_bf16") or abilities.get("amx_tile") else "fp32"


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """Return a context in which convolutions and matrix products compute in `precision`; weights stay float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()
