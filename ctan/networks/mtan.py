"""Multi-task attention network (MTAN): Liu, Johns, Davison, CVPR 2019; their ResNet layout with U-Net decoders."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from ctan.config import NetworkConfig, Settings
from ctan.networks.attention import MaskOptions, SoftMask
from ctan.networks.backbone import (
    DecoderTrunk,
    DenseOutput,
    Encoder,
    Network,
    make_heads,
    norm_for,
    stage_widths,
)
from ctan.networks.blocks import Norm, make_downsample, make_upsample
from ctan.tasks import Task


class MTANOptions(MaskOptions):
    """Options of MTAN."""

    decoder_attention: bool = Field(False, description="attention in the decoder too (the authors' SegNet layout)")


class MultiTaskAttention(Network):
    """A soft mask per stage and task on the shared features: `m_i^t = a_i^t * p_i`.

    `a_i^t` sees `[u_i ; f_i(m_{i-1}^t)]`, in the first stage `u_1` alone. `f_i` is shared by the tasks, the masks are
    per task. With `decoder_attention` dense tasks share a decoder and mask it in the same way.
    """

    version = 1
    Options = MTANOptions
    options: MTANOptions

    def __init__(
        self, tasks: Sequence[Task], in_channels: int, config: NetworkConfig, options: Settings | None = None
    ) -> None:
        super().__init__(tasks, in_channels, config, options)
        norm, widths, dims = norm_for(tasks, config), stage_widths(config), config.spatial_dims
        self.encoder = Encoder(in_channels, norm, config)
        self.downs = nn.ModuleList(
            make_downsample(self.options.mask_down, dims, above, width, norm) for above, width in pairwise(widths)
        )
        self.masks = nn.ModuleDict(
            {
                task.name: nn.ModuleList(
                    SoftMask(dims, width if i == 0 else 2 * width, width, norm, self.options.mask_reduction)
                    for i, width in enumerate(widths)
                )
                for task in tasks
            }
        )
        dense = [task for task in tasks if task.head == "dense"] if self.options.decoder_attention else []
        if dense and config.deep_supervision:
            raise ValueError("network.deep_supervision: network.options.mtan.decoder_attention has no decoder a task")
        self.shared_decoder = AttentionDecoder(dense, norm, config, self.options.mask_reduction) if dense else None
        self.heads = make_heads([task for task in tasks if task not in dense], norm, config)

    def attend(self, us: Sequence[Tensor], ps: Sequence[Tensor], task: str) -> list[Tensor]:
        """Return the task's masked features `m_i` of every stage, (B, w_i, S / 2^(i-1)) each."""
        masked: list[Tensor] = []
        for i, (mask, u, p) in enumerate(zip(cast(Any, self.masks[task]), us, ps, strict=True)):
            seen = [u] if i == 0 else [u, self.downs[i - 1](masked[-1])]
            masked.append(mask(seen) * p)
        return masked

    def predict(self, x: Tensor) -> dict[str, Tensor]:
        us, ps = self.encoder(x)
        masked = {name: self.attend(us, ps, name) for name in self.task_names}
        outputs = {name: head(masked[name], masked[name][-1]) for name, head in self.heads.items()}
        if self.shared_decoder is not None:
            outputs |= self.shared_decoder(ps, {name: m[-1] for name, m in masked.items()})
        return {name: outputs[name] for name in self.task_names}


class AttentionDecoder(nn.Module):
    """A decoder on the shared features that every task masks, the authors' SegNet layout.

    With `v_i` the upsampled features and `q_i` the output of level i, task t reads
    `n_i^t = a(v_i, g_i(n_{i+1}^t)) * q_i`, where `g_i` (upsampling, norm, ReLU) is shared by the tasks.
    """

    def __init__(self, tasks: Sequence[Task], norm: Norm, config: NetworkConfig, reduction: int) -> None:
        super().__init__()
        widths, dims = stage_widths(config), config.spatial_dims
        self.trunk = DecoderTrunk(norm, config)
        self.ups, self.norms = nn.ModuleList(), nn.ModuleList()
        for below, width in zip(widths[:0:-1], widths[-2::-1], strict=True):
            self.ups.append(make_upsample(config.upsample, dims, below, width))
            self.norms.append(norm(width))
        self.masks = nn.ModuleDict(
            {
                task.name: nn.ModuleList(SoftMask(dims, 2 * width, width, norm, reduction) for width in widths[-2::-1])
                for task in tasks
            }
        )
        self.outputs = nn.ModuleDict({task.name: DenseOutput(task, config) for task in tasks})

    def forward(self, ps: Sequence[Tensor], bottoms: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the raw output of every dense task from the shared features and each task's deepest ones."""
        shared, own = ps[-1], dict(bottoms)
        for i, (level, skip) in enumerate(zip(self.trunk, reversed(ps[:-1]), strict=True)):
            up, shared = level(shared, skip)
            for name, masks in cast(Any, self.masks.items()):
                below = functional.relu(self.norms[i](self.ups[i](own[name])))
                own[name] = masks[i]([up, below]) * shared
        return {name: output(own[name]) for name, output in self.outputs.items()}
