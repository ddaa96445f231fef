"""The packaged data sets are what the generators write, and `dvc pull` in a clone brings them back byte for byte."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ctan.datasets import get_dataset
from ctan.sources.synthetic import mark

ROOT = Path(__file__).parents[2]
OBJECTS = ROOT / "data-store" / "files" / "md5"
NUM_CASES = {"openkbp": (12, 4), "prostate": (8, 2), "ham10000": (40, 10), "stoic": (12, 4)}  # training, validation
TO_PIN_AGAIN = "write the phantoms anew (make phantoms), `dvc commit`, `dvc push`"

pytestmark = pytest.mark.skipif(not (ROOT / "data.dvc").exists(), reason="not a checkout")


def md5s(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.md5(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """Data set -> file -> MD5, as the generators write them."""
    root = tmp_path_factory.mktemp("generated")
    for name, (train, validation) in NUM_CASES.items():
        get_dataset(name).write_phantoms(root / name, num_train=train, num_validation=validation, seed=0)
        mark(root / name)
    return {name: md5s(root / name) for name in NUM_CASES}


def pinned():
    """Data set -> its entry in `data.dvc`, and file -> MD5."""
    found = {}
    for out in yaml.safe_load((ROOT / "data.dvc").read_text())["outs"]:
        listing = json.loads((OBJECTS / out["md5"][:2] / out["md5"][2:]).read_text())
        found[out["path"].removeprefix("data/")] = (out, {entry["relpath"]: entry["md5"] for entry in listing})
    return found


def test_the_pinned_files_are_those_the_generators_write(generated):
    assert {name: files for name, (_, files) in pinned().items()} == generated, TO_PIN_AGAIN
    assert all(out["nfiles"] == len(files) for out, files in pinned().values())


def test_the_packaged_store_holds_every_pinned_byte_and_nothing_else():
    objects = md5s(OBJECTS)
    expected = [md5 for out, files in pinned().values() for md5 in (*files.values(), out["md5"])]
    assert set(objects) == {f"{md5[:2]}/{md5[2:]}" for md5 in expected}
    for name, md5 in objects.items():
        assert md5 == name.replace("/", "").removesuffix(".dir")


def test_the_packaged_store_is_small():
    sizes = [path.stat().st_size for path in OBJECTS.rglob("*") if path.is_file()]
    assert max(sizes) < 2 * 2**20
    assert sum(sizes) < 14 * 2**20


@pytest.fixture
def upstream(tmp_path):
    """A repository of the working tree as it is now, as far as DVC is concerned."""
    folder = tmp_path / "upstream"
    folder.mkdir()
    for name in (".gitattributes", ".gitignore", ".dvcignore", "data.dvc"):
        shutil.copy(ROOT / name, folder)
    (folder / ".dvc").mkdir()
    for name in ("config", ".gitignore"):
        shutil.copy(ROOT / ".dvc" / name, folder / ".dvc")
    shutil.copytree(ROOT / "data-store", folder / "data-store")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(
        folder,
        "-c",
        "user.name=t",
        "-c",
        "user.email=t@t",
        "-c",
        "commit.gpgsign=false",
        "commit",
        "--quiet",
        "-m",
        "x",
    )
    return folder


def git(folder, *arguments):
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def dvc(folder, *arguments):
    return subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=folder, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
@pytest.mark.parametrize("autocrlf", ["false", "true"])
def test_dvc_pull_in_a_fresh_clone_gives_the_generated_bytes(upstream, generated, tmp_path, autocrlf):
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", "--config", f"core.autocrlf={autocrlf}", str(upstream), str(clone))
    pulled = dvc(clone, "pull", "--quiet")
    assert pulled.returncode == 0, pulled.stderr
    assert {name: md5s(clone / "data" / name) for name in NUM_CASES} == generated
    assert dvc(clone, "status", "--quiet").returncode == 0
    assert git(clone, "status", "--porcelain") == ""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_dvc_pull_refuses_a_damaged_object(upstream):
    _, files = pinned()["openkbp"]
    md5 = files["train-pats/pt_1/ct.csv"]
    damaged = upstream / "data-store" / "files" / "md5" / md5[:2] / md5[2:]
    damaged.write_bytes(damaged.read_bytes().replace(b",1", b",2", 1))
    assert dvc(upstream, "pull", "--quiet", "data/openkbp").returncode != 0
    assert not (upstream / "data" / "openkbp" / "train-pats" / "pt_1" / "ct.csv").exists()
