"""How a folder that describes itself is read."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ctan.config import Settings
from ctan.datasets.folder.description import FolderDescription


class FolderOptions(Settings):
    """What a folder means, and how strictly it is read."""

    description: FolderDescription | None = Field(None, description="dataset.yaml as it was read; the source brings it")
    geometry_tolerance_mm: float = Field(
        0.0, ge=0, description="masks (and channels) of the image's size may lie this far off; 0: 1e-3 of a voxel"
    )
    nifti_matrix: Literal["refuse", "qform", "sform"] = Field(
        "refuse", description="which matrix of a NIfTI counts where the two differ by more than 0.1 mm"
    )
