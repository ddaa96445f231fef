"""Synthetic STOIC patients: raw files in exactly that format, small, the same bytes wherever they are written.

A phantom is a thorax with lungs, heart, airways, spine and ribs. COVID-19 shows as ground-glass patches in both lungs,
near the pleura and more at the back and the base. Patients who fall severely ill have more of it, and are older, but
the two groups overlap. Patients without COVID-19 often have something else: consolidation of a lobe, a nodule, an
effusion, or the central ground-glass of an oedema, so that opacity alone does not make the diagnosis.

Six of ten patients have COVID-19, half of them severe, more than in the data set, so that few cases hold every class.
Everything is computed with additions, products and quotients, which round alike on every platform; compressed voxels
are a zlib stream of stored blocks, which no version of zlib writes differently.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ctan.datasets.stoic.format import COLUMNS, IMAGES, REFERENCE
from ctan.errors import ConfigError, DataError

Mask = npt.NDArray[np.bool_]
Volume = npt.NDArray[np.float64]

_SHAPE = (32, 44, 60)  # (z, y, x): superior, posterior, left
_IN_PLANE_MM, _SLICE_MM = (5.4, 6.0), (6.4, 7.2)
_NOMINAL_MM = (6.8, 5.7, 5.7)  # anatomy scales with the voxels
# Of ten patients in a row: whether they have COVID-19, and severely.
_COURSES = ("mild", "", "severe", "", "mild", "severe", "", "mild", "severe", "")
_EXTENT = {"mild": (0.04, 0.36), "severe": (0.18, 0.6)}  # share of the lungs that is affected
_DECADES = {"mild": (0, 5), "severe": (2, 6), "": (0, 6)}  # of 35, 45, ... 85 years: first, last + 1
_FINDINGS = ("none", "consolidation", "nodule", "effusion", "oedema")  # of patients without COVID-19
_AIR, _FAT, _MUSCLE, _BLOOD, _BONE, _FLUID, _LUNG = -1000, -95, 45, 40, 420, 12, -860  # HU
_GROUND_GLASS, _CONSOLIDATION = -560, -40
_NOISE = 24  # HU


@dataclass(frozen=True)
class _Patient:
    """One scan and its row. `row` and `fields` are as written; voxels are HU, (z, y, x)."""

    number: int
    rows: tuple[tuple[str, ...], ...]
    fields: Mapping[str, str]
    voxels: npt.NDArray[np.int16]
    compressed: bool = True


def write_stoic_phantoms(
    output_dir: Path, num_train: int, num_validation: int, seed: int, defects: Sequence[str] = ()
) -> None:
    """Write synthetic patients in the raw format of STOIC, see `ctan.datasets.stoic.reader`.

    Args:
        output_dir: receives `data/mha/<number>.mha` and `metadata/reference.csv`.
        num_train: patients, together with `num_validation`: there is no official split.
        num_validation: see `num_train`.
        seed: the same seed gives the same bytes; a patient's bytes depend on the seed and its number only.
        defects: names of `DEFECTS`; the first spoils the last patient, the second the one before, and so on.

    Raises:
        ConfigError: when a defect is unknown, or there are more than patients.
        DataError: when the patients' folder exists already.
    """
    num_patients = num_train + num_validation
    unknown = [name for name in defects if name not in DEFECTS]
    if unknown:
        raise ConfigError(f"defects: unknown {', '.join(unknown)}; allowed: {', '.join(DEFECTS)}")
    if len(defects) > num_patients:
        raise ConfigError(f"defects: {len(defects)} defects need as many patients, found {num_patients}")
    folder = output_dir / IMAGES
    try:
        folder.mkdir(parents=True)
    except FileExistsError as error:
        raise DataError(f"{folder}: exists already; phantoms are written to a new folder only") from error
    defect_of = {num_patients - place: name for place, name in enumerate(defects)}
    lines = [",".join(COLUMNS)]
    for number in range(1, num_patients + 1):
        patient = _make(number, np.random.default_rng([seed, number]))
        spoil_patient, spoil_file = DEFECTS[defect_of[number]] if number in defect_of else (None, None)
        patient = spoil_patient(patient) if spoil_patient else patient
        content = spoil_file(_file(patient)) if spoil_file else _file(patient)
        if content:
            (folder / f"{number}.mha").write_bytes(content)
        lines += [",".join(row) for row in patient.rows]
    (output_dir / REFERENCE).parent.mkdir(exist_ok=True)
    (output_dir / REFERENCE).write_bytes(("\n".join(lines) + "\n").encode())


def _make(number: int, rng: np.random.Generator) -> _Patient:
    course = _COURSES[(number - 1) % len(_COURSES)]
    in_plane, slices = round(rng.uniform(*_IN_PLANE_MM), 3), round(rng.uniform(*_SLICE_MM), 3)
    age = 35 + 10 * int(rng.integers(*_DECADES[course]))
    thorax = _Thorax(rng)
    if course:
        low, high = _EXTENT[course]
        thorax.add_covid(rng.uniform(low, high), with_consolidation=bool(rng.random() < 0.6))
    else:
        thorax.add_other(_FINDINGS[int(rng.integers(len(_FINDINGS)))])
    upside_down = number % 4 == 0  # the first slice is the most superior one
    voxels = thorax.voxels()
    fields = {
        "TransformMatrix": f"1 0 0 0 1 0 0 0 {-1 if upside_down else 1}",
        "Offset": "0 0 0",
        "CenterOfRotation": "0 0 0",
        "AnatomicalOrientation": "RAI",
        "ElementSpacing": f"{in_plane} {in_plane} {slices}",
        "PatientAge": f"{age:03d}Y",
        "PatientSex": "FM"[int(rng.integers(2))],
    }
    row = (str(number), str(int(course != "")), str(int(course == "severe")))
    return _Patient(number, (row,), fields, voxels[::-1] if upside_down else voxels, compressed=number % 5 != 0)


class _Thorax:
    """A chest in HU, in mm from its centre; x grows to the left, y to posterior, z to superior."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        grid = np.ogrid[tuple(slice(size) for size in _SHAPE)]
        self.z, self.y, self.x = (
            (axis - (size - 1) / 2) * mm for axis, size, mm in zip(grid, _SHAPE, _NOMINAL_MM, strict=True)
        )
        self.hu: Volume = np.full(_SHAPE, float(_AIR))
        width, depth = 148 * self._vary(0.06), 100 * self._vary(0.06)
        body = self._oval(0, 0, width, depth) <= 1
        inside = self._oval(0, 0, width - 11, depth - 11) <= 1
        self.hu[self._slab(body)] = _FAT
        self.hu[self._slab(inside)] = _MUSCLE
        self.hu[self._slab((self.y > depth + 6) & (self.y < depth + 13) & (abs(self.x) < 130))] = -300  # the couch
        self._add_bones(width, depth)
        self.right, self.left = self._lung(-1, width, depth), self._lung(1, width, depth)
        self.lungs = self.right | self.left
        self._fill_lungs()

    def _vary(self, share: float) -> float:
        return float(self._rng.uniform(1 - share, 1 + share))

    def _oval(self, x: float, y: float, half_x: float, half_y: float) -> Volume:
        """Return (distance / half-axis)² in the axial plane, (1, y, x); a little square, as a thorax."""
        across, along = (self.x - x) / half_x, (self.y - y) / half_y
        flat = across * across + along * along
        return 0.6 * flat + 0.4 * (across * across * across * across + along * along * along * along)

    def _slab(self, plane: Mask) -> Mask:
        return np.broadcast_to(plane, _SHAPE)

    def _ball(self, centre: Sequence[float], half: Sequence[float]) -> Volume:
        """Return (distance / half-axis)²; centre and half-axes along (z, y, x)."""
        total: Volume = np.zeros(_SHAPE)
        for axis, middle, size in zip((self.z, self.y, self.x), centre, half, strict=True):
            away = (axis - middle) / size
            total = total + away * away
        return total

    def _add_bones(self, width: float, depth: float) -> None:
        ring = self._oval(0, 0, width - 22, depth - 20)
        slanted = self.z + 0.45 * self.y + 400
        rib = (ring > 0.9) & (ring < 1.12) & (slanted - 30 * np.floor(slanted / 30) < 13)
        self.hu[rib] = _BONE
        spine = self._oval(0, depth - 42, 21, 17) <= 1
        canal = self._oval(0, depth - 20, 9, 8) <= 1
        self.hu[self._slab(spine)] = 0.5 * _BONE
        self.hu[self._slab(self._oval(0, depth - 18, 17, 14) <= 1)] = _BONE
        self.hu[self._slab(canal)] = _MUSCLE
        self.hu[self._slab(self._oval(0, -depth + 22, 15, 7) <= 1)] = 0.6 * _BONE

    def _lung(self, side: int, width: float, depth: float) -> Mask:
        """Return a lung: above a dome of the diaphragm, beside the mediastinum and the heart."""
        half = (112 * self._vary(0.05), depth - 30, 0.47 * width)
        self._base = -70 + 8 * self._rng.random()
        across, along = (self.x - side * 66) / 60, self.y / 70
        dome = self._base + 24 - 16 * (across * across + along * along)
        heart = self._ball((-42, -22, 22), (48, 46, 54)) <= 1
        aorta = self._oval(20, depth - 66, 14, 14) <= 1
        free = (self.z > dome) & (abs(self.x) > 16 + 0.06 * abs(self.z)) & ~heart & ~aorta
        lung: Mask = (self._ball((2, 2, side * 0.44 * width), half) <= 1) & free
        return lung

    def _fill_lungs(self) -> None:
        """Air and vessels, a little denser at the back, where blood gathers; trachea and main bronchi."""
        self.hu[self.lungs] = _LUNG
        self.hu += np.where(self.lungs, 0.5 * (self.y + 40) + 14 * self.z / -60, 0)
        hila = np.minimum(self._ball((0, 12, -42), (70, 60, 62)), self._ball((0, 12, 42), (70, 60, 62)))
        vessel = self._rng.random(_SHAPE) < 0.11 / (1 + 2 * hila)
        self.hu[vessel & self.lungs] = -260
        self.hu[self._slab(self._oval(0, 2, 10, 10) <= 1) & (self.z > 15)] = _AIR

    def _mottle(self) -> Volume:
        """Return smooth noise, about -1 to 1, with patches of a few voxels."""
        noise = self._rng.integers(-1000, 1001, _SHAPE)
        for _ in range(2):
            for axis in range(3):
                noise = np.roll(noise, 1, axis) + noise + np.roll(noise, -1, axis)
        return noise / (1000 * 3**6 * 0.12)

    def add_covid(self, extent: float, with_consolidation: bool) -> None:
        """Turn the share `extent` of the lungs to ground-glass, near the pleura, at the back and the base first."""
        mottle = self._mottle()
        sides = (1 + 0.5 * (self._rng.random() - 0.5), 1.0)
        for lung, factor in zip((self.right, self.left), sides, strict=True):
            depth = _depth(lung)
            likely = 1.3 * mottle - 0.35 * depth + 0.011 * self.y - 0.007 * self.z
            lesion = _top_share(likely, lung, extent * factor)
            self.hu[lesion] = _GROUND_GLASS + 70 * mottle[lesion]
            if with_consolidation:
                dense = _top_share(likely, lung, 0.22 * extent * factor)
                self.hu[dense] = _CONSOLIDATION + 40 * mottle[dense]

    def add_other(self, finding: str) -> None:
        """Add what is not COVID-19, one of `_FINDINGS`, on one side or, for an oedema, on both."""
        right = bool(self._rng.random() < 0.5)
        lung, side = (self.right, -1) if right else (self.left, 1)
        mottle = self._mottle()
        if finding == "consolidation":
            upper = bool(self._rng.random() < 0.5)
            centre = (48.0 if upper else -28.0, 22 * self._rng.random(), side * 72.0)
            near = self._ball(centre, (34 * self._vary(0.2), 46, 40)) + 0.35 * mottle
            self.hu[lung & (near <= 1.25)] = _GROUND_GLASS
            self.hu[lung & (near <= 0.8)] = _CONSOLIDATION + 60
        elif finding == "nodule":
            radius = 10 * self._vary(0.3)
            centre = (20 + 60 * (self._rng.random() - 0.5), 60 * (self._rng.random() - 0.5), side * 70.0)
            self.hu[lung & (self._ball(centre, (radius, radius, radius)) <= 1)] = _MUSCLE
        elif finding == "effusion":
            level = 34 * self._vary(0.3)
            self.hu[lung & (self.y - 0.3 * self.z > level)] = _FLUID
        elif finding == "oedema":
            central = np.minimum(self._ball((0, 12, -40), (62, 52, 46)), self._ball((0, 12, 40), (62, 52, 46)))
            self.hu[self.lungs & (central + 0.5 * mottle <= 0.75 * self._vary(0.3))] = _GROUND_GLASS - 60

    def voxels(self) -> npt.NDArray[np.int16]:
        """Return the scan as measured: partial volume, noise, whole numbers."""
        smooth = self.hu
        for axis in range(3):
            before, after = np.roll(smooth, 1, axis), np.roll(smooth, -1, axis)
            smooth = (before + 6 * smooth + after) / 8
        noise = self._rng.integers(-_NOISE, _NOISE + 1, _SHAPE) + self._rng.integers(-_NOISE, _NOISE + 1, _SHAPE)
        return np.clip(np.rint(smooth) + noise, -1024, 3071).astype(np.int16)


