"""Training of one architecture on one fold with one seed: losses, task weighting, loop, checkpoints."""

from ctan.training.loop import TrainSummary, train

__all__ = ["TrainSummary", "train"]
