"""Promotion: the model chosen on the tuning cases is registered; it becomes champion when it proves better.

The order of the steps makes an interrupted promotion safe to run again: register (the same weights are the same
version), write the decision to the ledger, then move the aliases. A comparison that the ledger knows is not decided
anew: its aliases are put right and the recorded decision is returned.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctan.errors import ConfigError, TrackingError
from ctan.provenance import git_commit
from ctan.records import EVALUATION
from ctan.tracking import gate, registry
from ctan.tracking.approval import note_head
from ctan.tracking.card import model_card
from ctan.tracking.comparison import ComparisonFiles, read_comparison
from ctan.tracking.ledger import Ledger, plain
from ctan.tracking.lineage import ORIGIN_TAGS, SYNTHETIC, VALIDATION, is_synthetic
from ctan.tracking.reference import NotComparableError, champion_scores
from ctan.tracking.review import keyed
from ctan.tracking.runs import NO_SERVER, WEIGHTS_TAG, find_logged_model, is_lost
from ctan.tracking.server import connect, is_server, prepare, tracking_errors, without_password

WAITS = "candidate"  # the decision about a version that waits for approval

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

    from ctan.config import RunConfig
    from ctan.store import StorePointer


@dataclass(frozen=True)
class Decision:
    """What promotion came to. All values are plain, `vars(decision)` is JSON.

    Attributes:
        promoted: whether the new version became champion.
        model_name: registered model.
        version: registered version of the chosen model, None when nothing was registered.
        reason: why, as a sentence.
        champion_before, champion_after: versions the alias `champion` pointed to and points to.
        looks: how many comparisons have looked at this evaluation split of this data version so far.
        numbers: what the decision rests on.
        criteria: the table of the gate, see `ctan.tracking.gate.Criterion`.
        waits: whether it passed the gate and a person has to approve it.
        where: page of the version on the tracking server, or how to load it.
    """

    promoted: bool
    model_name: str
    version: str | None
    reason: str
    champion_before: str | None = None
    champion_after: str | None = None
    looks: int = 0
    numbers: dict[str, Any] = field(default_factory=dict)
    criteria: list[dict[str, Any]] = field(default_factory=list)
    waits: bool = False
    where: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the decision as plain values."""
        return asdict(self)

    def __str__(self) -> str:
        if self.version is None:
            return f"{self.model_name}: nothing registered: {self.reason}"
        verdict = "promoted to champion" if self.promoted else "registered, not promoted"
        if self.waits:
            verdict = "passed the gate and waits for `ctan registry approve`"
        return f"{self.model_name} version {self.version} {verdict}: {self.reason}\n{self.where}"


def promote(
    pointer: StorePointer,
    comparison_dir: Path,
    model_dirs: Sequence[Path],
    config: RunConfig,
    lineage: Mapping[str, str] | None = None,
) -> Decision:
    """Register the model that a comparison chose, decide whether it becomes champion, and record the decision.

    The alias `champion` moves only when the gate's criteria are all passed on the fixed evaluation split, see
    `ctan.tracking.gate`. Otherwise the alias `challenger` is set.

    Args:
        pointer: the store that was compared on; its `store_root` holds the ledger.
        comparison_dir: output of the comparison step.
        model_dirs: folders of trained models, the chosen one among them.
        config: settings; `promotion` and `evaluation` are used.
        lineage: tags of the version, see `ctan.tracking.lineage`.

    Raises:
        DataError: when the comparison, the model or the ledger cannot be used.
        TrackingError: when the registry cannot be used or does not know the model's run.
    """
    if not config.promotion.enabled:
        return Decision(False, config.model_name, None, "promotion.enabled is false, the registry was left alone")
    name = config.name_of((lineage or {}).get(SYNTHETIC) == "true")
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ConfigError(f"promotion.model_name: {name!r}; allowed: letters, digits, '.', '_' and '-'")
    comparison = read_comparison(comparison_dir, model_dirs, pointer)
    ledger = Ledger(pointer.store_root, name)
    ledger.check_writable()
    uri = prepare()
    client = connect()
    with tracking_errors(uri, f"promoting {name}"):
        if is_lost(client, comparison.candidate.run_id):
            return Decision(False, name, None, NO_SERVER)
        return _Promotion(client, name, pointer, comparison, ledger, config, lineage or {}).run()


