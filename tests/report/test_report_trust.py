"""What trainings measured of calibration and exchange stands in the report; nothing where there is none."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ctan.records import Calibration, MeanExchange
from ctan.report.trust import attention_chart, calibration, exchange


def data(**facts: Any) -> Any:
    record = SimpleNamespace(**{"fold": 1, "seed": 2, "calibration": {}, "exchange": None} | facts)
    return SimpleNamespace(models=[SimpleNamespace(arch="ctan", record=record)])


def test_temperatures_stand_with_what_they_were_fitted_on() -> None:
    known = Calibration(temperature=1.62, num_cases=9, log_loss=(2.01, 1.9), calibration_error=(0.12, 0.08))
    page = calibration(data(calibration={"diagnosis": known}))
    for word in ("CTAN", "fold 1, seed 2", "diagnosis", "1.62", "2.010 → 1.900", "0.120 → 0.080", ">9<"):
        assert word in page, word
    assert calibration(data()) == ""


def test_what_tasks_take_stands_stage_by_stage() -> None:
    found = MeanExchange(stages=({"dose<-contours": 0.25}, {"dose<-contours": 0.5}), entropy={}, num_cases=7)
    page = exchange(data(exchange=found))
    for word in ("dose from contours", "0.250", "0.500", "stage 2", "7 tuning cases"):
        assert word in page, word
    assert exchange(data()) == ""


def test_where_tasks_look_is_drawn_a_panel_a_pair() -> None:
    shown = ((0.1, 0.2), (0.3, 0.4))
    pairs = {"dose<-contours": shown, "contours<-dose": shown}
    found = MeanExchange(stages=(), entropy={}, attention=pairs, num_cases=7)
    figure = attention_chart(found)
    assert figure is not None
    assert [axes.get_title(loc="left") for axes in figure.axes[:2]] == ["dose from contours", "contours from dose"]
    assert "Where the tasks of CTAN, fold 1, seed 2 look" in exchange(data(exchange=found))
    assert attention_chart(MeanExchange(stages=(), entropy={}, num_cases=7)) is None
