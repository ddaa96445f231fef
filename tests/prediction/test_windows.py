"""Windows that cover a large image are blended in single precision, whatever precision the network computes in."""

from types import SimpleNamespace

import numpy as np
import pytest

from ctan.prediction import ask
from ctan.tasks import DoseRegression

SHAPE, WINDOW = (24, 20, 16), (8, 8, 8)
VALUE = np.float32(0.3333)


@pytest.fixture
def windows(monkeypatch):
    """A grid of many overlapping windows, and a network that says the same everywhere."""
    monkeypatch.setattr(ask, "network_input", lambda *_: np.zeros((1, *SHAPE), np.float32))

    def predict_batch(image):
        return {"dose": np.full((1, 1, *image.shape[2:]), VALUE)}

    record = SimpleNamespace(grid=SimpleNamespace(shape=WINDOW))
    model = SimpleNamespace(spec=None, inputs=None, record=record, predict_batch=predict_batch)
    grid = ask._Grid(SimpleNamespace(prescription_gy=70.0), SimpleNamespace(shape=SHAPE), ("dense",))
    return model, grid


def test_what_every_window_says_is_what_the_blend_says(windows):
    """Summed in bfloat16, as a sliding window in the network's own precision does, it is up to a tenth off."""
    model, grid = windows
    assert len(list(grid.windows(WINDOW))) > 20
    answers, _ = ask._predicted([model, model], grid, [DoseRegression("dose")], spread=False)
    found = answers["dose"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, VALUE, rtol=1e-6)
