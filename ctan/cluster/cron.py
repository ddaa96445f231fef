"""Cron expressions as people write them and as Kubeflow Pipelines reads them.

KFP 2.17 reads them with robfig/cron 1.2: seconds come first, and it is the *weekday* that may be missing. The usual
five fields are accepted by its server without a word and mean something else: `0 3 * * 1` runs at minute 3 of every
hour of January. Here five fields are the usual ones, and a 0 for the seconds is put in front of them.

Times are computed by cronsim. `_for_cronsim` writes the expression so that both read the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from itertools import count

from ctan.errors import ConfigError

_DESCRIPTORS = {
    "@yearly": "0 0 0 1 1 *",
    "@annually": "0 0 0 1 1 *",
    "@monthly": "0 0 0 1 * *",
    "@weekly": "0 0 0 * * 0",
    "@daily": "0 0 0 * * *",
    "@midnight": "0 0 0 * * *",
    "@hourly": "0 0 * * * *",
}
_EVERY = re.compile(r"@every (?=\d)(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_ITEM = re.compile(r"(?P<first>\*|\?|\d+|[a-z]{3})(?:-(?P<last>\d+|[a-z]{3}))?(?:/(?P<step>\d+))?", re.IGNORECASE)
_FIELDS = ("seconds", "minutes", "hours", "day of the month", "month", "day of the week")
_LARGEST = (59, 59, 23, 31, 12, 6)
_HORIZON = timedelta(days=5 * 365)  # robfig/cron gives up after five years with a time long past, which is then due

EXAMPLE = (
    "expected minute, hour, day of the month, month and day of the week in UTC, such as '0 3 * * 1' (Mondays 03:00), "
    "'30 2 1 * *' (the first of a month, 02:30), @daily or '@every 6h'"
)


@dataclass(frozen=True)
class Cron:
    """When something runs.

    Attributes:
        text: the expression as KFP's server gets it: six fields, seconds first, or `@every 6h`.
    """

    text: str

    @cached_property
    def interval(self) -> timedelta | None:
        """Time between two runs of an `@every`; None for times of the calendar."""
        if not (found := _EVERY.fullmatch(self.text)):
            return None
        hours, minutes, seconds = (int(part or 0) for part in found.groups())
        return timedelta(hours=hours, minutes=minutes, seconds=seconds)

    def times(self, after: datetime, since: datetime | None = None) -> Iterator[datetime]:
        """Yield the times at which it is due after a moment.

        Args:
            after: moment, with its time zone.
            since: when the schedule was made, from which an `@every` counts; None for `after`.
        """
        if self.interval is None:
            from cronsim import CronSim

            yield from CronSim(_for_cronsim(self.text), after)
            return
        start = since or after
        first = max((after - start) // self.interval + 1, 1)
        yield from (start + number * self.interval for number in count(first))

    def in_words(self) -> str:
        """Return the expression in words, such as `At 03:00 on Monday`."""
        if self.interval is not None:
            return self.text.removeprefix("@")
        from cronsim import CronSim

        return CronSim(_for_cronsim(self.text), datetime(2000, 1, 1)).explain()


def parse_cron(text: str, now: datetime) -> Cron:
    """Return an expression that a person wrote: five fields, six with seconds first, `@daily`, `@every 6h`.

    Args:
        text: expression.
        now: moment from which it must come true within five years, with its time zone.

    Raises:
        ConfigError: when it is none, or never comes true.
    """
    fields = text.split()
    words = _DESCRIPTORS.get(text.strip(), " ".join(["0", *fields] if len(fields) == 5 else fields))
    cron = Cron(words)
    if cron.interval == timedelta(0):
        raise ConfigError(f"--cron {text!r}: expected at least one second; {EXAMPLE}")
    if cron.interval is None:
        _check_fields(words, text)
        first = next(cron.times(now), None)
        if first is None or first > now + _HORIZON:
            raise ConfigError(f"--cron {text!r}: does not come within five years; {EXAMPLE}")
    return cron


def cron_of_server(text: str) -> Cron | None:
    """Return an expression that a server holds, whoever put it there; None when this module cannot read it."""
    fields = text.split()
    words = _DESCRIPTORS.get(text, " ".join([*fields, "*"] if len(fields) == 5 else fields))
    cron = Cron(words)
    try:
        if not cron.interval:
            _check_fields(words, text)
    except ConfigError:
        return None
    return cron


def _check_fields(words: str, text: str) -> None:
    """Refuse what KFP's server would refuse, or read otherwise than it is meant."""
    from cronsim import CronSim, CronSimError

    fields = words.split()
    if words.startswith("@") or len(fields) != len(_FIELDS):
        found = "no such name" if words.startswith("@") else f"found {len(text.split())} fields"
        raise ConfigError(f"--cron {text!r}: {found}; {EXAMPLE}")
    for name, field in zip(_FIELDS, fields, strict=True):
        items = [_ITEM.fullmatch(item) for item in field.split(",")]
        if not all(item and not (item["last"] and item["first"] in "*?") for item in items):
            raise ConfigError(f"--cron {text!r}: {name} cannot be {field!r}; {EXAMPLE}")
        if name == _FIELDS[-1] and any("7" in (item["first"], item["last"]) for item in items if item):
            raise ConfigError(f"--cron {text!r}: day of the week 7 is unknown to Kubeflow; Sunday is 0 or sun")
    try:
        CronSim(_for_cronsim(words), datetime(2000, 1, 1))
    except CronSimError as error:
        raise ConfigError(f"--cron {text!r}: {str(error).lower().replace('-', ' ')}; {EXAMPLE}") from error


def _for_cronsim(text: str) -> str:
    """Return six fields that cronsim reads as robfig/cron reads the given ones.

    They differ in `?` (any, unknown to cronsim), `1/2` as a weekday (cronsim's week has a day 7), `4-4/2` (cronsim goes
    on after 4), and in where a list must have its `*` for day of the month and weekday to be combined with "and".
    """
    return " ".join(
        ",".join(sorted((_item(item, largest) for item in field.split(",")), key=lambda item: not item.startswith("*")))
        for field, largest in zip(text.split(), _LARGEST, strict=True)
    )


def _item(item: str, largest: int) -> str:
    found = _ITEM.fullmatch(item)
    if found is None or found["first"] in "*?":
        return item.replace("?", "*")
    first, last, step = found["first"], found["last"], found["step"]
    if step and not last:
        last = str(largest)
    if first == last:
        return first
    return first + (f"-{last}" if last else "") + (f"/{step}" if step else "")
