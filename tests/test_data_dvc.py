"""The packaged data set is what the generator writes, and `dvc pull` in a clone brings it back byte for byte."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ctan.datasets import get_dataset

ROOT = Path(__file__).parents[1]
OBJECTS = ROOT / "data-store" / "files" / "md5"
TO_PIN_AGAIN = "write the phantoms to data/openkbp anew (ctan data phantom data/openkbp), `dvc commit`, `dvc push`"

pytestmark = pytest.mark.skipif(not (ROOT / "data.dvc").exists(), reason="not a checkout")


def md5s(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.md5(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generated")
    get_dataset("openkbp").write_phantoms(folder, num_train=12, num_validation=4, seed=0)
    return md5s(folder)


def pinned():
    (out,) = yaml.safe_load((ROOT / "data.dvc").read_text())["outs"]
    listing = json.loads((OBJECTS / out["md5"][:2] / out["md5"][2:]).read_text())
    return out, {entry["relpath"]: entry["md5"] for entry in listing}


def test_the_pinned_files_are_those_the_generator_writes(generated):
    out, files = pinned()
    assert out["path"] == "data/openkbp"
    assert files == generated, TO_PIN_AGAIN
    assert out["nfiles"] == len(files)


def test_the_packaged_store_holds_every_pinned_byte_and_nothing_else():
    out, files = pinned()
    objects = md5s(OBJECTS)
    assert set(objects) == {f"{md5[:2]}/{md5[2:]}" for md5 in [*files.values(), out["md5"]]}
    for name, md5 in objects.items():
        assert md5 == name.replace("/", "").removesuffix(".dir")


def test_the_packaged_store_is_small():
    sizes = [path.stat().st_size for path in OBJECTS.rglob("*") if path.is_file()]
    assert max(sizes) < 2 * 2**20
    assert sum(sizes) < 8 * 2**20


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
    assert md5s(clone / "data" / "openkbp") == generated
    assert dvc(clone, "status", "--quiet").returncode == 0
    assert git(clone, "status", "--porcelain") == ""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_dvc_pull_refuses_a_damaged_object(upstream):
    _, files = pinned()
    md5 = files["train-pats/pt_1/ct.csv"]
    damaged = upstream / "data-store" / "files" / "md5" / md5[:2] / md5[2:]
    damaged.write_bytes(damaged.read_bytes().replace(b",1", b",2", 1))
    assert dvc(upstream, "pull", "--quiet").returncode != 0
    assert not (upstream / "data" / "openkbp" / "train-pats" / "pt_1" / "ct.csv").exists()
