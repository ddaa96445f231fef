"""Trainings of one architecture as one model: written, asked, scored and chosen as one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ctan.config import RunConfig
from ctan.errors import DataError
from ctan.evaluation import compare, evaluate
from ctan.evaluation.cases import EVALUATION, TUNING
from ctan.evaluation.compare import chosen_trainings
from ctan.files import sha256_of_file
from ctan.inference import load_network
from ctan.inference.ensemble import describe_ensemble, save_ensemble
from ctan.inference.export import export
from ctan.prediction.ask import ask
from ctan.records import ModelRecord, SeenGroups
from ctan.report import write_report
from ctan.store import StorePointer, open_store
from ctan.tracking.comparison import read_comparison
from ctan.tracking.side_by_side import compare_any
from tests.helpers.evaluation import write_network


@pytest.fixture(scope="module")
def members(tiny_pointer: StorePointer, tiny_config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("members")
    return [
        write_network(
            folder / f"ctan-{fold}",
            tiny_pointer,
            tiny_config,
            fold=fold,
            seed=fold,
            seen=SeenGroups.of([f"only_{fold}", "both"], "salt"),
        )
        for fold in (0, 1)
    ]


@pytest.fixture(scope="module")
def together(members: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("together")
    save_ensemble(folder, members, describe_ensemble(members).model_copy(update={"run_id": "of both"}))
    return folder


def test_it_says_who_its_members_are_and_what_they_cost_and_saw(members: list[Path], together: Path) -> None:
    record, alone = ModelRecord.load(together), [ModelRecord.load(folder) for folder in members]
    assert (record.arch, record.name, record.run_id) == ("ctan", "ctan, ensemble of 2", "of both")
    assert [(one.fold, one.seed, one.run_id) for one in record.members] == [(0, 0, "run-ctan-0"), (1, 1, "run-ctan-1")]
    assert [one.weights_sha256 for one in record.members] == [
        sha256_of_file(folder / "model.safetensors") for folder in members
    ]
    assert record.num_parameters == sum(one.num_parameters for one in alone)
    assert record.macs_per_case == sum(one.macs_per_case for one in alone)
    assert record.seen is not None
    assert all(record.seen.holds(group) for group in ("only_0", "only_1", "both"))
    assert not record.seen.holds("nobody")


def test_its_answer_is_the_mean_of_its_members(members: list[Path], together: Path, tiny_pointer: StorePointer) -> None:
    store = open_store(tiny_pointer)
    case_id = store.case_ids()[0]
    stored, case = store.load(case_id), store.reference(case_id)
    model, alone = load_network(together), [load_network(folder) for folder in members]
    found, each = model.predict(stored), [one.predict(stored) for one in alone]
    for name, output in found.items():
        assert np.array_equal(output, np.mean([one[name] for one in each], axis=0)), name
        assert not np.array_equal(output, each[0][name])
    asked, expected = ask([model], case, spread=True), ask(alone, case, spread=True)
    for name, dose in expected.prediction.doses.items():
        assert np.array_equal(asked.prediction.doses[name], dose)
    for name, apart in expected.spread.items():
        assert np.array_equal(asked.spread[name], apart)


def test_what_does_not_belong_together_is_refused(
    members: list[Path], together: Path, tiny_pointer: StorePointer, tiny_config: RunConfig, tmp_path: Path
) -> None:
    other = write_network(tmp_path / "stl", tiny_pointer, tiny_config, "stl", fold=1)
    for folders, problem in (
        (members[:1], "at least two trainings"),
        ([members[0], members[0]], "hold a fold and seed twice"),
        ([members[0], other], "has another arch than"),
        ([together, together], "is an ensemble itself"),
    ):
        with pytest.raises(DataError, match=problem):
            describe_ensemble(folders)
    with pytest.raises(DataError, match="export its members"):
        export(load_network(together), tmp_path / "model.pt2", "torch", [])


def test_it_is_scored_and_chosen_as_one_model(
    members: list[Path], together: Path, tiny_pointer: StorePointer, tiny_config: RunConfig, tmp_path: Path
) -> None:
    zero = write_network(tmp_path / "stl", tiny_pointer, tiny_config, "stl", fill=0.0)
    one = write_network(tmp_path / "stl-1", tiny_pointer, tiny_config, "stl", fold=1, seed=1, fill=0.0)
    models = [zero, one, *members]
    folders = [tmp_path / f"evaluation-{number}" for number in range(len(models))]
    for model, folder in zip(models, folders, strict=True):
        evaluate(tiny_pointer, model, folder, tiny_config)
    chosen = chosen_trainings(tiny_pointer, folders)
    assert chosen in (folders[:2], folders[2:])
    if chosen == folders[:2]:  # then the others are left out of the choice
        folders = folders[2:]
    evaluate(tiny_pointer, together, tmp_path / "evaluation", tiny_config, (EVALUATION,))
    found = compare(tiny_pointer, [*folders, tmp_path / "evaluation"], tmp_path / "comparison", tiny_config)
    assert (found.best.arch, found.best.model_index) == ("ctan, ensemble of 2", len(folders))
    assert "the ensemble of 2 trainings of ctan is judged as one model" in found.best.reason
    scores = found.architecture("ctan, ensemble of 2").scores
    assert scores[EVALUATION]["dose"]["dose_score"].value is not None
    assert not scores[TUNING]
    write_report(found, [*folders, tmp_path / "evaluation"], tmp_path / "report.html")
    assert "CTAN, ensemble of 2" in (tmp_path / "report.html").read_text(encoding="utf-8")
    candidate = read_comparison(tmp_path / "comparison", [together], tiny_pointer).candidate
    assert candidate.record == ModelRecord.load(together)
    assert candidate.cases.num_rows


def test_it_stands_beside_a_member_by_a_name_of_its_own(
    members: list[Path],
    together: Path,
    tiny_pointer: StorePointer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tiny_config: RunConfig,
) -> None:
    monkeypatch.setenv("CTAN_WORKSPACE", str(tmp_path / "workspace"))
    found = compare_any([str(together), str(members[0])], tiny_pointer, tmp_path / "compared", tiny_config)
    assert [entry.arch for entry in found.architectures] == ["ctan, ensemble of 2", "ctan"]
    assert found.best.arch == "ctan", "the ensemble has nothing to be chosen by"
    assert set(found.architectures[1].relative_improvement) == {EVALUATION}
