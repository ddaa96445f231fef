"""CTAN: what is exchanged between tasks, and what is not."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from ctan.networks import count_macs
from ctan.networks.ctan import position_code
from tests.helpers.networks import CHANNELS, DENSE, DIAGNOSIS, DOSE, SEGMENTATION, build, has_gradient, image, shake

EXCHANGES = ("add", "gate", "mask_from_other", "none")


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("dims", [2, 3])
def test_permuting_the_tasks_permutes_the_outputs(exchange: str, dims: int) -> None:
    tasks = (SEGMENTATION, DOSE, DIAGNOSIS)
    network = build("ctan", tasks, dims=dims, ctae_exchange=exchange)
    shake(network)
    permuted = build("ctan", tasks[::-1], seed=9, dims=dims, ctae_exchange=exchange)
    permuted.load_state_dict(network.state_dict())  # by name: tasks are never known by position
    ours, theirs = network(image(dims)), permuted(image(dims))
    assert list(theirs) == list(ours)[::-1]
    for name in ours:
        assert torch.allclose(ours[name], theirs[name], atol=1e-5)


def copied(source: nn.Module, target: nn.Module) -> nn.Module:
    """Copy the parameters that both have."""
    state = source.state_dict()
    target.load_state_dict({name: state[name] for name in target.state_dict()})
    return target


def test_exchange_off_equals_exchange_on_at_the_start() -> None:
    on = build("ctan")
    off = copied(on, build("ctan", ctae_exchange="none", ctab=False, seed=5))
    for name, output in on(image()).items():
        assert torch.equal(output, off(image())[name])


def gradients_of_other_task(network: nn.Module) -> bool:
    """Return whether a loss on the dose reaches the masks of contouring."""
    network.train().zero_grad()
    network(image())["dose"].square().mean().backward()
    return any(has_gradient(stage.masks["contouring"]) for stage in network.exchanges)


def test_a_loss_reaches_the_other_task_through_the_exchange_once_it_is_not_zero() -> None:
    network = build("ctan", ctab=False)
    assert not gradients_of_other_task(network)
    nn.init.normal_(network.exchanges[0].crossings["dose<-contouring"][1].weight)
    assert gradients_of_other_task(network)
    assert has_gradient(network.exchanges[0].masks["contouring"])
    assert not has_gradient(network.exchanges[2].masks["contouring"])


def test_a_loss_reaches_the_other_task_through_the_bottleneck_once_it_is_not_zero() -> None:
    network = build("ctan", ctae_exchange="none")
    assert not gradients_of_other_task(network)
    nn.init.normal_(network.bottleneck.out["dose"].weight)
    assert gradients_of_other_task(network)
    assert has_gradient(network.exchanges[2].masks["contouring"])


def test_one_task_has_no_cross_task_parameters() -> None:
    names = [name for name, _ in build("ctan", (DOSE,)).named_parameters()]
    assert not [name for name in names if "crossings" in name or "bottleneck" in name]
    assert [name for name in names if "masks" in name]


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("residual", [True, False])
def test_views_follow_the_equations(exchange: str, residual: bool) -> None:
    network = build("ctan", ctae_exchange=exchange, ctae_residual=residual)
    shake(network)
    stage = network.exchanges[1]
    u, p = torch.randn(1, 8, 4, 4, 4), torch.randn(1, 8, 4, 4, 4)
    below = {name: torch.randn(1, 8, 4, 4, 4) for name in network.task_names}
    views = stage(u, p, below)
    own = {}
    for name, other in (("contouring", "dose"), ("dose", "contouring")):
        seen = [u, below[name]] + ([below[other]] if exchange == "mask_from_other" else [])
        own[name] = stage.masks[name](seen) * p
    for name, other in (("contouring", "dose"), ("dose", "contouring")):
        expected = own[name] + (p if residual else 0)
        if exchange in ("add", "gate"):
            crossed = stage.crossings[f"{name}<-{other}"](own[other])
            expected = expected + (crossed if exchange == "add" else crossed.sigmoid() * p)
        assert torch.allclose(views[name], expected, atol=1e-5)


def test_with_three_tasks_what_is_received_is_the_mean() -> None:
    network = build("ctan", (SEGMENTATION, DOSE, DIAGNOSIS))
    shake(network)
    stage = network.exchanges[0]
    u, p = torch.randn(1, 4, 4, 4, 4), torch.randn(1, 4, 4, 4, 4)
    own = {name: stage.masks[name]([u]) * p for name in network.task_names}
    received = [stage.crossings[f"dose<-{other}"](own[other]) for other in ("contouring", "diagnosis")]
    expected = p + own["dose"] + sum(received) / 2
    assert torch.allclose(stage(u, p, {})["dose"], expected, atol=1e-5)


@pytest.mark.parametrize("own", [False, True])
def test_the_bottleneck_is_attention_to_the_other_tasks(own: bool) -> None:
    network = build("ctan", ctab_self=own)
    shake(network)
    module = network.bottleneck
    features = {name: torch.randn(1, 8, 2, 3, 2) for name in network.task_names}
    result = module(features)

    def tokens(name: str) -> torch.Tensor:
        return module.norm[name](features[name].flatten(2).transpose(1, 2))[0]  # (N, C)

    heads = []
    others = ["contouring", "dose"] if own else ["contouring"]
    for h in range(2):
        channels = slice(4 * h, 4 * h + 4)
        q = module.query["dose"](tokens("dose"))[:, channels]
        read = []
        for other in others:
            k, v = (layer[other](tokens(other))[:, channels] for layer in (module.key, module.value))
            read.append(torch.softmax(q @ k.T / math.sqrt(4), dim=1) @ v)
        heads.append(sum(read) / len(read))
    expected = features["dose"].flatten(2)[0] + module.out["dose"](torch.cat(heads, 1)).T
    assert torch.allclose(result["dose"].flatten(2)[0], expected, atol=1e-5)


def test_the_trunk_reads_the_shared_features_alone() -> None:
    network = build("ctan")
    shake(network)
    before = network.encoder(image())[1]
    for stage in network.exchanges:
        shake(stage, seed=11)
    assert all(torch.equal(a, b) for a, b in zip(before, network.encoder(image())[1], strict=True))


@pytest.mark.parametrize(
    "option",
    [
        {"ctae": False},
        {"ctab": False},
        {"ctae_residual": False},
        {"ctab_pos": "sincos"},
        {"ctab_self": True},
        {"ctab_ffn": True},
        {"mask_down": "pool"},
        {"ctae_exchange": "gate"},
        {"ctae_exchange": "mask_from_other"},
        {"ctae_from": 2},
        {"decoder_exchange": "add"},
    ],
    ids=str,
)
def test_every_ablation_changes_the_outputs_and_trains_all_its_parameters(option: dict) -> None:
    network = build("ctan", **option).train()
    shake(network)
    outputs = network(image())
    sum(output.square().mean() for output in outputs.values()).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []
    plain = build("ctan")
    shake(plain)
    assert not torch.allclose(outputs["dose"], plain(image())["dose"])


def test_without_attention_encoder_and_bottleneck_it_is_hard_parameter_sharing() -> None:
    network, shared = build("ctan", ctae=False, ctab=False), build("hps")
    shared.load_state_dict(network.state_dict())
    for task in DENSE:
        assert torch.equal(network(image())[task.name], shared(image())[task.name])


def test_what_decoders_exchange_starts_at_zero_and_follows_its_equation() -> None:
    plain, network = build("ctan"), build("ctan", decoder_exchange="add", seed=5)
    network.load_state_dict(plain.state_dict(), strict=False)
    for name, output in plain(image()).items():
        assert torch.equal(output, network(image())[name])
    exchange = network.decoders[0]
    shake(exchange)
    features = {name: torch.randn(1, 8, 4, 4, 4) for name in exchange.names}
    taken = exchange.crossings["dose<-contouring"](features["contouring"])
    assert torch.allclose(exchange(features)["dose"], features["dose"] + taken)


def test_stages_before_the_first_with_attention_share_their_features() -> None:
    network = build("ctan", ctae_from=3)
    us, ps = network.encoder(image())
    for i, stage in enumerate(network.views(us, ps)):
        assert [view is ps[i] for view in stage.values()] == [i < 2] * len(DENSE)
    assert count_macs(network, (1, CHANNELS, 16, 16, 16)) < count_macs(build("ctan"), (1, CHANNELS, 16, 16, 16))


def test_with_three_tasks_a_mask_sees_the_mean_of_the_others() -> None:
    network = build("ctan", (SEGMENTATION, DOSE, DIAGNOSIS), ctae_exchange="mask_from_other")
    shake(network)
    stage = network.exchanges[1]
    u, p = torch.randn(1, 8, 4, 4, 4), torch.randn(1, 8, 4, 4, 4)
    below = {name: torch.randn(1, 8, 4, 4, 4) for name in network.task_names}
    seen = [u, below["dose"], (below["contouring"] + below["diagnosis"]) / 2]
    assert torch.allclose(stage(u, p, below)["dose"], p + stage.masks["dose"](seen) * p, atol=1e-5)


def test_with_three_tasks_the_bottleneck_reads_the_mean_of_two() -> None:
    network = build("ctan", (SEGMENTATION, DOSE, DIAGNOSIS), ctab_heads=1)
    shake(network)
    module = network.bottleneck
    features = {name: torch.randn(1, 8, 2, 2, 2) for name in network.task_names}
    tokens = {name: module.norm[name](features[name].flatten(2).transpose(1, 2))[0] for name in features}
    query, read = module.query["dose"](tokens["dose"]), []
    for other in ("contouring", "diagnosis"):
        weights = torch.softmax(query @ module.key[other](tokens[other]).T / math.sqrt(8), dim=1)
        read.append(weights @ module.value[other](tokens[other]))
    expected = features["dose"].flatten(2)[0] + module.out["dose"](sum(read) / 2).T
    assert torch.allclose(module(features)["dose"].flatten(2)[0], expected, atol=1e-5)


def test_without_a_position_code_the_bottleneck_does_not_know_where_a_token_lies() -> None:
    for pos, blind in (("none", True), ("sincos", False)):
        network = build("ctan", ctab_pos=pos)
        shake(network)
        features = {name: torch.randn(1, 8, 2, 2, 2) for name in network.task_names}
        flipped = {name: f.flip(2) for name, f in features.items()}
        there, back = network.bottleneck(features)["dose"], network.bottleneck(flipped)["dose"].flip(2)
        assert torch.allclose(there, back, atol=1e-5) == blind


def test_the_position_code_holds_sine_and_cosine_of_every_axis() -> None:
    code = position_code((2, 3), 8)  # two waves an axis, 1 and 100^(-1/2)
    assert code.shape == (6, 8)
    row, column = 1, 2
    expected = [f(place * wave) for place in (row, column) for f in (math.sin, math.cos) for wave in (1, 0.1)]
    assert code[3 * row + column].tolist() == pytest.approx(expected, abs=1e-6)
    assert position_code((2, 2, 2), 8).shape == (8, 8)  # 8 channels are not divisible by 3 axes
    assert len({tuple(place.tolist()) for place in position_code((3, 4, 5), 24)}) == 60


def test_the_cost_of_the_bottleneck_follows_the_formula_of_attention() -> None:
    shape = (1, CHANNELS, 16, 16, 16)
    num_tokens, width, num_tasks, num_pairs = 4**3, 8, 2, 2
    expected = num_tasks * 4 * num_tokens * width**2 + num_pairs * 2 * num_tokens**2 * width
    assert count_macs(build("ctan"), shape) - count_macs(build("ctan", ctab=False), shape) == expected


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="ctab_heads 3 must divide the deepest width 8"):
        build("ctan", ctab_heads=3)
