"""Headers that contradict the pixels or each other are refused, and CT values that are not HU are noticed."""

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from ctan.cases.volumes import judged_ct_numbers, signs_of_wrong_ct_numbers, to_case_axes
from ctan.config import DataConfig
from ctan.datasets.prostate.reader import Prostate
from ctan.dicom.pixels import check_rows, header_signs
from ctan.errors import CaseError, DataError
from tests.helpers.dicom import (
    HEADER,
    SHAPE,
    TEST_DATA,
    change,
    needs_test_data,
    read,
    reason,
    slices_of,
    write_patient,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*value")  # of pydicom, about the values written here


# Pixel data and their header


def longer(ds):
    ds.PixelData = ds.PixelData * 2


def shorter(ds):
    ds.PixelData = ds.PixelData[:-40]


def exchanged(ds):
    ds.Rows, ds.Columns = ds.Columns, ds.Rows


def test_pixel_data_of_another_length_are_refused(folder):
    write_patient(folder)
    change(slices_of(folder)[2], longer)
    assert reason(folder) == (
        "CT slice at -94.00 mm: 4320 bytes of pixel data, expected 2160 for 30 rows, 36 columns, 1 frames and 16 bits "
        "a pixel; export it again"
    )
    change(slices_of(folder)[2], lambda ds: setattr(ds, "PixelData", ds.PixelData[:2100]))
    assert "2100 bytes of pixel data, expected 2160" in reason(folder)


@pytest.mark.parametrize("edit", [longer, shorter])
def test_dose_of_another_length_is_refused(folder, edit):
    write_patient(folder)
    change(folder / "rd", edit)
    assert reason(folder).startswith("RTDOSE: ")
    assert "bytes of pixel data, expected 1680 for 12 rows, 14 columns, 5 frames and 16 bits" in reason(folder)


def test_rows_and_columns_exchanged_in_every_slice_are_refused(folder):
    write_patient(folder)
    for path in slices_of(folder):
        change(path, exchanged)
    assert reason(folder) == (
        "CT: 36 rows and 30 columns make no image, 30 rows and 36 columns do; Rows and Columns are exchanged: "
        "export it again"
    )


@pytest.mark.parametrize("shape", [(2, 20, 90), (2, 90, 20), (2, 30, 31)])
def test_plain_slopes_are_taken_for_images_as_they_are(shape):
    for axis in (1, 2):
        ramp = np.broadcast_to(np.expand_dims(np.arange(shape[axis]), [a for a in range(3) if a != axis]), shape)
        check_rows(ramp, "CT")
    check_rows(np.zeros(shape), "CT")
    check_rows(np.random.default_rng(0).normal(size=shape), "CT")


def test_rows_and_columns_of_a_dose_exchanged_are_refused(folder):
    write_patient(folder)
    change(folder / "rd", exchanged)
    assert reason(folder).startswith("RTDOSE: 14 rows and 12 columns make no image, 12 rows and 14 columns do")


@pytest.mark.parametrize(
    ("allocated", "stored", "high"), [(16, 8, 7), (16, 1, 0), (16, 12, 11), (16, 16, 14), (8, 8, 7), (32, 16, 15)]
)
def test_a_dose_that_would_lose_bits_is_refused(folder, allocated, stored, high):
    """8 bits stored of 16 made every dose a remainder of 256 steps."""
    write_patient(folder)

    def edit(ds):
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = allocated, stored, high

    change(folder / "rd", edit)
    assert reason(folder) == (
        f"RTDOSE: {allocated} bits allocated, {stored} stored, the highest is bit {high}; expected 16, 16 and 15, or "
        f"32, 32 and 31: export it again"
    )


NUMBERS = {
    "frames": ("ct", "NumberOfFrames", [1, 2], "CT: expected one whole number in NumberOfFrames"),
    "frames of a dose": ("rd", "NumberOfFrames", [5, 5], "RTDOSE: expected one whole number in NumberOfFrames"),
    "rows": ("ct", "Rows", None, "CT: expected one whole number in Rows"),
    "tiny spacing": ("ct", "PixelSpacing", ["1e-320", "1e-320"], "CT: PixelSpacing "),
    "huge spacing": ("ct", "PixelSpacing", ["1e300", "1e300"], "CT: PixelSpacing 1e+300, 1e+300 mm, expected 0.01 to"),
    "tiny spacing of a dose": ("rd", "PixelSpacing", ["1e-320", "1e-320"], "RTDOSE: PixelSpacing "),
    "negative spacing": ("rd", "PixelSpacing", ["-4", "4"], "RTDOSE: PixelSpacing -4, 4 mm, expected 0.01 to 100;"),
    "no slope": ("ct", "RescaleSlope", "0", "CT slice at -100.00 mm: RescaleSlope 0, expected a positive number"),
    "negative slope": ("ct", "RescaleSlope", "-1", "CT slice at -100.00 mm: RescaleSlope -1, expected a positive"),
    "huge slope": ("ct", "RescaleSlope", "1e300", "CT slice at -100.00 mm: RescaleSlope 1e+300 and RescaleIntercept"),
    "huge scaling": ("rd", "DoseGridScaling", "1e300", "RTDOSE: DoseGridScaling gives doses that are not finite"),
    "no scaling": ("rd", "DoseGridScaling", "0", "RTDOSE: DoseGridScaling 0, expected a positive number"),
    "a negated scaling": ("rd", "DoseGridScaling", "-0.002", "RTDOSE: DoseGridScaling -0.002, expected a positive"),
    "two slopes": ("ct", "RescaleSlope", ["1", "1"], "CT: expected 1 numbers in RescaleSlope, found 2"),
}


@pytest.mark.parametrize(("file", "keyword", "value", "message"), NUMBERS.values(), ids=NUMBERS)
def test_numbers_that_cannot_be_meant_are_refused(folder, file, keyword, value, message):
    write_patient(folder)

    def edit(ds):
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)

    for path in slices_of(folder) if file == "ct" else [folder / file]:
        change(path, edit)
    assert reason(folder).startswith(message)


