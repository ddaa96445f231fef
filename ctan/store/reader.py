"""Reading a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ctan.cases import SPLIT_TEST, DataSpec, StoredCase
from ctan.cases import geometry as geo
from ctan.cases.covered import Covered
from ctan.errors import CaseError, DataError
from ctan.seals import SEAL
from ctan.sources.buckets import is_remote
from ctan.store.chunks import ChunkReader
from ctan.store.description import KINDS, REBUILD, check_tables, find_damage, read_description, shards_of
from ctan.store.layout import STORE_FILE, Layout, unpack_masks
from ctan.store.manifest import MANIFEST_FILE, read_manifest
from ctan.store.pointer import StorePointer
from ctan.store.remote import fetch
from ctan.store.shelf import Shelf, files_in

if TYPE_CHECKING:
    from ctan.cases import Case


class Store:
    """A complete store, opened for reading. Can be sent to worker processes.

    Attributes:
        pointer: names the store.
        manifest: one row a case (pyarrow Table).
        versions: of the code that made it, see `ctan.versions.of_store`.
        spec: the description of the data; masks are in the order of `spec.structures`.
    """

    def __init__(self, pointer: StorePointer, manifest: pa.Table, description: dict[str, Any]) -> None:
        self.pointer, self.manifest = pointer, manifest
        self.versions: dict[str, int] = description["versions"]
        self.spec = DataSpec.from_json(description["spec"], str(pointer.folder / STORE_FILE), REBUILD)
        self._rows: dict[str, dict[str, Any]] = {row["case_id"]: row for row in manifest.to_pylist()}
        self._layout = Layout.from_json(description["layout"])
        self._shelf = Shelf(pointer.store_root).folder
        self._chunks = ChunkReader(self._shelf, self._layout, shards_of(description))
        self._entries: dict[str, dict[str, Any]] = {entry["case_id"]: entry for entry in description["cases"]}

    def case_ids(self, split: str | None = None, fold: int | None = None, not_fold: int | None = None) -> list[str]:
        """List cases in the order of the manifest.

        Args:
            split: only of this split.
            fold: only of this fold.
            not_fold: only outside this fold.
        """
        return [
            case_id
            for case_id, row in self._rows.items()
            if (split is None or row["split"] == split)
            and (fold is None or row["fold"] == fold)
            and (not_fold is None or row["fold"] != not_fold)
        ]

    @property
    def is_sealed(self) -> bool:
        """Whether it holds test cases, which are packed apart from all others."""
        return bool(self.case_ids(split=SPLIT_TEST))

    def group_id(self, case_id: str) -> str:
        """Return the patient or lesion of a case."""
        return str(self._row(case_id)["group_id"])

    def labels(self, case_ids: Sequence[str]) -> list[Mapping[str, str]]:
        """Return the image-level labels of cases, name -> class; those that are not known have no entry."""
        return [self._entries[case_id]["labels"] for case_id in case_ids]

    def numbers(self, case_ids: Sequence[str]) -> list[Mapping[str, float]]:
        """Return the image-level numbers of cases by name; those that are not known have no entry."""
        return [self._entries[case_id].get("numbers", {}) for case_id in case_ids]

    def geometry(self, case_id: str) -> geo.Geometry:
        """Return where the working grid of a case lies on its native grid.

        Raises:
            DataError: when the store has no such case.
        """
        self._row(case_id)
        return geo.Geometry.from_json(self._entries[case_id]["geometry"])

    def load(self, case_id: str, arrays: bool = True) -> StoredCase:
        """Read a case on the working grid.

        Args:
            case_id: which.
            arrays: False to know only what is beside the image, without reading it: `image` and arrays are empty.

        Raises:
            DataError: when the store has no such case.
            CaseError: when its bytes are damaged.
        """
        row, geometry, layout = self._row(case_id), self.geometry(case_id), self._layout
        entry, empty = self._entries[case_id], np.zeros(0, bool)
        masks = self._masks("working/masks", case_id, geometry.shape) if arrays else empty
        dose, distance = empty.astype(np.float32), empty.astype(np.int8)
        possible = known = empty
        if layout.has_dose and arrays:
            dose = self._read("working/dose", case_id) * np.float32(entry["dose_step_gy"])
            distance = self._read("working/target_distance", case_id)
            possible, known = masks[-2:]
        return StoredCase(
            case_id=case_id,
            group_id=row["group_id"],
            split=row["split"],
            fold=row["fold"],
            image={layout.image: self._read(f"working/{layout.image}", case_id)} if arrays else {},
            masks=masks[: len(self.spec.structures)],
            known=np.array([name not in row["missing"] for name in self.spec.structures], bool),
            dose=dose,
            possible_dose=possible,
            dose_known=known,
            target_distance=distance,
            spacing_mm=geometry.spacing_mm,
            labels=entry["labels"],
            prescription_gy=entry.get("prescription_gy", 1.0),
            numbers=entry.get("numbers", {}),
            levels_gy=entry.get("levels_gy", {}),
        )

    def reference(self, case_id: str, arrays: bool = True) -> Case:
        """Read a case at native resolution, exactly as its raw files say, to score against.

        Where the data set keeps no native images the case is that of the working grid.

        Args:
            case_id: which.
            arrays: False to know only what is beside the image, without reading it: `images`, `masks` and `doses` are
                empty.

        Raises:
            DataError: when the store has no such case.
            CaseError: when its bytes are damaged.
        """
        from ctan.cases import Case

        row, geometry, layout = self._row(case_id), self.geometry(case_id), self._layout
        kind, shape, spacing_mm = "native", geometry.native_shape, geometry.native_spacing_mm
        if not layout.keeps_native:
            kind, shape, spacing_mm = "working", geometry.shape, geometry.spacing_mm
        images: dict[str, npt.NDArray[Any]] = {}
        masks: dict[str, npt.NDArray[np.bool_]] = {}
        doses: dict[str, npt.NDArray[np.float32]] = {}
        if arrays:
            inside: tuple[Any, ...] = tuple(slice(size) for size in shape)
            image = self._read(f"{kind}/{layout.image}", case_id)
            images = {layout.image: image[(Ellipsis, *inside)]}
            found = self._masks(f"{kind}/masks", case_id, image.shape[-len(shape) :])[(slice(None), *inside)]
            masks = {n: m for n, m in zip(layout.masks, found, strict=True) if n not in row["missing"]}
            doses = {"dose": self._read(f"{kind}/dose", case_id)[inside]} if layout.has_dose else {}
        return Case(
            case_id=case_id,
            group_id=row["group_id"],
            split=row["split"],
            spacing_mm=spacing_mm,
            images=images,
            masks=masks,
            doses=doses,
            sha256=row["sha256"],
            labels=self._entries[case_id]["labels"],
            numbers=self._entries[case_id].get("numbers", {}),
            facts=self._facts(case_id),
            levels_gy=self._entries[case_id].get("levels_gy", {}),
            covered=self._covered(case_id) if arrays else {},
        )

    def _covered(self, case_id: str) -> dict[str, Covered]:
        """Return where outlines run through voxels, of structures that were read from contours."""
        entry = self._entries[case_id].get("covered")
        if not entry:
            return {}
        voxels = self._read("native/covered_voxels", case_id).astype(np.int64)
        points = self._read("native/covered_points", case_id)
        ends = np.cumsum([number for _, _, number in entry])
        return {
            name: Covered(voxels[end - number : end], points[end - number : end], axis)
            for (name, axis, number), end in zip(entry, ends, strict=True)
        }

    def _facts(self, case_id: str) -> dict[str, str | float]:
        """Return what the manifest knows of a case beyond its image: age, sex, prescription."""
        row, entry = self._rows[case_id], self._entries[case_id]
        facts = {name: row[name] for name in self.spec.facts if row[name] is not None}
        return facts | ({"prescription_gy": entry["prescription_gy"]} if "prescription_gy" in entry else {})

    def _masks(self, name: str, case_id: str, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
        if not self._layout.masks:
            return np.zeros((0, *shape), bool)
        return unpack_masks(self._read(name, case_id), shape)

    def to_native(self, case_id: str, array: npt.NDArray[Any], pad_value: float) -> npt.NDArray[np.float32]:
        """Bring a prediction from the working grid to the native grid of a case.

        Args:
            case_id: whose grids.
            array: (..., D, H, W) on the working grid.
            pad_value: value outside the working grid.

        Returns:
            (..., native D, H, W) float32: pasted when nothing was resampled, else interpolated linearly
            (`align_corners=False`).

        Raises:
            DataError: when the store has no such case or the array is not on its working grid.
        """
        geometry = self.geometry(case_id)
        if array.shape[-len(geometry.shape) :] != geometry.shape:
            raise DataError(
                f"{case_id}: expected an array on the working grid {geometry.shape}, found shape {array.shape}"
            )
        return geo.to_native(array.astype(np.float32, copy=False), geometry, pad_value)

    def _row(self, case_id: str) -> dict[str, Any]:
        if case_id not in self._rows:
            some = ", ".join(list(self._rows)[:5])
            raise DataError(
                f"{case_id!r}: not in store {self.pointer.key}, which holds {len(self._rows)} cases: {some}, ..."
            )
        return self._rows[case_id]

    def _read(self, name: str, case_id: str) -> npt.NDArray[Any]:
        """Return one case of one array; bytes that cannot be read or decoded are named by their case."""
        try:
            return self._chunks.read(name, case_id)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            advice = f"delete that file and {REBUILD}"
            raise CaseError(case_id, f"{name} in {self._shelf} is damaged ({error}); {advice}") from error


def open_store(pointer: StorePointer, kinds: Sequence[str] = KINDS) -> Store:
    """Open the store a pointer names; one in object storage is copied here first.

    Args:
        pointer: names the store.
        kinds: which arrays are needed: `("working",)` for a training, which then copies no native images.

    Raises:
        DataError: when it does not exist, is incomplete, or was written in another format.
    """
    if is_remote(pointer.store_root):
        fetch(pointer, kinds)
    description = read_description(pointer.folder)
    if pointer.store_sha256 not in ("", description[SEAL]):
        raise DataError(
            f"{pointer.folder}/{STORE_FILE}: not the store that the pointer names (its hash differs); "
            f"run `ctan data preprocess` again"
        )
    manifest = read_manifest(pointer.folder / MANIFEST_FILE)
    if manifest["case_id"].to_pylist() != [entry["case_id"] for entry in description["cases"]]:
        raise DataError(f"{pointer.folder}: manifest and {STORE_FILE} list different cases; {REBUILD}")
    check_tables(pointer.folder, description)
    shelf = Shelf(pointer.store_root).folder
    if damage := find_damage(files_in(shelf), description, kinds):
        raise DataError(f"{shelf}/{damage}; {REBUILD}")
    store = Store(pointer, manifest, description)
    if pointer.spec_hash and store.spec.sha256 != pointer.spec_hash:
        raise DataError(
            f"{pointer.folder}: holds other data than the pointer names (their description differs); {REBUILD}"
        )
    return store
