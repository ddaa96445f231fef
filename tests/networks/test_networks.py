"""What all architectures promise: shapes, sharing, determinism, cost, clear refusals."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from ctan.config import DEFAULT_ARCHITECTURES
from ctan.errors import ConfigError
from ctan.networks import build_network, count_macs, count_parameters
from ctan.networks.backbone import stage_widths
from ctan.networks.blocks import InstanceNorm, depth_to_space, make_norm, space_to_depth
from tests.helpers.networks import CHANNELS, DENSE, DIAGNOSIS, DOSE, SEGMENTATION, build, has_gradient, image, small

MIXED = (SEGMENTATION, DIAGNOSIS, DOSE)


@pytest.mark.parametrize("arch", DEFAULT_ARCHITECTURES)
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("tasks", [(DOSE,), DENSE, MIXED], ids=["T=1", "T=2", "T=3"])
def test_outputs_have_the_shape_of_their_task(arch: str, dims: int, tasks: tuple) -> None:
    outputs = build(arch, tasks, dims=dims)(image(dims, batch=2))
    assert list(outputs) == [task.name for task in tasks]
    for task in tasks:
        spatial = (16,) * dims if task.head == "dense" else ()
        assert outputs[task.name].shape == (2, task.num_outputs, *spatial)


@pytest.mark.parametrize("arch", DEFAULT_ARCHITECTURES)
@pytest.mark.parametrize("dims", [2, 3])
def test_io_stride_keeps_the_resolution_of_the_output(arch: str, dims: int) -> None:
    network = build(arch, DENSE, dims=dims, io_stride=2, num_stages=2)
    assert network(image(dims))["contouring"].shape == (1, 2, *[16] * dims)


@pytest.mark.parametrize("arch", DEFAULT_ARCHITECTURES)
@pytest.mark.parametrize("upsample", ["deconv", "nearest", "trilinear"])
def test_every_parameter_learns(arch: str, upsample: str) -> None:
    network = build(arch, MIXED, upsample=upsample).train()
    outputs = network(image())
    sum(output.float().square().mean() for output in outputs.values()).backward()
    without = [name for name, p in network.named_parameters() if p.grad is None]
    assert without == []


def test_all_architectures_share_widths_decoders_and_heads() -> None:
    assert stage_widths(small(num_stages=5, base_width=16, max_width=192)) == [16, 32, 64, 128, 192]
    heads = {arch: build(arch).heads for arch in ("hps", "mtan", "ctan")}
    shapes = {arch: [(n, p.shape) for n, p in head.named_parameters()] for arch, head in heads.items()}
    assert shapes["hps"] == shapes["mtan"] == shapes["ctan"]
    single = build("stl").networks["dose"].heads["dose"]
    assert [p.shape for p in single.parameters()] == [p.shape for p in heads["hps"]["dose"].parameters()]


def test_single_task_networks_share_nothing() -> None:
    network = build("stl").train()
    network(image())["dose"].square().mean().backward()
    assert has_gradient(network.networks["dose"])
    assert all(p.grad is None for p in network.networks["contouring"].parameters())
    parts = network.independent_parts()
    assert len(parts) == 2
    ids = [{id(p) for p in part} for part in parts]
    assert not ids[0] & ids[1]
    assert ids[0] | ids[1] == {id(p) for p in network.parameters()}


@pytest.mark.parametrize("arch", ["hps", "mtan", "ctan"])
def test_what_tasks_share_and_each_head_are_parts_of_their_own(arch: str) -> None:
    network = build(arch)
    shared, *heads = ({id(p) for p in part} for part in network.independent_parts())
    assert heads == [{id(p) for p in head.parameters()} for head in network.heads.values()]
    assert shared == {id(p) for p in network.parameters()} - heads[0] - heads[1]
    assert {id(p) for p in network.encoder.parameters()} <= shared


def test_a_single_task_network_equals_hard_sharing_of_one_task() -> None:
    single, shared = build("stl", (DOSE,)), build("hps", (DOSE,))
    shared.load_state_dict({n.removeprefix("networks.dose."): p for n, p in single.state_dict().items()})
    assert torch.equal(single(image())["dose"], shared(image())["dose"])


@pytest.mark.parametrize("arch", DEFAULT_ARCHITECTURES)
def test_the_same_seed_gives_the_same_network(arch: str) -> None:
    a, b, other = build(arch, seed=1), build(arch, seed=1), build(arch, seed=2)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert torch.equal(a(image())["dose"], b(image())["dose"])
    assert not torch.equal(a(image())["dose"], other(image())["dose"])


@pytest.mark.parametrize("arch", DEFAULT_ARCHITECTURES)
def test_image_heads_see_differences_between_cases(arch: str) -> None:
    """After instance norm, global pooling would be the same for every case."""
    network = build(arch, (SEGMENTATION, DIAGNOSIS))
    bright = image() * torch.tensor([3.0, 0.2, 1.0]).view(1, 3, 1, 1, 1) + 2
    assert not any(isinstance(module, InstanceNorm) for module in network.modules())
    difference = (network(image())["diagnosis"] - network(bright)["diagnosis"]).abs().max()
    assert difference > 1e-3


def test_instance_norm_is_the_library_one_case_by_case() -> None:
    norm, x = InstanceNorm(5), torch.randn(3, 5, 4, 6, 2)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    expected = functional.instance_norm(x, weight=norm.weight, bias=norm.bias)
    assert torch.allclose(norm(x), expected, atol=1e-5)
    assert torch.allclose(norm(x)[1:2], norm(x[1:2]), atol=1e-6)


LAYOUTS = {
    "contiguous": lambda x: x.contiguous(),
    "channels last": lambda x: x.movedim(1, -1).contiguous().movedim(-1, 1),
    "of tokens": lambda x: x.flatten(2).transpose(1, 2).contiguous().transpose(1, 2).unflatten(2, x.shape[2:]),
}


@pytest.mark.parametrize("norm", ["instance", "batch", "group"])
@pytest.mark.parametrize("shape", [(1, 8, 4, 6), (1, 8, 2, 4, 6), (2, 8, 2, 4, 6)])
def test_the_gradient_of_a_norm_is_the_same_however_values_lie_in_memory(norm: str, shape: tuple[int, ...]) -> None:
    layer = make_norm(small(dims=len(shape) - 2, norm=norm), False)(8).double()
    x, upstream = torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    found = []
    for of_input in LAYOUTS.values():
        for of_gradient in LAYOUTS.values():
            leaf = of_input(x).detach().requires_grad_()
            found.append(torch.autograd.grad(layer(leaf), leaf, of_gradient(upstream))[0])
    assert all(torch.allclose(gradient, found[0], rtol=1e-9, atol=1e-12) for gradient in found)


@pytest.mark.parametrize("shape", [(2, 3, 4, 6), (2, 3, 4, 6, 8)])
def test_depth_to_space_undoes_space_to_depth(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    folded = space_to_depth(x)
    assert folded.shape == (2, 3 * 2 ** (len(shape) - 2), *(n // 2 for n in shape[2:]))
    assert torch.equal(depth_to_space(folded), x)
    corner = folded[0, :, 0, 0] if len(shape) == 4 else folded[0, :, 0, 0, 0]
    block = x[0, :, :2, :2] if len(shape) == 4 else x[0, :, :2, :2, :2]
    assert sorted(corner.tolist()) == sorted(block.flatten().tolist())


def test_multiply_accumulates_follow_the_formula_of_a_convolution() -> None:
    layer = nn.Conv3d(3, 8, 3, padding=1)
    assert count_macs(layer, (1, 3, 4, 5, 6)) == 8 * 3 * 27 * 4 * 5 * 6
    assert count_parameters(layer) == 8 * 3 * 27 + 8


def test_single_task_cost_is_the_sum_over_its_networks() -> None:
    shape = (1, CHANNELS, 16, 16, 16)
    each = [count_macs(build("hps", (task,)), shape) for task in DENSE]
    assert count_macs(build("stl"), shape) == sum(each)
    assert count_macs(build("hps"), shape) < count_macs(build("ctan"), shape)


def test_the_foreground_prior_is_what_contouring_starts_from() -> None:
    network = build("hps", foreground_prior=0.01)
    bias = network.heads["contouring"].output.conv.bias
    assert bias.sigmoid().tolist() == pytest.approx([0.01] * 2)
    assert network.heads["dose"].output.conv.bias.tolist() == [0]


def test_a_map_starts_from_its_prior_and_contouring_does_not() -> None:
    network, plain = build("hps", map_prior=0.3, map_gain=0.1), build("hps")
    dose, contouring = (network.heads[name].output.conv for name in ("dose", "contouring"))
    assert dose.bias.tolist() == pytest.approx([0.3])
    assert torch.allclose(dose.weight, 0.1 * plain.heads["dose"].output.conv.weight)
    assert torch.equal(contouring.weight, plain.heads["contouring"].output.conv.weight)
    assert contouring.bias.tolist() == [0, 0]


def test_an_unknown_architecture_is_named() -> None:
    with pytest.raises(ConfigError, match="arch: unknown 'unet'; allowed: ctan, hps, mtan, stl"):
        build_network("unet", DENSE, CHANNELS, small())


@pytest.mark.parametrize("shape", [(1, 2, 16, 16, 16), (1, 3, 16, 16, 18), (1, 3, 16, 16)])
def test_an_image_that_does_not_fit_is_refused_with_both_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expects an image \(B, 3, multiple of 4.*found \(1, "):
        build("hps")(torch.zeros(shape))


def test_tasks_need_unique_names() -> None:
    with pytest.raises(ValueError, match="unique names"):
        build("ctan", (DOSE, DOSE))
