"""A trained model on disk, `model.safetensors` + `model.json`, and how it is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ctan.errors import DataError
from ctan.files import atomic_path
from ctan.inputs import Inputs, network_input
from ctan.records import MODEL_FILE, WEIGHTS_FILE, ModelRecord
from ctan.tasks import Task

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ctan.cases import DataSpec, StoredCase

_MAX_NAMES = 4


def save_network(model_dir: Path, state_dict: Mapping[str, Tensor], record: ModelRecord) -> None:
    """Write a trained model; each file appears whole or not at all, `model.json` last.

    Args:
        model_dir: folder to write to, created when missing; other files in it stay.
        state_dict: weights by name.
        record: how to ask it, and where it came from.
    """
    from safetensors.torch import save_file

    tensors = {name: value.detach().cpu().contiguous() for name, value in state_dict.items()}
    with atomic_path(model_dir / WEIGHTS_FILE) as path:
        # One entry only: safetensors writes several in any order, and equal weights must be equal files.
        save_file(tensors, path, metadata={"format": "pt"})
    record.save(model_dir)


def load_network(model_dir: Path, test_time_flip: bool | None = None) -> LoadedModel:
    """Load a trained model onto the GPU when there is one.

    Args:
        model_dir: holds `model.safetensors` and `model.json`.
        test_time_flip: average with the prediction for the flipped image; None: as the model says.

    Raises:
        DataError: naming the file, when one is missing or damaged, or the weights are not those of the network
            that `model.json` describes.
    """
    import torch

    from ctan.networks import build_network

    record = ModelRecord.load(model_dir)
    weights = read_weights(record.check_file(model_dir, WEIGHTS_FILE))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    flips = record.test_time_flip if test_time_flip is None else test_time_flip

    def loaded(of: ModelRecord, own: Mapping[str, Tensor]) -> LoadedModel:
        network = build_network(record.arch, record.tasks, record.in_channels, record.network)
        _check_weights(own, network.state_dict(), model_dir, record.arch)
        network.load_state_dict(own)
        return LoadedModel(network.eval().to(device), of, device, flips)

    if not record.members:
        return loaded(record, weights)
    members = []
    for number, member in enumerate(record.members):
        prefix = f"{number}."
        own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        members.append(loaded(record.model_copy(update={"calibration": member.calibration}), own))
    return replace(members[0], others=tuple(members[1:]))


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a file of weights.

    Raises:
        DataError: when it is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; expected the weights that `ctan train` writes") from error
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path}: damaged or truncated ({error}); copy it again or train again") from error


def _check_weights(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], model_dir: Path, arch: str) -> None:
    """Compare names and shapes: weights of another architecture must not load."""

    def some(names: set[str]) -> str:
        first = ", ".join(sorted(names)[:_MAX_NAMES])
        return f"{first} and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else first

    problems = []
    if missing := expected.keys() - found.keys():
        problems.append(f"lacks {some(set(missing))}")
    if unknown := found.keys() - expected.keys():
        problems.append(f"has also {some(set(unknown))}")
    if differing := {n for n in expected.keys() & found.keys() if expected[n].shape != found[n].shape}:
        name = min(differing)
        shapes = f"{name} is {tuple(found[name].shape)} instead of {tuple(expected[name].shape)}"
        problems.append(f"{len(differing)} tensors of another shape ({shapes})")
    if problems:
        raise DataError(
            f"{model_dir / WEIGHTS_FILE}: not the weights of the {arch!r} network that {MODEL_FILE} describes: "
            f"{'; '.join(problems)}. Keep both files of one training together."
        )


@dataclass(frozen=True)
class LoadedModel:
    """A trained network, ready to predict.

    Attributes:
        network: in evaluation mode, on `device`.
        record: how it is asked, and where it came from.
        device: where it runs.
        test_time_flip: average with the prediction for the flipped image, where the data set allows a flip.
        others: of an ensemble, the members but the first, which is this one; all answers are averaged.
    """

    network: nn.Module
    record: ModelRecord
    device: torch.device
    test_time_flip: bool = False
    others: tuple[LoadedModel, ...] = ()

    @property
    def each(self) -> list[LoadedModel]:
        """The members of an ensemble, each alone; itself where it is none."""
        return [replace(self, others=()), *self.others]

    @property
    def tasks(self) -> tuple[Task, ...]:
        """What it predicts."""
        return self.record.tasks

    @property
    def spec(self) -> DataSpec:
        """The description of the data it learned from."""
        return self.record.spec

    @property
    def inputs(self) -> Inputs:
        """What it sees besides the image."""
        return self.record.inputs

    def predict(self, stored: StoredCase) -> dict[str, npt.NDArray[np.float32]]:
        """Predict one case on the working grid.

        Returns:
            Task name -> (num_outputs, D, H, W) float32: probabilities, Gy. Image-level tasks: (num_outputs,).
        """
        outputs = self.predict_batch(network_input(stored, self.spec, self.inputs)[None])
        return {task.name: task.rescaled(outputs[task.name][0], stored) for task in self.tasks}

    def predict_batch(self, image: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float32]]:
        """Predict from the network's input.

        Args:
            image: (B, C, D, H, W) float32, channels as `ctan.inputs.network_input` makes them.

        Returns:
            Task name -> (B, num_outputs, D, H, W) float32, activated; doses are those of a patient who is prescribed
            the task's `scale_gy`. Image-level tasks: (B, num_outputs).
        """
        if self.others:
            answers = [one.predict_batch(image) for one in self.each]
            return {task.name: np.mean([answer[task.name] for answer in answers], axis=0) for task in self.tasks}
        members = self.members(image, self.test_time_flip)
        if len(members) == 1:
            return members[0]
        return {name: (output + members[1][name]) * np.float32(0.5) for name, output in members[0].items()}

    def members(self, image: npt.NDArray[np.float32], flip: bool) -> list[dict[str, npt.NDArray[np.float32]]]:
        """Predict from the network's input, and from its mirror image where that is asked for and allowed.

        Args:
            image: see `predict_batch`.
            flip: predict the mirror image too.

        Returns:
            One or two of what `predict_batch` returns.
        """
        import torch

        with torch.inference_mode():
            tensor = torch.from_numpy(np.ascontiguousarray(image)).to(self.device)
            found = [self._activated(tensor)]
            if flip and self.spec.augmentation.flip_axes:
                found.append(self._of_flipped(tensor))
            return [{name: output.cpu().numpy() for name, output in outputs.items()} for outputs in found]

    def raw(self, image: Tensor) -> dict[str, Tensor]:
        """Return what the heads say of the network's input, before calibration and activation."""
        from ctan.precision import autocast, resolve_precision

        with autocast(self.device, resolve_precision(self.record.compute_precision, self.device)):
            found: dict[str, Tensor] = self.network(image)
        return found

    def raw_arrays(self, image: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float32]]:
        """Do the same on arrays, see `predict_batch`."""
        import torch

        with torch.inference_mode():
            raw = self.raw(torch.from_numpy(np.ascontiguousarray(image)).to(self.device))
            return {name: output.float().cpu().numpy() for name, output in raw.items()}

    def _activated(self, image: Tensor) -> dict[str, Tensor]:
        raw = self.raw(image)
        return {task.name: task.activate(self.calibrated(task.name, raw[task.name])) for task in self.tasks}

    def calibrated(self, name: str, raw: Tensor) -> Tensor:
        """Return what a task's head says, divided by the temperature that was fitted for it."""
        known = self.record.calibration.get(name)
        return raw if known is None else raw.float() / known.temperature

    def _of_flipped(self, image: Tensor) -> dict[str, Tensor]:
        """Return what is predicted of the image mirrored along the first axis that allows it, mirrored back."""
        allowed = self.spec.augmentation
        axis, left_right = (
            allowed.flip_axes[0] - self.spec.spatial_dims,
            allowed.flip_axes[0] == allowed.left_right_axis,
        )
        if left_right:
            image = image[:, self.inputs.mirrored_channels(self.spec)]
        outputs = self._activated(image.flip(axis))
        return {task.name: task.unflipped(outputs[task.name], axis, left_right) for task in self.tasks}