@pytest.mark.parametrize(("keyword", "value"), [("RescaleIntercept", "0"), ("RescaleSlope", "2")])
def test_a_scale_that_jumps_between_slices_is_refused(folder, keyword, value):
    write_patient(folder)
    change(slices_of(folder)[4], lambda ds: setattr(ds, keyword, value))
    found = reason(folder)
    assert found.startswith("CT: values jump by ")
    assert " HU between slices 4 and 5 of 8, where slope and intercept change from 1, -1024 to" in found


def test_scales_that_differ_between_slices_and_agree_are_read(folder):
    write_patient(folder, ct={"rescale": [(1, -1024), (1, -500)] * 4})
    assert read(folder).remarks == ()


def test_negated_frame_offsets_are_refused(folder):
    """They put the dose on the other side of its first frame."""
    write_patient(folder)
    change(
        folder / "rd",
        lambda ds: setattr(ds, "GridFrameOffsetVector", [-float(value) for value in ds.GridFrameOffsetVector]),
    )
    assert reason(folder).startswith(
        "RTDOSE: 100% of PTV lies outside the dose grid; it is another plan's dose, or Grid"
    )
    write_patient(folder, dose={"offsets": "absolute"})
    change(
        folder / "rd",
        lambda ds: setattr(ds, "GridFrameOffsetVector", [-float(value) for value in ds.GridFrameOffsetVector]),
    )
    assert "GridFrameOffsetVector begins with 98, expected 0 or the z of ImagePositionPatient (-98 mm)" in reason(
        folder
    )


# Whatever no check foresaw


def test_what_no_check_foresaw_costs_its_case_and_names_no_value(folder, monkeypatch):
    write_patient(folder)
    from ctan.datasets.prostate import reader as prostate

    def fail(*_, **__):
        raise ZeroDivisionError(f"{HEADER.patient_name} / 0")

    monkeypatch.setattr(prostate, "read_planning", fail)
    assert reason(folder) == ("cannot be read (ZeroDivisionError); a file is damaged in a way that is not known here")


def test_random_damage_gives_a_case_or_a_reason(tmp_path):
    """Values of random attributes, at any depth, are doubled, emptied, negated, removed or made huge."""
    source = tmp_path / "source" / "patient"
    write_patient(source)
    rng = np.random.default_rng(0)
    paths = [*slices_of(source)[:2], source / "rs", source / "rd", source / "rp"]
    reasons, cases = [], []
    for _ in range(80):
        path = paths[rng.integers(len(paths))]
        content = path.read_bytes()
        damage(path, rng)
        dataset = Prostate(DataConfig.model_validate({"dataset": "prostate"}))
        try:
            (raw,) = dataset.find(source.parent)
            cases.append(dataset.read(raw))
        except (CaseError, DataError) as error:
            reasons.append(str(error))
        path.write_bytes(content)
    assert len(reasons) > 10
    assert len(cases) > 10
    assert all(np.isfinite(case.doses["dose"]).all() for case in cases)
    assert not [reason for reason in reasons if HEADER.patient_name in reason or "cannot be read (" in reason]


