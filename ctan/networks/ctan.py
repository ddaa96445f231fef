"""Cross-Task Attention Network (CTAN): Kim, Purdie, McIntosh, arXiv 2309.03837.

No code was published: this follows the published description, and each choice it leaves open is an option
(`CTANOptions`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from ctan.config import NetworkConfig, Settings
from ctan.networks.attention import MaskOptions, SoftMask
from ctan.networks.backbone import (
    DecoderLevel,
    DenseHead,
    Encoder,
    Exchange,
    Network,
    make_heads,
    norm_for,
    stage_widths,
)
from ctan.networks.blocks import Norm, conv, make_downsample
from ctan.tasks import Task

_EXCHANGE_REDUCTION = 4


class CTANOptions(MaskOptions):
    """Options of CTAN."""

    ctae: bool = Field(True, description="cross-task attention encoder")
    ctae_exchange: Literal["add", "gate", "mask_from_other", "none"] = Field(
        "add", description="how tasks exchange their views in the encoder"
    )
    ctae_residual: bool = Field(True, description="keep the shared features p_i in each task's view")
    ctae_from: int = Field(
        1, ge=1, description="first stage with masks and exchange; 2 spares the finest grid, where they cost most"
    )
    decoder_exchange: Literal["none", "add"] = Field(
        "none", description="add: each level of a dense task's decoder also takes from the other dense tasks' decoders"
    )
    ctab: bool = Field(True, description="cross-task attention bottleneck")
    ctab_heads: int = Field(4, ge=1, description="attention heads of the bottleneck")
    ctab_pos: Literal["none", "sincos"] = Field("none", description="position code of the bottleneck's tokens")
    ctab_self: bool = Field(False, description="each task also attends to itself")
    ctab_ffn: bool = Field(False, description="feed-forward block after the bottleneck's attention")


def _pair(task: str, other: str) -> str:
    return f"{task}<-{other}"


def _mean(values: Sequence[Tensor]) -> Tensor:
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total / len(values) if len(values) > 1 else total  # two tasks: not another pass over the volume


class CrossTaskAttention(Network):
    """Two cross-task modules on a shared encoder: attention in every stage (CTAE) and at the bottom (CTAB).

    The trunk reads `p` alone. A head reads `e_i^t` as skips and `z'^t` at the bottom. With one task there are no
    cross-task parameters.
    """

    version = 1
    Options = CTANOptions
    options: CTANOptions

    def __init__(
        self, tasks: Sequence[Task], in_channels: int, config: NetworkConfig, options: Settings | None = None
    ) -> None:
        super().__init__(tasks, in_channels, config, options)
        norm, widths, dims, options = norm_for(tasks, config), stage_widths(config), config.spatial_dims, self.options
        self.encoder = Encoder(in_channels, norm, config)
        names = self.task_names
        self.exchanges = nn.ModuleList(
            CrossTaskExchange(names, dims, width, norm, options, i) for i, width in enumerate(widths)
        )
        self.downs = nn.ModuleList(
            make_downsample(options.mask_down, dims, above, width, norm)
            if not self.exchanges[i].shares_all
            else nn.Identity()
            for i, (above, width) in enumerate(pairwise(widths), start=1)
            if options.ctae
        )
        attends = options.ctab and (len(names) > 1 or options.ctab_self)
        self.bottleneck = CrossTaskBottleneck(names, widths[-1], options) if attends else None
        self.heads = make_heads(tasks, norm, config)
        dense = [task.name for task in tasks if task.head == "dense"]
        reads = options.decoder_exchange == "add" and len(dense) > 1
        self.decoders = nn.ModuleList(DecoderExchange(dense, dims, width) for width in widths[-2::-1] if reads)

    def views(self, us: Sequence[Tensor], ps: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Return `e_i^t` of every stage, by task; (B, w_i, S / 2^(i-1)) each."""
        stages: list[dict[str, Tensor]] = []
        for i, (exchange, u, p) in enumerate(zip(self.exchanges, us, ps, strict=True)):
            below: dict[str, Tensor] = {}
            if not exchange.shares_all and i > 0:
                seen = {id(view): view for view in stages[-1].values()}  # one for all tasks where they share it
                down = {key: self.downs[i - 1](view) for key, view in seen.items()}
                below = {name: down[id(view)] for name, view in stages[-1].items()}
            stages.append(exchange(u, p, below))
        return stages

    def _decoded(self, stages: Sequence[Mapping[str, Tensor]], bottoms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the outputs of the dense tasks, whose decoders exchange features level by level."""
        exchanges = cast(Sequence[DecoderExchange], self.decoders)
        heads = {name: cast(DenseHead, self.heads[name]) for name in (exchanges[0].names if len(exchanges) else ())}
        levels = [{name: bottoms[name] for name in heads}]
        for i, exchange in enumerate(exchanges):
            skips, below = stages[-2 - i], levels[0]
            own = {name: cast(DecoderLevel, head.trunk[i])(below[name], skips[name])[1] for name, head in heads.items()}
            levels.insert(0, exchange(own))
        return {name: head.read([level[name] for level in levels]) for name, head in heads.items()}

    def predict(self, x: Tensor) -> dict[str, Tensor]:
        stages = self.views(*self.encoder(x))
        bottoms = stages[-1] if self.bottleneck is None else self.bottleneck(stages[-1])
        outputs = self._decoded(stages, bottoms)
        for name in self.task_names:
            if name not in outputs:
                outputs[name] = self.heads[name]([stage[name] for stage in stages], bottoms[name])
        return {name: outputs[name] for name in self.task_names}

    def exchanged(self, image: Tensor) -> Exchange | None:
        stages: list[Mapping[str, float]] = []
        bottom: list[Mapping[str, Tensor]] = []

        def look(module: nn.Module, seen: tuple[Any, ...]) -> None:
            if isinstance(module, CrossTaskExchange):
                stages.append(module.shares(*seen))
            else:
                bottom.append(seen[0])

        modules = [*self.exchanges, *([] if self.bottleneck is None else [self.bottleneck])]
        hooks = [module.register_forward_pre_hook(look) for module in modules]
        try:
            self(self.central_patch(image))
        finally:
            for hook in hooks:
                hook.remove()
        found = self.bottleneck.attention(bottom[0]) if self.bottleneck is not None else {}
        if not any(stages) and not found:
            return None
        shape = next(iter(bottom[0].values())).shape[2:] if found else ()
        places = max(2, math.prod(shape))
        entropy = {
            pair: float(-(a * a.clamp_min(1e-12).log()).sum(-1).mean()) / math.log(places) for pair, a in found.items()
        }
        maps = {pair: a.mean(dim=(0, 1, 2)).reshape(shape).float().cpu().numpy() for pair, a in found.items()}
        return Exchange(tuple(stages), entropy, maps)


class CrossTaskExchange(nn.Module):
    """One stage of the cross-task attention encoder.

    Own view `s^t = a^t * p`, `a^t` seen from `[u ; f(e^t)]`; then (`ctae_exchange`)
    `add`: `e^t = p + s^t + mean_{u != t} c^{t<-u}(s^u)`, `gate`: the last term is `sigmoid(c(s^u)) * p`,
    `mask_from_other`: no last term, but the mask also sees the mean of the others' `f(e^u)`, `none`: no last term.
    """

    def __init__(
        self, names: Sequence[str], dims: int, width: int, norm: Norm, options: CTANOptions, index: int
    ) -> None:
        super().__init__()
        self.names, self.options = tuple(names), options
        self.shares_all = not options.ctae or index + 1 < options.ctae_from
        self.sees_others = options.ctae_exchange == "mask_from_other" and index > 0 and len(names) > 1
        num_seen = width * (1 + (index > 0) + self.sees_others)
        self.masks, self.crossings = nn.ModuleDict(), nn.ModuleDict()
        if self.shares_all:
            return
        for name in names:
            self.masks[name] = SoftMask(dims, num_seen, width, norm, options.mask_reduction)
            for other in names:
                if other != name and options.ctae_exchange in ("add", "gate"):
                    starts_at_zero = options.ctae_exchange == "add"
                    self.crossings[_pair(name, other)] = _crossing(dims, width, starts_at_zero)

    def forward(self, u: Tensor, p: Tensor, below: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return `e^t` by task.

        Args:
            u: (B, C, S) after the stage's first block.
            p: (B, C, S) after its last.
            below: `f(e^t)` of the stage before, by task, (B, C, S) each; empty in the first stage.
        """
        if self.shares_all:
            return dict.fromkeys(self.names, p)
        own = {name: self.masks[name](self._seen(name, u, below)) * p for name in self.names}
        views = {}
        for name in self.names:
            view = own[name] + p if self.options.ctae_residual else own[name]
            senders = [other for other in self.names if _pair(name, other) in self.crossings]
            others = [self._received(name, other, own, p) for other in senders]
            views[name] = view + _mean(others) if others else view
        return views

    def shares(self, u: Tensor, p: Tensor, below: Mapping[str, Tensor]) -> dict[str, float]:
        """Return the norm of what each task receives from each other over that of its own view; see `forward`."""
        if not self.crossings:
            return {}
        own = {name: self.masks[name](self._seen(name, u, below)) * p for name in self.names}
        views = {name: view + p if self.options.ctae_residual else view for name, view in own.items()}
        return {
            pair: float(self._received(name, other, own, p).norm() / views[name].norm().clamp_min(1e-12))
            for name in self.names
            for other in self.names
            if (pair := _pair(name, other)) in self.crossings
        }

    def _seen(self, name: str, u: Tensor, below: Mapping[str, Tensor]) -> list[Tensor]:
        seen = [u, below[name]] if below else [u]
        if self.sees_others:
            others = [below[other] for other in self.names if other != name]
            seen.append(_mean(others))
        return seen

    def _received(self, name: str, other: str, own: Mapping[str, Tensor], p: Tensor) -> Tensor:
        crossed = self.crossings[_pair(name, other)](own[other])
        return crossed if self.options.ctae_exchange == "add" else torch.sigmoid(crossed) * p


class DecoderExchange(nn.Module):
    """What the dense tasks' decoders take from each other at one level: `d^t + mean_{u != t} c^{t<-u}(d^u)`."""

    def __init__(self, names: Sequence[str], dims: int, width: int) -> None:
        super().__init__()
        self.names = tuple(names)
        pairs = [_pair(name, other) for name in names for other in names if other != name]
        self.crossings = nn.ModuleDict({pair: _crossing(dims, width, starts_at_zero=True) for pair in pairs})

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the features of each task, (B, C, S), with what it takes."""
        return {
            name: features[name]
            + _mean([self.crossings[_pair(name, other)](features[other]) for other in self.names if other != name])
            for name in self.names
        }


def _crossing(dims: int, width: int, starts_at_zero: bool) -> nn.Module:
    """Return `c`: a pair of 1x1 convolutions `C -> C/4 -> C`."""
    middle = max(1, width // _EXCHANGE_REDUCTION)
    layers = nn.Sequential(conv(dims, width, middle, 1), conv(dims, middle, width, 1, bias=True))
    if starts_at_zero:
        nn.init.zeros_(layers[1].weight)  # type: ignore[arg-type]
    return layers


class CrossTaskBottleneck(nn.Module):
    """Attention between the tasks' deepest features.

    With tokens `z^t` (B, N, C) after a layer norm per task,
    `z'^t = z^t + W_O^t mean_{u != t} softmax(Q^t(z^t) K^u(z^u)^T / sqrt(d)) V^u(z^u)`; `W_O` starts at zero.
    """

    def __init__(self, names: Sequence[str], width: int, options: CTANOptions) -> None:
        super().__init__()
        if width % options.ctab_heads:
            raise ValueError(
                f"network.options.ctan.ctab_heads {options.ctab_heads} must divide the deepest width {width}"
            )
        self.names, self.options = tuple(names), options

        def per_task(make: type[nn.Module], *sizes: int) -> nn.ModuleDict:
            return nn.ModuleDict({name: make(*sizes) for name in names})

        self.norm = per_task(nn.LayerNorm, width)
        self.query, self.key = per_task(nn.Linear, width, width), per_task(nn.Linear, width, width)
        self.value, self.out = per_task(nn.Linear, width, width), per_task(nn.Linear, width, width)
        for layer in self.out.values():
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        self.ffn = nn.ModuleDict({name: _feed_forward(width) for name in names} if options.ctab_ffn else {})

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return `z'^t` by task, in the shape of the features (B, C, S)."""
        shape = next(iter(features.values())).shape
        tokens = {name: features[name].flatten(2).transpose(1, 2) for name in self.names}
        normed = {name: self.norm[name](tokens[name]) for name in self.names}
        placed = normed
        if self.options.ctab_pos == "sincos":
            code = position_code(shape[2:], shape[1]).to(tokens[self.names[0]])
            placed = {name: z + code for name, z in normed.items()}
        key = {name: self._heads(self.key[name](placed[name])) for name in self.names}
        value = {name: self._heads(self.value[name](normed[name])) for name in self.names}
        results = {}
        for name in self.names:
            query = self._heads(self.query[name](placed[name]))
            others = [other for other in self.names if other != name or self.options.ctab_self]
            read = [functional.scaled_dot_product_attention(query, key[other], value[other]) for other in others]
            z = tokens[name] + self.out[name](_mean(read).transpose(1, 2).flatten(2))
            if self.options.ctab_ffn:
                z = z + self.ffn[name](z)
            results[name] = z.reshape(shape[0], *shape[2:], shape[1]).movedim(-1, 1)  # keeps channels last
        return results

    def attention(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights of the attention of each task to each other, (B, heads, N, N); see `forward`."""
        shape = next(iter(features.values())).shape
        placed = {name: self.norm[name](features[name].flatten(2).transpose(1, 2)) for name in self.names}
        if self.options.ctab_pos == "sincos":
            code = position_code(shape[2:], shape[1]).to(placed[self.names[0]])
            placed = {name: z + code for name, z in placed.items()}
        found = {}
        for name in self.names:
            query = self._heads(self.query[name](placed[name]))
            for other in self.names:
                if other != name or self.options.ctab_self:
                    key = self._heads(self.key[other](placed[other]))
                    found[_pair(name, other)] = (query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])).softmax(-1)
        return found

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.options.ctab_heads, -1)).transpose(1, 2)


def _feed_forward(width: int) -> nn.Module:
    last = nn.Linear(2 * width, width)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), last)


def position_code(shape: Sequence[int], width: int) -> Tensor:
    """Return sines and cosines of the position along each axis, (N, width); axes share the channels equally."""
    channels_per_axis = width // len(shape)
    num_waves = math.ceil(channels_per_axis / 2)
    waves = 100.0 ** (-torch.arange(num_waves) / num_waves)
    codes = []
    for positions in torch.meshgrid(*(torch.arange(size) for size in shape), indexing="ij"):
        angles = positions.reshape(-1, 1) * waves
        codes.append(torch.cat([angles.sin(), angles.cos()], dim=1)[:, :channels_per_axis])
    code = torch.cat(codes, dim=1)
    return functional.pad(code, (0, width - code.shape[1]))
