"""A patient in DICOM-RT, read by ctan: de-identified, checked, CT, masks and dose on one grid."""

import json
import os
import sys
from pathlib import Path

from serve import serve

from ctan.cases.volumes import from_case_axes
from ctan.config import DataConfig
from ctan.datasets import get_dataset
from ctan.memory import keep_freed_memory

IDENTITY = (1, 0, 0, 0, 1, 0, 0, 0, 1)

folder, finding, options = sys.argv[1], sys.argv[2] == "finding", json.loads(sys.argv[3])
os.environ.setdefault("CTAN_DEID_KEY", "a key of a benchmark, not a secret")
keep_freed_memory()
dataset = get_dataset(DataConfig.model_validate({"dataset": "prostate", "options": options}))
(found,) = dataset.find(Path(folder))


def read():
    """Read the patient, after finding its files where that is asked for."""
    return dataset.read(dataset.find(Path(folder))[0] if finding else found)


def arrays(case):
    """Return (z, y, x) arrays, as the other side has them."""
    given = {"ct": case.images["ct"].astype("float32") - 1024, "dose": case.doses["dose"]}
    given |= {f"mask {name}": mask for name, mask in case.masks.items()}
    return {name: from_case_axes(array, IDENTITY) for name, array in given.items()}


serve(read, arrays)
