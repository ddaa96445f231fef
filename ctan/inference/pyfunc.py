"""A trained model as MLflow's pyfunc: loaded by name from the registry, without unpickling anything."""

from __future__ import annotations

import re
import shutil
import tempfile
import warnings
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

import ctan
from ctan.inference.form import Column, answer_columns, example, request_columns
from ctan.inference.load import LoadedModel, load_network
from ctan.memory import keep_freed_memory
from ctan.records import MODEL_FILE, WEIGHTS_FILE, ModelRecord

if TYPE_CHECKING:
    from mlflow.models import ModelSignature
    from mlflow.types import Schema

# Named, not imported: MLflow looks it up by this name when it loads a model, as an entry point is.
LOADER = "ctan.prediction.served"
INPUT = "image"


class PyfuncModel:
    """What `mlflow.pyfunc.load_model` wraps of models that releases before 0.2 logged: asked with channels."""

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
    """Load the model folder inside an MLflow model of a release before 0.2, which names this module."""
    keep_freed_memory()
    return PyfuncModel(load_network(Path(data_path)))


def signature(record: ModelRecord) -> ModelSignature:
    """Return names and types of what a model is asked with and what it answers."""
    from mlflow.models import ModelSignature

    return ModelSignature(inputs=_schema(request_columns(record)), outputs=_schema(answer_columns(record)))


def _schema(columns: Iterable[Column]) -> Schema:
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Array

    types: dict[str, DataType | Array] = {
        "binary": DataType.binary,
        "double": DataType.double,
        "doubles": Array(DataType.double),
        "string": DataType.string,
        "strings": Array(DataType.string),
    }
    return Schema([ColSpec(types[column.kind], column.name, required=column.required) for column in columns])


def log_pyfunc(model_dir: Path, name: str, tags: dict[str, str]) -> str:
    """Log a trained model with the active MLflow run.

    The model is its two files and the name of a module of ctan: no pickle, no copy of the code (MLflow's "models from
    code" would keep one), and nothing is run to find out what it needs: the libraries of ctan, in the versions at hand.
    ctan itself is no requirement, for under that name an index could serve somebody else's package; its version is the
    tag `ctan_version`.

    Args:
        model_dir: holds `model.safetensors` and `model.json`.
        name: of the model within the run.
        tags: of the logged model.

    Returns:
        Id of the logged model.
    """
    import mlflow.pyfunc
    import pandas as pd

    record = ModelRecord.load(model_dir)
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
        folder = Path(temporary) / "model"
        folder.mkdir()
        for file in (WEIGHTS_FILE, MODEL_FILE):
            shutil.copy2(model_dir / file, folder)
        info = mlflow.pyfunc.log_model(
            name=name,
            loader_module=LOADER,
            data_path=str(folder),
            signature=signature(record),
            input_example=pd.DataFrame([example(record)]),
            pip_requirements=_libraries(),
            tags={**tags, "ctan_version": ctan.__version__},
        )
    return info.model_id


def _libraries() -> list[str]:
    """Return the libraries of ctan that are installed, `NAME==VERSION`, without those of its extras."""
    declared = [re.split(r"[^\w.-]", text)[0] for text in requires("ctan") or () if "extra ==" not in text]
    found = []
    for name in declared:
        with suppress(PackageNotFoundError):  # an environment may have left out what it does not use
            found.append(f"{name}=={version(name).partition('+')[0]}")  # "2.13.0+cpu" is on no index
    return found
