"""Progress in a log says how far the work is and, once that is known, how long it will take."""

import pytest

from ctan import progress
from ctan.training import console


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the work moves on."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: False, raising=False)
    return now


def lines(clock, seconds, total, capsys):
    for step in progress.track(seconds, total, "ingest"):
        clock[0] += step
    return capsys.readouterr().err.splitlines()


def test_the_time_that_starting_takes_is_not_taken_for_that_of_every_case(clock, capsys):
    """Once a first case after 15.9 s made 159,238 s of 10,015 cases that take 2 ms each."""
    found = lines(clock, [15.9] + [0.002] * 10_014, 10_015, capsys)
    assert found[0] == "ingest: 1/10015, 16 s"
    assert [line for line in found if "left" in line and int(line.split()[-3]) > 30] == []


def test_the_time_left_follows_from_the_cases_after_the_first(clock, capsys):
    found = lines(clock, [10.0] + [1.0] * 99, 100, capsys)
    assert found[0] == "ingest: 6/100, 15 s, about 94 s left"
    assert found[-1] == "ingest: 100/100, 109 s, about 0 s left"


def test_a_single_item_is_told_as_done(clock, capsys):
    assert lines(clock, [3.0], 1, capsys) == ["ingest: 1/1, 3 s, about 0 s left"]


def test_the_time_left_of_a_training_follows_its_last_epochs(monkeypatch, capsys):
    """Of ten epochs three took a second, then another process took the cores and they took ten."""
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    told = console.Console("ctan", 10, 1)
    for epoch, seconds in enumerate([1.0] * 3 + [10.0] * 3):
        now[0] += seconds
        told.epoch(epoch, {"": 1.0}, seconds)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].endswith("1.0 s, about 9 s left")
    assert lines[2].endswith("1.0 s, about 7 s left")
    assert lines[-1].endswith("10.0 s, about 40 s left")
