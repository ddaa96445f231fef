"""A server that speaks the part of Kubeflow Pipelines' REST API (v2beta1) that runs and recurring runs need.

It judges requests by kfp-server-api's own models and KFP's own messages: an unknown field, a wrong type or a pipeline
that the backend could not parse is answered with 400. Recurring runs are judged as backend 2.17 does (`toModelJob` in
apiserver/server/api_converter.go) and answered in its form. A module says `pytest_plugins = ["tests.helpers.kfp"]`.
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
        namespaces: namespace of each request that names one.
        tokens: `Authorization` header of each request.
        states: what the next looks at a run find, each a state or a whole answer; the last one stays.
        logs: log of each pod by its name, as KFP's pages and its API server hand them out.
        failing: number of next looks at a run that are answered with 503.
        refuse: status every request is answered with; 0 for none.
        recurring: each recurring run as the server answers it, by id.
        requests: method and path of each request about recurring runs.
        largest_page: recurring runs in an answer at most.
        broken: requests about recurring runs that are answered with 503, each the end of `<method> <path>`.
        deletions: propagation policy of each deletion.
    """

    url: str = ""
    experiments: dict[str, str] = field(default_factory=dict)
    runs: list[Any] = field(default_factory=list)
    namespaces: list[str] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)
    states: list[Any] = field(default_factory=lambda: ["SUCCEEDED"])
    logs: dict[str, str] = field(default_factory=dict)
    failing: int = 0
    refuse: int = 0
    recurring: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    largest_page: int = 200
    broken: list[str] = field(default_factory=list)
    deletions: list[str] = field(default_factory=list)
    keeps_pipelines: bool = False
    pipelines: dict[str, dict[str, str]] = field(default_factory=dict)

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: str) -> tuple[int, Any]:
        """Return status and body, a text or JSON."""
        if self.refuse:
            return self.refuse, {"message": "not today"}
        if path == f"{_API}/healthz":
            return 200, {"multi_user": False}
        self.namespaces += query.get("namespace", [])
        if path == f"{_API}/experiments":
            return self._experiment(body) if method == "POST" else self._list_experiments(query)
        if path == f"{_API}/runs" and method == "POST":
            return self._create_run(body)
        if path == "/k8s/pod/logs" or path.startswith("/apis/v1alpha1/"):
            return self._log(path, query)
        if (known := re.fullmatch(rf"{_API}/runs/run-(\d+)", path)) and int(known[1]) < len(self.runs):
            return self._run(int(known[1]))
        if found := re.fullmatch(rf"{_API}/recurringruns(?:/([^:]+)(?::(enable|disable))?)?", path):
            self.requests.append(f"{method} {path.removeprefix(_API)}")
            if any(self.requests[-1].endswith(end) for end in self.broken):
                return 503, {"message": "the server is starting"}
            return self._recurring(method, found[1], found[2], query, body)
        if path.startswith(f"{_API}/pipelines") and self.keeps_pipelines:
            return self._pipelines(method, path.removeprefix(f"{_API}/pipelines"), query, body)
        return 404, {"message": f"{method} {path} is not here"}

    def _pipelines(self, method: str, path: str, query: dict[str, list[str]], body: str) -> tuple[int, Any]:
        """Keep pipelines and their versions; the first upload makes a pipeline and its first version."""
        if method == "POST":
            content = body[body.index("components:") : body.rindex("--")].rpartition("\r\n--")[0]
            check_pipeline(_documents(content))
            name = query["name"][0]
            if path == "/upload":
                assert name not in self.pipelines, "a pipeline of this name exists"
                self.pipelines[name] = {name: content}
                return 200, {"pipeline_id": f"pipeline-{name}", "display_name": name}
            of = query["pipelineid"][0].removeprefix("pipeline-")
            assert name not in self.pipelines[of], "a version of this name exists"
            self.pipelines[of][name] = content
            return 200, {
                "pipeline_id": f"pipeline-{of}",
                "pipeline_version_id": f"version-{name}",
                "display_name": name,
            }
        wanted = json.loads(query["filter"][0])["predicates"][0]["stringValue"]
        if found := re.fullmatch(r"/pipeline-([^/]+)/versions", path):
            known = wanted in self.pipelines[found[1]]
            return 200, {"pipeline_versions": [{"pipeline_version_id": f"version-{wanted}"}]} if known else {}
        return 200, {"pipelines": [{"pipeline_id": f"pipeline-{wanted}"}]} if wanted in self.pipelines else {}

    def _log(self, path: str, query: dict[str, list[str]]) -> tuple[int, Any]:
        """Hand out a pod's log as plain text; an error as each of the two servers does."""
        by_api = re.fullmatch(r"/apis/v1alpha1/runs/[^/]+/nodes/([^/]+)/log", path)
        pod = by_api[1] if by_api else query["podname"][0]
        assert by_api or (query["podnamespace"] and query["runid"])
        return (200, self.logs[pod]) if pod in self.logs else (500, {"error_message": f"no log of {pod}"})

    def _recurring(
        self, method: str, number: str | None, switch: str | None, query: dict[str, list[str]], body: str
    ) -> tuple[int, dict[str, Any]]:
        if number is None:
            return self._create_recurring(body) if method == "POST" else self._list_recurring(query)
        if number not in self.recurring:
            return 404, {"message": f"recurring run {number} not found"}
        if method == "POST" and switch:
            self.recurring[number] |= _mode(switch == "enable")
            return 200, {}
        if method == "DELETE":
            self.deletions += query.get("propagation_policy", ["DELETE_PROPAGATION_POLICY_UNSPECIFIED"])
            del self.recurring[number]
            return 200, {}
        return 404, {"message": f"{method} is not here"}

    def _create_recurring(self, body: str) -> tuple[int, dict[str, Any]]:
        run = read(body, "V2beta1RecurringRun")
        assert run.experiment_id in self.experiments, "a recurring run of an unknown experiment"
        assert run.display_name, "Recurring run name is empty. Please specify a valid name"
        assert 1 <= int(run.max_concurrency or 0) <= 10, "Max concurrency of a recurring run must be at least 1"
        check_cron(run.trigger.cron_schedule.cron)
        if reference := run.pipeline_version_reference:
            of = reference.pipeline_id.removeprefix("pipeline-")
            assert reference.pipeline_version_id.removeprefix("version-") in self.pipelines[of], "an unknown version"
        else:
            check_pipeline(run.pipeline_spec)
        number = f"recurring-{len(self.recurring) + len(self.deletions)}"  # never the same twice
        said = json.loads(body)
        answer = {key: said[key] for key in ("display_name", "description", "experiment_id", "trigger", "no_catchup")}
        answer |= {"recurring_run_id": number, "max_concurrency": str(run.max_concurrency)} | _CREATED
        answer |= _mode(run.mode == "ENABLE")  # anything else is paused, an unspecified mode too
        answer["service_account"] = run.service_account or "pipeline-runner"
        what = "pipeline_version_reference" if reference else "pipeline_spec"
        answer[what] = _as_answered(said[what])
        if parameters := run.runtime_config.parameters:
            answer["runtime_config"] = {"parameters": _as_answered(parameters)}
        self.recurring[number] = answer
        return 200, answer

    def _list_recurring(self, query: dict[str, list[str]]) -> tuple[int, dict[str, Any]]:
        start = int(query.get("page_token", ["0"])[0] or 0)
        end = start + min(int(query["page_size"][0]), self.largest_page)
        answer: dict[str, Any] = {"total_size": len(self.recurring)}
        if page := list(self.recurring.values())[start:end]:  # empty fields are left out
            answer["recurringRuns"] = page  # the one field of the API in camel case
        if end < len(self.recurring):
            answer["next_page_token"] = str(end)
        return 200, answer

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

    def _run(self, number: int) -> tuple[int, dict[str, Any]]:
        if self.failing:
            self.failing -= 1
            return 503, {"message": "the server is starting"}
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        run = {"run_id": f"run-{number}", "display_name": self.runs[number].display_name} | _CREATED
        return 200, run | (state if isinstance(state, dict) else {"state": state})