class _Promotion:
    """One promotion, step by step."""

    def __init__(
        self,
        client: MlflowClient,
        name: str,
        pointer: StorePointer,
        comparison: ComparisonFiles,
        ledger: Ledger,
        config: RunConfig,
        lineage: Mapping[str, str],
    ) -> None:
        self.client, self.pointer, self.comparison = client, pointer, comparison
        self.ledger, self.config, self.name = ledger, config, name
        self.candidate, self.lineage = comparison.candidate, lineage

    def run(self) -> Decision:
        model_id = self._logged_model()
        self.ledger.keep_table(self.candidate.weights_sha256, self.comparison.evaluation_hash, self.candidate.cases)
        while True:
            champion = registry.get_alias(self.client, self.name, registry.CHAMPION)
            # Outside of the lock, which is short: the gate may have to evaluate the champion.
            verdict = None if self._recorded() else self._judge(champion)
            with registry.promotion_lock(self.client, self.name) as confirm:
                present = registry.get_alias(self.client, self.name, registry.CHAMPION)
                if _number(present) != _number(champion):
                    continue  # another promotion was faster: compare with its champion
                version = str(self._register(model_id).version)
                entry = self._recorded()
                if entry is None:
                    entry = self._entry(version, _number(champion), verdict or self._judge(champion))
                    confirm()
                    self.ledger.append(entry)
                self._set_aliases(entry, _number(present), confirm)
                note_head(self.client, self.name, self.ledger)
                card = model_card(entry, self.candidate.record, self.comparison.record, self.lineage)
                self.client.update_model_version(self.name, version, card)
                self.client.set_model_version_tag(self.name, version, registry.DECISION_TAG, entry["decision"])
                return self._decision(entry)

    def _set_aliases(self, entry: dict[str, Any], champion: str | None, confirm: Callable[[], None]) -> None:
        """Carry the decision out, unless it is history or someone has moved the alias since."""
        moved = champion not in (entry["champion_before"], entry["champion_after"])
        if moved or entry != self.ledger.entries()[-1]:
            return
        confirm()
        waiting = entry["version"] if entry["decision"] == WAITS else None
        beside = None if waiting or entry["champion_after"] == entry["version"] else entry["version"]
        registry.set_aliases(self.client, self.name, entry["champion_after"], beside, waiting)

    def _logged_model(self) -> str:
        """Return the id of the logged model with the chosen weights."""
        from mlflow.exceptions import MlflowException

        run_id, place = self.candidate.run_id, without_password(self.client.tracking_uri)
        try:
            run = self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "PERMISSION_DENIED"):
                raise
            reason = without_password(error.message)
            raise TrackingError(
                f"{place}: run {run_id} of the chosen model ({self.candidate.arch}) cannot be read ({reason}). "
                f"Was MLFLOW_TRACKING_URI or CTAN_WORKSPACE another one when it was trained?"
            ) from error
        model_id = find_logged_model(self.client, run, self.candidate.weights_sha256)
        if model_id is None:
            raise TrackingError(
                f"{place}: run {run_id} has not logged a model with the weights of the chosen model "
                f"({self.candidate.arch}, sha256 {self.candidate.weights_sha256[:12]}); run train again, it goes on "
                f"from its checkpoint and logs the model"
            )
        return model_id

    def _register(self, model_id: str) -> ModelVersion:
        candidate = self.candidate
        tags = {
            "arch": candidate.arch,
            "fold": candidate.fold,
            "seed": candidate.seed,
            "run_id": candidate.run_id,
            "members": ",".join(member.run_id for member in candidate.record.members) or None,
            "compared_run_ids": ",".join(model.run_id for model in self.comparison.record.models),
            "data_hash": self.pointer.data_hash,
            "store_key": self.pointer.key,
            "store_root": self.pointer.store_root,
            "evaluation_hash": self.comparison.evaluation_hash,
            "config_hash": candidate.record.config_hash,
            "profile": candidate.record.config.get("profile"),
            "code_hash": candidate.record.code_hash,
            "git_commit": self.client.get_run(candidate.run_id).data.tags.get("git_commit"),
            **self.lineage,
        }
        scores = keyed(candidate.scores, candidate.record.tasks)
        tags |= {key: f"{value:.6g}" for key, value in scores.items()}
        texts = {key: str(value) for key, value in tags.items() if value is not None}
        weights = candidate.weights_sha256
        return registry.register(self.client, self.name, model_id, candidate.run_id, weights, texts)

    def _recorded(self) -> dict[str, Any] | None:
        """Return the ledger's decision about this comparison, None when it is a new one."""
        candidate = self.candidate
        version = registry.find_version(self.client, self.name, candidate.run_id, candidate.weights_sha256)
        wanted = (self.comparison.hash, candidate.weights_sha256, candidate.run_id, _number(version))
        for entry in self.ledger.entries():
            if (entry["comparison_hash"], entry["weights_sha256"], entry["run_id"], entry["version"]) == wanted:
                return entry
        return None

    def _judge(self, champion: ModelVersion | None) -> gate.Verdict:
        """Ask the gate; this may evaluate the champion, which takes minutes."""
        if champion is not None and self._is_candidate(champion):
            return gate.Verdict(False, "it is the champion already")
        settings, remarks, rival = self.config.promotion, [], None
        if champion is not None and is_synthetic(champion.tags) and not is_synthetic(self.lineage):
            remarks.append(f"the champion, version {champion.version}, learned from synthetic data and does not count")
        elif champion is not None:
            try:
                rival = champion_scores(
                    champion, self.ledger, self.comparison.evaluation_hash, self.pointer, self.config
                )
            except NotComparableError as error:
                if not settings.new_line:
                    row = gate.Criterion("every task compared", passed=False, note=str(error))
                    return gate.Verdict(False, f"{error}; promotion.new_line=true starts a new line of models", (row,))
                remarks.append(f"a new line of models starts, as promotion.new_line says: {error}")
        baselines = [gate.Rival(name, rows) for name, rows in self.comparison.baselines.items() if rows.num_rows]
        contest = gate.Contest(
            record=self.candidate.record,
            cases=self.candidate.cases,
            champion=rival,
            baselines=baselines,
            look=self._look(),
            groups=self._subgroups(),
            lacking=self._lacking(),
            validated=bool(self.lineage.get(VALIDATION)),
            remarks=remarks,
        )
        return gate.judge(contest, settings)

    def _look(self) -> int:
        """Return the how manyth comparison on this evaluation split of this data version this is."""
        looked = self.ledger.looks(self.comparison.evaluation_hash, self.pointer.data_hash)
        return len(looked | {self.comparison.hash})

    def _subgroups(self) -> Mapping[str, Collection[str]]:
        wanted = self.config.promotion.subgroups
        if not wanted:
            return {}
        from ctan.evaluation.subgroups import subgroups
        from ctan.store import open_store

        return subgroups(open_store(self.pointer, ()).manifest, wanted)

    def _lacking(self) -> list[str]:
        """Return what is missing of the chain from data to version."""
        record = self.candidate.record
        known = {**self.lineage, "config_hash": record.config_hash, "code_hash": record.code_hash}
        return [name for name in (*ORIGIN_TAGS, "config_hash", "code_hash") if not known.get(name)]

    def _is_candidate(self, version: ModelVersion) -> bool:
        weights = version.tags.get(WEIGHTS_TAG)
        return version.run_id == self.candidate.run_id and weights == self.candidate.weights_sha256

    def _entry(self, version: str, before: str | None, verdict: gate.Verdict) -> dict[str, Any]:
        """Return the ledger entry of a new decision."""
        waits = verdict.promoted and self.config.promotion.approval == "required"
        promoted = verdict.promoted and not waits
        return {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "decision": WAITS if waits else "promoted" if promoted else "kept",
            "reason": verdict.reason,
            "model_name": self.name,
            "version": version,
            "champion_before": before,
            "champion_after": version if promoted else before,
            "arch": self.candidate.arch,
            "fold": self.candidate.fold,
            "seed": self.candidate.seed,
            "run_id": self.candidate.run_id,
            "weights_sha256": self.candidate.weights_sha256,
            "chosen_because": self.candidate.reason,
            "scores": plain(self.candidate.scores.get(EVALUATION, {})),
            "criteria": [plain(vars(row)) for row in verdict.criteria],
            "numbers": plain(verdict.numbers),
            "data_hash": self.pointer.data_hash,
            "store_key": self.pointer.key,
            "evaluation_hash": self.comparison.evaluation_hash,
            "looks": self._look(),
            "comparison_hash": self.comparison.hash,
            "git_commit": git_commit(),
            "lineage": dict(self.lineage),
        }

    def _decision(self, entry: dict[str, Any]) -> Decision:
        uri, version = without_password(self.client.tracking_uri), entry["version"]
        alias = registry.CHAMPION if entry["champion_after"] == version else registry.CHALLENGER
        alias = registry.CANDIDATE if entry["decision"] == WAITS else alias
        page = f"{uri.rstrip('/')}/#/models/{self.name}/versions/{version}"
        return Decision(
            promoted=entry["decision"] == "promoted",
            model_name=self.name,
            version=version,
            reason=entry["reason"],
            champion_before=entry["champion_before"],
            champion_after=entry["champion_after"],
            looks=entry["looks"],
            numbers=entry["numbers"],
            criteria=entry.get("criteria", []),
            waits=entry["decision"] == WAITS,
            where=page if is_server(uri) else f"models:/{self.name}@{alias}, see it with `ctan ui`",
        )


def _number(version: ModelVersion | None) -> str | None:
    return None if version is None else str(version.version)
