"""A trained model as one file for other programs: `torch.export` or ONNX, written only when it answers as the original.

What is exported is the network with activation and calibration, in 32 bits: from the channels of
`ctan.inputs.network_input` to probabilities and Gy on the working grid. How channels are made and how answers come back
to the image stands in the file as `model.json`; the code for it is ctan's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from ctan.errors import ConfigError, DataError
from ctan.files import atomic_path
from ctan.inference.load import LoadedModel
from ctan.records import MODEL_FILE

if TYPE_CHECKING:
    import torch
    from torch import nn

Format = Literal["torch-export", "onnx"]
ENDINGS: Mapping[Format, str] = {"torch-export": ".pt2", "onnx": ".onnx"}
INPUT = "image"
TOLERANCE = 1e-4  # of the range of a dense output, and of a probability
_OPSET = 20
_EXAMPLE_BATCH = 2  # an example of one would fix the batch
_RECORDED = ("format_version", "arch", "spec", "inputs", "tasks", "grid", "calibration", "store_key", "data_hash")
Arrays = Mapping[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    Attributes:
        path: of the file.
        num_bytes: of it.
        differences: task -> largest difference to the original, in proportion to the range of its answers.
        num_cases: that it was compared on.
    """

    path: Path
    num_bytes: int
    differences: Mapping[str, float]
    num_cases: int

    def __str__(self) -> str:
        found = ", ".join(f"{name} {value:.1e}" for name, value in self.differences.items())
        return (
            f"{self.path}: {self.num_bytes / 1e6:.1f} MB, answers as the model does on {self.num_cases} cases "
            f"(largest difference, in proportion: {found})"
        )


def export(
    model: LoadedModel,
    path: Path,
    form: Format,
    images: Sequence[npt.NDArray[np.float32]],
    batch_size: int | None = None,
) -> Exported:
    """Write a model as one file, once it has answered real inputs as the original does.

    Args:
        model: trained.
        path: of the file; it appears whole or not at all.
        form: of the file.
        images: (C, *grid) each, as `ctan.inputs.network_input` makes them; at least one.
        batch_size: that the file takes; None for any.

    Raises:
        ConfigError: when ONNX's packages are not installed.
        DataError: when the network cannot be exported, or the file answers otherwise.
    """
    import torch

    if model.others:
        raise DataError("an ensemble is not exported as one file; export its members (`members` in model.json)")
    if form == "onnx":
        _check_installed()
    cpu = torch.device("cpu")
    record = model.record.model_copy(update={"compute_precision": "fp32"})
    plain = replace(model, network=model.network.to(cpu).eval(), record=record, device=cpu, test_time_flip=False)
    module = _whole(plain)
    shape = (batch_size or _EXAMPLE_BATCH, record.in_channels, *record.grid.shape)
    example = torch.from_numpy(np.resize(np.stack(images), shape).astype(np.float32))
    described = json.dumps({name: value for name, value in record.to_json().items() if name in _RECORDED})
    with atomic_path(path) as temporary:
        try:
            program = _program(module, example, batch_size is None)
            if form == "onnx":
                _write_onnx(program, temporary, [task.name for task in record.tasks], described)
            else:
                _write_torch(program, temporary, described)
        except Exception as error:  # torch raises whatever an operator meets
            raise DataError(
                f"{record.arch}: cannot be exported as {form} ({type(error).__name__}: {str(error).splitlines()[0]})"
            ) from error
        differences = _compared(plain, _reader(temporary, form, plain), images, batch_size)
        num_bytes = temporary.stat().st_size
    return Exported(path, num_bytes, differences, len(images))


def _whole(model: LoadedModel) -> nn.Module:
    """Return the network with calibration and activation, its outputs in the order of the tasks."""
    import torch

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = model.network

        def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
            raw = self.network(image)
            return tuple(task.activate(model.calibrated(task.name, raw[task.name])) for task in model.tasks)

    return Whole().eval()


def _program(module: nn.Module, example: torch.Tensor, dynamic: bool) -> Any:
    import torch

    shapes = {INPUT: {0: torch.export.Dim("batch", min=1, max=1024)}} if dynamic else None
    with torch.no_grad():
        return torch.export.export(module, (example,), dynamic_shapes=shapes)


def _write_torch(program: Any, path: Path, described: str) -> None:
    import torch

    with path.open("wb") as file:  # by a path torch insists on the ending .pt2
        torch.export.save(program, file, extra_files={MODEL_FILE: described})


def _write_onnx(program: Any, path: Path, names: Sequence[str], described: str) -> None:
    import torch

    written = torch.onnx.export(
        program, input_names=[INPUT], output_names=list(names), opset_version=_OPSET, dynamo=True, verbose=False
    )
    if written is None:
        raise ValueError("torch wrote nothing")
    written.model.metadata_props[MODEL_FILE] = described
    written.save(str(path), external_data=False)


def _reader(path: Path, form: Format, model: LoadedModel) -> Any:
    """Return what asks the file, (B, C, *grid) -> arrays in the order of the tasks."""
    if form == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
        return lambda image: session.run([task.name for task in model.tasks], {INPUT: image})
    import torch

    with path.open("rb") as file:
        module = torch.export.load(file).module()

    def asked(image: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
        with torch.no_grad():
            return [output.numpy() for output in module(torch.from_numpy(image))]

    return asked


def _compared(
    model: LoadedModel, reader: Any, images: Sequence[npt.NDArray[np.float32]], batch_size: int | None
) -> dict[str, float]:
    """Return the largest differences between file and original.

    Raises:
        DataError: when one is too large, or a label another.
    """
    # Of any size: one case alone, then two at once, which an export with a fixed batch would refuse.
    sizes = [batch_size] if batch_size else [1, min(2, len(images) + 1)]
    largest = {task.name: 0.0 for task in model.tasks}
    for image in images:
        for size in sizes:
            batch = np.ascontiguousarray(np.repeat(image[None], size, axis=0))
            expected = model.predict_batch(batch)
            for task, found in zip(model.tasks, reader(batch), strict=True):
                truth = expected[task.name]
                if found.shape != truth.shape:
                    raise DataError(f"{task.name}: the file answers {found.shape}, the model {truth.shape}")
                scale = 1.0
                if task.head == "dense":
                    scale = max(float(np.ptp(truth)), 1e-6)
                elif truth.shape[1] > 1 and not np.array_equal(found.argmax(1), truth.argmax(1)):
                    raise DataError(f"{task.name}: the file names another class than the model; nothing was written")
                largest[task.name] = max(largest[task.name], float(np.abs(found - truth).max()) / scale)
    if wrong := {name: value for name, value in largest.items() if not value <= TOLERANCE}:
        said = ", ".join(f"{name} by {value:.1e}" for name, value in wrong.items())
        raise DataError(f"the file answers otherwise than the model: {said}; {TOLERANCE:g} is allowed; not written")
    return largest


def _check_installed() -> None:
    from importlib.util import find_spec

    if missing := [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]:
        raise ConfigError(f"ONNX needs {', '.join(missing)}: pip install 'ctan[export]'")
