"""A training step of MONAI's UNet with Adam: python step_monai.py SHAPE WIDTHS CHANNELS OUTPUTS."""

import json
import sys

import torch
from monai.networks.nets import UNet
from steps import serve_steps

torch.manual_seed(0)
grid, widths = json.loads(sys.argv[1]), json.loads(sys.argv[2])
network = UNet(3, int(sys.argv[3]), int(sys.argv[4]), widths, [2] * (len(widths) - 1), num_res_units=2).train()
optimizer = torch.optim.Adam(network.parameters(), 1e-3)
serve_steps(network, optimizer, [1, int(sys.argv[3]), *grid])
