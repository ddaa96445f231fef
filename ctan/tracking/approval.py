"""Decisions of people about registered models: approve or reject a candidate, go back, look back, check the ledger.

Each says what it will do before it does it: `plan` is made first, shown, and carried out under the promotion lock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ctan.errors import ConfigError, DataError, TrackingError
from ctan.tracking import registry
from ctan.tracking.ledger import Ledger
from ctan.tracking.server import connect, prepare, tracking_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

APPROVED, REJECTED, ROLLED_BACK = "approved", "rejected", "rolled back"
HEAD_TAG = "ledger_head"  # of the registered model: the ledger's end, so that one that was cut off is found


@dataclass(frozen=True)
class Plan:
    """What a person's decision will change.

    Attributes:
        name: registered model.
        version: that is decided about.
        decision: `APPROVED`, `REJECTED` or `ROLLED_BACK`.
        before, after: versions with the alias `champion`; None: none.
        challenger: version that gets the alias `challenger`; None: none has it.
        ledger: where it will be recorded.
    """

    name: str
    version: str
    decision: str
    before: str | None
    after: str | None
    challenger: str | None
    ledger: Ledger

    def __str__(self) -> str:
        champion = f"version {self.before}" if self.before else "none"
        lines = [f"{self.name}, version {self.version}: {self.decision}"]
        if self.after == self.before:
            lines.append(f"  champion stays {champion}")
        else:
            lines.append(f"  champion: {champion} -> {f'version {self.after}' if self.after else 'none'}")
        lines.append(f"  recorded in {self.ledger.path if '://' not in self.ledger.address else self.ledger.address}")
        return "\n".join(lines)


class Approval:
    """Decisions about one registered model.

    Args:
        reference: `models:/NAME/VERSION`, `models:/NAME@ALIAS`, or a name alone where no version is meant.
        store_root: of the ledger; empty: as the version says.

    Raises:
        ConfigError: when the reference is not understood.
        TrackingError: when there is no such version or the registry cannot be used.
    """

    def __init__(self, reference: str, store_root: str = "") -> None:
        self._uri = prepare()
        self._client: MlflowClient = connect()
        with tracking_errors(self._uri, f"looking for {reference}"):
            self._version = self._find(reference)
        root = store_root or self._version.tags.get("store_root", "")
        if not root:
            raise ConfigError(f"{reference}: its version does not say where its ledger lies; give --store-root")
        self.name = str(self._version.name)
        self.ledger = Ledger(root, self.name)

    def _find(self, reference: str) -> ModelVersion:
        if reference.startswith("models:/"):
            return registry.named_version(self._client, reference)
        versions = self._client.search_model_versions(f"name='{reference}'") if "'" not in reference else []
        if not versions:
            raise TrackingError(f"{reference}: no such registered model; expected NAME, or models:/NAME/VERSION")
        newest = max(versions, key=lambda version: int(version.version))
        return self._client.get_model_version(newest.name, newest.version)

    def plan_approval(self) -> Plan:
        """Plan to make a waiting version champion.

        Raises:
            ConfigError: when it does not wait, or the champion changed since the gate compared it.
        """
        entry, before = self._waiting(), self._champion()
        if before != entry["champion_before"]:
            raise ConfigError(
                f"{self.name}: version {entry['version']} was compared with champion {entry['champion_before']}, which "
                f"is {before} by now; run promote again, then approve"
            )
        return self._plan(APPROVED, before, entry["version"], None)

    def plan_rejection(self) -> Plan:
        """Plan to leave the champion and make a waiting version challenger.

        Raises:
            ConfigError: when it does not wait.
        """
        entry, champion = self._waiting(), self._champion()
        return self._plan(REJECTED, champion, champion, entry["version"])

    def plan_rollback(self) -> Plan:
        """Plan to give the alias back to the champion before the present one.

        Raises:
            ConfigError: when the ledger knows none, or it is no longer registered.
        """
        champion = self._champion()
        rises = [entry for entry in self.ledger.entries() if entry["decision"] in ("promoted", APPROVED)]
        last = next((entry for entry in reversed(rises) if entry["champion_after"] == champion), None)
        if champion is None or last is None:
            raise ConfigError(f"{self.name}: the ledger knows of no champion before the present one ({champion})")
        before = last["champion_before"]
        known = {str(v.version) for v in self._client.search_model_versions(f"name='{self.name}'")}
        if before is not None and before not in known:
            raise ConfigError(f"{self.name}: version {before}, the champion before, is no longer registered")
        return Plan(self.name, champion, ROLLED_BACK, champion, before, champion, self.ledger)

    def carry_out(self, plan: Plan, by: str, why: str) -> None:
        """Do what was planned, and record who wanted it and why.

        Raises:
            ConfigError: without a name or a reason, or when the champion changed in the meantime.
            TrackingError: when the registry does not allow it.
        """
        if not by.strip() or not why.strip():
            raise ConfigError("--by and --why: a decision needs a name and a reason")
        self.ledger.check_writable()
        with (
            tracking_errors(self._uri, f"changing {self.name}"),
            registry.promotion_lock(self._client, self.name) as confirm,
        ):
            if self._champion() != plan.before:
                raise ConfigError(f"{self.name}: the champion changed in the meantime, nothing was done; again")
            confirm()
            self.ledger.append(self._entry(plan, by, why))
            self._set(plan, by, why, confirm)
            note_head(self._client, self.name, self.ledger)

    def history(self) -> list[dict[str, Any]]:
        """Return all decisions, oldest first."""
        return self.ledger.entries()

    def verify(self) -> list[str]:
        """Check the ledger against its chain and against the registry; return what was found right.

        Raises:
            DataError: when a line was changed, the end is cut off, or the alias is not where the ledger says.
        """
        with tracking_errors(self._uri, f"reading {self.name}"):
            model = registry.find_model(self._client, self.name)
            champion = self._champion()
        head = model.tags.get(HEAD_TAG, "") if model else ""
        count = self.ledger.verify(head)
        entries = self.ledger.entries()
        expected = entries[-1]["champion_after"] if entries else None
        if champion != expected:
            raise DataError(
                f"{self.name}: the alias champion points to version {champion}, the ledger says {expected}; somebody "
                f"moved it by hand: `ctan registry history {self.name}`"
            )
        noted = "its end is the one that MLflow noted" if head == self.ledger.head else "MLflow noted an earlier end"
        end = noted if head else "MLflow noted no end yet"
        return [f"{count} decisions, chained; {end}", f"champion: version {champion}, as the last decision says"]

    def _waiting(self) -> dict[str, Any]:
        """Return the decision of the gate about the version, which waits for a person."""
        version = str(self._version.version)
        waiting = registry.get_alias(self._client, self.name, registry.CANDIDATE)
        entries = [entry for entry in self.ledger.entries() if entry["version"] == version]
        if waiting is None or str(waiting.version) != version or not entries:
            decision = entries[-1]["decision"] if entries else "none in this ledger"
            raise ConfigError(
                f"{self.name}: version {version} does not wait for approval (last decision: {decision}; waiting: "
                f"{f'version {waiting.version}' if waiting else 'none'})"
            )
        return entries[-1]

    def _champion(self) -> str | None:
        version = registry.get_alias(self._client, self.name, registry.CHAMPION)
        return None if version is None else str(version.version)

    def _plan(self, decision: str, before: str | None, after: str | None, challenger: str | None) -> Plan:
        return Plan(self.name, str(self._version.version), decision, before, after, challenger, self.ledger)

    def _entry(self, plan: Plan, by: str, why: str) -> dict[str, Any]:
        about: dict[str, Any] = next((e for e in reversed(self.ledger.entries()) if e["version"] == plan.version), {})
        kept = ("run_id", "weights_sha256", "comparison_hash", "evaluation_hash", "data_hash", "arch", "fold", "seed")
        return {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "decision": plan.decision,
            "reason": why,
            "by": by,
            "model_name": plan.name,
            "version": plan.version,
            "champion_before": plan.before,
            "champion_after": plan.after,
            **{name: about.get(name, "") for name in kept},
        }

    def _set(self, plan: Plan, by: str, why: str, confirm: Callable[[], None]) -> None:
        confirm()
        registry.set_aliases(self._client, plan.name, plan.after, plan.challenger, candidate=None)
        for name, value in ((registry.DECISION_TAG, plan.decision), ("decided_by", by)):
            self._client.set_model_version_tag(plan.name, plan.version, name, value)
        card = self._client.get_model_version(plan.name, plan.version).description or ""
        said = f"**{plan.decision}** by {by}: {why}"
        self._client.update_model_version(plan.name, plan.version, f"{said}\n\n{card}".strip())


def note_head(client: MlflowClient, name: str, ledger: Ledger) -> None:
    """Let the registered model name the ledger's end."""
    client.set_registered_model_tag(name, HEAD_TAG, ledger.head)
