"""A server that speaks the part of Kubeflow Pipelines' REST API (v2beta1) that submitting a run needs.

It judges requests by kfp-server-api's own models and KFP's own messages: an unknown field, a wrong type or a pipeline
that the backend could not parse is answered with 400. A test module says `pytest_plugins = ["helpers_kfp"]`.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

_API = "/apis/v2beta1"
_CREATED = {"created_at": "2025-01-02T03:04:05Z"}


@dataclass
class KfpServer:
    """The server's state: what it was asked for, and what it answers.

    Attributes:
        url: its address.
        experiments: display names by id.
        runs: each created run, as kfp-server-api's `V2beta1Run`.
        recurring: recurring runs by id, as kfp-server-api's `V2beta1RecurringRun`.
        namespaces: namespace of each request that names one.
        tokens: `Authorization` header of each request.
        states: what the next looks at a run find, each a state or a whole answer; the last one stays.
        failing: number of next looks at a run that are answered with 503.
        page_size: most recurring runs in one answer.
        broken_verbs: what changing a recurring run fails with 500: `enable`, `disable`, `DELETE`.
        refuse: status every request is answered with; 0 for none.
    """

    url: str = ""
    experiments: dict[str, str] = field(default_factory=dict)
    runs: list[Any] = field(default_factory=list)
    recurring: dict[str, Any] = field(default_factory=dict)
    namespaces: list[str] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)
    states: list[Any] = field(default_factory=lambda: ["SUCCEEDED"])
    failing: int = 0
    page_size: int = 100
    broken_verbs: tuple[str, ...] = ()
    refuse: int = 0

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: str) -> tuple[int, dict[str, Any]]:
        """Return status and body."""
        if self.refuse:
            return self.refuse, {"message": "not today"}
        if path == f"{_API}/healthz":
            return 200, {"multi_user": False}
        self.namespaces += query.get("namespace", [])
        if path == f"{_API}/experiments":
            return self._experiment(body) if method == "POST" else self._list_experiments(query)
        if path == f"{_API}/runs" and method == "POST":
            return self._create_run(body)
        if (known := re.fullmatch(rf"{_API}/runs/run-(\d+)", path)) and int(known[1]) < len(self.runs):
            return self._run(int(known[1]))
        if path == f"{_API}/recurringruns":
            return self._create_recurring(body) if method == "POST" else self._list_recurring(query)
        if known := re.fullmatch(rf"{_API}/recurringruns/([\w-]+)(?::(enable|disable))?", path):
            return self._change_recurring(method, known[1], known[2])
        return 404, {"message": f"{method} {path} is not here"}

    def _list_experiments(self, query: dict[str, list[str]]) -> tuple[int, dict[str, Any]]:
        (predicate,) = json.loads(query["filter"][0])["predicates"]
        assert predicate["key"] == "display_name"
        found = [
            {"experiment_id": number, "display_name": name}
            for number, name in self.experiments.items()
            if name == predicate["stringValue"]
        ]
        return 200, {"experiments": found}

    def _experiment(self, body: str) -> tuple[int, dict[str, Any]]:
        experiment = read(body, "V2beta1Experiment")
        if experiment.namespace:
            self.namespaces.append(experiment.namespace)
        number = f"experiment-{len(self.experiments)}"
        self.experiments[number] = experiment.display_name
        return 200, {"experiment_id": number, "display_name": experiment.display_name}

    def _create_run(self, body: str) -> tuple[int, dict[str, Any]]:
        run = read(body, "V2beta1Run")
        assert run.experiment_id in self.experiments, "a run of an unknown experiment"
        check_pipeline(run.pipeline_spec)
        self.runs.append(run)
        return 200, {
            "run_id": f"run-{len(self.runs) - 1}",
            "display_name": run.display_name,
            "state": "PENDING",
        } | _CREATED

    def _create_recurring(self, body: str) -> tuple[int, dict[str, Any]]:
        """Judge and keep a recurring run, as `CreateRecurringRun` and the controller's robfig/cron v1 do."""
        run = read(body, "V2beta1RecurringRun")
        assert run.experiment_id in self.experiments, "a recurring run of an unknown experiment"
        assert 1 <= int(run.max_concurrency) <= 10, "max_concurrency"
        check_pipeline(run.pipeline_spec)
        cron = run.trigger.cron_schedule.cron
        assert len(cron.split()) == 6, f"{cron!r} would be read with its first field as seconds"
        number = f"recurring-{len(self.recurring)}-{len(self.runs)}"
        while number in self.recurring:
            number += "x"
        status = "ENABLED" if run.mode == "ENABLE" else "DISABLED"  # left out, it is made disabled
        self.recurring[number] = {**json.loads(body), "recurring_run_id": number, "status": status}
        return 200, self.recurring[number]

    def _list_recurring(self, query: dict[str, list[str]]) -> tuple[int, dict[str, Any]]:
        names = [
            predicate["stringValue"] for text in query.get("filter", ()) for predicate in json.loads(text)["predicates"]
        ]
        found = [run for run in self.recurring.values() if not names or run["display_name"] in names]
        start, size = int(query.get("page_token", ["0"])[0] or 0), min(self.page_size, int(query["page_size"][0]))
        token = str(start + size) if start + size < len(found) else ""
        return 200, {"recurringRuns": found[start : start + size], "next_page_token": token}

    def _change_recurring(self, method: str, number: str, verb: str | None) -> tuple[int, dict[str, Any]]:
        if number not in self.recurring:
            return 404, {"message": f"recurring run {number} not found"}
        if self.broken_verbs and (verb or method) in self.broken_verbs:
            return 500, {"message": "the database is away"}
        if method == "DELETE":
            del self.recurring[number]
        elif verb:
            self.recurring[number]["status"] = f"{verb.upper()}D"
        else:
            return 200, self.recurring[number]
        return 200, {}

    def _run(self, number: int) -> tuple[int, dict[str, Any]]:
        if self.failing:
            self.failing -= 1
            return 503, {"message": "the server is starting"}
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        run = {"run_id": f"run-{number}", "display_name": self.runs[number].display_name} | _CREATED
        return 200, run | (state if isinstance(state, dict) else {"state": state})