def _mode(enabled: bool) -> dict[str, str]:
    return {"mode": "ENABLE", "status": "ENABLED"} if enabled else {"mode": "DISABLE", "status": "DISABLED"}


def _as_answered(content: Any) -> Any:
    """Return JSON as it comes back from a `google.protobuf.Struct`: keys in another order, 1.0 as 1."""
    if isinstance(content, dict):
        return {key: _as_answered(content[key]) for key in sorted(content, reverse=True)}
    if isinstance(content, list):
        return [_as_answered(item) for item in content]
    return int(content) if isinstance(content, float) and content.is_integer() else content


def check_cron(text: str) -> None:
    """Refuse what robfig/cron 1.2 refuses; raises ValueError. A separate reading of its parser, in bounds and forms."""
    if text in ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"):
        return
    if text.startswith("@"):
        if not re.fullmatch(r"@every (\d+(\.\d+)?(h|m|s|ms|us|ns))+", text):
            raise ValueError(f"Unrecognized descriptor: {text}")
        return
    fields = text.split()
    if len(fields) not in (5, 6):
        raise ValueError(f"Expected 5 to 6 fields, found {len(fields)}: {text}")
    bounds = [(0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 6)]
    names = {4: "jan feb mar apr may jun jul aug sep oct nov dec", 5: "sun mon tue wed thu fri sat"}
    for place, expression in enumerate(fields):
        smallest, largest = bounds[place]
        known = {name: smallest + number for number, name in enumerate(names.get(place, "").split())}
        for item in filter(None, expression.split(",")):
            spread, *steps = item.split("/")
            ends = spread.split("-")
            if ends[0] in "*?":
                ends = [str(smallest), str(largest)] if len(ends) == 1 else ["-", "-"]
            first, last = (known[end.lower()] if end.lower() in known else int(end) for end in (ends[0], ends[-1]))
            if len(ends) > 2 or not smallest <= first <= last <= largest or len(steps) > 1:
                raise ValueError(f"{item!r} is out of range in {text!r}")
            if steps and int(steps[0]) == 0:
                raise ValueError(f"step of {item!r} in {text!r} is 0")


def read(body: str, model: str) -> Any:
    """Return a request's body as one of kfp-server-api's models; a field that the model lacks is an error."""
    import kfp_server_api

    known = set(getattr(kfp_server_api, model).attribute_map.values())
    unknown = set(json.loads(body)) - known
    assert not unknown, f"{model} has no {unknown}"
    return kfp_server_api.ApiClient().deserialize(SimpleNamespace(data=body), model)


def _documents(text: str) -> dict[str, Any]:
    import yaml

    spec, *platform = yaml.safe_load_all(text)
    return {"pipeline_spec": spec, "platform_spec": platform[0] if platform else {}}


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
            kind = "text/plain" if isinstance(answer, str) else "application/json"
            data = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = _handle

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)  # s until it stops
        thread.start()
        yield state
        server.shutdown()
        thread.join()
