"""What is touched to add a plug, a setting or a short name: the tables in the documentation are what happens."""

from __future__ import annotations

import re

import pytest

from ctan.datasets import Dataset
from ctan.tasks import Task
from tests.project import extending


@pytest.mark.slow
@pytest.mark.parametrize("addition", extending.ADDITIONS, ids=lambda addition: addition.what)
def test_an_addition_touches_what_the_page_says_and_works(addition: extending.Addition) -> None:
    assert extending.row_of(addition) in extending.rows_of_page("touched")


def test_the_table_holds_every_addition_and_nothing_else() -> None:
    rows = extending.rows_of_page("touched")
    assert rows[: len(extending.rows_of_packages())] == extending.rows_of_packages()
    added = [row.split("|")[1].strip() for row in rows[len(extending.rows_of_packages()) :]]
    assert added == [addition.what for addition in extending.ADDITIONS]


def test_a_setting_is_one_line_and_a_short_name_one_more() -> None:
    rows = extending.rows_of_page("touched")
    assert "| a setting | one line of `ctan/config_training.py` | nothing |" in rows
    assert "| a short name for a setting | one line of `ctan/parameters.py` | `make pipeline` |" in rows


@pytest.mark.parametrize("name", extending.EXAMPLES.values())
def test_ctan_knows_nothing_of_an_example(name: str) -> None:
    """Neither its names nor its files: whatever makes it work lies in its own folder."""
    words = re.compile("|".join({name, name.replace("_", "-"), name.title().replace("_", "")}))
    own = [
        path
        for package in extending.PACKAGES
        for path in (extending.ROOT / package).rglob("*")
        if path.suffix in (".py", ".yaml", ".json")
    ]
    assert len(own) > 100
    named = [path for path in (*own, extending.ROOT / "pyproject.toml") if words.search(path.read_text("utf-8"))]
    assert named == []
    folder = extending.ROOT / "examples" / name
    assert words.search((folder / "pyproject.toml").read_text("utf-8"))
    (points,) = extending.entry_points(folder).values()
    (module,) = (value.partition(":")[0] for value in points.values())
    assert extending.files_of_example(name) == sorted(["pyproject.toml", f"{module}.py"])


def test_a_plug_of_ctans_own_is_its_modules_and_one_line() -> None:
    for group, points in extending.entry_points().items():
        room = group.removeprefix("ctan.")
        for name, value in points.items():
            module = value.partition(":")[0]
            expected = f"ctan.{room}.{name}.reader" if room == "datasets" else f"ctan.{room}.{name}"
            assert module == expected


@pytest.mark.parametrize(("base", "heading"), [(Dataset, "## A data set"), (Task, "## A kind of task")])
def test_the_guide_names_all_that_a_plug_may_say(base: type, heading: str) -> None:
    guide = extending.PAGE.read_text("utf-8").partition(f"\n{heading}\n")[2].partition("\n## ")[0]
    said = set(re.findall(r"\b[A-Za-z_]+\b", guide))
    derived = {"decisive_options", "primary_metric", "to_json"}  # made of the others
    offered = {name for name in vars(base) if not name.startswith("_")} | set(vars(base)["__annotations__"])
    assert len(offered) > 15
    assert offered - derived - said == set()


def test_where_single_plugs_are_named_there_is_a_reason() -> None:
    assert set(extending.named_elsewhere()) == set(extending.REASONS)
    assert extending.rows_of_page("exceptions") == extending.rows_of_exceptions()
