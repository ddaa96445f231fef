"""People decide about registered models: what is planned, done, recorded, and found when somebody tampers with it."""

import subprocess
import sys
from pathlib import Path

import pytest

from ctan.errors import ConfigError, DataError
from ctan.tracking.approval import Approval
from ctan.tracking.ledger import Ledger
from tests.helpers.promotion import NAME, Site

pytest_plugins = ["tests.helpers.promotion"]
REQUIRED = {"promotion": {"approval": "required"}}


def decide(reference: str, what: str, why: str = "20 plans reviewed") -> Approval:
    approval = Approval(reference)
    approval.carry_out(getattr(approval, f"plan_{what}")(), "A. Meier", why)
    return approval


def test_a_model_that_passes_waits_and_becomes_champion_when_it_is_approved(site: Site) -> None:
    site.promote(site.train(seed=0))
    model = site.train(seed=1)
    comparison = site.compare(model, dice=0.6, dose=3.0)
    decision = site.promote(model, comparison, **REQUIRED)
    assert (decision.promoted, decision.waits) == (False, True)
    assert "passed the gate and waits for `ctan registry approve`" in str(decision)
    assert site.aliases() == {"champion": "1", "candidate": "2"}
    assert site.promote(model, comparison, **REQUIRED) == decision

    approval = Approval(f"models:/{NAME}@candidate")
    plan = approval.plan_approval()
    assert "champion: version 1 -> version 2" in str(plan)
    assert site.aliases() == {"champion": "1", "candidate": "2"}  # nothing is done before it is shown
    approval.carry_out(plan, "A. Meier", "20 plans reviewed")
    assert site.aliases() == {"champion": "2"}
    last = site.ledger()[-1]
    assert (last["decision"], last["by"], last["reason"]) == ("approved", "A. Meier", "20 plans reviewed")
    assert (last["champion_before"], last["champion_after"]) == ("1", "2")
    tags = site.client.get_model_version(NAME, "2").tags
    assert (tags["decision"], tags["decided_by"]) == ("approved", "A. Meier")
    site.promote(model, comparison, **REQUIRED)  # the step runs again: history is not undone
    assert site.aliases() == {"champion": "2"}


def test_a_model_that_is_rejected_is_challenger(site: Site) -> None:
    site.promote(site.train(seed=0))
    site.promote(site.train(seed=1), dice=0.6, dose=3.0, **REQUIRED)
    decide(f"models:/{NAME}/2", "rejection", "bladder too hot in case 12")
    assert site.aliases() == {"champion": "1", "challenger": "2"}
    with pytest.raises(ConfigError, match=r"version 2 does not wait for approval \(last decision: rejected"):
        Approval(f"models:/{NAME}/2").plan_approval()


def test_what_did_not_pass_cannot_be_approved(site: Site) -> None:
    site.promote(site.train(seed=0))
    site.promote(site.train(seed=1), dose=5.0, **REQUIRED)
    with pytest.raises(ConfigError, match=r"version 2 does not wait for approval \(last decision: kept; waiting: none"):
        Approval(f"models:/{NAME}/2").plan_approval()


def test_an_approval_is_refused_when_the_champion_is_another_by_now(site: Site) -> None:
    site.promote(site.train(seed=0))
    site.promote(site.train(seed=1), dice=0.6, dose=3.0, **REQUIRED)
    approval = Approval(f"models:/{NAME}@candidate")
    plan = approval.plan_approval()
    site.client.set_registered_model_alias(NAME, "champion", "2")
    with pytest.raises(ConfigError, match="changed in the meantime, nothing was done"):
        approval.carry_out(plan, "A. Meier", "20 plans reviewed")
    with pytest.raises(ConfigError, match="was compared with champion 1, which is 2 by now"):
        Approval(f"models:/{NAME}@candidate").plan_approval()
    assert len(site.ledger()) == 2


def test_a_rollback_gives_the_alias_back_and_can_be_followed_in_the_history(site: Site) -> None:
    site.promote(site.train(seed=0))
    site.promote(site.train(seed=1), dice=0.6, dose=3.0)
    approval = decide(NAME, "rollback", "fails on the new scanner")
    assert site.aliases() == {"champion": "1", "challenger": "2"}
    assert [entry["decision"] for entry in approval.history()] == ["promoted", "promoted", "rolled back"]
    decide(NAME, "rollback", "no champion at all")
    assert "champion" not in site.aliases()
    with pytest.raises(ConfigError, match="knows of no champion before the present one"):
        Approval(NAME).plan_rollback()


def test_a_decision_needs_a_name_and_a_reason(site: Site) -> None:
    site.promote(site.train(seed=0))
    with pytest.raises(ConfigError, match="needs a name and a reason"):
        decide(NAME, "rollback", " ")
    assert site.aliases() == {"champion": "1"}


def test_verify_finds_a_changed_line_a_cut_end_and_an_alias_moved_by_hand(site: Site) -> None:
    site.promote(site.train(seed=0))
    site.promote(site.train(seed=1), dice=0.6, dose=3.0)
    assert Approval(NAME).verify() == [
        "2 decisions, chained; its end is the one that MLflow noted",
        "champion: version 2, as the last decision says",
    ]
    path = Ledger(str(site.store_root), NAME).path
    whole = path.read_text()
    path.write_text(whole.replace('"decision": "promoted"', '"decision": "kept"', 1))
    with pytest.raises(DataError, match="line 2 does not follow"):
        Approval(NAME).verify()
    path.write_text(whole.splitlines(keepends=True)[0])
    with pytest.raises(DataError, match="does not hold all decisions that were made"):
        Approval(NAME).verify()
    path.write_text(whole)
    site.client.set_registered_model_alias(NAME, "champion", "1")
    with pytest.raises(DataError, match="points to version 1, the ledger says 2; somebody moved it by hand"):
        Approval(NAME).verify()


def test_the_command_shows_what_it_will_do_and_asks(site: Site) -> None:
    site.promote(site.train(seed=0))
    site.promote(site.train(seed=1), dice=0.6, dose=3.0)
    command = [str(Path(sys.executable).with_name("ctan")), "registry", "rollback", NAME, "--by", "A. Meier"]
    command += ["--why", "fails on the new scanner"]
    asked = subprocess.run(command, input="n\n", capture_output=True, text=True, timeout=120)
    assert asked.returncode == 1
    assert f"{NAME}, version 2: rolled back\n  champion: version 2 -> version 1" in asked.stdout
    assert site.aliases() == {"champion": "2"}
    done = subprocess.run([*command, "--yes"], capture_output=True, text=True, timeout=120)
    assert done.stdout.endswith("done\n"), done.stderr
    assert site.aliases()["champion"] == "1"
