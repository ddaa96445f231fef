"""A training step of nnU-Net's network with its optimiser: python step_nnunet.py SHAPE WIDTHS CHANNELS OUTPUTS."""

import json
import sys

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from steps import serve_steps
from torch import nn

torch.manual_seed(0)
grid, widths = json.loads(sys.argv[1]), json.loads(sys.argv[2])
stages = len(widths)
network = PlainConvUNet(
    int(sys.argv[3]), stages, widths, nn.Conv3d, 3,
    [1] + [2] * (stages - 1), 2, int(sys.argv[4]), 2, conv_bias=True,
    norm_op=nn.InstanceNorm3d, norm_op_kwargs={"eps": 1e-5, "affine": True},
    nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True},
).train()  # fmt: skip
optimizer = torch.optim.SGD(network.parameters(), 1e-2, weight_decay=3e-5, momentum=0.99, nesterov=True)
serve_steps(network, optimizer, [1, int(sys.argv[3]), *grid])
