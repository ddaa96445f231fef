#!/usr/bin/env bash
# pydicom 2.4.4 and 3.0.2 return other numbers for the same uncompressed picture when pixels hold bits above BitsStored.
#
# Behaviour: 16 bits allocated, 12 stored. pydicom 2 returns all 16 bits; pydicom 3 keeps the lowest 12 (and extends the
# sign from bit 11), so that 5000 becomes 904 and 4096 becomes 0. Neither warns, and pydicom 3 does so with `raw=True`,
# too. SimpleITK 2.5.7 agrees with pydicom 3. Old files may hold an overlay in the upper bits, where cutting is right;
# where a tool wrote a BitsStored too small for its values, cutting turns the brightest into the darkest.
# Where it matters: archives with such overlays, and CTs rescaled to more than 4096 levels with BitsStored left at 12. A
# histogram, a mean or the input of a network changes with the reader's major version. Count such pixels in `PixelData`
# itself, since no array that was decoded shows them.
#
# Run:     findings/pydicom-bits-beyond-stored.sh
# Exit:    0 as described; 1 when the behaviour has changed.
# Seen:
#   pydicom 2.4.4
#   unsigned pixel_array 2000 4096 5000 6000
#   signed   pixel_array 2000 4096 5000 6000
#   pydicom 3.0.2
#   unsigned pixel_array 2000 0 904 1904
#   unsigned raw=True    2000 0 904 1904
#   unsigned SimpleITK   2000 0 904 1904
#   signed   pixel_array 2000 0 904 1904
#   signed   raw=True    2000 0 904 1904
#   signed   SimpleITK   2000 0 904 1904
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/old"
"$folder/old/bin/pip" install --quiet pydicom==2.4.4 numpy==1.26.4
python3 -m venv "$folder/new"
"$folder/new/bin/pip" install --quiet pydicom==3.0.2 numpy==2.4.6 simpleitk==2.5.7
cat > "$folder/write.py" <<'PY'
import sys

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

for name, sign in (("unsigned", 0), ("signed", 1)):
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    picture = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    picture.SOPClassUID, picture.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    picture.StudyInstanceUID, picture.SeriesInstanceUID = generate_uid(), generate_uid()
    picture.Modality, picture.PatientName, picture.PatientID = "CT", "", ""
    picture.Rows, picture.Columns, picture.SamplesPerPixel = 1, 4, 1
    picture.PhotometricInterpretation, picture.PixelRepresentation = "MONOCHROME2", sign
    picture.BitsAllocated, picture.BitsStored, picture.HighBit = 16, 12, 11
    picture.ImagePositionPatient, picture.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    picture.PixelSpacing, picture.RescaleSlope, picture.RescaleIntercept = [1, 1], 1, 0
    picture.PixelData = np.array([2000, 4096, 5000, 6000], "<u2").tobytes()
    picture["PixelData"].VR = "OW"
    picture.save_as(f"{sys.argv[1]}/{name}.dcm", enforce_file_format=True)
PY
cat > "$folder/show.py" <<'PY'
import sys
import warnings

import pydicom

warnings.simplefilter("error")  # a warning would end this script
print("pydicom", pydicom.__version__)
old = pydicom.__version__ == "2.4.4"
whole, cut = [2000, 4096, 5000, 6000], {"unsigned": [2000, 0, 904, 1904], "signed": [2000, 0, 904, 1904]}
as_described = True
for name in ("unsigned", "signed"):
    path = f"{sys.argv[1]}/{name}.dcm"
    seen = {"pixel_array": pydicom.dcmread(path).pixel_array.ravel().tolist()}
    if not old:
        import SimpleITK as sitk
        from pydicom.pixels import pixel_array

        seen["raw=True"] = pixel_array(path, raw=True).ravel().tolist()
        seen["SimpleITK"] = sitk.GetArrayFromImage(sitk.ReadImage(path)).ravel().tolist()
    for reader, values in seen.items():
        print(f"{name:8} {reader:11}", *values)
        as_described &= values == (whole if old else cut[name])
print("as described" if as_described else "the behaviour has CHANGED")
sys.exit(not as_described)
PY
"$folder/new/bin/python" "$folder/write.py" "$folder"
"$folder/old/bin/python" "$folder/show.py" "$folder"
"$folder/new/bin/python" "$folder/show.py" "$folder"