def _depth(mask: Mask) -> Volume:
    """Return how many voxels lie between a voxel of `mask` and its surface, up to 6; 0 outside."""
    inner, depth = mask, np.zeros(mask.shape)
    for _ in range(6):
        depth = depth + inner
        shifted = [np.roll(inner, step, axis) for axis in range(3) for step in (-1, 1)]
        inner = inner & np.logical_and.reduce(shifted)
    return depth


def _top_share(field: Volume, mask: Mask, share: float) -> Mask:
    """Return the part of `mask`, a `share` of its voxels, where `field` is largest."""
    inside = np.sort(field[mask])
    lowest = inside[max(0, len(inside) - 1 - int(share * len(inside)))]
    return mask & (field > lowest)


def _file(patient: _Patient) -> bytes:
    """Return the bytes of a `.mha`, its header as SimpleITK writes it."""
    content = patient.voxels.astype("<i2").tobytes()
    stored = _zlib_stored(content) if patient.compressed else content
    z, y, x = patient.voxels.shape
    header = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": str(patient.compressed),
    }
    header |= {"CompressedDataSize": str(len(stored))} if patient.compressed else {}
    header |= {**patient.fields, "DimSize": f"{x} {y} {z}", "ElementType": "MET_SHORT", "ElementDataFile": "LOCAL"}
    return "".join(f"{name} = {value}\n" for name, value in header.items()).encode() + stored


