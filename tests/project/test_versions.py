"""Names of stores and checkpoints follow what decides: a forgotten version is found, a comment changes nothing."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from ctan import plugins, versions
from ctan.datasets import get_dataset
from ctan.settings import load_config
from ctan.tasks import tasks_of
from tests.project import units

RECORDED = json.loads(units.RECORD.read_text(encoding="utf-8"))


@pytest.mark.parametrize("unit", sorted(units.UNITS))
def test_code_that_decides_does_not_change_under_the_same_version(unit: str) -> None:
    now, then = units.current()[unit], RECORDED.get(unit)
    assert then is not None, f"{unit} is new: run `python -m tests.project.units`"
    if now["version"] != then["version"]:
        pytest.fail(f"{unit} has version {now['version']}: record it with `python -m tests.project.units`")
    changed = [name for name, value in now["modules"].items() if then["modules"].get(name) != value]
    gone = sorted(set(then["modules"]) - set(now["modules"]))
    assert not changed + gone, (
        f"{', '.join(changed + gone)}: the code behind {unit!r} changed. If the same input may give another output, "
        f"raise its version; then, or if the output stays equal, run `python -m tests.project.units`"
    )


def test_every_module_of_a_deciding_room_belongs_to_a_version_or_says_why_not() -> None:
    known = {name for unit in units.UNITS for name in units.modules(unit)}
    there = {
        path.relative_to(units.ROOT).as_posix()
        for room in units.DECISIVE_ROOMS
        for path in [*(units.ROOT / room).rglob("*.py")]
    }
    assert {name for name in there - known if not units.is_exempt(name)} == set()
    assert {name for name in units.EXEMPT if not (units.ROOT / name).exists()} == set()


def test_comments_docstrings_and_type_hints_change_no_fingerprint() -> None:
    plain = "def area(a, b):\n    return a * b\n"
    words = (
        '"""Areas."""\n# old\ndef area(a: float, b: float) -> float:\n    """Return it."""\n    return a * b  # mm2\n'
    )
    assert units.fingerprint(plain) == units.fingerprint(words)
    assert units.fingerprint(plain) != units.fingerprint(plain.replace("*", "+"))


def test_a_version_is_read_from_the_source_as_the_architecture_declares_it() -> None:
    for name in plugins.names(plugins.NETWORKS):
        declared = plugins.declared_version(plugins.NETWORKS, name, "")
        assert declared == plugins.load(plugins.NETWORKS, name, "").version


def test_the_versions_of_a_run_are_known_without_torch_which_takes_seconds_to_import() -> None:
    program = (
        "import sys; from ctan import plugins\n"
        "print([plugins.declared_version(plugins.NETWORKS, name, '') for name in plugins.names(plugins.NETWORKS)])\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[1] == "False"


def test_a_run_names_its_own_reader_and_architectures_and_no_other() -> None:
    config = load_config("smoke", {"architectures": ["stl", "ctan"]})
    dataset = get_dataset(config.data)
    named = versions.of_run(dataset, tasks_of(dataset.spec), config)
    assert {"dataset openkbp", "packer", "network stl", "network ctan", "task dose", "scoring"} < set(named)
    assert not {"dataset stoic", "network hps", "dicom"} & set(named)
    assert "dicom" in versions.of_store(get_dataset("prostate"))
