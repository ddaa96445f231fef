"""The same patient, converted by dcmrtstruct2nii: CT and a mask for every ROI as NIfTI, not compressed; no dose."""

import logging
import sys
import tempfile
from pathlib import Path

import SimpleITK as sitk
from dcmrtstruct2nii import dcmrtstruct2nii
from serve import serve

sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
logging.disable(logging.CRITICAL)
images, structures = sys.argv[1], sys.argv[2]
folder = tempfile.TemporaryDirectory()


def convert():
    """Convert the patient, and read what was written."""
    dcmrtstruct2nii(structures, images, folder.name, gzip=False)
    return {path.name.removesuffix(".nii"): sitk.ReadImage(str(path)) for path in Path(folder.name).glob("*.nii")}


def arrays(found):
    """Return CT and masks, (z, y, x)."""
    named = {"ct" if name == "image" else name.replace("mask_", "mask ", 1): one for name, one in found.items()}
    return {name: sitk.GetArrayFromImage(one) for name, one in named.items()}


serve(convert, arrays)
