#!/usr/bin/env bash
# scikit-image 0.26.0: the outline of a mask by `find_contours(mask, 0.5)` cuts every corner, and a voxel that touches
# others by its corners only is outlined as a diamond over exactly half of it.
#
# Behaviour: the lines run through the middle between a voxel inside and one outside, so that each convex corner loses
# an eighth of a voxel: a rectangle has the area of its voxels minus one half, however large it is. One voxel alone, and
# each voxel of a diagonal line (`fully_connected="low"`, the default), keeps 0.5 of its area. A reader that asks for
# *more* than half of a voxel finds nothing there, one that asks for the voxel's centre finds everything.
# Where it matters: masks written as RTSTRUCT contours this way. Thin oblique structures (optic nerves, vessels, tips of
# an organ in the last slice) have half their volume by the polygon's area, all or nothing by the reader's rule, while
# a Dice score of large organs shows no difference.
#
# Run:     findings/find-contours-cuts-corners.sh
# Exit:    0 as described; 1 when the behaviour has changed.
# Seen:
#   scikit-image 0.26.0
#   one voxel  :   1 voxels, area  0.50, smallest share 0.500, found by more than half   0, by centre   1
#   10 in a row:  10 voxels, area  9.50, smallest share 0.750, found by more than half  10, by centre  10
#   10 diagonal:  10 voxels, area  5.00, smallest share 0.500, found by more than half   0, by centre  10
#   10 x 10    : 100 voxels, area 99.50, smallest share 0.875, found by more than half 100, by centre 100
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet scikit-image==0.26.0 numpy==2.4.6 shapely==2.1.2
cat > "$folder/show.py" <<'PY'
import sys

import numpy as np
import skimage
from shapely import Point, Polygon, box, union_all
from skimage.measure import find_contours

print("scikit-image", skimage.__version__)
masks = {
    "one voxel": np.ones((1, 1)),
    "10 in a row": np.ones((1, 10)),
    "10 diagonal": np.eye(10),
    "10 x 10": np.ones((10, 10)),
}
expected = {  # area, voxels found by more than half and by centre
    "one voxel": (0.5, 0, 1),
    "10 in a row": (9.5, 10, 10),
    "10 diagonal": (5, 0, 10),
    "10 x 10": (99.5, 100, 100),
}
as_described = True
for name, mask in masks.items():
    inside = union_all([Polygon(outline) for outline in find_contours(np.pad(mask, 1), 0.5)])
    voxels = [(row + 1, column + 1) for row, column in np.argwhere(mask)]
    shares = [inside.intersection(box(row - 0.5, column - 0.5, row + 0.5, column + 0.5)).area for row, column in voxels]
    more_than_half = sum(share > 0.5 + 1e-9 for share in shares)
    centres = sum(inside.contains(Point(voxel)) for voxel in voxels)
    print(
        f"{name:11}: {len(voxels):3} voxels, area {inside.area:5.2f}, smallest share {min(shares):.3f}, "
        f"found by more than half {more_than_half:3}, by centre {centres:3}"
    )
    as_described &= np.allclose((inside.area, more_than_half, centres), expected[name])
print("as described" if as_described else "the behaviour has CHANGED")
sys.exit(not as_described)
PY
"$folder/venv/bin/python" "$folder/show.py" || exit 1
