"""Phantom patients in a folder each, with defects planted on request."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ctan.datasets.prostate.defects import DEFECTS
from ctan.datasets.prostate.phantom import make_patient, write_patient
from ctan.errors import ConfigError, DataError


def write_prostate_phantoms(
    output_dir: Path, num_train: int, num_validation: int, seed: int, defects: Sequence[str] = ()
) -> None:
    """Write synthetic patients, a folder each: `patient_001`...

    Args:
        output_dir: receives the folders.
        num_train, num_validation: added up; the data set has no official split.
        seed: the same seed gives the same bytes; a patient's bytes depend on the seed, its number and its defect only.
        defects: names of `ctan.datasets.prostate.defects.DEFECTS`; the first is planted in the first patient...

    Raises:
        ConfigError: for an unknown defect, or more defects than patients.
        DataError: when a patient's folder exists already.
    """
    unknown = [name for name in defects if name not in DEFECTS]
    if unknown:
        raise ConfigError(f"defects: unknown {', '.join(map(repr, unknown))}; known: {', '.join(sorted(DEFECTS))}")
    num_patients = num_train + num_validation
    if len(defects) > num_patients:
        raise ConfigError(f"defects: {len(defects)} need as many patients, found {num_patients}")
    for number in range(1, num_patients + 1):
        folder = output_dir / f"patient_{number:03d}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError as error:
            raise DataError(f"{folder.name}: exists already; phantoms are written to a new folder only") from error
        patient = make_patient(seed, number)
        write_patient(patient, folder)
        if number <= len(defects):
            DEFECTS[defects[number - 1]].plant(patient, folder)
