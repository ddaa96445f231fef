"""The chain from raw data to a registered model, read back from the tags of MLflow's runs and versions.

Backwards: a version, its training, the pipeline's run, code and image, the version of the data. Forwards: a version of
the data, the pipeline runs that used it, their trainings, the versions registered from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ctan.errors import ConfigError, TrackingError
from ctan.tracking.lineage import LATER_PIPELINE_RUNS, PIPELINE_RUN, PIPELINE_RUN_URL
from ctan.tracking.registry import DECISION_TAG, named_version
from ctan.tracking.server import connect, is_server, prepare, tracking_errors, without_password

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

FORMS = "models:/NAME@ALIAS, models:/NAME/VERSION, runs:/ID, pipeline:ID or data:VERSION"
_PAGE = 1000


@dataclass
class Node:
    """A link of the chain.

    Attributes:
        kind: version, training, pipeline run, code, settings, store, data.
        name: what identifies it.
        facts: what is known of it.
        children: the next links.
        here: whether it is what was asked for.
    """

    kind: str
    name: str
    facts: dict[str, str] = field(default_factory=dict)
    children: list[Node] = field(default_factory=list)
    here: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the tree as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Trace:
    """Both directions.

    Attributes:
        subject: what was asked for; its children are what it comes from.
        forwards: from the same version of the data to everything that was made of it, None when that is not known.
    """

    subject: Node
    forwards: Node | None


def trace(reference: str) -> Trace:
    """Follow the chain both ways.

    Args:
        reference: `models:/NAME@ALIAS`, `models:/NAME/VERSION`, `runs:/ID`, `pipeline:ID` or `data:VERSION`.

    Raises:
        ConfigError: when the reference is none of these.
        TrackingError: when there is no such thing, or the server cannot be used.
    """
    uri = prepare()
    client = connect()
    with tracking_errors(uri, f"following {reference}"):
        return _Tracer(client, uri).trace(reference)


class _Tracer:
    """Reads the chain."""

    def __init__(self, client: MlflowClient, uri: str) -> None:
        self._client, self._place, self._server = client, without_password(uri).rstrip("/"), is_server(uri)

    def trace(self, reference: str) -> Trace:
        kind, _, name = reference.partition(":")
        if kind == "models":
            version = named_version(self._client, reference)
            tags = self._run_tags(version) | version.tags
            subject = self._version(version)
            subject.children = [self._training_of(version)]
            data = self._data_of(tags)
        elif kind == "runs":
            run = self._run(name.removeprefix("/"))
            subject, data = self._backwards(self._training(run), run.data.tags), self._data_of(run.data.tags)
        elif kind in ("pipeline", "data"):
            tag = PIPELINE_RUN if kind == "pipeline" else "data_version"
            runs = self._search(tag, name)
            if not runs:
                raise TrackingError(f"{reference}: no training at {self._place} carries this; {FORMS}")
            data = self._data_of(runs[0].data.tags)
            subject = data if kind == "data" else self._pipeline(runs[0].data.tags)
            subject.children = [] if kind == "data" else [data]
        else:
            raise ConfigError(f"{reference!r}: expected {FORMS}")
        subject.here = True
        return Trace(subject, self._forwards(data, subject))

    def _run(self, run_id: str) -> Run:
        from mlflow.exceptions import MlflowException

        try:
            return self._client.get_run(run_id)
        except MlflowException as error:
            raise TrackingError(f"runs:/{run_id}: {self._place} has no such run") from error

    def _run_or_none(self, run_id: str) -> Run | None:
        """Return a run, None where it was deleted for good (`mlflow gc`)."""
        from mlflow.exceptions import MlflowException

        try:
            return self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "PERMISSION_DENIED"):
                raise
            return None

    def _run_tags(self, version: ModelVersion) -> dict[str, str]:
        run = self._run_or_none(str(version.run_id))
        return dict(run.data.tags) if run is not None else {}

    def _training_of(self, version: ModelVersion) -> Node:
        """Return the training of a version with what it comes from: from its run, else from what the version carries.

        A version's own tags come first: they say what it was registered from.
        """
        run = self._run_or_none(str(version.run_id))
        if run is not None:
            return self._backwards(self._training(run), run.data.tags | version.tags, run.data.tags)
        facts = {"what": _what(version.tags), "status": "its run is not in MLflow any more"}
        return self._backwards(Node("training", f"runs:/{version.run_id}", facts), version.tags)

    def _backwards(self, node: Node, known: Mapping[str, str], pipeline: Mapping[str, str] | None = None) -> Node:
        """Return a training with what it comes from.

        Args:
            node: the training.
            known: tags that say it.
            pipeline: tags that say which pipeline run it was trained in, where those are others.
        """
        node.children = [
            self._pipeline(known if pipeline is None else pipeline),
            Node("code", known.get("git_commit", "unknown commit"), _some(known, image="image")),
            Node("settings", known.get("config_hash", "unknown"), _some(known, profile="profile")),
            Node("store", known.get("store_key", "unknown"), _some(known, data_hash="hash of its cases")),
        ]
        node.children[-1].children = [self._data_of(known)]
        return node

    def _forwards(self, data: Node, subject: Node) -> Node | None:
        """Return the data version with the pipeline runs, trainings and versions that came of it."""
        if data.name == "unknown":
            return None
        root = Node("data", data.name, data.facts, here=subject.kind == "data")
        pipelines: dict[str, Node] = {}
        for run in self._search("data_version", data.name):
            node = self._pipeline(run.data.tags)
            node = pipelines.setdefault(node.name, node)
            node.here = (node.kind, node.name) == (subject.kind, subject.name)
            training = self._training(run)
            training.here = (training.kind, training.name) == (subject.kind, subject.name)
            for version in self._client.search_model_versions(f"run_id='{run.info.run_id}'"):
                found = self._version(self._client.get_model_version(version.name, version.version))
                found.here = found.name == subject.name
                training.children.append(found)
            node.children.append(training)
        for version in self._orphans(data.name):
            node = self._pipeline(version.tags)
            node = pipelines.setdefault(node.name, node)
            training = self._training_of(version)
            training.children = [self._version(version)]
            training.children[0].here = training.children[0].name == subject.name
            node.children.append(training)
        root.children = list(pipelines.values())
        return root

    def _orphans(self, data_version: str) -> list[ModelVersion]:
        """Return the versions made of these data whose run is not there any more."""
        if "'" in data_version:
            return []
        found = self._client.search_model_versions(f"tags.data_version = '{data_version}'")
        versions = [self._client.get_model_version(one.name, one.version) for one in found]
        return [version for version in versions if self._run_or_none(str(version.run_id)) is None]

    def _search(self, tag: str, value: str) -> list[Run]:
        if "'" in value:
            return []
        experiments = [experiment.experiment_id for experiment in self._client.search_experiments()]
        found, token = [], None
        while True:
            page = self._client.search_runs(
                experiments, f"tags.{tag} = '{value}'", max_results=_PAGE, order_by=["start_time"], page_token=token
            )
            found += list(page)
            token = page.token
            if not token:
                return found

    def _version(self, version: ModelVersion) -> Node:
        facts = {"registered": _time(version.creation_timestamp)} | _some(version.tags, **{DECISION_TAG: "decision"})
        if version.aliases:
            facts = {"alias": ", ".join(version.aliases)} | facts
        if self._server:
            facts["page"] = f"{self._place}/#/models/{version.name}/versions/{version.version}"
        return Node("version", f"models:/{version.name}/{version.version}", facts)

    def _training(self, run: Run) -> Node:
        tags, info = run.data.tags, run.info
        facts = {"what": _what(tags), "status": info.status}
        facts["started"] = _time(info.start_time)
        facts |= _some(tags, reproduces="reproduces", same_weights="same weights")
        if self._server:
            facts["page"] = f"{self._place}/#/experiments/{info.experiment_id}/runs/{info.run_id}"
        return Node("training", f"runs:/{info.run_id}", facts)

    def _pipeline(self, tags: Mapping[str, str]) -> Node:
        name = tags.get(PIPELINE_RUN)
        facts = _some(tags, **{PIPELINE_RUN_URL: "page", LATER_PIPELINE_RUNS: "used again by"})
        return Node("pipeline run", name or "none (trained by single commands)", facts)

    def _data_of(self, known: Mapping[str, str]) -> Node:
        facts = _some(
            known,
            data_source="source",
            data_repository="repository",
            data_revision="revision",
            data_commit="commit",
            data_path="path",
        )
        return Node("data", known.get("data_version", "unknown"), facts)


def _what(tags: Mapping[str, str]) -> str:
    return "{arch}, fold {fold}, seed {seed}".format_map(_Unknown(tags))


class _Unknown(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return "?"


def _some(tags: Mapping[str, str], **names: str) -> dict[str, str]:
    """Return the tags that are there, under their names for people."""
    return {name: tags[tag] for tag, name in names.items() if tags.get(tag)}


def _time(milliseconds: int | None) -> str:
    if milliseconds is None:
        return "?"
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
