"""The decision in the report: compare writes the page before anything is decided, promote puts the decision into it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ctan.html import Markup, element, join, table

PLACE = Markup("<!-- decision -->")
_VERDICTS = {True: "yes", False: "no", None: "not judged"}


def with_decision(page: str, decision: Mapping[str, Any]) -> str:
    """Return a report whose title says what was decided, with the gate's table below it.

    Args:
        page: what `write_report` wrote.
        decision: of `ctan.tracking.promote`, as plain values.
    """
    title = decision_title(decision)
    page = re.sub(r"<title>.*?</title>", lambda _: str(element("title", title)), page, count=1, flags=re.DOTALL)
    page = re.sub(r"<h1>.*?</h1>", lambda _: str(element("h1", title)), page, count=1, flags=re.DOTALL)
    return page.replace(PLACE, _section(decision), 1)


def decision_title(decision: Mapping[str, Any]) -> str:
    """Return what was decided, in a line."""
    name, version = decision["model_name"], decision["version"]
    if version is None:
        return "Nothing was registered"
    if decision["promoted"]:
        return f"Version {version} of {name} is the new champion"
    if decision.get("waits"):
        return f"Version {version} of {name} passed the gate and waits for approval"
    failed = [row for row in decision["criteria"] if row["passed"] is False]
    return f"{_why(failed, decision['reason'])}: nothing promoted"


def _why(failed: list[Mapping[str, Any]], reason: str) -> str:
    names = [row["criterion"] for row in failed]
    if "enough common cases" in names:
        return f"{failed[names.index('enough common cases')]['number']:.0f} cases are too few for a decision"
    baselines = [name for name in names if " better than " in name]
    if baselines:
        tasks = list(dict.fromkeys(name.partition(" better than ")[0] for name in baselines))
        return f"A plain baseline is not beaten in {' and '.join(tasks)}"
    if "mean improvement" in names:
        return "No improvement over the champion beyond chance"
    return f"Not passed: {names[0]}" if names else reason.partition(";")[0].capitalize()


def _section(decision: Mapping[str, Any]) -> Markup:
    rows = [
        [row["criterion"], _number(row["number"]), _number(row["threshold"]), _verdict(row["passed"]), row["note"]]
        for row in decision["criteria"]
    ]
    shown = table(["criterion", "number", "threshold", "passed", ""], rows, text=True) if rows else ""
    looks = f"Look number {decision['looks']} at these evaluation cases." if decision["looks"] else ""
    return element(
        "section",
        element("h2", "Decision"),
        element("p", decision["reason"]),
        element("p", looks, class_="soft"),
        shown,
        element("p", decision["where"].replace("`", ""), class_="soft"),
        id="decision",
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}".replace("-", "−")


def _verdict(passed: bool | None) -> Markup:
    css = {True: "good", False: "bad", None: "soft"}[passed]
    return join(element("span", _VERDICTS[passed], class_=css))
