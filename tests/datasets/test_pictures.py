"""Masks are read by their colour whatever the kind of PNG, pictures as viewers show them, and neither in part."""

import io
import os
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps

from ctan.config import ReadingConfig
from ctan.datasets.ham10000.reader import _covers_border
from ctan.datasets.pictures import decode_mask, decode_picture
from ctan.errors import DataError

LIMITS = ReadingConfig()
SHAPE = (70, 90)
PICTURE = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8).repeat(10, 0).repeat(10, 1).swapaxes(0, 1)
INSIDE = np.zeros(SHAPE, bool)
INSIDE[10:40, 33:60] = True
INSIDE[50, 1] = True


def png(image, **options):
    stream = io.BytesIO()
    image.save(stream, "PNG", **options)
    return stream.getvalue()


def jpeg(array=PICTURE, **options):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "JPEG", quality=90, **options)
    return stream.getvalue()


def raw_png(samples, depth, colour, rows=None, palette=b""):
    """Write a PNG by hand: `samples` (height, width) of `depth` bits, no filter."""
    height, width = samples.shape[:2]
    lines = []
    for row in samples[:rows]:
        if depth == 16:
            line = row.astype(">u2").tobytes()
        else:
            bits = (row.reshape(-1, 1).astype(np.uint8) >> np.arange(depth)[::-1]) & 1
            line = np.packbits(bits).tobytes()
        lines.append(b"\0" + line)

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [
        chunk(b"IHDR", header),
        chunk(b"PLTE", palette) if palette else b"",
        chunk(b"IDAT", zlib.compress(b"".join(lines))),
        chunk(b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def inverted_palette():
    image = Image.fromarray(np.where(INSIDE, 0, 255).astype(np.uint8), "P")
    image.putpalette([255 - level for level in range(256) for _ in range(3)])
    return png(image)


WHITE = INSIDE.astype(np.uint8) * 255
MASKS = {
    "grey": png(Image.fromarray(WHITE)),
    "grey, interlaced rows by hand": raw_png(WHITE, 8, 0),
    "1 bit": png(Image.fromarray(WHITE).convert("1")),
    "2 bits": raw_png(INSIDE * 3, 2, 0),
    "4 bits": raw_png(INSIDE * 15, 4, 0),
    "16 bits": png(Image.fromarray(INSIDE.astype(np.uint16) * 65535)),
    "grey and opaque": png(Image.merge("LA", (Image.fromarray(WHITE), Image.new("L", SHAPE[::-1], 255)))),
    "colour": png(Image.fromarray(WHITE).convert("RGB")),
    "colour and opaque": png(Image.fromarray(WHITE).convert("RGBA")),
    "palette": png(Image.fromarray(WHITE).convert("P")),
    "palette that inverts": inverted_palette(),
    "palette of 1 bit that inverts": raw_png(~INSIDE, 1, 3, palette=b"\xff\xff\xff\0\0\0"),
    "palette of 2 bits": raw_png(INSIDE * 2, 2, 3, palette=b"\0\0\0\x80\0\0\xff\xff\xff"),
    "palette of 4 bits": raw_png(INSIDE * 9, 4, 3, palette=b"\0\0\0" * 9 + b"\xff\xff\xff"),
}


@pytest.mark.parametrize("content", MASKS.values(), ids=MASKS)
def test_every_kind_of_black_and_white_is_the_same_mask(content):
    np.testing.assert_array_equal(decode_mask(content, SHAPE, LIMITS), INSIDE)


def transparent(mode):
    image = Image.fromarray(WHITE).convert(mode)
    image.putalpha(Image.fromarray(WHITE))
    return png(image)


def too_long():
    """A PNG of twice the rows that say they are half as many."""
    sizes = [struct.pack(">II", 90, rows) for rows in (140, 70)]
    return raw_png(np.tile(WHITE, (2, 1)), 8, 0).replace(*sizes)


ODD = {
    "red": (png(Image.fromarray(np.stack([WHITE, WHITE * 0, WHITE * 0], -1))), "found colours in RGB"),
    "red by palette": (raw_png(INSIDE, 1, 3, palette=b"\0\0\0\xff\0\0"), "found colours in a palette"),
    "grey by palette": (raw_png(INSIDE, 1, 3, palette=b"\0\0\0\x80\x80\x80"), "the values 0 and 255, found 0, 128"),
    "transparent grey": (transparent("LA"), "found transparent pixels in grey and transparency"),
    "transparent colour": (transparent("RGBA"), "found transparent pixels in RGB and transparency"),
    "transparent palette": (png(Image.fromarray(WHITE).convert("P"), transparency=0), "found transparent pixels"),
    "transparent level": (png(Image.fromarray(WHITE), transparency=0), "found transparent pixels in one grey channel"),
    "255 of 65535": (png(Image.fromarray(WHITE.astype(np.uint16))), "expected the values 0 and 65535, found 0, 255"),
    "ones": (png(Image.fromarray(INSIDE.astype(np.uint8))), "expected the values 0 and 255, found 0, 1"),
    "losses": (png(Image.fromarray(np.arange(6300).reshape(SHAPE).astype(np.uint8))), "saved with losses or resized"),
    "too few rows": (raw_png(WHITE, 8, 0, rows=60), "the PNG's rows are 6,370 bytes, found 5,460"),
    "no rows": (raw_png(WHITE, 8, 0, rows=0), "the PNG's rows are 6,370 bytes, found 0"),
    "more rows": (too_long(), "broken PNG|not a picture"),
    "another size": (png(Image.fromarray(WHITE[:-1])), "the mask has 90 x 69 pixels, its image 90 x 70"),
    "lying on its side": (png(Image.fromarray(WHITE.T)), "the mask has 70 x 90 pixels, its image 90 x 70"),
    "a JPEG": (jpeg(), "expected a PNG, found a JPEG"),
}


@pytest.mark.parametrize(("content", "message"), ODD.values(), ids=ODD)
def test_a_mask_that_is_not_plainly_black_and_white_or_not_whole_is_refused(content, message):
    with pytest.raises(DataError, match=message):
        decode_mask(content, SHAPE, LIMITS)


def test_an_interlaced_mask_is_read_whole():
    """Pillow writes none: the seven passes are written by hand."""
    passes = [
        WHITE[y::dy, x::dx]
        for x, y, dx, dy in (
            (0, 0, 8, 8),
            (4, 0, 8, 8),
            (0, 4, 4, 8),
            (2, 0, 4, 4),
            (0, 2, 2, 4),
            (1, 0, 2, 2),
            (0, 1, 1, 2),
        )
    ]
    plain = raw_png(WHITE, 8, 0)
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for part in passes for row in part))
    header = struct.pack(">IIBBBBB", 90, 70, 8, 0, 0, 0, 1)
    content = plain[:8] + b"".join(
        struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b))
        for k, b in ((b"IHDR", header), (b"IDAT", body), (b"IEND", b""))
    )
    np.testing.assert_array_equal(decode_mask(content, SHAPE, LIMITS), INSIDE)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_whole_picture_is_read_as_pillow_reads_it(progressive):
    content = jpeg(progressive=progressive)
    pixels, turned = decode_picture(content, LIMITS)
    np.testing.assert_array_equal(np.moveaxis(pixels, 0, -1), np.asarray(Image.open(io.BytesIO(content))))
    assert not turned


