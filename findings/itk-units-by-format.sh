#!/usr/bin/env bash
# SimpleITK 2.5.7 obeys the unit of length of a NIfTI file and ignores that of NRRD and MetaImage.
#
# Behaviour: three files say that voxels measure 1 x 1 x 3 mm: NIfTI in metres, NRRD (`space units: "cm" "cm" "cm"`) and
# MetaImage (`DistanceUnits = cm`) in centimetres. NIfTI is read as 1 x 1 x 3; the others as 0.1 x 0.1 x 0.3, without a
# warning. A copy written as NIfTI then declares these numbers as mm. MetaImage's unit at least stays in the metadata
# (`ITK_VoxelUnits`); of NRRD's nothing is left.
# Where it matters: specimens, microscopes, small animals (micrometres, centimetres). With cm, volumes are off by a
# factor of 1000, and resampling to a spacing in mm leaves a few voxels, while the same scan as NIfTI is right.
#
# Run:     findings/itk-units-by-format.sh
# Exit:    0 as described; 1 when the behaviour has changed.
# Seen:
#   SimpleITK 2.5.7
#   a.nii : spacing [1.0, 1.0, 3.0], in the metadata nothing, a copy as NIfTI says mm
#   a.nrrd: spacing [0.1, 0.1, 0.3], in the metadata nothing, a copy as NIfTI says mm
#   a.mha : spacing [0.1, 0.1, 0.3], in the metadata cm, a copy as NIfTI says mm
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet simpleitk==2.5.7 pynrrd==1.1.3 nibabel==5.4.2 numpy==2.4.6
cat > "$folder/show.py" <<'PY'
import os
import sys

import nibabel
import nrrd
import numpy as np
import SimpleITK as sitk

print("SimpleITK", sitk.Version.VersionString())
os.chdir(sys.argv[1])
voxels = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)

image = nibabel.Nifti1Image(voxels, np.diag([-0.001, -0.001, 0.003, 1]))
image.header.set_xyzt_units("meter")
nibabel.save(image, "a.nii")
nrrd.write(
    "a.nrrd",
    voxels,
    {
        "space": "left-posterior-superior",
        "space directions": np.diag([0.1, 0.1, 0.3]),
        "space origin": [0.0, 0.0, 0.0],
        "space units": ["cm", "cm", "cm"],
    },
)
header = (
    "ObjectType = Image\nNDims = 3\nDistanceUnits = cm\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
    "ElementSpacing = 0.1 0.1 0.3\nDimSize = 3 4 5\nElementType = MET_UCHAR\nElementDataFile = LOCAL\n"
)
with open("a.mha", "wb") as file:
    file.write(header.encode() + voxels.tobytes(order="F"))

as_described = True
for name, expected in (("a.nii", (1, 1, 3)), ("a.nrrd", (0.1, 0.1, 0.3)), ("a.mha", (0.1, 0.1, 0.3))):
    read = sitk.ReadImage(name)
    sitk.WriteImage(read, "copy.nii")
    copy = nibabel.load("copy.nii").header
    spacing, unit = np.round(read.GetSpacing(), 6).tolist(), copy.get_xyzt_units()[0]
    kept = read.GetMetaData("ITK_VoxelUnits") if read.HasMetaDataKey("ITK_VoxelUnits") else "nothing"
    print(f"{name:6}: spacing {spacing}, in the metadata {kept}, a copy as NIfTI says {unit}")
    as_described &= np.allclose(spacing, expected) and unit == "mm" and np.allclose(copy.get_zooms(), expected)
    as_described &= kept == {"a.mha": "cm", "a.nrrd": "nothing"}.get(name, kept)
print("as described" if as_described else "the behaviour has CHANGED")
sys.exit(not as_described)
PY
"$folder/venv/bin/python" "$folder/show.py" "$folder" || exit 1
