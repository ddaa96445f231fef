"""A trained model asked with rows: what MLflow loads by the name of this module, and what `ctan serve` answers with.

The code is that of `ctan predict`: the data set's own reader decodes a picture, `ask` does the rest.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ctan.cases import Case, RawCase
from ctan.datasets import Dataset, get_dataset
from ctan.datasets.folder.plain import PlainVolumes
from ctan.errors import CaseError, CtanError, DataError
from ctan.files import sha256_of_digests
from ctan.inference import LoadedModel, load_network
from ctan.inference.form import (
    IMAGE,
    PRESCRIPTION,
    SPACING,
    WARNINGS,
    Column,
    answer_columns,
    checked,
    flat,
    from_npy,
    is_picture,
    request_columns,
)
from ctan.intake.ingest import check_case, read_case
from ctan.memory import keep_freed_memory
from ctan.prediction.ask import ask
from ctan.prediction.models import Model
from ctan.records import ModelRecord
from ctan.settings import with_overrides

if TYPE_CHECKING:
    import pandas as pd

_KINDS = {b"\xff\xd8": ".jpg", b"\x89P": ".png"}  # first two bytes -> ending
_CASE = "request"


@dataclass(frozen=True)
class ServedModel:
    """One or several models of an architecture that answer rows, see `ctan.inference.form`.

    Attributes:
        loaded: several are averaged.
        reader: of the data set that they learned from.
    """

    loaded: tuple[LoadedModel, ...]
    reader: Dataset

    @classmethod
    def of(cls, loaded: Sequence[LoadedModel], name: str) -> ServedModel:
        """Return models that were loaded, with the reader of their data set.

        Args:
            loaded: at least one.
            name: of the first, for errors.

        Raises:
            ConfigError: when the data set is not installed or knows other settings now.
        """
        record = loaded[0].record
        data = with_overrides(record.config, (), name).data
        reader = get_dataset(data, "predict") if is_picture(record) else PlainVolumes(record.spec, data)
        return cls(tuple(loaded), reader)

    @classmethod
    def open(cls, models: Sequence[Model], test_time_flip: bool | None = None) -> ServedModel:
        """Load models from their folders."""
        return cls.of([load_network(model.folder, test_time_flip) for model in models], models[0].name)

    @property
    def record(self) -> ModelRecord:
        """Of the first model."""
        return self.loaded[0].record

    @property
    def request(self) -> tuple[Column, ...]:
        """What a row must hold."""
        return request_columns(self.record)

    def answer(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Answer one case.

        Args:
            row: values by name, see `ctan.inference.form.checked`.

        Returns:
            A value of every column of `ctan.inference.form.answer_columns`, None where a task could not be predicted.

        Raises:
            CtanError: naming what is wrong with the request.
        """
        values = checked(row, self.request)
        case = self._picture(values) if is_picture(self.record) else self._volume(values)
        answer = ask(self.loaded, case)
        found = flat(answer.prediction, is_picture(self.record))
        names = [column.name for column in answer_columns(self.record)]
        return {name: found.get(name) for name in names} | {WARNINGS: list(answer.warnings)}

    def predict(self, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Answer a table of cases, as MLflow asks.

        Args:
            model_input: a row a case.
            params: none are known.

        Raises:
            MlflowException: naming row and reason; to MLflow's server a bad request.
        """
        del params
        import pandas as pd
        from mlflow.exceptions import MlflowException
        from mlflow.protos.databricks_pb2 import BAD_REQUEST

        answers = []
        for number, row in enumerate(model_input.to_dict(orient="records")):
            try:
                answers.append(self.answer({str(name): value for name, value in row.items()}))
            except CtanError as error:
                raise MlflowException(f"row {number}: {reason(error)}", error_code=BAD_REQUEST) from error
        return pd.DataFrame(answers)

    def _picture(self, values: Mapping[str, Any]) -> Case:
        content = values[IMAGE]
        ending = _KINDS.get(content[:2])
        if ending is None:
            raise DataError(f"{IMAGE}: expected a JPEG or PNG file, found neither")
        with tempfile.TemporaryDirectory(prefix="ctan-request-") as folder:
            path = Path(folder) / f"{_CASE}{ending}"
            path.write_bytes(content)
            try:
                (raw,) = self.reader.find(path)
            except DataError as error:
                raise DataError(str(error).replace(str(path), IMAGE)) from error
            return read_case(self.reader, raw)

    def _volume(self, values: Mapping[str, Any]) -> Case:
        spec = self.record.spec
        limit = self.reader.config.reading.max_voxels
        arrays = {
            column.name: from_npy(values[column.name], column.name, limit)
            for column in self.request
            if column.kind == "binary" and column.name in values
        }
        image, channels = arrays.pop(IMAGE), spec.image.num_channels
        expected = spec.spatial_dims + (channels > 1)
        if image.ndim != expected or not image.size or (channels > 1 and len(image) != channels):
            shape = f"{channels} channels and " if channels > 1 else ""
            raise DataError(f"{IMAGE}: expected {shape}{spec.spatial_dims} axes, found the shape {list(image.shape)}")
        if not np.isfinite(image).all():
            raise DataError(f"{IMAGE}: holds values that are NaN or infinite")
        spacing = values[SPACING]
        if len(spacing) != spec.spatial_dims:
            raise DataError(f"{SPACING}: expected {spec.spatial_dims} numbers, found {len(spacing)}")
        masks = {}
        for name, mask in arrays.items():
            if mask.shape != image.shape[-spec.spatial_dims :]:
                raise DataError(f"{name}: has the shape {list(mask.shape)}, the image {list(image.shape)}")
            if not np.isin(mask, (0, 1)).all():
                raise DataError(f"{name}: expected 0 and 1, found other values")
            masks[name] = mask.astype(bool)
        assert isinstance(self.reader, PlainVolumes)  # see `of`
        digest = sha256_of_digests({name: hashlib.sha256(values[name]).hexdigest() for name in (IMAGE, *arrays)})
        raw = RawCase(_CASE, _CASE, "", Path(_CASE))
        case = self.reader.case_of(raw, image, tuple(spacing), masks, digest, values.get(PRESCRIPTION))
        check_case(case, raw)
        return case


def reason(error: CtanError) -> str:
    """Return what is wrong, without the name that a request has here."""
    return error.reason if isinstance(error, CaseError) else str(error)


def _load_pyfunc(data_path: str) -> ServedModel:
    """Load the model folder inside an MLflow model: MLflow looks this function up by name."""
    keep_freed_memory()
    return ServedModel.open([Model.of("the model", Path(data_path))])
