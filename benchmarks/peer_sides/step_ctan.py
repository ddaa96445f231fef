"""A training step of ctan: python step_ctan.py PROFILE SHAPE STAGES ARCHITECTURE."""

import json
import sys

import torch
from steps import serve_steps

from ctan.datasets import get_dataset
from ctan.inputs import Inputs
from ctan.memory import keep_freed_memory
from ctan.networks import build_network
from ctan.settings import load_config
from ctan.tasks import tasks_of
from ctan.training.optim import make_optimizer
from ctan.training.weighting import EqualWeighting

keep_freed_memory()
torch.manual_seed(0)
grid = json.loads(sys.argv[2])
config = load_config(
    sys.argv[1],
    {"data.dataset": "openkbp", "preprocess.grid_shape": grid, "network.num_stages": int(sys.argv[3])},
)
spec = get_dataset("openkbp").spec
tasks = tasks_of(spec)
network = build_network(sys.argv[4], tasks, Inputs.of(config.data).num_channels(spec), config.network).train()
optimizer = make_optimizer(network, EqualWeighting([task.name for task in tasks]), config.training)
serve_steps(network, optimizer, [1, network.in_channels, *grid])
