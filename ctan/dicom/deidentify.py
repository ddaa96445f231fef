"""De-identification by allow-list: what is not listed here does not pass, whatever it is called.

Patients become keyed hashes, so that nobody without the key can test a guess. UIDs become `2.25.` and 128 bits of
HMAC, which keeps references between files of one key. Dates are dropped, or shifted by one offset per patient.
Not handled, and said so in the documentation: faces in head CT, text burned into pixels.
Source of the rules: DICOM PS3.15 annex E (Basic Application Confidentiality Profile), of which this is a subset.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import logging
import os
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ctan.errors import DataError

if TYPE_CHECKING:
    from pydicom import DataElement, Dataset

Seen = dict[tuple[object, ...], "DataElement"]

KEY_VARIABLE = "CTAN_DEID_KEY"
MIN_KEY_LENGTH = 16
OTHER = "OTHER"  # in place of a code that is not one of those allowed


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_MAKE_KEY = 'python -c "import secrets; print(secrets.token_hex(32))"'
_PLACEHOLDERS = _words(
    "ANON ANONYM ANONYMOUS ANONYMIZED ANONYMISED ANONYMOUSID NONE NULL NA NN NOID NONAME UNKNOWN PATIENT PATIENTID "
    "DEFAULT DEIDENTIFIED REMOVED REDACTED"
)
_MAX_OFFSET_DAYS = 3650

# The allow-list. It holds at every depth of a data set; private attributes are never on it.
_NUMBERS = _words(
    # grid and pixel values
    "AcquisitionNumber Rows Columns NumberOfFrames PixelSpacing SliceThickness ImagePositionPatient "
    "ImageOrientationPatient SamplesPerPixel PlanarConfiguration BitsAllocated BitsStored HighBit "
    "PixelRepresentation PixelPaddingValue PixelPaddingRangeLimit RescaleSlope RescaleIntercept "
    # dose
    "DoseGridScaling GridFrameOffsetVector "
    # contours
    "ROINumber ReferencedROINumber NumberOfContourPoints ContourData "
    # plan
    "DoseReferenceNumber TargetPrescriptionDose FractionGroupNumber NumberOfFractionsPlanned NumberOfBeams BeamNumber "
    "ReferencedBeamNumber ReferencedFractionGroupNumber BeamDose "
    # segmentations
    "SegmentNumber ReferencedSegmentNumber"
)
_UIDS = _words(
    "SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID FrameOfReferenceUID ReferencedSOPClassUID "
    "ReferencedSOPInstanceUID ReferencedFrameOfReferenceUID"
)
_SEQUENCES = _words(
    "ReferencedFrameOfReferenceSequence RTReferencedStudySequence RTReferencedSeriesSequence ContourImageSequence "
    "StructureSetROISequence ROIContourSequence ContourSequence ReferencedRTPlanSequence "
    "ReferencedStructureSetSequence "
    "ReferencedFractionGroupSequence ReferencedBeamSequence DoseReferenceSequence FractionGroupSequence BeamSequence "
    "SegmentSequence SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence SegmentIdentificationSequence "
    "PlanePositionSequence PlaneOrientationSequence PixelMeasuresSequence DerivationImageSequence SourceImageSequence "
    "ReferencedSeriesSequence ReferencedInstanceSequence"
)
_CODES = {
    "Modality": _words("CT RTSTRUCT RTDOSE RTPLAN SEG"),
    "ImageType": _words("ORIGINAL DERIVED PRIMARY SECONDARY AXIAL LOCALIZER"),
    "PatientPosition": _words("HFS HFP HFDL HFDR FFS FFP FFDL FFDR"),
    "PhotometricInterpretation": _words("MONOCHROME1 MONOCHROME2") | {"PALETTE COLOR"},
    "RescaleType": _words("HU US"),
    "BurnedInAnnotation": _words("YES NO"),
    "SegmentationType": _words("BINARY FRACTIONAL LABELMAP"),
    "DoseUnits": _words("GY RELATIVE"),
    "DoseType": _words("PHYSICAL EFFECTIVE ERROR"),
    "DoseSummationType": _words(
        "PLAN MULTI_PLAN PLAN_OVERVIEW FRACTION BEAM BRACHY FRACTION_SESSION BEAM_SESSION "
        "BRACHY_SESSION CONTROL_POINT RECORD"
    ),
    "ContourGeometricType": _words(
        "POINT OPEN_PLANAR OPEN_NONPLANAR CLOSED_PLANAR CLOSEDPLANAR_XOR INTERPOLATED_PLANAR"
    ),
    "DoseReferenceStructureType": _words("POINT VOLUME COORDINATES SITE"),
    "DoseReferenceType": _words("TARGET ORGAN_AT_RISK"),
    "TreatmentDeliveryType": _words("TREATMENT OPEN_PORTFILM TRMT_PORTFILM CONTINUATION SETUP"),
}
_DATES = _words("StudyDate SeriesDate AcquisitionDate ContentDate InstanceCreationDate StructureSetDate RTPlanDate")
_NAMES = _words("ROIName SegmentLabel")
_SHORT = 256  # bytes of a value that is worth remembering
_NUMERIC_VRS = frozenset({"DS", "IS", "US", "SS", "UL", "SL", "FL", "FD"})
_NUMERIC_TEXT = re.compile(rb"[-+0-9.eE\\ \0]*")


def read_key(key_file: str = "") -> bytes:
    """Return the key of the de-identification from a file, or from the environment when no file is named.

    Raises:
        DataError: when there is none or it is short. The key itself is in no message.
    """
    if key_file:
        source = f"data.options.key_file {key_file!r}"
        try:
            key = Path(key_file).expanduser().read_bytes().strip()
        except OSError as error:
            raise DataError(f"{source}: cannot be read ({error.strerror}); make a key with {_MAKE_KEY}") from error
    else:
        source = f"the environment variable {KEY_VARIABLE}"
        key = os.environ.get(KEY_VARIABLE, "").strip().encode("utf-8", "surrogateescape")
        if not key:
            raise DataError(
                f"no key for the de-identification: make one with {_MAKE_KEY}, keep it secret and safe (the same key "
                f"gives the same pseudonyms), and set {KEY_VARIABLE} to it or data.options.key_file to its file"
            )
    if len(key) < MIN_KEY_LENGTH:
        raise DataError(
            f"{source}: the key has {len(key)} characters, expected at least {MIN_KEY_LENGTH}; "
            f"make one with {_MAKE_KEY}"
        )
    return key


def normalised_patient_id(patient_id: object) -> str:
    """Return an ID as systems that mean the same patient would all write it: NFKC, upper case, single spaces."""
    text = unicodedata.normalize("NFKC", str(patient_id or "")).replace("\0", " ")
    return " ".join(text.upper().split())


def is_placeholder(patient_id: object) -> bool:
    """Return whether an ID is blank or stands for no particular patient, such as `ANONYMOUS` or `0`."""
    letters = re.sub(r"[\W_]", "", normalised_patient_id(patient_id))
    return letters in _PLACEHOLDERS or re.fullmatch(r"0*|X*", letters) is not None


class Pseudonymiser:
    """Keyed hashes of a clinic's identifiers; the same key gives the same ones."""

    def __init__(self, key: bytes) -> None:
        """Take a key, see `read_key`.

        Raises:
            DataError: when it is short.
        """
        if len(key) < MIN_KEY_LENGTH:
            raise DataError(f"the key has {len(key)} bytes, expected at least {MIN_KEY_LENGTH}")
        self._key = key

    def __repr__(self) -> str:
        """Keep the key out of logs and tracebacks."""
        return "Pseudonymiser()"

    def digest(self, text: str) -> bytes:
        """Return the HMAC-SHA256 of a text."""
        return hmac.new(self._key, text.encode("utf-8", "surrogatepass"), hashlib.sha256).digest()

    def pseudonym(self, patient_id: object) -> str:
        """Return `pat-` and 48 bits of the normalised PatientID's HMAC-SHA256."""
        return f"pat-{self.digest(normalised_patient_id(patient_id)).hex()[:12]}"

    def uid(self, uid: str) -> str:
        """Return a UID of the form `2.25.<128 bits>`; an empty one stays empty."""
        text = str(uid).strip(" \0")
        # The \0 keeps the hashes of UIDs apart from those of patients, whose normalised IDs hold none.
        return f"2.25.{int.from_bytes(self.digest(f'uid{chr(0)}{text}')[:16], 'big')}" if text else ""

    def date_offset_days(self, patient_id: object) -> int:
        """Return how far all dates of a patient move: 1 to 3650 days back."""
        number = int.from_bytes(self.digest(f"date{chr(0)}{normalised_patient_id(patient_id)}")[:8], "big")
        return -1 - number % _MAX_OFFSET_DAYS


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Keep pydicom from warning about values, which it quotes in warnings and log lines."""
    from pydicom import config

    def refuse(_record: logging.LogRecord) -> bool:
        return False

    config.logger.addFilter(refuse)
    try:
        with config.disable_value_validation(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        config.logger.removeFilter(refuse)


def deidentified(
    dataset: Dataset,
    pseudonymiser: Pseudonymiser,
    structure_of: Callable[[str], str],
    dates: Literal["drop", "shift"] = "drop",
    seen: Seen | None = None,
) -> Dataset:
    """Return a copy of a DICOM data set that holds what is on the allow-list and nothing else.

    Args:
        dataset: as read; it stays as it is.
        pseudonymiser: makes the pseudonym, the UIDs and the offset of the dates.
        structure_of: name of an ROI or segment -> structure, empty for one that is not mapped, see `dicomrt.names`.
        dates: drop the study's dates, or shift them; the birth date never passes.
        seen: what became of elements of other files of this series with the same bytes; what is new is added.

    Raises:
        DataError: when an attribute that must hold numbers or a UID does not; the value is not in the message.
    """
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset

    with quiet_pydicom():
        patient_id = dataset.get("PatientID", "")
        days = pseudonymiser.date_offset_days(patient_id) if dates == "shift" else None
        copy = Dataset()
        _Pass(pseudonymiser, structure_of, days).fill(copy, dataset, seen)
        copy.PatientID = copy.PatientName = pseudonymiser.pseudonym(patient_id)
        copy.PatientIdentityRemoved, copy.DeidentificationMethod = "YES", "Allow-list of ctan"
        meta = getattr(dataset, "file_meta", None)
        if meta is not None:
            copy.file_meta = FileMetaDataset()
            for keyword in ("TransferSyntaxUID", "MediaStorageSOPClassUID"):
                if _is_registered(uid := str(meta.get(keyword, ""))):
                    setattr(copy.file_meta, keyword, uid)
            copy.file_meta.MediaStorageSOPInstanceUID = copy.get("SOPInstanceUID", "")
    return copy


class _Pass:
    """Copies one level of a data set after the other."""

    def __init__(self, pseudonymiser: Pseudonymiser, structure_of: Callable[[str], str], days: int | None) -> None:
        self._pseudonymiser, self._structure_of, self._days = pseudonymiser, structure_of, days

    def fill(self, copy: Dataset, source: Dataset, seen: Seen | None = None) -> None:
        allowed = _allowed()
        for tag in source.keys():  # noqa: SIM118 - iterating a Dataset converts every element
            keyword = allowed.get(int(tag), "")
            if not keyword:
                continue
            key = _key(source, tag, keyword) if seen is not None else None
            if seen is None or key is None:
                self._element(copy, source, tag, keyword)
            elif key in seen:
                copy[tag] = seen[key]
            else:
                self._element(copy, source, tag, keyword)
                if tag in copy and (element := _read(copy, tag)) is not None:
                    seen[key] = element

    def _element(self, copy: Dataset, source: Dataset, tag: Any, keyword: str) -> None:
        from pydicom import Dataset

        if keyword == "PixelData":
            copy[tag] = source.get_item(tag)
        elif keyword in _NUMBERS:
            self._number(copy, source, tag, keyword)
        elif keyword in _SEQUENCES:
            items = []
            for item in source[tag].value or ():
                items.append(Dataset())
                self.fill(items[-1], item)
            setattr(copy, keyword, items)
        elif keyword in _UIDS:
            setattr(copy, keyword, self._uid(_text(source, keyword)))
        elif keyword in _CODES:
            found = [str(code).strip(" \0").upper() for code in _values(source, keyword)]
            codes = [code if code in _CODES[keyword] else OTHER for code in found if code]
            setattr(copy, keyword, codes if len(codes) > 1 else "".join(codes))
        elif keyword in _NAMES:
            setattr(copy, keyword, self._structure_of(_text(source, keyword)))
        elif self._days is not None:  # a date
            setattr(copy, keyword, _shifted(_text(source, keyword), self._days))

    def _number(self, copy: Dataset, source: Dataset, tag: Any, keyword: str) -> None:
        """Copy a number as it is, without reading it: contours have hundreds of thousands."""
        from pydicom.datadict import dictionary_VR
        from pydicom.dataelem import RawDataElement

        element = source.get_item(tag)
        if isinstance(element, RawDataElement):
            vr = element.VR or dictionary_VR(tag)
            numeric = vr.split()[0] in _NUMERIC_VRS or (vr == "UN")
            text = vr in ("DS", "IS", "UN")
            valid = numeric and (not text or _NUMERIC_TEXT.fullmatch(element.value or b"") is not None)
        else:
            valid = all(isinstance(value, int | float) or _is_number(value) for value in _values(source, keyword))
        if not valid:
            raise DataError(f"{keyword}: expected numbers, found text")
        copy[tag] = element

    def _uid(self, uid: str) -> str:
        return uid if _is_registered(uid) else self._pseudonymiser.uid(uid)


@cache
def _allowed() -> dict[int, str]:
    """Return the allow-list by tag."""
    from pydicom.datadict import tag_for_keyword

    listed = {"PixelData"} | _NUMBERS | _SEQUENCES | _UIDS | _CODES.keys() | _NAMES | _DATES
    tags = {keyword: tag_for_keyword(keyword) for keyword in listed}
    return {tag: keyword for keyword, tag in tags.items() if tag is not None}


def _key(source: Dataset, tag: Any, keyword: str) -> tuple[object, ...] | None:
    """Return what an element's value depends on; None when that is more than its own bytes, or they are many."""
    from pydicom.dataelem import RawDataElement

    element = source.get_item(tag)
    own = keyword in _NUMBERS or keyword in _UIDS or keyword in _CODES
    if not own or not isinstance(element, RawDataElement) or len(element.value or b"") > _SHORT:
        return None
    return int(tag), element.VR, element.value, element.is_implicit_VR, element.is_little_endian


