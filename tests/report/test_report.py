"""The report shows the comparison's numbers as they are, marks the best, and needs nothing besides itself."""

from __future__ import annotations

import base64
import gzip
import json
import re
import subprocess
import sys
import time
from copy import deepcopy
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from ctan import html
from ctan.drawing import structure_colours, write_figure_png
from ctan.errors import DataError
from ctan.evaluation.cases import write_cases
from ctan.report.data import ReportData, read_report_data
from ctan.report.headline import headline, verdict
from ctan.report.plots import improvement_chart
from ctan.report.report import write_report
from ctan.report.spread import spread_section
from ctan.report.structures import goals_table, spread_table
from ctan.report.style import architecture_colour, format_count
from ctan.report.subgroups import subgroups_section
from ctan.report.tables import comparison_table
from tests.helpers.records import change_record
from tests.helpers.report import ARCHS, NUM_CASES, record_of, tasks, write_inputs

SECTIONS = [
    "Evaluation cases",
    "Relative improvement",
    "Tuning cases",
    "Dice per structure",
    "Dose-volume histograms",
    "Predictions",
    "Case by case",
    "Training",
    "Provenance",
    "Settings",
]
Inputs = tuple[dict[str, Any], list[Path]]


class Page(HTMLParser):
    """What a reader finds in a page: headings, images, links, and tables by id as rows of (text, is bold)."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.headings: list[str] = []
        self.images: list[dict[str, str]] = []
        self.addresses: list[str] = []
        self.tags: set[str] = set()
        self.tables: dict[str, list[list[tuple[str, bool]]]] = {}
        self._table: list[list[tuple[str, bool]]] = []
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.tags.add(tag)
        self.addresses += [given[name] for name in ("src", "href", "action", "data", "srcset") if name in given]
        if tag == "img":
            self.images.append(given)
        if tag == "table":
            self._table = self.tables.setdefault(given.get("id", f"table {len(self.tables)}"), [])
        if tag == "tr":
            self._table.append([])
        if tag in ("td", "th"):
            self._table[-1].append(("", False))
        if tag in ("h1", "h2", "h3"):
            self.headings.append("")
        if tag not in ("img", "meta", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if {"h1", "h2", "h3"} & set(self._open):
            self.headings[-1] += data
        if "small" not in self._open and {"td", "th"} & set(self._open):
            text, bold = self._table[-1][-1]
            self._table[-1][-1] = (text + data.replace("\u00a0", " "), bold or "strong" in self._open)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return write_inputs(tmp_path_factory.mktemp("evaluations"))


@pytest.fixture(scope="module")
def written(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    report = tmp_path_factory.mktemp("report") / "report.html"
    write_report(record_of(inputs[0]), inputs[1], report)
    return report


@pytest.fixture(scope="module")
def page(written: Path) -> Page:
    return Page(written.read_text(encoding="utf-8"))


def data_of(inputs: Inputs) -> ReportData:
    return read_report_data(record_of(inputs[0]), inputs[1])


def plain(text: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", text).replace("\u00a0", " "))


def comparison_rows(table: str) -> dict[str, list[tuple[str, bool]]]:
    (rows,) = Page(str(table)).tables.values()
    return {row[0][0]: row[1:] for row in rows}


def test_every_section_that_has_data_is_there_and_every_picture_is_described(page: Page) -> None:
    assert [heading for heading in page.headings if heading in SECTIONS] == SECTIONS
    assert page.headings[0] == "CTAN is better than STL, HPS and MTAN"
    assert len(page.images) == 9  # improvement, Dice, DVH, criteria, two cases, cases, losses, learning rate
    assert all(len(image["alt"]) > 20 for image in page.images)


def test_the_page_loads_nothing(written: Path, page: Page) -> None:
    inside = ("data:image/png;base64,", "data:image/svg+xml;base64,", "#")
    assert all(address.startswith(inside) for address in page.addresses)
    assert not {"link", "iframe"} & page.tags
    assert re.findall(r"<script[^>]*>(.*?)</script>", written.read_text(), re.DOTALL) == [html._SCRIPT]
    assert not re.search(r"https?:|url\(|@import|//[a-z]+\.", re.sub(r"base64,[^\"]*", "", written.read_text()))


def test_the_page_is_small(written: Path) -> None:
    assert written.stat().st_size < 6e6


@pytest.mark.parametrize("role", ["evaluation", "tuning"])
def test_the_tables_show_the_numbers_of_the_comparison(inputs: Inputs, page: Page, role: str) -> None:
    content = inputs[0]
    rows = {row[0][0]: [text for text, _ in row[1:]] for row in page.tables[f"comparison-{role}"]}
    for entry in content["architectures"]:
        scores, gains = entry["scores"][role], entry["relative_improvement"].get(role)
        expected = [f"{scores['contouring']['dice_mean']['value']:.3f}"]
        expected += [f"{scores['dose'][name]['value']:.2f}" for name in ("dose_score", "dvh_score")]
        if gains:
            expected += [f"{gains[n]['value']:+.1f} %".replace("-", "−") for n in ("contouring", "dose", "average")]
        else:
            expected += ["reference"] * 3
        assert rows[entry["arch"].upper()][:6] == expected


def test_costs_baselines_and_floor_stand_beside_the_evaluation_scores(page: Page) -> None:
    rows = {row[0][0]: [text for text, _ in row[1:]] for row in page.tables["comparison-evaluation"]}
    assert rows["CTAN"][6:] == ["7.3 M", "65.7 G", "1.73", "10"]
    assert rows["Mean dose inside the mask"][:3] == ["–", "21.30", "24.10"]
    assert rows["Grid floor"][:3] == ["0.973", "0.13", "0.31"]
    assert "Grid floor" not in {row[0][0] for row in page.tables["comparison-tuning"]}


def test_bold_marks_the_largest_dice_and_the_smallest_dose_score(inputs: Inputs) -> None:
    content = deepcopy(inputs[0])
    values = {"stl": (0.70, 3.0), "hps": (0.75, 3.5), "mtan": (0.72, 2.5), "ctan": (0.71, 2.9)}
    for entry in content["architectures"]:
        dice, dose = values[entry["arch"]]
        entry["scores"]["evaluation"]["contouring"]["dice_mean"]["value"] = dice
        entry["scores"]["evaluation"]["dose"]["dose_score"]["value"] = dose
    rows = comparison_rows(comparison_table(data_of((content, inputs[1])), "evaluation"))
    assert [name for name, cells in rows.items() if cells[0][1]] == ["HPS"]
    assert [name for name, cells in rows.items() if cells[1][1]] == ["MTAN"]
    assert [name for name, cells in rows.items() if cells[6][1]] == ["HPS"]  # fewest parameters


def test_scores_that_are_printed_alike_are_bold_alike(inputs: Inputs) -> None:
    content = deepcopy(inputs[0])
    for entry, value in zip(content["architectures"], (2.501, 2.502, 2.6, 2.7), strict=True):
        entry["scores"]["evaluation"]["dose"]["dose_score"]["value"] = value
    rows = comparison_rows(comparison_table(data_of((content, inputs[1])), "evaluation"))
    assert [name for name, cells in rows.items() if cells[1][1]] == ["STL", "HPS"]


def test_nothing_is_bold_where_nothing_improves_on_the_reference(inputs: Inputs) -> None:
    content = deepcopy(inputs[0])
    for entry in content["architectures"]:
        if entry["relative_improvement"]:
            entry["relative_improvement"]["evaluation"]["average"] = {"value": -1.0, "low": -2.0, "high": 0.5}
    rows = comparison_rows(comparison_table(data_of((content, inputs[1])), "evaluation"))
    assert [name for name, cells in rows.items() if cells[5][1]] == []  # was the word "reference"


def test_a_baseline_that_beats_the_chosen_network_is_bold_and_warned_of(inputs: Inputs) -> None:
    content = deepcopy(inputs[0])
    content["baselines"][1]["scores"]["evaluation"]["dose"]["dose_score"] = 1.25
    data = data_of((content, inputs[1]))
    rows = comparison_rows(comparison_table(data, "evaluation"))
    assert [name for name, cells in rows.items() if cells[1][1]] == ["Mean dose at equal distance to the targets"]
    assert any(s.startswith("Warning") and "1.25 against" in s and "Dose score" in s for s in verdict(data))
    assert not any(s.startswith("Warning") for s in verdict(data_of(inputs)))


def test_the_headline_says_who_was_chosen_on_what_and_what_the_evaluation_cases_measured(inputs: Inputs) -> None:
    content, text = inputs[0], plain(headline(data_of(inputs)))
    gain = next(e for e in content["architectures"] if e["arch"] == "ctan")["relative_improvement"]["evaluation"][
        "average"
    ]
    assert f"CTAN was chosen on the {NUM_CASES['tuning']} tuning cases : CTAN improves on STL by" in text
    assert f"On the {NUM_CASES['evaluation']} evaluation cases CTAN is {gain['value']:.1f} % better than STL" in text
    assert f"interval {gain['low']:+.1f} to {gain['high']:+.1f} %" in text
    assert "Tuning cases choose, the evaluation split only measures" in text
    assert "exclude training variance" in text
    assert content["data_hash"][:12] in text
    assert content["store_key"] in text


def test_the_improvement_over_the_reference_agrees_with_the_comparison(inputs: Inputs) -> None:
    data = data_of(inputs)
    assert data.best_against("stl") == data.gains("ctan", "evaluation")


def test_architectures_that_the_cases_do_not_tell_apart_are_named(tmp_path: Path) -> None:
    content, folders = write_inputs(tmp_path, archs=("stl", "ctan"), num_figure_cases=0)
    theirs, ours = (pq.read_table(folder / "cases.parquet") for folder in folders)
    swing = np.where(np.arange(len(theirs)) % 2, 1.05, 0.95)  # as often better as worse
    column = ours.schema.get_field_index("value")
    pq.write_table(ours.set_column(column, "value", [theirs["value"].to_numpy() * swing]), folders[1] / "cases.parquet")
    sentences = " ".join(verdict(read_report_data(record_of(content), folders)))
    assert "do not tell it apart from STL (interval includes 0)" in sentences
    assert "beyond what chance" not in sentences


def test_a_choice_that_measures_worse_is_said_to_be_worse(inputs: Inputs) -> None:
    content = deepcopy(inputs[0])
    index = ARCHS.index("hps")
    content["best"] |= {"arch": "hps", "model_index": index, "reason": "hps was lucky"}
    sentences = " ".join(verdict(data_of((content, inputs[1]))))
    assert "MTAN and CTAN measured better than HPS there" in sentences


def test_one_architecture_alone_needs_no_reference(tmp_path: Path) -> None:
    content, folders = write_inputs(tmp_path, archs=("ctan",))
    write_report(record_of(content), folders, tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text())
    assert page.headings[0] == "CTAN on openkbp"
    assert "Relative improvement" not in page.headings
    assert "Evaluation cases" in page.headings


def test_folds_and_seeds_are_one_row_an_architecture_and_one_row_a_training(tmp_path: Path) -> None:
    trainings = tuple((fold, seed) for fold in (0, 1) for seed in (0, 1))
    content, folders = write_inputs(tmp_path, archs=("hps", "ctan"), trainings=trainings, num_figure_cases=0)
    assert content["reference_arch"] == "hps"  # there is no stl
    write_report(record_of(content), folders, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    names = [row[0][0] for row in page.tables["comparison-evaluation"]]
    assert names.count("CTAN") == names.count("HPS") == 1
    assert "improvement over HPS" in text
    assert all(f"runctan{fold}{seed}" in text for fold, seed in trainings)
    assert "Predictions" not in page.headings  # no figure cases


@pytest.mark.parametrize(
    ("kept", "absent"),
    [("contouring", ["Dose-volume histograms"]), ("dose", ["Dice per structure"])],
)
def test_sections_of_tasks_that_were_not_learned_are_left_out(tmp_path: Path, kept: str, absent: list[str]) -> None:
    only = tuple(task for task in tasks() if task.name == kept)
    content, folders = write_inputs(tmp_path, archs=("stl", "ctan"), num_figure_cases=1, only=only)
    write_report(record_of(content), folders, tmp_path / "report.html")
    headings = Page((tmp_path / "report.html").read_text()).headings
    assert not set(absent) & set(headings)
    assert {"Evaluation cases", "Case by case", "Predictions"} <= set(headings)


def test_missing_curves_criteria_and_history_leave_their_sections_out(tmp_path: Path) -> None:
    content, folders = write_inputs(tmp_path, archs=("stl", "ctan"), num_figure_cases=0)
    for folder in folders:
        for name in ("history.parquet", "dvh.parquet", "figures.npz"):
            (folder / name).unlink()
        cases = pq.read_table(folder / "cases.parquet")
        pq.write_table(cases.filter(~pc.field("metric").isin(["dvh", "goal"])), folder / "cases.parquet")
    write_report(record_of(content), folders, tmp_path / "report.html")
    headings = Page((tmp_path / "report.html").read_text()).headings
    assert not {"Training", "Dose-volume histograms", "Predictions"} & set(headings)
    assert "Case by case" in headings


def test_numbers_that_do_not_exist_are_dashes(inputs: Inputs) -> None:
    content = deepcopy(inputs[0])
    nothing = {"value": None, "low": None, "high": None}
    content["architectures"][1]["relative_improvement"]["evaluation"]["dose"] = nothing
    content["architectures"][1]["scores"]["evaluation"]["dose"]["dose_score"] = nothing
    data = data_of((content, inputs[1]))
    rows = comparison_rows(comparison_table(data, "evaluation"))
    assert (rows["HPS"][1][0], rows["HPS"][4][0]) == ("–", "–")
    assert improvement_chart(data) is not None


def test_text_from_files_is_escaped(tmp_path: Path) -> None:
    content, folders = write_inputs(tmp_path, archs=("ctan",), num_figure_cases=0)
    evil = "<script>alert('x')</script> & \"y\""
    content["best"]["reason"] = evil
    content["baselines"][0]["label"] = evil
    path = folders[0] / "model.json"
    change_record(path, run_id=evil, tracking_uri=evil)
    content["models"][0]["run_id"] = evil
    write_report(record_of(content), folders, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert text.count("<script") == 1  # the page's own
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt; &amp; &quot;y&quot;" in text


@pytest.mark.parametrize("name", ["model.json", "cases.parquet", "history.parquet", "dvh.parquet", "figures.npz"])
def test_a_damaged_file_is_named_and_the_old_report_stays(tmp_path: Path, name: str) -> None:
    content, folders = write_inputs(tmp_path / "in", archs=("ctan",), num_figure_cases=1)
    report = tmp_path / "out" / "report.html"
    report.parent.mkdir()
    report.write_text("old")
    damaged = folders[0] / name
    damaged.write_bytes(damaged.read_bytes()[:40])
    with pytest.raises(DataError, match=re.escape(str(damaged))):
        write_report(record_of(content), folders, report)
    assert [path.name for path in report.parent.iterdir()] == ["report.html"]
    assert report.read_text() == "old"


def test_evaluations_in_another_order_than_the_comparison_are_refused(inputs: Inputs) -> None:
    content, folders = inputs
    with pytest.raises(DataError, match="arch is 'hps', the comparison has 'stl'"):
        read_report_data(record_of(content), [folders[1], folders[0], *folders[2:]])
    with pytest.raises(DataError, match="of 4 models, but 3 evaluations"):
        read_report_data(record_of(content), folders[:3])


def test_a_killed_process_leaves_the_old_report_whole(inputs: Inputs, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    report.write_text("old")
    (tmp_path / "comparison.json").write_text(json.dumps(inputs[0]))
    code = (
        "import sys; from pathlib import Path; from ctan.report.report import write_report\n"
        "from ctan.records import ComparisonRecord; content = ComparisonRecord.load(Path(sys.argv[1]))\n"
        "print('writing', flush=True); write_report(content, [Path(p) for p in sys.argv[3:]], Path(sys.argv[2]))"
    )
    arguments = [str(tmp_path), str(report), *map(str, inputs[1])]
    with subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        time.sleep(0.3)
        process.kill()
    assert report.read_text() == "old"


def test_figures_can_be_written_for_the_documentation(inputs: Inputs, tmp_path: Path) -> None:
    figure = improvement_chart(data_of(inputs))
    assert figure is not None
    write_figure_png(figure, tmp_path / "images" / "improvement.png", dpi=60)
    assert (tmp_path / "images" / "improvement.png").read_bytes().startswith(b"\x89PNG")


def test_every_structure_and_architecture_has_a_colour_of_its_own() -> None:
    structures = ("Cord", "LeftEye", "RightEye", "Low", "High")
    colours = structure_colours(structures, {"Low": 50.0, "High": 70.0}, (("LeftEye", "RightEye"),))
    assert len(set(colours.values())) == len(structures)
    assert list(colours)[:2] == ["High", "Low"]  # targets first, by prescription
    archs = [*ARCHS, "new", "other"]
    assert len({architecture_colour(arch, archs) for arch in archs}) == len(archs)


@pytest.mark.parametrize(
    ("value", "text"),
    [(999, "999"), (999_999, "1 M"), (7_312_345, "7.31 M"), (65.7e9, "65.7 G"), (1.5e12, "1.5 T"), (None, "–")],
)
def test_counts_have_three_figures(value: float | None, text: str) -> None:
    assert format_count(value).replace("\u00a0", " ") == text


def test_every_score_can_be_taken_along_as_csv(written: Path, inputs: Inputs) -> None:
    (packed,) = re.findall(r'data-gzip="([^"]*)"', written.read_text())
    header, *lines = gzip.decompress(base64.b64decode(packed)).decode().splitlines()
    tables = [pq.read_table(folder / "cases.parquet") for folder in inputs[1]]
    rows = [row for table in tables for row in table.to_pylist() if row["role"] == "evaluation"]
    assert len(lines) == len(rows)
    found = dict(zip(header.replace('"', "").split(","), lines[0].replace('"', "").split(","), strict=True))
    assert found["case_id"] == rows[0]["case_id"]
    assert float(found["value"]) == pytest.approx(rows[0]["value"], abs=1e-4)


def test_all_cases_stand_in_a_table_that_sorts(written: Path) -> None:
    (table,) = re.findall(r'<table class="sortable">(.*?)</table>', written.read_text(), re.DOTALL)
    assert len(re.findall("<tr>", table)) == 1 + NUM_CASES["evaluation"]


def test_shown_cases_are_called_by_their_place(inputs: Inputs, page: Page) -> None:
    data = data_of(inputs)
    for case_id in data.best.figures():
        assert any(heading == f"{case_id}, {data.place(case_id)}" for heading in page.headings)
    assert data.place(next(iter(data.errors))) == "worst of 16 cases"


def test_goals_are_counted_by_the_plan_and_the_prediction(inputs: Inputs) -> None:
    data = data_of(inputs)
    (_, (_, *cells)) = Page(str(goals_table(data, tasks()[1]))).tables["table 0"]
    cases = data.best.cases.to_pandas()
    rows = cases[(cases["role"] == "evaluation") & (cases["metric"] == "goal")]
    planned, predicted = rows["planned"] <= 45, rows["predicted"] <= 45
    counts = [len(rows), planned.sum(), predicted.sum(), (planned == predicted).sum()]
    assert [int(text) for text, _ in cells[:4]] == counts
    assert 0 < planned.sum() < len(rows)


def test_missed_structures_are_counted_and_not_averaged_away(tmp_path: Path) -> None:
    content, folders = write_inputs(tmp_path, archs=("ctan",), num_figure_cases=0, surfaces=True)
    table = pq.read_table(folders[0] / "cases.parquet").to_pylist()
    for row in table:
        if row["case_id"] == "pt_201" and row["structure"] == "SpinalCord" and row["metric"] != "goal":
            row["value"] = {"dice": 0.0, "surface_dice": 0.0, "hd95_mm": float("nan")}.get(row["metric"], row["value"])
    write_cases(table, folders[0] / "cases.parquet")
    data = read_report_data(record_of(content), folders)
    rows = {row[0][0]: [text for text, _ in row] for row in Page(str(spread_table(data, tasks()[0]))).tables["table 0"]}
    header = rows["structure"]
    assert header == ["structure", "cases", "Dice", "surface Dice", "HD95 (mm)", "missed"]
    assert rows["SpinalCord"][-1] == "1"
    assert {row[-1] for name, row in rows.items() if name not in ("structure", "SpinalCord")} == {"–"}


@pytest.mark.slow
def test_the_page_of_300_cases_and_12_trainings_stays_below_5_mb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NUM_CASES, "evaluation", 300)
    trainings = ((0, 0), (0, 1), (0, 2))
    content, folders = write_inputs(tmp_path, trainings=trainings, num_figure_cases=3, surfaces=True)
    write_report(record_of(content), folders, tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size < 5e6


def test_groups_stand_beside_all_and_small_ones_have_no_interval(inputs: Inputs) -> None:
    content, folders = inputs
    dose = {"value": 3.21, "low": 2.9, "high": 3.6, "patients": 21}
    groups = [
        {"name": "sex = F", "patients": 21, "scores": {"dose": {"dose_score": dose}}},
        {"name": "sex = M", "patients": 3, "scores": {"dose": {"dose_score": {"value": 4.56, "patients": 3}}}},
    ]
    data = read_report_data(record_of({**content, "subgroups": groups}), folders)
    rows = re.findall(r"<tr>(<td>.*?)</tr>", str(subgroups_section(data)))
    texts = [re.sub("<.*?>", " ", row).split() for row in rows]
    assert [text[0] for text in texts] == ["all", "sex", "sex"]
    assert texts[0][1] == str(NUM_CASES["evaluation"])
    assert {"3.21", "2.90", "3.60", "21"} <= set(texts[1])
    assert texts[2][3:] == ["3", "–", "4.56"]
    assert not subgroups_section(read_report_data(record_of(content), folders))


def test_the_spread_of_folds_and_seeds_is_told_apart(tmp_path: Path) -> None:
    """By hand: of fold 0 the seeds are 1 apart, of fold 1 too; the folds are 4 apart."""
    content, folders = write_inputs(tmp_path, archs=("stl",), trainings=((0, 0), (0, 1), (1, 0), (1, 1)))
    for model, score in zip(content["models"], (3.0, 4.0, 7.0, 8.0), strict=True):
        model["scores"]["evaluation"]["dose"]["dose_score"] = score
    section = str(spread_section(read_report_data(record_of(content), folders)))
    row = next(row for row in re.findall(r"<tr>(<td>.*?)</tr>", section) if "Dose score" in row)
    assert [part for part in re.sub("<.*?>", "|", row).split("|") if part][1:] == [
        "dose: Dose score (Gy) ↓",
        "4",
        "5.50",
        "3.00 to 8.00",
        "0.71",  # sqrt((0.5 + 0.5) / 2)
        "2.83",  # sqrt((8 + 8) / 2)
    ]


def test_a_training_each_has_no_spread(inputs: Inputs) -> None:
    content, folders = inputs
    assert not spread_section(read_report_data(record_of(content), folders))