def _zlib_stored(content: bytes) -> bytes:
    """Return a zlib stream of uncompressed blocks (RFC 1950 and 1951)."""
    stream, size = bytearray(b"\x78\x01"), 65535
    for start in range(0, len(content), size):
        block = content[start : start + size]
        last = start + size >= len(content)
        stream += bytes([last]) + len(block).to_bytes(2, "little") + (65535 - len(block)).to_bytes(2, "little") + block
    return bytes(stream + zlib.adler32(content).to_bytes(4, "big"))


def _with_rows(*values: tuple[str, str]) -> Callable[[_Patient], _Patient]:
    """Return what gives a patient these rows of probCOVID and probSevere."""
    return lambda patient: replace(patient, rows=tuple((str(patient.number), *pair) for pair in values))


def _with_fields(**fields: str) -> Callable[[_Patient], _Patient]:
    return lambda patient: replace(patient, fields={**patient.fields, **fields})


def _damaged(content: bytes) -> bytes:
    """Flip a bit of the voxels, near the end of the file."""
    return content[:-100] + bytes([content[-100] ^ 16]) + content[-99:]


# What is done to a patient, and what to the file.
DEFECTS: Mapping[str, tuple[Callable[[_Patient], _Patient] | None, Callable[[bytes], bytes] | None]] = {
    "truncated": (None, lambda content: content[: len(content) * 3 // 4]),
    "damaged": (lambda patient: replace(patient, compressed=True), _damaged),
    "no-file": (None, lambda _: b""),
    "no-row": (_with_rows(), None),
    "two-rows": (_with_rows(("1", "0"), ("1", "1")), None),
    "severe-without-covid": (_with_rows(("0", "1")), None),
    "probability": (_with_rows(("0.5", "0")), None),
    "spacing": (_with_fields(ElementSpacing="0 0 5"), None),
    "oblique": (_with_fields(TransformMatrix="1 0 0 0 0.8 0.6 0 -0.6 0.8"), None),
    "age": (_with_fields(PatientAge="180Y"), None),
}
