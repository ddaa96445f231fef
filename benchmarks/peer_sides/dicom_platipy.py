"""The same patient, read by platipy: CT, a mask for every ROI, and the dose resampled to the CT by SimpleITK."""

import sys
from pathlib import Path

import pydicom
import SimpleITK as sitk
from platipy.dicom.io.rtdose_to_nifti import convert_rtdose
from platipy.dicom.io.rtstruct_to_nifti import read_dicom_image, transform_point_set_from_dicom_struct
from serve import serve

sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
images, structures, dose = Path(sys.argv[1]), sys.argv[2], sys.argv[3]


def read():
    """Read the patient."""
    image = read_dicom_image(images)
    masks, names = transform_point_set_from_dicom_struct(image, pydicom.dcmread(structures, force=True))
    grid = sitk.Resample(convert_rtdose(dose), image, sitk.Transform(), sitk.sitkLinear, 0.0, sitk.sitkFloat32)
    found = {"ct": image, "dose": grid} | {f"mask {name}": mask for name, mask in zip(names, masks, strict=True)}
    return {name: sitk.GetArrayFromImage(one) for name, one in found.items()}


serve(read, lambda found: found)
