"""A volume through one network: on the whole grid by ctan, or by MONAI's sliding window of 96 voxels an edge.

python volume.py MODEL whole|windows
"""

import sys
from pathlib import Path

import numpy as np
import torch
from serve import serve

from ctan.inference import load_network
from ctan.memory import keep_freed_memory

torch.set_num_threads(1)
model = load_network(Path(sys.argv[1]), test_time_flip=False)
shape = (1, model.record.in_channels, *model.record.grid.shape)
image = np.random.default_rng(0).normal(size=shape).astype(np.float32)


def windows():
    """Predict by MONAI's windows, overlapping by a quarter."""
    from monai.inferers import sliding_window_inference

    with torch.inference_mode():
        found = sliding_window_inference(torch.from_numpy(image), 96, 1, model._activated, overlap=0.25)
    return {name: output.numpy() for name, output in found.items()}


def whole():
    """Predict as ctan does."""
    return model.predict_batch(image)


if sys.argv[2] == "whole":
    keep_freed_memory()
serve(whole if sys.argv[2] == "whole" else windows, lambda found: found)
