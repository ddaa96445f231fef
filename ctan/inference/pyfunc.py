"""A trained model as MLflow's pyfunc: loaded by name from the registry, without unpickling anything."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

import ctan
from ctan.inference.load import LoadedModel, load_network
from ctan.memory import keep_freed_memory
from ctan.records import MODEL_FILE, WEIGHTS_FILE, ModelRecord

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

INPUT = "image"


class PyfuncModel:
    """What `mlflow.pyfunc.load_model` wraps."""

    def __init__(self, model: LoadedModel) -> None:
        self.model = model

    def predict(
        self, model_input: dict[str, npt.NDArray[np.float32]], params: dict[str, Any] | None = None
    ) -> dict[str, npt.NDArray[np.float32]]:
        """Predict a batch.

        Args:
            model_input: `{"image": (B, C, D, H, W) float32}`, channels as `ctan.inputs.network_input` makes them.
            params: none are known.

        Returns:
            Task name -> (B, num_outputs, D, H, W) float32: probabilities, Gy.
        """
        del params
        return self.model.predict_batch(model_input[INPUT])


def _load_pyfunc(data_path: str) -> PyfuncModel:
    """Load the model folder inside an MLflow model: MLflow looks this function up by name."""
    keep_freed_memory()
    return PyfuncModel(load_network(Path(data_path)))


def signature(record: ModelRecord) -> ModelSignature:
    """Return names, types and shapes of input and outputs; -1 is the batch axis."""
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    grid, float32 = record.grid.shape, np.dtype(np.float32)
    shapes = {task.name: (task.num_outputs, *(grid if task.head == "dense" else ())) for task in record.tasks}
    return ModelSignature(
        inputs=Schema([TensorSpec(float32, (-1, record.in_channels, *grid), INPUT)]),
        outputs=Schema([TensorSpec(float32, (-1, *shape), name) for name, shape in shapes.items()]),
    )


def log_pyfunc(model_dir: Path, name: str, tags: dict[str, str]) -> str:
    """Log a trained model with the active MLflow run.

    The model is its two files and the name of this module: no pickle, no copy of the code, and nothing is run to
    find out what it needs. `ctan` in the version that wrote it is its one requirement.

    Args:
        model_dir: holds `model.safetensors` and `model.json`.
        name: of the model within the run.
        tags: of the logged model.

    Returns:
        Id of the logged model.
    """
    import mlflow.pyfunc

    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
        folder = Path(temporary) / "model"
        folder.mkdir()
        for file in (WEIGHTS_FILE, MODEL_FILE):
            shutil.copy2(model_dir / file, folder)
        warnings.filterwarnings("ignore", message=".*An input example was not provided")  # the signature is explicit
        info = mlflow.pyfunc.log_model(
            name=name,
            loader_module=__name__,
            data_path=str(folder),
            signature=signature(ModelRecord.load(model_dir)),
            pip_requirements=[f"ctan=={ctan.__version__}"],
            tags=tags,
        )
    return info.model_id