def read(body: str, model: str) -> Any:
    """Return a request's body as one of kfp-server-api's models; a field that the model lacks is an error."""
    import kfp_server_api

    known = set(getattr(kfp_server_api, model).attribute_map.values())
    unknown = set(json.loads(body)) - known
    assert not unknown, f"{model} has no {unknown}"
    return kfp_server_api.ApiClient().deserialize(SimpleNamespace(data=body), model)


def check_pipeline(spec: dict[str, Any]) -> None:
    """Parse a run's pipeline as the backend does; an unknown field is an error."""
    from google.protobuf import json_format
    from kfp.kubernetes import kubernetes_executor_config_pb2 as executor
    from kfp.pipeline_spec import pipeline_spec_pb2

    documents = spec if "pipeline_spec" in spec else {"pipeline_spec": spec, "platform_spec": {}}
    json_format.ParseDict(documents["pipeline_spec"], pipeline_spec_pb2.PipelineSpec())
    json_format.ParseDict(documents["platform_spec"], pipeline_spec_pb2.PlatformSpec())
    deployment = documents["pipeline_spec"]["deploymentSpec"]
    json_format.ParseDict(deployment, pipeline_spec_pb2.PipelineDeploymentConfig())
    kubernetes = documents["platform_spec"].get("platforms", {}).get("kubernetes", {})
    for config in kubernetes.get("deploymentSpec", {}).get("executors", {}).values():
        json_format.ParseDict(config, executor.KubernetesExecutorConfig())


@pytest.fixture
def kfp_server() -> Iterator[KfpServer]:
    """A server on loopback, for one test."""
    state = KfpServer()

    class Handler(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            parts = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            state.tokens.append(self.headers.get("Authorization"))
            try:
                status, answer = state.answer(self.command, parts.path, parse_qs(parts.query), body)
            except Exception as error:  # the test sees it as the server's answer
                status, answer = 400, {"message": f"{type(error).__name__}: {error}"}
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = _handle

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield state
        server.shutdown()
        thread.join()
