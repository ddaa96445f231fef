"""The same arrays as nnU-Net keeps them: float32 data and a segmentation in blosc2, packed with its own settings.

python case_blosc2.py ARRAYS.npz FOLDER
"""

import shutil
import sys
from pathlib import Path

import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from serve import serve

given, folder = dict(np.load(sys.argv[1])), Path(sys.argv[2])
shutil.rmtree(folder, ignore_errors=True)  # blosc2 writes over nothing
folder.mkdir()
images = np.stack([given[name].astype(np.float32) for name in ("image", "dose")])
shape = [1, *images.shape[1:]]
nnUNetDatasetBlosc2.save_case(
    images, given["masks"].astype(np.int16), {}, str(folder / "case"), chunks=shape, blocks=shape
)
dataset = nnUNetDatasetBlosc2(str(folder), ["case"])


def read():
    """Read a case whole."""
    data, masks, _, _ = dataset["case"]
    return data[:], masks[:]


def arrays(found):
    """Return what the other side has."""
    return {"image": found[0][0], "dose": found[0][1], "masks": found[1]}


serve(read, arrays, lambda: {"bytes": sum(path.stat().st_size for path in folder.iterdir())})
