"""What is touched to add something, found out by adding it: to a copy of the sources, or as a package of its own.

`python -m tests.project.extending` writes the tables of `docs/extending.md` anew.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from tests.tasks.test_another_kind import MODULE as GREYS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "extending.md"
PACKAGES = ("ctan", "components", "pipelines")
EXAMPLES = {"a data set": "two_class_pictures", "an architecture": "cross_stitch"}
_LEFT_BY_TOOLS = ("__pycache__", "build", ".egg-info")


@dataclass(frozen=True)
class Addition:
    """Something to add to ctan itself.

    Attributes:
        what: for the table.
        new: files to write, name -> content.
        lines: lines to put into files that are there, name -> (after the line that begins so, new line).
        command: of `ctan` that knows of it then; or Python, after `-c`.
        shows: what the command prints of it.
    """

    what: str
    command: tuple[str, ...]
    shows: str
    new: Mapping[str, str] = field(default_factory=dict)
    lines: Mapping[str, tuple[str, str]] = field(default_factory=dict)


def _example(name: str, module: str) -> str:
    return (ROOT / "examples" / name / f"{module}.py").read_text(encoding="utf-8")


ADDITIONS = (
    Addition(
        "a data set of ctan's own",
        new={
            "ctan/datasets/two_class/__init__.py": '"""Pictures of two classes."""\n',
            "ctan/datasets/two_class/reader.py": _example("two_class_pictures", "two_class_pictures").replace(
                'name = "two-class-pictures"', 'name = "two_class"'
            ),
        },
        lines={
            "pyproject.toml": (
                '[project.entry-points."ctan.datasets"]',
                'two_class = "ctan.datasets.two_class.reader:TwoClassPictures"',
            )
        },
        command=("data", "list"),
        shows="two_class",
    ),
    Addition(
        "an architecture of ctan's own",
        new={"ctan/networks/cross_stitch.py": _example("cross_stitch", "ctan_cross_stitch")},
        lines={
            "pyproject.toml": (
                '[project.entry-points."ctan.networks"]',
                'cross_stitch = "ctan.networks.cross_stitch:CrossStitch"',
            )
        },
        command=("config", "--set", "architectures=[stl, cross_stitch]"),
        shows="- cross_stitch",
    ),
    Addition(
        "a kind of task of ctan's own",
        new={"ctan/tasks/greys.py": GREYS.replace("other_package", "ctan.tasks.greys")},
        lines={"pyproject.toml": ('[project.entry-points."ctan.tasks"]', 'greys = "ctan.tasks.greys:Greys"')},
        command=("-c", "from ctan.tasks import task_from_json as task; print(task({'kind': 'greys', 'name': 'grey'}))"),
        shows="Greys(name='grey', thousand=1000.0)",
    ),
    Addition(
        "a setting",
        lines={
            "ctan/config_training.py": (
                "    weight_decay: ",
                '    made_up: float = Field(0.5, ge=0, description="made up for a test")',
            )
        },
        command=("config", "--describe"),
        shows="training.made_up",
    ),
    Addition(
        "a short name for a setting",
        lines={
            "ctan/parameters.py": (
                '    Parameter("batch_size"',
                '    Parameter("made_up", "float", "Made up for a test.", "training.weight_decay"),',
            )
        },
        command=("run", "--help"),
        shows="--made-up",
    ),
    Addition(
        "an option of one architecture",
        lines={
            "ctan/networks/mtan.py": (
                "    decoder_attention: ",
                '    made_up: float = Field(0.5, ge=0, description="made up for a test")',
            )
        },
        command=("config", "--set", "network.options.mtan.made_up=0.75"),
        shows="made_up: 0.75",
    ),
    Addition(
        "an option of one data set",
        lines={
            "ctan/dicom/settings.py": (
                "    sum_beams: ",
                '    made_up: float = Field(0.5, ge=0, description="made up for a test")',
            )
        },
        command=("config", "--set", "data.dataset=prostate", "--set", "data.options.made_up=0.75"),
        shows="made_up: 0.75",
    ),
)

# Then run, each only where it changes something: command -> (module, files that it writes).
COMMANDS = {
    "make setup": ("", ()),
    "make pipeline": ("pipelines.signatures", ("pipelines", "components")),
    "python -m tests.project.units": ("tests.project.units", ("tests",)),
}
_IN_THE_COPY = """
import runpy, sys
modules, arguments = sys.argv[1].split(","), sys.argv[2:]
for module in modules:
    sys.argv = [module]
    try:
        runpy.run_module(module, run_name="__main__")
    except SystemExit as ended:
        assert not ended.code, (module, ended.code)
