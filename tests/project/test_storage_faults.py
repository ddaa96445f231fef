"""Full, read-only and forbidden disks: one message with folder and space, nothing half-written, it goes on after."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctan.errors import DataError, StorageError
from ctan.files import atomic_path, storage_faults, write_json, write_text

LARGE = "x" * 400_000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True)
    if made.returncode:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def test_a_full_disk_is_named_with_its_space_and_the_same_goes_on_when_there_is_room(disk: Path) -> None:
    write_text(disk / "here" / "a.txt", "before")
    with pytest.raises(StorageError, match=rf"^{disk}/here: cannot be written: no space is left; 0\.\d MB had been"):
        write_text(disk / "here" / "a.txt", LARGE)
    assert [path.name for path in (disk / "here").iterdir()] == ["a.txt"]
    assert (disk / "here" / "a.txt").read_text() == "before"
    remount(disk, "size=4m")
    write_text(disk / "here" / "a.txt", LARGE)
    assert (disk / "here" / "a.txt").read_text() == LARGE


def test_a_read_only_disk_is_named(disk: Path) -> None:
    write_json(disk / "a.json", {"a": 1})
    remount(disk, "ro")
    for name in ("a.json", "new/b.json"):
        with pytest.raises(StorageError, match="cannot be written: the file system is read-only"):
            write_json(disk / name, {"a": 2})
    assert json.loads((disk / "a.json").read_text()) == {"a": 1}


WRITERS = """
import json, resource, signal, sys
from pathlib import Path
import numpy as np, pyarrow as pa, pyarrow.parquet as pq, torch
from safetensors.torch import save_file
from ctan.errors import StorageError
from ctan.files import atomic_path, write_text

folder, limit = Path(sys.argv[1]), int(sys.argv[2])
numbers = np.random.default_rng(0).random(200_000)
writers = {
    "text": lambda path: path.write_text("x" * 1_600_000),
    "numpy": lambda path: np.savez(path.open("wb"), a=numbers),
    "parquet": lambda path: pq.write_table(pa.table({"a": numbers}), path),
    "torch": lambda path: torch.save({"a": torch.from_numpy(numbers)}, path),
    "safetensors": lambda path: save_file({"a": torch.from_numpy(numbers)}, path),
    "folder": lambda path: (path.mkdir(), (path / "a").write_text("x" * 1_600_000)),
}
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
said = {}
for name, write in writers.items():
    try:
        with atomic_path(folder / name) as path:
            write(path)
        said[name] = "written"
    except StorageError as error:
        said[name] = str(error)
    except RuntimeError:
        said[name] = "?"  # PyTorch's own writer does not say why; ctan hands it a stream instead
print(json.dumps(said))
"""


def write_all(folder: Path, limit: int) -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", WRITERS, str(folder), str(limit)], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_whatever_library_writes_a_full_disk_is_the_same_message(disk: Path, tmp_path: Path) -> None:
    said = write_all(disk, 0)
    assert {name: text.partition(";")[0] for name, text in said.items()} == dict.fromkeys(
        said, f"{disk}: cannot be written: no space is left"
    )
    assert len(said) == 6
    assert list(disk.iterdir()) == []
    remount(disk, "size=32m")
    assert set(write_all(disk, 0).values()) == {"written"}


def test_a_limit_of_the_process_is_named(tmp_path: Path) -> None:
    said = write_all(tmp_path, 100_000)
    for name in ("text", "numpy", "parquet", "safetensors", "folder"):
        assert "a file got larger than this process may write" in said[name], said[name]
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_errors_that_are_no_fault_of_the_disk_pass(tmp_path: Path) -> None:
    secret = tmp_path / "elsewhere"
    with pytest.raises(PermissionError), atomic_path(tmp_path / "here" / "a"):
        raise PermissionError(13, "Permission denied", str(secret / "source"))
    with pytest.raises(ValueError, match="other"), atomic_path(tmp_path / "here" / "a"):
        raise ValueError("other")
    with pytest.raises(DataError, match=r"^mine$"), storage_faults(tmp_path):
        raise DataError("mine")
    assert list((tmp_path / "here").iterdir()) == []


@pytest.mark.slow
def test_an_ingestion_that_met_a_full_disk_goes_on_when_there_is_room(disk: Path) -> None:
    """The whole step, as it is run."""
    code = (
        "import sys; from ctan import steps; from ctan.settings import resolve_config\n"
        "_, settings, origin = steps.resolve('phantom:train=4,validation=2', resolve_config('smoke'))\n"
        "steps.ingest(settings, origin, sys.argv[1] + '/manifest', 0)\n"
    )
    filler = disk / "filler"
    filler.write_bytes(b"x" * 250_000)
    command = [sys.executable, "-c", code, str(disk)]
    environment = os.environ | {"CTAN_WORKSPACE": str(disk / "workspace")}
    failed = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert failed.returncode
    assert "ctan.errors.StorageError" in failed.stderr
    assert "no space is left" in failed.stderr
    assert list(disk.glob("**/*.tmp")) == []
    filler.unlink()
    remount(disk, "size=64m")
    subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert (disk / "manifest" / "manifest.parquet").exists()
