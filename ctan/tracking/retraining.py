"""Whether training again could give another model than the registry has already."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ctan.config import SYNTHETIC_SUFFIX
from ctan.sources.origin import Origin
from ctan.tracking.registry import CHAMPION, DECISION_TAG, get_alias
from ctan.tracking.server import connect, prepare, tracking_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

_TAGS = {"data": "data_version", "settings": "settings_hash", "code": "pipeline_code_hash", "sides": "sides_hash"}
Drift = Callable[[str], str | None]
_NUM_SHOWN = 12  # characters of a hash


@dataclass(frozen=True)
class Verdict:
    """Whether to train again, and why."""

    needed: bool
    reason: str

    def __str__(self) -> str:
        return f"{'train again' if self.needed else 'nothing to do'}: {self.reason}"


@dataclass(frozen=True)
class Situation:
    """What a reason to train again can look at.

    Attributes:
        model_name: registered model.
        origin: data, settings and code as they are now.
        champion: version with that alias, None when there is none.
        judged: versions that were decided about, newest first; an interrupted promotion is not among them.
        drift: says of a version, `models:/NAME/NUMBER`, why incoming cases are no longer like those that it learned
            from; None where nobody looks.
    """

    model_name: str
    origin: Origin
    champion: ModelVersion | None
    judged: Sequence[ModelVersion]
    drift: Drift | None = None


def _no_model(situation: Situation) -> str | None:
    return None if situation.judged else f"no version of {situation.model_name} has been decided about"


def _changed(situation: Situation) -> str | None:
    """Compare with every version: a challenger that lost would lose again."""
    now = dict(zip(_TAGS, situation.origin.hashes, strict=True))
    if any(_hashes(version) == now for version in situation.judged):
        return None
    last = situation.judged[0]
    then = _hashes(last)
    changes = [f"{what} {_short(then[what])} -> {_short(now[what])}" for what in _TAGS if then[what] != now[what]]
    return f"changed since version {last.version}: {', '.join(changes)}"


def _drifted(situation: Situation) -> str | None:
    """Ask whether the champion still sees what it learned from; last, as incoming cases must be read for it."""
    if situation.drift is None or situation.champion is None:
        return None
    return situation.drift(f"models:/{situation.model_name}/{situation.champion.version}")


# The place for more reasons: each returns why, or None.
REASONS: tuple[Callable[[Situation], str | None], ...] = (_no_model, _changed, _drifted)


def check(model_name: str, origin: Origin, drift: Drift | None = None) -> Verdict:
    """Look for a reason to train again.

    Args:
        model_name: registered model.
        origin: what a training would start from now.
        drift: see `Situation`.

    Raises:
        TrackingError: when the registry cannot be used.
    """
    uri = prepare()
    client = connect()
    with tracking_errors(uri, f"looking for versions of {model_name}"):
        situations = (_situation(client, name, origin, drift) for name in _names(model_name, origin))
        found_any = [situation for situation in situations if situation.judged]
    situation = found_any[0] if found_any else Situation(model_name, origin, None, ())
    for reason in REASONS:
        if found := reason(situation):
            return Verdict(True, found)
    return Verdict(False, _unchanged(situation))


def _situation(client: MlflowClient, name: str, origin: Origin, drift: Drift | None) -> Situation:
    versions = client.search_model_versions(f"name='{name}'")
    judged = sorted((v for v in versions if DECISION_TAG in v.tags), key=lambda v: int(v.version), reverse=True)
    return Situation(name, origin, get_alias(client, name, CHAMPION), judged, drift)


def _names(model_name: str, origin: Origin) -> list[str]:
    """Return the names a version may have: whether data that DVC pins are synthetic only ingestion knows."""
    synthetic = model_name.removesuffix(SYNTHETIC_SUFFIX) + SYNTHETIC_SUFFIX
    return [synthetic] if origin.synthetic else list(dict.fromkeys([model_name, synthetic]))


def _unchanged(situation: Situation) -> str:
    now = dict(zip(_TAGS, situation.origin.hashes, strict=True))
    version = next(version for version in situation.judged if _hashes(version) == now)
    champion = situation.champion
    if champion is None:
        place = "which did not become champion"
    elif champion.version == version.version:
        place = "the champion"
    else:
        place = f"which did not beat the champion, version {champion.version}"
    what = ", ".join(f"{name} {_short(value)}" for name, value in now.items() if value)
    return f"version {version.version}, {place}, comes from the same {what}"


def _hashes(version: ModelVersion) -> dict[str, str]:
    return {what: version.tags.get(tag, "") for what, tag in _TAGS.items()}


def _short(value: str) -> str:
    return value if value.startswith("phantom:") else value.removeprefix("files:")[:_NUM_SHOWN] or "unknown"