def damage(path, rng):
    """Change one element of a file."""
    dataset = pydicom.dcmread(path)
    elements = {}

    def collect(of):
        for element in of:
            if element.VR == "SQ":
                for item in element.value:
                    collect(item)
            elements.setdefault(element.keyword, []).append((of, element))

    collect(dataset)
    found = elements[sorted(elements)[rng.integers(len(elements))]]
    of, element = found[rng.integers(len(found))]
    kind = rng.integers(5)
    if kind == 0 or element.VR in ("SQ", "OW"):
        del of[element.tag]
    elif kind == 1:
        element.value = [element.value, element.value] if element.VM == 1 else list(element.value)[:-1]
    elif kind == 2:
        element.value = None
    elif element.VR in ("DS", "IS", "US") and element.VM >= 1:
        values = list(element.value) if element.VM > 1 else [element.value]
        if element.VR == "US":
            element.value = [(int(value) + 7) % 60000 for value in values]
        else:
            element.value = [str(int(-value)) if kind == 3 or element.VR == "IS" else "1e200" for value in values]
    dataset.save_as(path)


# CT numbers


def rewritten(folder, edit):
    for path in slices_of(folder):
        change(path, edit)


def as_signed_hu(ds):
    """Store HU themselves, signed, without an intercept."""
    hounsfield = ds.pixel_array.astype(int) - 1024
    ds.PixelData, ds.RescaleIntercept = hounsfield.astype("<i2").tobytes(), "0"


def test_signed_pixels_called_unsigned_are_refused(folder):
    """Air became brighter than bone, and clipping hid it: 6 of 6 checks passed."""
    write_patient(folder)
    rewritten(folder, as_signed_hu)
    assert read(folder).remarks == ()
    rewritten(folder, lambda ds: setattr(ds, "PixelRepresentation", 0))
    found = reason(folder)
    assert found.startswith(
        "CT: the values are not HU: the median of what is no air is 64536 HU, expected soft tissue;"
    )
    assert "the image's border has a median of 64536 HU, expected air" in found


def test_a_padding_value_of_0_in_signed_hu_is_refused(folder):
    """Water became -1024 HU."""
    write_patient(folder)
    rewritten(folder, as_signed_hu)
    rewritten(folder, lambda ds: ds.add_new("PixelPaddingValue", "SS", 0))
    found = reason(folder)
    assert found.startswith("CT: the values are not HU: the padding value is 0 HU, which is tissue; ")
    assert "of what is no air holds the padding value" in found


@pytest.mark.parametrize(("intercept", "slope"), [("0", "1"), ("-2048", "1"), ("-1024", "2.5")])
def test_values_shifted_or_scaled_everywhere_are_refused(folder, intercept, slope):
    write_patient(folder)

    def edit(ds):
        ds.RescaleIntercept, ds.RescaleSlope = intercept, slope

    rewritten(folder, edit)
    assert reason(folder).startswith("CT: the values are not HU: ")


def test_one_sign_is_a_remark(folder):
    write_patient(folder)
    rewritten(folder, lambda ds: setattr(ds, "RescaleType", "US"))
    assert read(folder).remarks == ("CT: RescaleType is US, expected HU; check that its values are HU",)
    rewritten(folder, lambda ds: setattr(ds, "RescaleType", "HU"))

    def few_bits(ds):
        ds.BitsStored, ds.HighBit = 12, 11
        stored = np.frombuffer(ds.PixelData, "<u2").copy()
        stored[:10] |= 1 << 13
        ds.PixelData = stored.tobytes()

    rewritten(folder, few_bits)
    assert read(folder).remarks == ("CT: 80 pixels hold more bits than BitsStored says; check that its values are HU",)


def test_padding_around_the_image_is_no_sign(folder):
    corner = np.zeros(SHAPE, bool)
    corner[:, :4, :4] = True
    write_patient(folder, ct={"padding": corner, "padding_value": -2000})
    assert read(folder).remarks == ()


def test_padding_is_enclosed_where_it_is_not_open_to_the_edge():
    header = pydicom.Dataset()
    header.PixelPaddingValue, header.RescaleSlope, header.RescaleIntercept = -2000, "1", "0"
    bay = np.zeros((1, 30, 40), bool)  # with tissue on four sides of most of its voxels
    bay[:, 8:20, 8:20] = True
    bay[:, 10:12, 12:] = True
    assert header_signs([header], bay, np.zeros(bay.shape, np.float32), 0) == []
    bay[:, :, 20:] = False
    signs = header_signs([header], bay, np.where(bay, -1024, 0).astype(np.float32), 0)
    assert signs == ["12.0% of what is no air holds the padding value"]  # 144 of 1,200


