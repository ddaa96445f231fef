"""A model as one file for other programs, checked on cases that are read as for a prediction."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ctan.cases import Case
from ctan.cases.working import to_working
from ctan.errors import DataError
from ctan.inference import LoadedModel, load_network
from ctan.inference.export import ENDINGS, Exported, Format, export
from ctan.inputs import network_input
from ctan.prediction.ask import with_what_can_be_told
from ctan.prediction.models import open_models
from ctan.prediction.predict import Run, opened

_MOST_CASES = 8  # that are compared


def export_model(
    model: str, form: Format, path: Path | None, batch_size: int | None, source: str, read_ahead: bool = False
) -> Exported:
    """Write a model as one file.

    Args:
        model: see `ctan.prediction.models.open_models`.
        form: of the file.
        path: of the file; None: `model` with the format's ending, here.
        batch_size: that it takes; None for any.
        source: cases that it is checked on, the first eight of them.
        read_ahead: read them in a process of its own.

    Raises:
        ConfigError: when ONNX's packages are not installed.
        DataError: when the network cannot be exported, answers otherwise, or no case can be read.
    """
    with open_models(model) as models:
        run = Run.of(models, None, False, False, ())
        loaded = load_network(models[0].folder)
        with opened(source, run) as (cases, reader):
            read = run.cases(cases[:_MOST_CASES], reader, read_ahead)
            found = [(raw.case_id, case) for raw, case in islice(read, _MOST_CASES)]
        images = [_image(loaded, case) for _, case in found if isinstance(case, Case)]
        if not images:
            raise DataError(f"{source}: no case can be read to check the file on: {found[0][1] if found else 'none'}")
        return export(loaded, path or Path(f"model{ENDINGS[form]}"), form, images, batch_size)


def _image(model: LoadedModel, case: Case) -> npt.NDArray[np.float32]:
    case, _ = with_what_can_be_told(case, model)
    if lacking := model.inputs.lacking(case, model.spec):
        raise DataError(f"{case.case_id}: the model needs {' and '.join(lacking)}, which the case does not have")
    grid = model.record.grid
    stored, _ = to_working(case, model.spec, grid.shape, grid.spacing_mm)
    return network_input(stored, model.spec, model.inputs)