if arguments[0] == "-c":
    exec(arguments[1])
else:
    from ctan.cli import main
    sys.argv = ["ctan", *arguments]
    main()
"""


def row_of(addition: Addition) -> str:
    """Return the table's row about something that is added to ctan itself, after adding it to a copy.

    Raises:
        AssertionError: when ctan does not know of it then.
    """
    with tempfile.TemporaryDirectory(prefix="ctan-extending-") as name:
        copy = Path(name)
        for package in PACKAGES:
            shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        for file in ("__init__.py", "project/__init__.py", "project/units.py", "project/units.json"):
            (copy / "tests" / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / "tests" / file, copy / "tests" / file)
        by_hand = [
            f"in a new folder `{folder.as_posix()}`: {names}"
            if not (ROOT / folder).exists()
            else f"a new module of `{folder.as_posix()}`: {names}"
            for folder, names in _by_folder(addition.new)
        ]
        for file, content in addition.new.items():
            (copy / file).parent.mkdir(parents=True, exist_ok=True)
            (copy / file).write_text(content, encoding="utf-8")
        for file, (after, line) in addition.lines.items():
            _insert(copy / file, after, line)
            by_hand.append(f"one line of `{file}`")
        _install(copy)
        before = _contents(copy)
        _run(copy, [module for module, _ in COMMANDS.values() if module], addition)
        written = {file for file, content in _contents(copy).items() if before.get(file) != content}
        known = {folder for _, folders in COMMANDS.values() for folder in folders}
        assert {Path(file).parts[0] for file in written} <= known, written
    then = ["make setup"] if "pyproject.toml" in addition.lines else []
    then += [
        command for command, (_, folders) in COMMANDS.items() if {Path(file).parts[0] for file in written} & {*folders}
    ]
    return f"| {addition.what} | {', '.join(by_hand)} | {', '.join(f'`{one}`' for one in then) or 'nothing'} |"


def _by_folder(files: Iterable[str]) -> list[tuple[Path, str]]:
    folders = sorted({Path(file).parent for file in files})
    return [(one, ", ".join(f"`{Path(f).name}`" for f in files if Path(f).parent == one)) for one in folders]


def _insert(path: Path, after: str, line: str) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    (place,) = [number for number, text in enumerate(lines) if text.startswith(after)]
    lines.insert(place + 1, line)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _install(copy: Path) -> None:
    """Let the copy's entry points be found, as `make setup` does."""
    points = entry_points(copy)
    about = copy / "copied-0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: copied\nVersion: 0\n")
    lines = [
        line for group, names in points.items() for line in (f"[{group}]", *(f"{n} = {v}" for n, v in names.items()))
    ]
    (about / "entry_points.txt").write_text("\n".join(lines) + "\n")


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def _run(copy: Path, modules: list[str], addition: Addition) -> None:
    environment = os.environ | {"PYTHONPATH": str(copy), "CTAN_WORKSPACE": str(copy / "workspace"), "COLUMNS": "120"}
    command = [sys.executable, "-c", _IN_THE_COPY, ",".join(modules), *addition.command]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert addition.shows in done.stdout, done.stdout


def rows_of_packages() -> list[str]:
    """Return the table's rows about packages of one's own: the examples, and the one that a test of kinds writes."""
    rows = []
    for what, name in EXAMPLES.items():
        files = ", ".join(f"`{file}`" for file in files_of_example(name))
        rows.append(f"| {what}, as a package (`examples/{name}`) | {files} | `pip install` |")
    return [
        *rows,
        "| a kind of task, as a package (`tests/tasks/test_another_kind.py`) "
        "| `other_package.py`, an entry point | `pip install` |",
    ]


