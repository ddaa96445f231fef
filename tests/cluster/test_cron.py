"""Cron expressions: what people write becomes what KFP reads, with the times at which KFP will run it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctan.cluster.cron import cron_of_server, parse_cron
from ctan.errors import ConfigError
from tests.helpers.kfp import check_cron

NOW = datetime(2026, 11, 25, 10, 30, tzinfo=UTC)  # a Wednesday
BOUNDS = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
NAMES = {
    4: ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"),
    5: ("sun", "mon", "tue", "wed", "thu", "fri", "sat"),
}


@pytest.mark.parametrize(
    ("text", "sent", "times"),
    [
        ("0 3 * * 1", "0 0 3 * * 1", ["2026-11-30 03:00", "2026-12-07 03:00", "2026-12-14 03:00"]),
        ("  30 2  1 * * ", "0 30 2 1 * *", ["2026-12-01 02:30", "2027-01-01 02:30", "2027-02-01 02:30"]),
        ("0 0 3 ? * MON-FRI", "0 0 3 ? * MON-FRI", ["2026-11-26 03:00", "2026-11-27 03:00", "2026-11-30 03:00"]),
        ("0 3 13 * fri", "0 0 3 13 * fri", ["2026-11-27 03:00", "2026-12-04 03:00", "2026-12-11 03:00"]),
        ("0 0 29 2 *", "0 0 0 29 2 *", ["2028-02-29 00:00", "2032-02-29 00:00", "2036-02-29 00:00"]),
        ("0 3 * * 1/2", "0 0 3 * * 1/2", ["2026-11-27 03:00", "2026-11-30 03:00", "2026-12-02 03:00"]),
        ("@weekly", "0 0 0 * * 0", ["2026-11-29 00:00", "2026-12-06 00:00", "2026-12-13 00:00"]),
        ("@every 6h", "@every 6h", ["2026-11-25 16:30", "2026-11-25 22:30", "2026-11-26 04:30"]),
        ("@every 1h30m", "@every 1h30m", ["2026-11-25 12:00", "2026-11-25 13:30", "2026-11-25 15:00"]),
    ],
)
def test_five_fields_and_names_are_sent_with_seconds(text: str, sent: str, times: list[str]) -> None:
    cron = parse_cron(text, NOW)
    assert cron.text == sent
    check_cron(cron.text)
    assert [f"{time:%Y-%m-%d %H:%M}" for time in islice(cron.times(NOW), 3)] == times


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("every monday", "found 2 fields; expected minute, hour, day of the month, month and day of the week in UTC"),
        ("", "found 0 fields"),
        ("0 3 * *", "found 4 fields"),
        ("@dayly", "no such name"),
        ("@every", "no such name"),
        ("@every 0s", "at least one second"),
        ("61 3 * * *", "bad minute"),
        ("0 25 * * *", "bad hour"),
        ("0 3 * * fri-mon", "bad day of week"),
        ("*/0 3 * * *", "bad minute"),
        ("0 3 * * 7", "Sunday is 0 or sun"),
        ("0 3 L * *", "day of the month cannot be 'L'"),
        ("0 3 * * mon#1", "day of the week cannot be 'mon#1'"),
        ("0 3 *-5 * *", r"day of the month cannot be '\*-5'"),
        ("0 0 30 2 *", "bad day of month"),
        ("0 0 29 2 */7", "does not come within five years"),
        ("TZ=Europe/Berlin 0 3 * * 1", "seconds cannot be 'TZ=Europe/Berlin'"),
    ],
)
def test_what_would_run_never_or_otherwise_is_refused_with_an_example(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse_cron(text, NOW)
    assert "'0 3 * * 1'" in str(caught.value) or "Sunday" in str(caught.value)


def test_five_fields_on_a_server_are_read_as_it_reads_them() -> None:
    """Somebody else's `0 3 * * 1` runs 24 times a day in January: the list must not say Mondays."""
    cron = cron_of_server("0 3 * * 1")
    assert cron is not None
    assert [f"{time:%m-%d %H:%M}" for time in islice(cron.times(NOW), 2)] == ["01-01 00:03", "01-01 01:03"]
    assert cron_of_server("now and then") is None


def test_an_interval_counts_from_when_the_schedule_was_made() -> None:
    cron = parse_cron("@every 6h", NOW)
    (next_time,) = islice(cron.times(NOW, since=NOW - timedelta(days=3, hours=1)), 1)
    assert next_time == NOW + timedelta(hours=5)


@st.composite
def fields(draw: st.DrawFn, place: int) -> str:
    smallest, largest = BOUNDS[place]
    items = []
    for _ in range(draw(st.integers(1, 3))):
        first = draw(st.integers(smallest, largest))
        last = draw(st.integers(first, largest))
        names = NAMES.get(place)
        spell = draw(st.booleans()) and names
        ends = [names[end - smallest] if spell and names else str(end) for end in (first, last)]
        item = draw(st.sampled_from(["*", "?", ends[0], "-".join(ends)]))
        items.append(item + draw(st.sampled_from(["", "", "/1", "/2", "/5", "/40"])))
    return ",".join(items)


def allowed(place: int, field: str) -> tuple[set[int], bool]:
    """Values of a field and whether it holds a star, as robfig/cron's getRange and getField define them."""
    smallest, largest = BOUNDS[place]
    values: set[int] = set()
    for item in field.split(","):
        spread, _, step = item.partition("/")
        ends = [NAMES[place].index(end) + smallest if end.isalpha() else end for end in spread.split("-")]
        if spread in "*?":
            first, last = smallest, largest
        else:
            first = int(ends[0])
            last = int(ends[1]) if len(ends) == 2 else largest if step else first
        values |= set(range(first, last + 1, int(step or 1)))
    return values, "*" in field or "?" in field


def expected(text: str) -> Iterator[datetime]:
    """Go through the days of five years, as robfig/cron's Next and dayMatches define what fits."""
    sets = [allowed(place, field) for place, field in enumerate(text.split())]
    (seconds, minutes, hours, days, months, weekdays) = (values for values, _ in sets)
    both = sets[3][1] or sets[5][1]
    day = NOW.replace(hour=0, minute=0, second=0)
    for _ in range(5 * 365):
        of_month, of_week = day.day in days, day.isoweekday() % 7 in weekdays
        if day.month in months and ((of_month and of_week) if both else (of_month or of_week)):
            for hour in sorted(hours):
                for minute in sorted(minutes):
                    for second in sorted(seconds):
                        time = day.replace(hour=hour, minute=minute, second=second)
                        if time > NOW:
                            yield time
        day += timedelta(days=1)


@given(st.tuples(*(fields(place) for place in range(6))).map(" ".join))
def test_times_are_those_of_the_backend(text: str) -> None:
    check_cron(text)  # the generator makes only what the backend takes
    times = list(islice(expected(text), 3))
    if len(times) == 3:
        cron = parse_cron(text, NOW)
        assert list(islice(cron.times(NOW), 3)) == times
        assert cron_of_server(cron.text) == cron
    elif not times:
        with pytest.raises(ConfigError):
            parse_cron(text, NOW)
