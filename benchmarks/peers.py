"""The same work by ctan and by the tools people know, in turn; what both computed is compared before a row is printed.

    python -m benchmarks.peers [--only ROW ...] [--rounds 5] [--eclipse FOLDER] [--openkbp FOLDER] [--work build/peers]

The tools get two environments of their own (`networks`: nnU-Net, MONAI, blosc2; `dicom`: platipy, dcmrtstruct2nii,
rt-utils) from the exact versions in `benchmarks/peer_sides/*.txt`; they are made once. Both sides are processes that
stay, one thread each, and do the work in turn; the first round is not counted. The table shows ratios (ctan / peer, of
medians of processor time, below 1 is faster), the smallest and largest ratio of a round as spread, and the same ratio
of peak memory. Rows are kept in `--work/rows.json`: a second call measures only what is missing (`--again` all).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.peer_checks import Arrays
from benchmarks.peer_rows import ROWS, Inputs, Row
from ctan.files import write_json

ROOT = Path(__file__).parents[1]
SIDES = ROOT / "benchmarks" / "peer_sides"
TORCH = "2.13.0"
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"), "1"
)


@dataclass
class Side:
    """One side of a row: a process that does its work when told to."""

    process: subprocess.Popen[str]
    said: IO[str]
    facts: Mapping[str, Any]

    @classmethod
    def start(cls, python: Path, command: Sequence[str]) -> Side:
        """Start a side and wait until it is ready."""
        script, *given = command
        said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as the process
        process = subprocess.Popen(
            [str(python), str(SIDES / script), *given],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            cwd=ROOT,
            env={**os.environ, **ONE_THREAD, "PYTHONPATH": str(ROOT)},
        )
        side = cls(process, said, {})
        side.facts = side._answer(script)
        return side

    def do(self, what: str) -> Mapping[str, Any]:
        """Have something done and return the answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        return self._answer(what)

    def _answer(self, what: str) -> Mapping[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):  # some tools ask to be cited when they are imported
                return json.loads(line)
        self.said.seek(0)
        raise SystemExit(f"{what}: the side ended: {self.said.read()[-2000:]}")

    def end(self) -> None:
        """Let the process end."""
        self.process.communicate(timeout=60)
        self.said.close()


def environment(name: str, work: Path) -> Path:
    """Return the Python of an environment, made where it is not there yet."""
    if name == "ctan":
        return Path(sys.executable)
    folder, pins = work / name, SIDES / f"{name}.txt"
    python, made = folder / "bin" / "python", folder / "made.txt"
    if made.is_file() and made.read_text() == pins.read_text():
        return python
    print(f"setting up {folder} (some minutes, once)", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    install = [str(python), "-m", "pip", "install", "--quiet"]
    if name == "networks":
        subprocess.run([*install, f"torch=={TORCH}"], check=True)
    subprocess.run([*install, "--no-deps", "-r", str(pins)], check=True)
    made.write_text(pins.read_text())
    return python


def measure(row: Row, inputs: Inputs, rounds: int, work: Path) -> dict[str, Any]:
    """Return what one row shows."""
    with tempfile.TemporaryDirectory(dir=work) as folder:
        return _measured(row, inputs, rounds, work, Path(folder))


def _measured(row: Row, inputs: Inputs, rounds: int, work: Path, folder: Path) -> dict[str, Any]:
    started = time.perf_counter()
    pairs = row.commands(inputs)
    ours = Side.start(environment("ctan", work), pairs[0])
    theirs = Side.start(environment(row.environment, work), [_filled(one, work) for one in pairs[1]])
    answers: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = []
    for number in range(rounds + 1):
        both = ours.do("go"), theirs.do("go")
        if number:
            answers.append(both)
    saved = []
    for name, side in (("ours", ours), ("theirs", theirs)):
        path = folder / f"{name}.npz"
        side.do(f"save {path}")
        saved.append(path)
    note = row.check(_arrays(saved[0]), _arrays(saved[1]), inputs) if row.check else ""
    scales = [float(side.facts.get("macs", 1)) for side in (ours, theirs)]
    for side in (ours, theirs):
        side.end()
    cpu = [[float(both[side]["cpu"]) / scales[side] for both in answers] for side in (0, 1)]
    each = [first / second for first, second in zip(*cpu, strict=True)]
    return {
        "what": row.what,
        "peer": row.peer,
        "ratio": statistics.median(cpu[0]) / statistics.median(cpu[1]),
        "spread": [min(each), max(each)],
        "memory": answers[-1][0]["peak"] / answers[-1][1]["peak"],
        "peaks": [answers[-1][side]["peak"] for side in (0, 1)],
        "aim": row.aim,
        "seconds": [statistics.median(values) * scale for values, scale in zip(cpu, scales, strict=True)],
        "note": note,
        "minutes": (time.perf_counter() - started) / 60,
    }


def _filled(word: str, work: Path) -> str:
    """Return a word of a command with the environments' folder in place of `{work}`."""
    return word.replace("{work}", str(work))


def _kept(path: Path) -> dict[str, Any]:
    """Return the rows that are there."""
    return json.loads(path.read_text()) if path.is_file() else {}


def _arrays(path: Path) -> Arrays:
    return dict(np.load(path)) if path.is_file() else {}


def show(rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the table."""
    title = f"ctan / peer, one thread, processor time; {_processor()}"
    table = Table(
        "what", "peer", "ratio", "spread", "aim", "memory", "minutes", "what both computed",
        title=title, title_justify="left",
    )  # fmt: skip
    for row in rows.values():
        low, high = row["spread"]
        aim = "" if row["aim"] is None else f"{row['aim']:g}"
        table.add_row(
            row["what"], row["peer"], f"{row['ratio']:.2f}", f"{low:.2f} to {high:.2f}", aim,
            f"{row['memory']:.2f}", f"{row['minutes']:.1f}", row["note"],
        )  # fmt: skip
    Console(width=180).print(table)


def _processor() -> str:
    """Return the processor's name and its vector units."""
    said = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    lines = dict(line.split(":", 1) for line in said.splitlines() if ":" in line)
    named = {key.strip(): value.strip() for key, value in lines.items()}
    units = [one for one in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if one in named.get("flags", "").split()]
    return f"{named.get('model name', 'unknown processor')} ({', '.join(units) or 'no vector units known'})"


def main() -> None:
    """Measure what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=sorted(ROWS), default=sorted(ROWS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--eclipse", type=Path, help="a patient of a planning system, one folder of DICOM-RT")
    parser.add_argument("--openkbp", type=Path, help="raw OpenKBP patients; the packaged phantoms where left out")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "peers")
    parser.add_argument("--again", action="store_true", help="measure rows that are there")
    chosen = parser.parse_args()
    work = chosen.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    kept = work / "rows.json"
    rows = _kept(kept)
    inputs = Inputs(work / "inputs", chosen.eclipse, chosen.openkbp)
    for name in ROWS:
        if name not in chosen.only or (name in rows and not chosen.again):
            continue
        if not ROWS[name].possible(inputs):
            print(f"{name}: left out, its input was not named")
            continue
        print(f"{name} ...", flush=True)
        found = measure(ROWS[name], inputs, chosen.rounds, work)
        rows = _kept(kept) | {name: found}  # another call may have added some
        write_json(kept, rows)
    show({name: rows[name] for name in ROWS if name in rows and name in chosen.only})


if __name__ == "__main__":
    main()