def files_of_example(name: str) -> list[str]:
    """Return the files that an example package consists of, its README aside."""
    folder = ROOT / "examples" / name
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".md" and not any(end in str(path) for end in _LEFT_BY_TOOLS)
    )


def entry_points(folder: Path = ROOT) -> dict[str, dict[str, str]]:
    """Return the plugs that a `pyproject.toml` names, by group."""
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return dict(project["entry-points"])


# Where ctan's own plugs are named besides their own modules and pyproject.toml, and why.
REASONS = {
    "ctan/commands/data.py": "commands of one format (`names`, `describe`) and the data set of their examples",
    "ctan/config.py": "the default data set",
    "ctan/datasets/folder/description.py": "which kinds a description can name",
    "ctan/datasets/openkbp2d/reader.py": "slices of the patients of OpenKBP",
    "ctan/dicom/settings.py": "the organ, not the data set",
    "ctan/evaluation/compare.py": "what improvements are relative to",
    "ctan/intake/convert.py": "OpenKBP's format is also written",
    "ctan/migrations.py": "the form of settings in 0.1",
    "ctan/networks/stl.py": "one network of hard sharing a task",
    "ctan/parameters.py": "the default data set and architectures, which plugs never join unasked",
    "ctan/records/release_0_1.py": "models of 0.1",
    "ctan/prediction/served.py": "plain volumes are read by the code of folders",
    "ctan/prediction/predict.py": "plain volumes are read and written by the code of folders",
    "ctan/report/style.py": "colours of the four that are always compared; others get theirs in order",
    "ctan/sources/download.py": "official sources of public data",
    "ctan/tasks/__init__.py": "passes on names of the built-in kinds",
}
AMBIGUOUS = {"ctan", "dose", "folder"}  # also the package's name, an array's, any folder: only imports are looked for


@cache
def named_elsewhere() -> Mapping[str, set[str]]:
    """Return where ctan's own plugs are named besides their own modules: file -> names of plugs."""
    found: dict[str, set[str]] = {}
    plugs = [
        (name, value.partition(":")[0].removesuffix(".reader"))
        for points in entry_points().values()
        for name, value in points.items()
    ]
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        file = path.relative_to(ROOT).as_posix()
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        imported = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
        texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
        for name, home in plugs:
            own = home.replace(".", "/")
            is_imported = any(module == home or module.startswith(f"{home}.") for module in imported)
            is_said = name in texts and name not in AMBIGUOUS
            if not file.startswith((f"{own}/", f"{own}.py")) and (is_imported or is_said):
                found.setdefault(file, set()).add(name)
    return found


def rows_of_exceptions() -> list[str]:
    """Return the rows of the table of places that name single plugs."""
    return [
        f"| `{file}` | {', '.join(sorted(names))} | {REASONS.get(file, '**no reason**')} |"
        for file, names in sorted(named_elsewhere().items())
    ]


TABLES: dict[str, tuple[str, Callable[[], list[str]]]] = {
    "touched": (
        "| to add | I wrote | and ran |\n|---|---|---|",
        lambda: [*rows_of_packages(), *map(row_of, ADDITIONS)],
    ),
    "exceptions": ("| module | names | because |\n|---|---|---|", rows_of_exceptions),
}


def rows_of_page(table: str) -> list[str]:
    """Return the rows of a table as they stand in the page."""
    text = PAGE.read_text(encoding="utf-8").partition(f"<!-- table: {table} -->\n")[2].partition("<!-- end -->")[0]
    return text.strip().splitlines()[2:]


def main() -> None:
    """Write the tables anew."""
    text = PAGE.read_text(encoding="utf-8")
    for table, (head, rows) in TABLES.items():
        before, mark, rest = text.partition(f"<!-- table: {table} -->\n")
        assert mark, table
        made = "\n".join([head, *rows()])
        text = f"{before}{mark}{made}\n<!-- end -->{rest.partition('<!-- end -->')[2]}"
    PAGE.write_text(text, encoding="utf-8")
    print(json.dumps({table: len(rows_of_page(table)) for table in TABLES}))


if __name__ == "__main__":
    main()