def _read(copy: Dataset, tag: Any) -> DataElement | None:
    """Return an element with its value read; None when it cannot be read, or by other elements only."""
    try:
        element = copy[tag]
    except Exception:  # pydicom raises many kinds; whoever needs the value says what is wrong
        return None
    return None if " or " in element.VR else element


def _is_registered(uid: str) -> bool:
    """Return whether a UID is one of the standard's own, such as a SOP class."""
    from pydicom._uid_dict import UID_dictionary

    return uid in UID_dictionary


def _values(source: Dataset, keyword: str) -> list[Any]:
    value = source.get(keyword)
    if value is None:
        return []
    return [value] if isinstance(value, str | bytes) or not hasattr(value, "__iter__") else list(value)


def _text(source: Dataset, keyword: str) -> str:
    values = _values(source, keyword)
    return str(values[0]).strip(" \0") if values else ""


def _is_number(value: object) -> bool:
    try:
        float(str(value))
    except ValueError:
        return False
    return True


def _shifted(date: str, days: int) -> str:
    """Return a DICOM date (YYYYMMDD) moved by some days; empty when it is not a date."""
    try:
        moved = datetime.datetime.strptime(date, "%Y%m%d").date() + datetime.timedelta(days=days)
    except (ValueError, OverflowError):
        return ""
    return f"{moved:%Y%m%d}"
