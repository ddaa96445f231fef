"""When to train again, and that two retrainings do not overlap."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ctan.sources.origin import Origin
from ctan.tracking import registry
from ctan.tracking.retraining import check
from tests.helpers.promotion import NAME, Site

pytest_plugins = ["tests.helpers.promotion"]

NOW = Origin("dvc:team@c1:kbp", "a" * 32 + ".dir", "5" * 64, "c" * 64)


def registered(site: Site, seed: int = 0, origin: Origin = NOW, dose: float = 4.0) -> Any:
    return site.promote(site.train(seed), dose=dose, lineage=origin.tags())


def test_an_empty_registry_asks_for_a_training(site: Site) -> None:
    verdict = check(NAME, NOW)
    assert (verdict.needed, verdict.reason) == (True, f"no version of {NAME} has been decided about")


def test_nothing_is_to_do_when_the_champion_comes_from_the_same(site: Site) -> None:
    registered(site)
    verdict = check(NAME, NOW)
    assert not verdict.needed
    assert verdict.reason == (
        "version 1, the champion, comes from the same data aaaaaaaaaaaa, settings 555555555555, code cccccccccccc"
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data_version": "b" * 32 + ".dir"}, "data aaaaaaaaaaaa -> bbbbbbbbbbbb"),
        ({"settings_hash": "6" * 64}, "settings 555555555555 -> 666666666666"),
        ({"code_hash": "d" * 64}, "code cccccccccccc -> dddddddddddd"),
        ({"sides": {"hash": "e" * 64}}, "sides unknown -> eeeeeeeeeeee"),
    ],
)
def test_what_changed_is_named(site: Site, change: dict[str, str], said: str) -> None:
    registered(site)
    verdict = check(NAME, dataclasses.replace(NOW, **change))
    assert (verdict.needed, verdict.reason) == (True, f"changed since version 1: {said}")


def test_the_same_bytes_at_another_commit_are_no_reason(site: Site) -> None:
    registered(site)
    assert not check(NAME, dataclasses.replace(NOW, source="dvc:team@c2:kbp", pinned={"commit": "c2"})).needed


def test_a_challenger_that_lost_is_not_trained_again(site: Site) -> None:
    newer = dataclasses.replace(NOW, data_version="b" * 32 + ".dir")
    registered(site)
    assert not registered(site, seed=1, origin=newer, dose=5.0).promoted
    verdict = check(NAME, newer)
    assert not verdict.needed
    assert verdict.reason.startswith("version 2, which did not beat the champion, version 1, comes from the same data")
    assert not check(NAME, NOW).needed  # going back to older data gives a model that is there already


def test_a_version_registered_by_something_else_counts_as_unknown(site: Site) -> None:
    site.promote(site.train(0), lineage={})
    assert "data unknown -> aaaaaaaaaaaa" in check(NAME, NOW).reason


@pytest.mark.parametrize("moment", ["register", "append", "set_aliases"])
def test_an_interrupted_promotion_does_not_count_until_it_was_completed(
    site: Site, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    from ctan.tracking.ledger import Ledger

    model = site.train(0)
    comparison = site.compare(model)
    with monkeypatch.context() as patch:
        owner: Any = Ledger if moment == "append" else registry
        original = getattr(owner, moment)

        def killed(*arguments: Any, **more: Any) -> None:
            original(*arguments, **more)
            raise KeyboardInterrupt

        patch.setattr(owner, moment, killed)
        with pytest.raises(KeyboardInterrupt):
            site.promote(model, comparison, lineage=NOW.tags())
    assert check(NAME, NOW).needed
    site.promote(model, comparison, lineage=NOW.tags())
    assert not check(NAME, NOW).needed
    assert site.aliases() == {"champion": "1"}
    assert [(entry["version"], entry["decision"]) for entry in site.ledger()] == [("1", "promoted")]


HOLD = """
import sys
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_retraining_of_the_same_model_leaves_at_once(own_workspace: Path) -> None:
    lock = own_workspace / ".retrain-ctan-openkbp.lock"
    command = [sys.executable, "-c", HOLD, str(lock)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        ctan = [str(Path(sys.executable).with_name("ctan")), "retrain", "phantom"]
        ran = subprocess.run(ctan, capture_output=True, text=True, timeout=120)
    finally:
        holder.kill()
        holder.wait()
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "another retraining of ctan-openkbp is under way in this workspace; nothing done\n"
    assert not (own_workspace / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["phantom", "epoch=3"], "did you mean 'epochs'?"),
        (["phantom", "epochs=many"], "epochs: expected a whole number, found 'many'"),
        (["phantom", "source=x"], "source: given twice"),
        (["phantom", "dataset=mnist"], "mnist"),
    ],
)
def test_wrong_parameters_are_refused_before_anything_runs(
    arguments: list[str], said: str, own_workspace: Path
) -> None:
    ctan = [str(Path(sys.executable).with_name("ctan")), "retrain", *arguments]
    ran = subprocess.run(ctan, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 1
    assert said in ran.stderr
    assert not (own_workspace / "runs").exists()
