"""Where the voxels of a volume lie, and by how much two volumes differ in it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ctan.errors import DataError

if TYPE_CHECKING:
    import SimpleITK

MAX_MISFIT_MM = 0.1  # by which a header may contradict itself, or its axes fail to be at right angles, anywhere
VOXEL_TOLERANCE, DIRECTION_TOLERANCE = 1e-3, 1e-4  # of a voxel; of a direction cosine

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Grid:
    """A grid with axes at right angles, in mm along (left, posterior, superior).

    Attributes:
        shape: voxels along (x, y, z), the order of the file's header.
        spacing_mm: voxel edges along (x, y, z).
        direction: (3, 3) direction cosines, columns are the axes x, y, z.
        origin_mm: centre of the first voxel.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    direction: Matrix
    origin_mm: tuple[float, float, float]

    @property
    def affine(self) -> Matrix:
        """(3, 4) matrix from voxel numbers to mm."""
        return np.column_stack([self.direction * np.array(self.spacing_mm), self.origin_mm])

    @classmethod
    def of(cls, shape: tuple[int, int, int], affine: Matrix) -> Grid:
        """Return the grid of a matrix from voxel numbers to mm.

        Args:
            shape: voxels along (x, y, z).
            affine: (3, 4).

        Raises:
            DataError: when its axes are not at right angles, or one has no length.
        """
        if min(shape) < 2:
            raise DataError(f"expected at least 2 voxels along each axis, found {' x '.join(map(str, shape))}")
        spacing = np.linalg.norm(affine[:, :3], axis=0)
        if not np.all(np.isfinite(affine)) or spacing.min() <= 0:
            raise DataError(f"expected voxel edges that are positive, found {_numbers(spacing)} mm")
        left, _, right = np.linalg.svd(affine[:, :3] / spacing)
        direction = left @ right  # the nearest axes at right angles
        middle = (np.array(shape) - 1) / 2
        origin = affine[:, :3] @ middle + affine[:, 3] - direction * spacing @ middle
        grid = cls(shape, _triple(spacing), direction, _triple(origin))
        if (misfit := displacement_mm(shape, affine, grid.affine)) > MAX_MISFIT_MM:
            raise DataError(
                f"sheared: its axes are not at right angles, up to {misfit:.2g} mm off (allowed {MAX_MISFIT_MM:g} mm); "
                "resample it to a grid with right angles"
            )
        return grid

    @classmethod
    def of_image(cls, image: SimpleITK.Image) -> Grid:
        """Return the grid of a 3D SimpleITK image."""
        x, y, z = image.GetSize()
        direction = np.array(image.GetDirection()).reshape(3, 3)
        return cls.of((x, y, z), np.column_stack([direction * np.array(image.GetSpacing()), image.GetOrigin()]))

    def image(self, array: npt.NDArray[Any]) -> SimpleITK.Image:
        """Return a SimpleITK image of an array (z, y, x) on this grid."""
        import SimpleITK as sitk

        image = sitk.GetImageFromArray(array)
        image.SetSpacing(self.spacing_mm)
        image.SetDirection(tuple(float(value) for value in self.direction.ravel()))
        image.SetOrigin(self.origin_mm)
        return image


@dataclass(frozen=True)
class Volume:
    """A file that was read whole: (z, y, x) float32 values, where they lie, and the hash of its bytes."""

    values: npt.NDArray[np.float32]
    grid: Grid
    sha256: str


def displacement_mm(shape: tuple[int, int, int], one: Matrix, other: Matrix) -> float:
    """Return how far apart two (3, 4) matrices put a voxel at most; that is at one of the image's outer corners."""
    corners = np.array(list(product(*((-0.5, size - 0.5) for size in shape)))).T
    moved = (one[:, :3] - other[:, :3]) @ corners + (one[:, 3] - other[:, 3])[:, None]
    return float(np.linalg.norm(moved, axis=0).max())


def difference(expected: Grid, found: Grid, tolerance_mm: float = 0.0) -> str:
    """Say how a grid differs from the one it should be; "" when it does not.

    Equal are origins, and voxel edges added up along an axis, within 1e-3 of a voxel, and axes within 1e-4 in
    direction.

    Args:
        expected: the image's grid.
        found: the mask's, or that of another channel.
        tolerance_mm: grids of the same size pass too when no voxel is further off than this.
    """
    if expected.shape != found.shape:
        sizes = [" x ".join(map(str, grid.shape)) for grid in (found, expected)]
        return f"{sizes[0]} voxels instead of {sizes[1]}"
    edges, other_edges = np.array(expected.spacing_mm), np.array(found.spacing_mm)
    shift = np.array(found.origin_mm) - np.array(expected.origin_mm)
    stretch = np.abs(other_edges - edges) * (np.array(expected.shape) - 1)
    said = []
    if np.any(np.abs(expected.direction.T @ shift) > VOXEL_TOLERANCE * edges):
        said.append(f"the origin is off by {_numbers(shift)} mm (left, posterior, superior)")
    if np.any(stretch > VOXEL_TOLERANCE * edges):
        said.append(f"voxels of {_numbers(other_edges)} mm instead of {_numbers(edges)} mm")
    if (turn := float(np.abs(found.direction - expected.direction).max())) > DIRECTION_TOLERANCE:
        said.append(f"axes turned, direction cosines off by {turn:.2g}")
    if not said:
        return ""
    furthest = displacement_mm(expected.shape, expected.affine, found.affine)
    return "" if furthest <= tolerance_mm else f"{'; '.join(said)}: up to {furthest:.3g} mm apart"


def turned_like(grid: Grid, values: npt.NDArray[Any], own: Grid) -> tuple[npt.NDArray[Any], Grid]:
    """Return a volume with axes exchanged and reversed so that they run as those of another grid, nearly or exactly.

    Args:
        grid: whose axes.
        values: (z, y, x).
        own: their grid.
    """
    import SimpleITK as sitk

    direction = [float(value) for value in grid.direction.ravel()]
    nearest = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(direction)
    image = sitk.DICOMOrient(own.image(values), nearest)
    return sitk.GetArrayFromImage(image), Grid.of_image(image)


def _triple(values: Matrix) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z


def _numbers(values: Matrix) -> str:
    return f"({', '.join(f'{value:.4g}' for value in values)})"
