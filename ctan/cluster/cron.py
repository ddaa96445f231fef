"""Cron expressions as people write them, and as Kubeflow Pipelines reads them.

KFP's controller reads robfig/cron v1: seconds first. Of an expression of five fields it takes the first for seconds and
leaves the day of the week open, without an error: `0 3 * * 1` would run every hour of every January at minute 3.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

from ctan.errors import ConfigError

_SHORT = {
    "@hourly": "0 0 * * * *",
    "@daily": "0 0 0 * * *",
    "@midnight": "0 0 0 * * *",
    "@weekly": "0 0 0 * * 0",
    "@monthly": "0 0 0 1 * *",
    "@yearly": "0 0 0 1 1 *",
    "@annually": "0 0 0 1 1 *",
}
_PART = r"(?:\*|\?|[0-9]+|[A-Za-z]{3})(?:-(?:[0-9]+|[A-Za-z]{3}))?(?:/[1-9][0-9]*)?"
_FIELD = re.compile(rf"{_PART}(?:,{_PART})*")  # no L, W or #: robfig/cron v1 has none
_EXPECTED = (
    "expected five fields, minute hour day month weekday, such as '0 3 * * 1' (Mondays at 3:00 UTC), six with seconds "
    f"in front, or {', '.join(_SHORT)}"
)


def six_fields(expression: str) -> str:
    """Return a cron expression as KFP takes it, seconds first.

    Args:
        expression: five fields, six fields, or a name such as `@daily`. Times are UTC.

    Raises:
        ConfigError: when it is none of these, or never comes true.
    """
    text = _SHORT.get(expression.strip().lower(), expression)
    fields = text.split()
    if len(fields) == 5:
        fields = ["0", *fields]
    if len(fields) != 6 or not all(_FIELD.fullmatch(field) for field in fields):
        raise ConfigError(f"cron {expression!r}: {_EXPECTED}")
    if re.search(r"(?<![/0-9])[7-9](?![0-9])", fields[5]):
        raise ConfigError(f"cron {expression!r}: weekdays are 0 (Sunday) to 6 (Saturday), or SUN to SAT")
    normal = " ".join(fields)
    next_times(normal, 1, said=expression)
    return normal


def next_times(cron: str, count: int, now: datetime | None = None, said: str = "") -> list[datetime]:
    """Return when a cron expression comes true next, in UTC.

    Args:
        cron: six fields.
        count: how many times.
        now: from when on; None for the present.
        said: the expression as it was given, for messages.

    Raises:
        ConfigError: when a field is out of its range, or the expression never comes true.
    """
    from cronsim import CronSim, CronSimError

    try:
        times = CronSim(cron.replace("?", "*"), now or datetime.now(UTC))
        return [next(times) for _ in range(count)]
    except (CronSimError, StopIteration) as error:
        problem = "never comes true" if isinstance(error, StopIteration) else str(error).lower()
        raise ConfigError(f"cron {said or cron!r}: {problem}; {_EXPECTED}") from error
