"""The rows of `benchmarks/peers.py`: what both sides do, on which input, and how the results are compared."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import peer_checks as checks
from benchmarks.clinical_patient import volumes_cc, write_clinical_patient

Commands = tuple[Sequence[str], Sequence[str]]  # ours, theirs: a script of `peer_sides` and what it is given
PATIENT = {"structures": {"Sigmoid": ["sigmoid"]}}
ECLIPSE = {"prescription_gy": 50}
# Profile -> the grid that planning makes of OpenKBP, and the channels of each stage, the same on both sides.
GRIDS = {"smoke": ([40, 64, 48], [16, 32, 64]), "cpu": ([96, 128, 128], [16, 32, 64, 128, 192])}
CHANNELS, OUTPUTS = 3, 8


@dataclass(frozen=True)
class Inputs:
    """Where inputs lie, or are made when first asked for."""

    folder: Path
    eclipse: Path | None
    openkbp: Path | None

    def patient(self, shape: tuple[int, int, int]) -> Path:
        """Return the folder of a synthetic patient, see `clinical_patient`."""
        folder = self.folder / f"patient-{shape[0]}x{shape[1]}"
        if not folder.is_dir():
            write_clinical_patient(folder, shape)
        return folder

    def images(self, patient: Path) -> Path:
        """Return a folder with the CT of a patient alone, as links."""
        folder = self.folder / f"ct-{patient.name}"
        if not folder.is_dir():
            folder.mkdir(parents=True)
            for path in sorted(patient.rglob("*")):
                if path.is_file() and _modality(path) == "CT":
                    (folder / path.name).symlink_to(path.resolve())
        return folder

    def file(self, patient: Path, modality: str) -> Path:
        """Return the one file of a kind."""
        return next(path for path in sorted(patient.rglob("*")) if path.is_file() and _modality(path) == modality)

    def case(self) -> tuple[Path, str, Path]:
        """Return the pointer to a store of the profile `cpu`, a case in it, and its arrays."""
        from ctan.datasets import get_dataset
        from ctan.intake.build import preprocess
        from ctan.intake.ingest import ingest
        from ctan.settings import load_config
        from ctan.store import open_store

        folder = self.folder / "store"
        pointer, arrays = folder / "pointer.json", folder / "case.npz"
        dataset, raw = get_dataset("openkbp"), self.openkbp or self.folder / "openkbp"
        if not raw.is_dir():
            dataset.write_phantoms(raw, 2, 0, seed=0)
        found = dataset.find(raw)[:1]
        if not arrays.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            config = load_config("cpu", {"data.dataset": "openkbp"})
            ingest(str(raw), folder, config, num_workers=1)
            preprocess(str(raw), folder, str(folder), config, num_workers=1).save(pointer)
            stored = open_store(_pointer(pointer)).load(found[0].case_id)
            np.savez(arrays, image=stored.image["ct"], masks=stored.masks, dose=stored.dose)
        return pointer, found[0].case_id, arrays

    def model(self) -> Path:
        """Return a model of random weights on 96 x 128 x 128 voxels."""
        from tests.helpers.prediction import untrained_model

        folder = self.folder / "model"
        if not folder.is_dir():
            size = {"network.base_width": 16, "network.num_stages": 4}
            untrained_model(folder, "openkbp", GRIDS["cpu"][0], None, overrides=size)
        return folder


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        what: is measured.
        peer: against which tool.
        environment: of the peer: `dicom`, `networks`, or `ctan` for what ctan's own has for development.
        aim: the ratio that is hoped for; None where none was set.
        commands: of both sides, from the inputs.
        check: compares what both computed and says so.
        possible: whether the input is there.
    """

    what: str
    peer: str
    environment: str
    aim: float | None
    commands: Callable[[Inputs], Commands]
    check: Callable[[checks.Arrays, checks.Arrays, Inputs], str] | None = None
    possible: Callable[[Inputs], bool] = lambda _: True


def _pointer(path: Path) -> Any:
    from ctan.store import StorePointer

    return StorePointer.load(path)


def _modality(path: Path) -> str:
    import pydicom

    try:
        return str(pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["Modality"]).get("Modality", ""))
    except pydicom.errors.InvalidDicomError:
        return ""


def _options(more: dict[str, Any]) -> dict[str, Any]:
    from ctan.dicom.settings import DicomConfig

    return {**more, "structures": {**DicomConfig().structures, **more.get("structures", {})}}


def _dicom(
    script: str, patient: Callable[[Inputs], Path], options: dict[str, Any], inputs: Inputs, finding: bool = False
) -> Commands:
    """Return the commands that read a patient."""
    folder = patient(inputs)
    ours = ["dicom_ctan.py", str(folder), "finding" if finding else "found", json.dumps(_options(options))]
    theirs = [script, str(inputs.images(folder)), str(inputs.file(folder, "RTSTRUCT"))]
    return ours, theirs + ([str(inputs.file(folder, "RTDOSE"))] if "platipy" in script else [])


def _synthetic(shape: tuple[int, int, int], ours: checks.Arrays, theirs: checks.Arrays, _: Inputs) -> str:
    told = checks.names(_options(PATIENT))
    cc, voxel_cc = volumes_cc(shape)
    # The tiny patient's voxels, 8 mm wide, are larger than parts of structures: they tell no volume.
    known = {told(name): volume for name, volume in cc.items()} if shape == CLINICAL else {}
    return checks.patients(ours, theirs, _options(PATIENT), known, voxel_cc)


