"""The pipeline as compiled: up to date, described, thin, and free of what does not work in kfp."""

from __future__ import annotations

import ast
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("kfp")

import components
from ctan.intake.planning import MOST_TRAININGS
from ctan.steps.numbers import numbers_of
from tests.helpers.compiled import COMPILED, RETRAIN

STEPS = ("resolve", "ingest", "validate", "gate", "preprocess", "plan", "train", "evaluate", "compare", "promote")
OTHERS = ("check", "close", "tune")
CACHED = ("ingest", "validate")
COMPONENTS_DIR = Path(components.__file__).parent


@pytest.fixture(scope="module")
def spec() -> dict[str, Any]:
    return next(yaml.safe_load_all(COMPILED.read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def retrain_spec() -> dict[str, Any]:
    return next(yaml.safe_load_all(RETRAIN.read_text(encoding="utf-8")))


def body_of(pipeline: dict[str, Any]) -> dict[str, Any]:
    """Return the tasks after which the run is closed."""
    return pipeline["components"]["comp-exit-handler-1"]["dag"]["tasks"]


def test_a_run_is_closed_once_whatever_happened_in_it(spec: dict[str, Any], retrain_spec: dict[str, Any]) -> None:
    for pipeline in (spec, retrain_spec):
        tasks = pipeline["root"]["dag"]["tasks"]
        assert set(tasks) == {"close", "exit-handler-1"}
        assert tasks["close"]["triggerPolicy"] == {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}
        given = tasks["close"]["inputs"]["parameters"]
        assert given["pipeline"] == {"runtimeValue": {"constant": pipeline["pipelineInfo"]["name"]}}
        assert given["pipeline_run"] == {"runtimeValue": {"constant": "{{$.pipeline_job_uuid}}"}}
        assert given["status"] == {"taskFinalStatus": {"producerTask": "exit-handler-1"}}
        handlers = [name for name in pipeline["components"] if name.startswith("comp-close")]
        assert handlers == ["comp-close"], "the pipeline inside another has none of its own"


@pytest.mark.parametrize("name", ["ctan", "retrain", "tune"])
def test_the_committed_yaml_is_what_the_pipeline_compiles_to(name: str, tmp_path: Path) -> None:
    module = import_module(f"pipelines.{name}")
    module.main(tmp_path / "compiled.yaml")
    assert (tmp_path / "compiled.yaml").read_bytes() == module.COMPILED.read_bytes(), "stale: run `make pipeline`"


def test_every_pipeline_parameter_has_a_default_and_a_description(spec: dict[str, Any]) -> None:
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    wanted = {"source", "profile", "architectures", "epochs", "store_root", "checkpoint_root", "promote", "overrides"}
    assert wanted <= set(parameters)
    for name, parameter in parameters.items():
        assert "defaultValue" in parameter, name
        assert len(parameter.get("description", "")) > 10, name


def test_retraining_has_the_same_parameters_and_no_default_source(
    spec: dict[str, Any], retrain_spec: dict[str, Any]
) -> None:
    own, of_ctan = (one["root"]["inputDefinitions"]["parameters"] for one in (retrain_spec, spec))
    assert "defaultValue" not in own["source"]
    assert len(own["source"]["description"]) > 10
    assert {name: value for name, value in own.items() if name != "source"} == {
        name: value for name, value in of_ctan.items() if name != "source"
    }


def test_retraining_hands_every_parameter_on_and_the_source_as_it_was_resolved(retrain_spec: dict[str, Any]) -> None:
    """A branch that moves while the run is under way must not change what it trains on."""
    (condition,) = [
        part for part in retrain_spec["components"].values() if "ctan" in part.get("dag", {}).get("tasks", {})
    ]
    handed = condition["dag"]["tasks"]["ctan"]["inputs"]["parameters"]
    assert handed.pop("source") == {"componentInputParameter": "pipelinechannel--resolve-source"}
    names = [name for name in retrain_spec["root"]["inputDefinitions"]["parameters"] if name != "source"]
    assert handed == {name: {"componentInputParameter": f"pipelinechannel--{name}"} for name in names}


def test_retraining_depends_on_one_unnamed_output(retrain_spec: dict[str, Any]) -> None:
    """Locally kfp takes a condition on a named output parameter for false."""
    tasks = body_of(retrain_spec)
    (task,) = [task for task in tasks.values() if "triggerPolicy" in task]
    assert task["triggerPolicy"]["condition"] == "inputs.parameter_values['pipelinechannel--check-Output'] == 'retrain'"


def test_every_setting_parameter_is_handed_to_the_step_that_resolves_them(spec: dict[str, Any]) -> None:
    """And the roots, at which it looks before anything long begins."""
    handed = body_of(spec)["resolve"]["inputs"]["parameters"]
    found = {name: value["componentInputParameter"] for name, value in handed.items()}
    assert {name: given.removeprefix("pipelinechannel--") for name, given in found.items()} == {
        name: name for name in spec["root"]["inputDefinitions"]["parameters"]
    }


def test_every_component_input_is_described(spec: dict[str, Any]) -> None:
    for step in STEPS:
        inputs = spec["components"][f"comp-{step}"]["inputDefinitions"]
        for name, value in (inputs.get("parameters", {}) | inputs.get("artifacts", {})).items():
            assert value.get("description"), f"{step}: {name}"


@pytest.mark.parametrize("step", [*STEPS, *OTHERS])
def test_a_component_is_one_import_and_one_call(step: str) -> None:
    tree = ast.parse((COMPONENTS_DIR / step / "component.py").read_text(encoding="utf-8"))
    (function,) = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert ast.get_docstring(function)
    imported, call = function.body[1:]
    assert isinstance(imported, ast.ImportFrom)
    assert imported.module == "ctan"
    assert isinstance(call, ast.Expr | ast.Return)
    assert isinstance(call.value, ast.Call)


def test_no_metric_of_a_step_ends_in_a_dot() -> None:
    """The total loss stands among the losses of the tasks under an empty name."""
    found = numbers_of({"epochs": 3, "losses": {"": 0.5, "dose": 0.25}, "broken": float("inf")})
    assert found == {"epochs": 3.0, "losses": 0.5, "losses.dose": 0.25}


def test_every_folder_of_components_is_a_step_of_the_pipeline() -> None:
    folders = {path.name for path in COMPONENTS_DIR.iterdir() if path.is_dir() and not path.name.startswith("_")}
    assert folders == {*STEPS, *OTHERS}


def test_loop_and_condition_use_only_what_works_when_run_locally(spec: dict[str, Any]) -> None:
    """Another task's output parameter would be replaced by the loop item, or make the condition false, silently."""
    known = set(spec["root"]["inputDefinitions"]["parameters"])
    inner = {name: part for name, part in spec["components"].items() if "dag" in part}
    assert len(inner) == 3, "one flat loop, one condition, and what closes the run around them"
    for name, part in inner.items():
        if name.startswith("comp-exit-handler"):
            continue
        for channel in part["inputDefinitions"].get("parameters", {}):
            name = channel.removeprefix("pipelinechannel--")
            assert name in known or name == "plan-Output-loop-item" or name == "plan-Output", channel
        for task in part["dag"]["tasks"].values():
            for value in task["inputs"].get("parameters", {}).values():
                if "runtimeValue" in value:  # the id of the run
                    continue
                name = value["componentInputParameter"].removeprefix("pipelinechannel--")
                assert name in known or value.get("parameterExpressionSelector", "").startswith("parseJson"), name
    (condition,) = [task["triggerPolicy"]["condition"] for task in body_of(spec).values() if "triggerPolicy" in task]
    assert condition == "inputs.parameter_values['pipelinechannel--promote'] == true"


def test_only_steps_that_get_the_hashes_of_their_inputs_are_cached(spec: dict[str, Any]) -> None:
    dags = [spec["root"]["dag"]] + [part["dag"] for part in spec["components"].values() if "dag" in part]
    tasks = {name: task for dag in dags for name, task in dag["tasks"].items()}
    assert set(STEPS) <= set(tasks)
    for step in STEPS:
        assert tasks[step]["cachingOptions"] == ({"enableCache": True} if step in CACHED else {}), step
        assert tasks[step]["taskInfo"]["name"][0].isupper(), f"{step}: no display name"
    handed = tasks["ingest"]["inputs"]["parameters"]
    assert {value["taskOutputParameter"]["outputParameterKey"] for value in handed.values()} == {"origin", "settings"}
    assert list(tasks["validate"]["inputs"]["artifacts"]) == ["manifest"]


def test_what_is_collected_over_90_trainings_fits_into_one_argument(spec: dict[str, Any]) -> None:
    """KFP's launcher gets a step's inputs as one argument, of which Linux takes 131,072 bytes."""
    collected = body_of(spec)["compare"]["inputs"]["artifacts"]
    from_the_loop = [name for name, value in collected.items() if "for-loop" in str(value["taskOutputArtifact"])]
    assert from_the_loop == ["evaluations"], "one artifact a training"
    address = "s3://a-bucket-with-a-name-of-sixty-three-characters-as-s3-allows-12345/v2/artifacts/ctan/"
    folder = f"{address}{'0' * 36}/evaluate/{'0' * 36}/evaluation"
    entry = {  # of KFP 2.17, with a schema, an id and what `evaluate` adds
        "name": "1234567890123456789",
        "type": {"schemaTitle": "system.Artifact", "schemaVersion": "0.0.1"},
        "uri": folder,
        "metadata": {
            "display_name": "evaluation",
            "mlflow_run_id": "0" * 32,
            "mlflow_run_url": f"https://mlflow.some-hospital.example.org/tracking/#/experiments/123456/runs/{'0' * 32}",
            "store_session_info": '{"Provider":"s3","Params":{"accessKeyKey":"accesskey","bucket":"' + "0" * 63 + '"}}',
        },
        "artifactId": "12345678901234567890",
        "createTime": "2026-01-02T03:04:05.678901Z",
        "customPath": "",
    }
    given = json.dumps({"inputs": {"artifacts": {"evaluations": {"artifacts": [entry] * MOST_TRAININGS}}}}, indent=1)
    assert len(given) < 131_072 * 0.9


def test_no_step_installs_anything(spec: dict[str, Any]) -> None:
    assert "pip install" not in COMPILED.read_text(encoding="utf-8")


def test_the_run_id_is_given_to_the_steps_that_write_to_the_registry(spec: dict[str, Any]) -> None:
    dags = [part["dag"] for part in spec["components"].values() if "dag" in part]
    tasks = {name: task for dag in dags for name, task in dag["tasks"].items()}
    for step in ("train", "promote"):
        given = tasks[step]["inputs"]["parameters"]["pipeline_run"]
        assert given == {"runtimeValue": {"constant": "{{$.pipeline_job_uuid}}"}}


def test_every_step_fits_on_a_small_node_and_names_one_image_tag(spec: dict[str, Any]) -> None:
    for executor in spec["deploymentSpec"]["executors"].values():
        container = executor["container"]
        assert container["image"] == components.IMAGE
        assert {"name": "CTAN_IMAGE", "value": components.IMAGE} in container["env"]
        assert float(container["resources"]["resourceCpuRequest"]) <= 2
        assert float(container["resources"]["resourceMemoryRequest"].removesuffix("G")) <= 4
        assert "accelerator" not in container["resources"]
