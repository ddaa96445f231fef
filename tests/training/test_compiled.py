"""`training.compile`: the same outputs and gradients, and what happens where there is no compiler."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ctan.training.compiled import compiled
from tests.helpers.ranks import ALONE, Scenario, in_float32, relative_difference

SMALL = in_float32(Scenario("hps", ("dose", "diagnosis"), changes={"num_stages": 2, "dropout": 0.5, "norm": "batch"}))
SHAPE = (4, *Scenario().batch([0])["image"].shape[1:])


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what is compiled out of the caches of this machine and of this process."""
    torch.compiler.reset()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("has_compiler", [True, False])
def test_compiled_or_not_a_step_has_the_same_gradients(has_compiler: bool) -> None:
    import torch._inductor.config as inductor

    step, said = SMALL.step(ALONE), list[str]()
    before = {name: buffer.clone() for name, buffer in step.network.named_buffers()}
    state = torch.get_rng_state()
    missing = {} if has_compiler else {"cpp.cxx": (None, "/nonexistent/g++")}
    with inductor.patch({"force_disable_caches": True, **missing}):
        step.compute = compiled(step.network, SHAPE, "fp32", ALONE, said.append)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(buffer, before[name]) for name, buffer in step.network.named_buffers())
    assert all(parameter.grad is None for parameter in step.network.parameters())
    if has_compiler:
        assert step.compute is not None
        assert said == []
    else:
        assert step.compute is None
        assert len(said) == 1
        assert said[0].startswith("training.compile: torch.compile fails (")
        assert "; computed without it" in said[0]
    for cases in ([0, 1, 2, 3], [3, 2, 1, 0]):  # other cases, other dropout, nothing compiled anew
        batch = SMALL.batch(cases)
        step.backward(step.forward(batch))
    found = {name: p.grad for name, p in step.network.named_parameters() if p.grad is not None}
    plain = SMALL.step(ALONE)
    plain.backward(plain.forward(SMALL.batch([3, 2, 1, 0])))
    expected = {name: p.grad for name, p in plain.network.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()
    assert relative_difference(found, expected, lambda _: True) < (1e-4 if has_compiler else 1e-12)
