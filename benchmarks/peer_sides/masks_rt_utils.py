"""The masks of the same patient alone, by rt-utils."""

import sys
import warnings

from rt_utils import RTStructBuilder
from serve import serve

warnings.simplefilter("ignore")
images, structures = sys.argv[1], sys.argv[2]


def read():
    """Read the structure set and rasterise every ROI."""
    found = RTStructBuilder.create_from(dicom_series_path=images, rt_struct_path=structures)
    return {name: found.get_roi_mask_by_name(name) for name in found.get_roi_names()}


serve(read, lambda found: {f"mask {name}": mask.transpose(2, 0, 1) for name, mask in found.items()})
