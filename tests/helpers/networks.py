"""Small networks for tests."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ctan.config import NetworkConfig
from ctan.networks import Network, build_network
from ctan.networks.ctan import CTANOptions
from ctan.networks.mtan import MTANOptions
from ctan.tasks import Classification, DoseRegression, Segmentation, Task

SEGMENTATION = Segmentation("contouring", ("a", "b"))
DOSE = DoseRegression("dose")
DIAGNOSIS = Classification("diagnosis", ("x", "y", "z"))
DENSE = (SEGMENTATION, DOSE)
CHANNELS = 3


def small(dims: int = 3, **changes: object) -> NetworkConfig:
    """Return settings of a network with three stages of 4, 8 and 8 channels.

    Args:
        dims: 2 or 3.
        changes: other settings; those that are not of all networks are options of every architecture that has them.
    """
    shared = {name: value for name, value in changes.items() if name in NetworkConfig.model_fields}
    own = {"ctab_heads": 2} | {name: value for name, value in changes.items() if name not in shared}
    options = {}
    for arch, has in (("mtan", MTANOptions), ("ctan", CTANOptions)):
        options[arch] = {name: value for name, value in own.items() if name in has.model_fields}
    assert {name for of_one in options.values() for name in of_one} == set(own)
    values = {"spatial_dims": dims, "num_stages": 3, "base_width": 4, "max_width": 8, "options": options}
    return NetworkConfig.model_validate(values | shared)


def image(dims: int = 3, batch: int = 1, size: int = 16) -> Tensor:
    """Return a random image."""
    return torch.randn(batch, CHANNELS, *[size] * dims, generator=torch.Generator().manual_seed(7))


def build(arch: str, tasks: tuple[Task, ...] = DENSE, seed: int = 0, **changes: object) -> Network:
    """Return a network with reproducible weights; `dims` and options as keywords."""
    torch.manual_seed(seed)
    return build_network(arch, tasks, CHANNELS, small(**changes)).eval()  # type: ignore[arg-type]


def shake(module: nn.Module, seed: int = 3) -> None:
    """Give every parameter a random value: what starts at zero must not hide a mistake."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))


def has_gradient(module: nn.Module) -> bool:
    """Return whether any parameter has a non-zero gradient."""
    return any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in module.parameters())