def test_metal_and_gas_are_no_signs():
    rng = np.random.default_rng(0)
    hounsfield = np.full((60, 70, 20), -1000.0) + rng.normal(0, 10, (60, 70, 20))
    hounsfield[10:50, 10:60] = rng.normal(40, 20, (40, 50, 20))
    hounsfield[20:30, 20:30] = -950  # gas
    hounsfield[35:40, 35:40, :15] = 9000  # metal
    assert signs_of_wrong_ct_numbers(hounsfield) == []
    assert len(signs_of_wrong_ct_numbers(hounsfield + 1024)) >= 2
    assert len(signs_of_wrong_ct_numbers(np.where(hounsfield < 0, hounsfield + 65536, hounsfield))) >= 2


def test_one_sign_is_a_remark_and_two_are_an_error():
    assert judged_ct_numbers([]) == ()
    assert judged_ct_numbers(["a"]) == ("CT: a; check that its values are HU",)
    with pytest.raises(DataError, match="CT: the values are not HU: a; b; check slope"):
        judged_ct_numbers(["a", "b"])


@needs_test_data
def test_real_cts_give_no_alarm():
    for path in sorted((TEST_DATA / "ct").glob("*_ct.nii.gz")):
        assert signs_of_wrong_ct_numbers(to_case_axes(sitk.ReadImage(str(path)))[0]) == [], path.name
    names = [str(path) for path in sorted((TEST_DATA / "ct" / "dicom-series").iterdir())]
    names.sort(key=lambda name: float(pydicom.dcmread(name, stop_before_pixels=True).ImagePositionPatient[2]))
    assert signs_of_wrong_ct_numbers(to_case_axes(sitk.ReadImage(names))[0]) == []


def compress(path, compressor, bits=16):
    """Compress the pixels of a slice with GDCM's own encoder."""
    ds = pydicom.dcmread(path)
    image, packed = sitk.GetImageFromArray(ds.pixel_array), path.parent / "packed.dcm"
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.SetFileName(str(packed))
    writer.UseCompressionOn()
    writer.SetCompressor(compressor)
    writer.Execute(image)
    encoded = pydicom.dcmread(packed)
    packed.unlink()
    for keyword in ("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"):
        setattr(ds, keyword, encoded[keyword].value)
    ds.file_meta.TransferSyntaxUID = encoded.file_meta.TransferSyntaxUID
    ds["PixelData"] = encoded["PixelData"]
    ds.save_as(path)
    return ds.file_meta.TransferSyntaxUID


@pytest.mark.parametrize(
    ("compressor", "syntax"),
    [
        ("JPEG", "1.2.840.10008.1.2.4.70"),  # lossless, as most archives keep CT: "a compression that is not supported"
        ("JPEG2000", "1.2.840.10008.1.2.4.90"),
    ],
)
@pytest.mark.parametrize("signed", [False, True])
def test_ct_that_is_compressed_without_loss_is_read_to_the_digit(folder, compressor, syntax, signed):
    write_patient(folder)
    if signed:
        for path in slices_of(folder):
            change(path, as_signed)
    expected = read(folder)
    for path in slices_of(folder):
        assert compress(path, compressor) == syntax
    found = read(folder)
    np.testing.assert_array_equal(found.images["ct"], expected.images["ct"])
    assert found.remarks == expected.remarks


def as_signed(ds):
    hounsfield = ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
    ds.PixelRepresentation, ds.RescaleSlope, ds.RescaleIntercept = 1, "1", "0"
    ds.PixelData = hounsfield.astype(np.int16).tobytes()


def test_damaged_compressed_pixels_are_refused(folder):
    write_patient(folder)
    for path in slices_of(folder):
        compress(path, "JPEG")
    whole = slices_of(folder)[3].read_bytes()

    def cut(ds):
        ds.PixelData = ds.PixelData[:60] + bytes(len(ds.PixelData) - 68) + ds.PixelData[-8:]

    change(slices_of(folder)[3], cut)
    assert "the pixel data cannot be decoded (JPEG Lossless" in reason(folder)
    slices_of(folder)[3].write_bytes(whole)
    for path in slices_of(folder):
        change(path, lambda ds: setattr(ds, "Rows", ds.Rows + 1))
    assert "the pixel data cannot be decoded (JPEG Lossless" in reason(folder)


def test_text_in_the_pixels_is_remarked_where_the_header_says_so(folder):
    write_patient(folder)
    assert not any("BurnedInAnnotation" in remark for remark in read(folder).remarks)
    change(slices_of(folder)[2], lambda ds: setattr(ds, "BurnedInAnnotation", "NO"))
    assert not any("BurnedInAnnotation" in remark for remark in read(folder).remarks)
    change(slices_of(folder)[1], lambda ds: setattr(ds, "BurnedInAnnotation", "YES"))
    (said,) = [remark for remark in read(folder).remarks if "BurnedInAnnotation" in remark]
    assert said.startswith("its header says that text is drawn into the CT")