@pytest.mark.parametrize("space", ["sRGB", "XYZ"])
def test_a_colour_profile_is_not_applied(space):
    """No library that networks are fed by applies one: pixels are those that are stored."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile(space)).tobytes()
    content = jpeg(icc_profile=profile)
    assert Image.open(io.BytesIO(content)).info["icc_profile"] == profile
    np.testing.assert_array_equal(decode_picture(content, LIMITS)[0], decode_picture(jpeg(), LIMITS)[0])


@given(st.floats(0, 1), st.booleans())
@settings(max_examples=80, deadline=None)
def test_scan_data_that_end_early_are_refused_though_the_end_marker_is_there(share, progressive):
    content = jpeg(progressive=progressive)
    first = content.index(b"\xff\xda") + 14
    cut = content[: first + int(share * (len(content) - 12 - first))].rstrip(b"\xff") + b"\xff\xd9"
    with pytest.raises(DataError, match=r"truncated|broken JPEG"):
        decode_picture(cut, LIMITS)


def test_pillow_fills_up_what_is_missing_without_an_error():
    """The reason for the test above."""
    content = jpeg()
    start = content.index(b"\xff\xda") + 14
    for end in (start, start + 500):
        assert np.asarray(Image.open(io.BytesIO(content[:end] + b"\xff\xd9"))).shape == (70, 90, 3)


def test_a_picture_without_any_scan_is_refused():
    content = jpeg()
    with pytest.raises(DataError, match="scans of the JPEG are missing"):
        decode_picture(content[: content.index(b"\xff\xda")] + b"\xff\xd9", LIMITS)


@pytest.mark.parametrize("orientation", range(10))
def test_a_picture_is_turned_as_viewers_show_it(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = jpeg(exif=exif)
    pixels, turned = decode_picture(content, LIMITS)
    shown = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    np.testing.assert_array_equal(np.moveaxis(pixels, 0, -1), np.asarray(shown))
    assert turned == (2 <= orientation <= 8)


def test_bounds_are_checked_before_a_picture_is_decoded():
    with pytest.raises(DataError, match=r"data\.reading\.max_voxels allows 6,299"):
        decode_picture(jpeg(), ReadingConfig(max_voxels=6299))
    with pytest.raises(DataError, match=r"data\.reading\.max_inflated_bytes allows 100"):
        decode_mask(MASKS["grey"], SHAPE, ReadingConfig(max_inflated_bytes=100))
    huge = raw_png(np.zeros((1, 1), np.uint8), 8, 0).replace(
        struct.pack(">II", 1, 1), struct.pack(">II", 60_000, 60_000)
    )
    with pytest.raises(DataError):
        decode_mask(huge, SHAPE, LIMITS)


def test_a_mask_that_covers_most_of_the_border_is_told_apart():
    inside = np.zeros((10, 20), bool)
    inside[2:8, 2:18] = True
    assert not _covers_border(inside)
    assert _covers_border(~inside)
    inside[:, :8] = True  # 8 + 8 + 8 of 56 border pixels
    assert not _covers_border(inside)
    inside[:, :13] = True  # 13 + 13 + 8
    assert _covers_border(inside)


def test_official_palette_masks_have_the_lesion_inside():
    if "CTAN_TEST_DATA" not in os.environ:
        pytest.skip("CTAN_TEST_DATA names no real data")
    archive = Path(os.environ["CTAN_TEST_DATA"]) / "ham10000" / "palette-masks-600x450.tar"
    with tarfile.open(archive) as stream:
        contents = [stream.extractfile(member).read() for member in stream.getmembers()]
    assert len(contents) == 10
    centres = []
    for content in contents:
        picture = Image.open(io.BytesIO(content))
        mask = decode_mask(content, (450, 600), LIMITS)
        assert picture.mode == "P"
        np.testing.assert_array_equal(mask, np.asarray(picture.convert("L")) > 127)
        np.testing.assert_array_equal(mask, np.asarray(picture) == 0)  # the raw index is the inverse
        assert not _covers_border(mask)
        centres.append(mask[225, 300])
    assert sum(centres) >= 8
