"""A data set without code: a folder that `dataset.yaml`, or nnU-Net's `dataset.json`, describes."""
