#!/usr/bin/env bash
# SimpleITK 2.5.7: `HausdorffDistanceImageFilter.GetAverageHausdorffDistance` averages over all voxels of a structure,
# not over its surface, so that it falls with the structure's size while the error stays the same.
#
# Behaviour: a cube against the same cube moved by 2 mm. The mean distance between the surfaces is about 0.7 mm for each
# size. The filter's average is 0.5 mm for a cube of 6 mm and 0.05 mm for one of 60 mm, because each voxel inside both
# counts as 0: it equals the mean distance of every voxel of one structure to the other. The maximum is right.
# Where it matters: tables of "average (Hausdorff) surface distance". A lung looks ten times better than an optic nerve
# with the same shift, numbers of two papers or of two tools cannot be compared, and a limit in mm set for one organ
# passes anything for a larger one. After `LabelContour` of both masks the average is that of the surface.
#
# Run:     findings/itk-average-hausdorff.sh
# Exit:    0 as described; 1 when the behaviour has changed.
# Seen:
#   SimpleITK 2.5.7
#   cube of  6 mm: maximum 2.000, average 0.500, of contours 0.737; mean over all voxels 0.500, over the surface 0.737
#   cube of 20 mm: maximum 2.000, average 0.150, of contours 0.672; mean over all voxels 0.150, over the surface 0.672
#   cube of 60 mm: maximum 2.000, average 0.050, of contours 0.667; mean over all voxels 0.050, over the surface 0.667
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet simpleitk==2.5.7 scipy==1.17.1 numpy==2.4.6
cat > "$folder/show.py" <<'PY'
import sys

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import binary_erosion, distance_transform_edt

print("SimpleITK", sitk.Version.VersionString())


def mean_distance(points, others):
    """Return the mean distance of the voxels of one mask to the nearest voxel of another; 1 mm voxels."""
    return distance_transform_edt(~others)[points].mean()


def surface(mask):
    """Return the voxels of a mask that have a face to the outside."""
    return mask & ~binary_erosion(mask)


def itk(first, second):
    """Return the maximum and the average as SimpleITK gives them, and the average of the contours."""
    judge = sitk.HausdorffDistanceImageFilter()
    judge.Execute(*(sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in (first, second)))
    largest, average = judge.GetHausdorffDistance(), judge.GetAverageHausdorffDistance()
    judge.Execute(*(sitk.LabelContour(sitk.GetImageFromArray(mask.astype(np.uint8))) for mask in (first, second)))
    return largest, average, judge.GetAverageHausdorffDistance()


as_described = True
for size in (6, 20, 60):
    first = np.zeros((size + 20,) * 3, bool)
    first[(slice(10, 10 + size),) * 3] = True
    second = np.roll(first, 2, axis=0)
    largest, average, contours = itk(first, second)
    voxels = max(mean_distance(first, second), mean_distance(second, first))
    surfaces = max(mean_distance(surface(first), surface(second)), mean_distance(surface(second), surface(first)))
    print(
        f"cube of {size:2} mm: maximum {largest:.3f}, average {average:.3f}, of contours {contours:.3f}; "
        f"mean over all voxels {voxels:.3f}, over the surface {surfaces:.3f}"
    )
    as_described &= largest == 2 and np.isclose(average, 3 / size) and np.isclose(voxels, average) and surfaces > 0.6
    as_described &= 0.6 < contours <= surfaces + 1e-9
print("as described" if as_described else "the behaviour has CHANGED")
sys.exit(not as_described)
PY
"$folder/venv/bin/python" "$folder/show.py" || exit 1