def _of_eclipse(ours: checks.Arrays, theirs: checks.Arrays, inputs: Inputs) -> str:
    import pydicom

    assert inputs.eclipse is not None
    first = pydicom.dcmread(next(inputs.images(inputs.eclipse).iterdir()), stop_before_pixels=True)
    voxel_cc = float(np.prod([float(v) for v in (*first.PixelSpacing, first.SliceThickness)])) / 1000
    table = next(inputs.eclipse.rglob("dvh-eclipse.csv"))
    options = _options(ECLIPSE)
    return checks.patients(ours, theirs, options, checks.planned_volumes_cc(table, options), voxel_cc)


def _eclipse(inputs: Inputs) -> Path:
    assert inputs.eclipse is not None
    return inputs.eclipse


def _step(profile: str, arch: str, script: str, _: Inputs) -> Commands:
    grid, widths = GRIDS[profile]
    shape = json.dumps(grid)
    theirs = [script, shape, json.dumps(widths), str(CHANNELS), str(OUTPUTS)]
    return ["step_ctan.py", profile, shape, str(len(widths)), arch], theirs


def _case(inputs: Inputs) -> Commands:
    pointer, case_id, arrays = inputs.case()
    return ["case_ctan.py", str(pointer), case_id], ["case_blosc2.py", str(arrays), str(inputs.folder / "blosc2")]


def _volume(inputs: Inputs) -> Commands:
    return ["volume.py", str(inputs.model()), "whole"], ["volume.py", str(inputs.model()), "windows"]


def _help(_: Inputs) -> Commands:
    import sys

    own = Path(sys.executable).parent / "ctan"
    return ["command.py", str(own), "--help"], ["command.py", "{work}/networks/bin/nnUNetv2_train", "--help"]


CLINICAL, TINY = (92, 512, 512), (38, 64, 64)


def _patient_row(tool: str, shape: tuple[int, int, int], aim: float | None, finding: bool = False) -> Row:
    script = f"{'masks' if tool == 'rt_utils' else 'dicom'}_{tool}.py"
    size = f"{shape[2]} x {shape[1]} x {shape[0]}"
    what = f"DICOM-RT patient, {size}" if shape == CLINICAL else f"DICOM-RT patient of {shape[0] + 3} tiny files"
    return Row(
        f"{what}{', finding its files too' if finding else ''}",
        tool.replace("_", "-"),
        "dicom",
        aim,
        partial(_dicom, script, lambda inputs: inputs.patient(shape), PATIENT, finding=finding),
        partial(_synthetic, shape),
    )


def _eclipse_row(tool: str, aim: float | None) -> Row:
    return Row(
        "DICOM-RT patient of a planning system",
        tool,
        "dicom",
        aim,
        partial(_dicom, f"dicom_{tool}.py", _eclipse, ECLIPSE),
        _of_eclipse,
        lambda inputs: inputs.eclipse is not None,
    )


def _step_row(profile: str, arch: str, tool: str, aim: float) -> Row:
    script = {"nnU-Net": "step_nnunet.py", "MONAI": "step_monai.py"}[tool]
    return Row(
        f"a training step of {arch.upper()}, fp32, `{profile}`, a multiply-accumulate",
        tool,
        "networks",
        aim,
        partial(_step, profile, arch, script),
        lambda ours, theirs, _: checks.losses(ours, theirs),
    )


ROWS: dict[str, Row] = {
    "patient-platipy": _patient_row("platipy", CLINICAL, 0.11),
    "patient-finding": _patient_row("platipy", CLINICAL, None, finding=True),
    "patient-dcmrtstruct2nii": _patient_row("dcmrtstruct2nii", CLINICAL, 0.12),
    "patient-rt-utils": _patient_row("rt_utils", CLINICAL, None),
    "tiny-platipy": _patient_row("platipy", TINY, 1.5),
    "eclipse-platipy": _eclipse_row("platipy", 0.09),
    "eclipse-dcmrtstruct2nii": _eclipse_row("dcmrtstruct2nii", None),
    "step-smoke-nnunet": _step_row("smoke", "hps", "nnU-Net", 0.4),
    "step-smoke-monai": _step_row("smoke", "hps", "MONAI", 0.4),
    "step-smoke-ctan": _step_row("smoke", "ctan", "nnU-Net", 0.4),
    "step-cpu-nnunet": _step_row("cpu", "hps", "nnU-Net", 0.55),
    "step-cpu-monai": _step_row("cpu", "hps", "MONAI", 0.55),
    "case-blosc2": Row(
        "a prepared case, 96 x 128 x 128",
        "nnU-Net's blosc2",
        "networks",
        None,
        _case,
        lambda ours, theirs, inputs: f"{checks.equal(ours, theirs)}; {_bytes(inputs)}",
    ),
    "volume-monai": Row(
        "a volume of 96 x 128 x 128 predicted, fp32",
        "MONAI's windows of 96^3",
        "ctan",
        0.11,
        _volume,
        lambda ours, theirs, _: checks.volumes(ours, theirs),
    ),
    "help-nnunet": Row("`ctan --help`", "nnUNetv2_train --help", "networks", None, _help),
}


def _bytes(inputs: Inputs) -> str:
    """Say how many bytes the case takes on both sides."""
    import pyarrow.parquet as pq

    store = inputs.folder / "store"
    ours, theirs = (
        sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        for folder in (store / "shards" / "working", inputs.folder / "blosc2")
    )
    ours /= pq.read_metadata(store / "manifest.parquet").num_rows
    return f"the working grid of the store has {ours / 1e6:.2f} MB a case, blosc2 {theirs / 1e6:.2f} MB"
