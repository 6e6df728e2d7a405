"""Recordings as image files with masks beside them."""

import io
import re
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from fluxseg.errors import RecordingError
from fluxseg.formats.images import read_image
from fluxseg.formats.pick import Pick
from fluxseg.formats.pixels import read_pixels
from tests.formats.refusal import refused

GRAY8 = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
GRAY16 = np.arange(48, dtype=np.uint16).reshape(6, 8) * 1365
LABELS = np.zeros((6, 8), np.uint8)
LABELS[:2, :2], LABELS[3:5, 3:6], LABELS[5, 7] = 1, 2, 7


def save(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


DTYPES = ("u1", "u2", "u4", "i2", "i4", "f4", "f8", ">u2", ">f4")
OPTIONS = [
    {}, {"bigtiff": True}, {"rowsperstrip": 2}, {"tile": (16, 16)}, {"ome": True},
    {"byteorder": ">"}, {"imagej": True}, {"compression": "jpeg2000"},
    *({"compression": kind, "predictor": predictor}
      for kind in ("lzw", "packbits", "zlib", "zstd", "lzma") for predictor in (False, True)),
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_tiff_values_are_exact(tmp_path, options):
    dtypes = {"imagej": ("u1", "u2", "f4"), "jpeg2000": ("u1", "u2")}
    kind = "imagej" if "imagej" in options else options.get("compression")
    for dtype in dtypes.get(kind, DTYPES[:7] if "predictor" in options else DTYPES):
        low = -20 if np.dtype(dtype).kind != "u" else 0
        image = np.random.default_rng(0).integers(low, 230, (33, 47)).astype(dtype)
        if image.dtype.kind == "f":
            image[0, 0] = 0.1
        tifffile.imwrite(tmp_path / "a.tif", image, **options)
        found, facts = read_pixels(tmp_path / "a.tif")
        np.testing.assert_array_equal(
            found, image.astype(image.dtype.newbyteorder("=")), strict=True
        )
        assert facts["format"] == "TIFF"


def tiff_bytes(array, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


def with_strip(content, strip):
    """The TIFF file with other bytes as its only strip, which lie behind it."""
    data = bytearray(content)
    with tifffile.TiffFile(io.BytesIO(content)) as opened:
        for name, value in (("StripOffsets", len(data)), ("StripByteCounts", len(strip))):
            struct.pack_into("<HII", data, opened.pages[0].tags[name].offset + 2, 4, 1, value)
    return bytes(data) + strip


def test_packed_and_lossy_tiff_files_are_read(tmp_path):
    image = np.random.default_rng(0).integers(0, 4096, (32, 48)).astype("u2")
    packed = bytearray(with_strip(tiff_bytes(image), imagecodecs.packints_encode(image, 12)))
    with tifffile.TiffFile(io.BytesIO(packed)) as opened:
        place = opened.pages[0].tags["BitsPerSample"].valueoffset
    struct.pack_into("<H", packed, place, 12)
    (tmp_path / "a.tif").write_bytes(packed)
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.tif")[0], image)
    smooth = np.add.outer(np.arange(32), np.arange(48)).astype("u1") * 3
    for compression in ("jpeg", "webp"):
        picture = np.stack([smooth] * 3, -1) if compression == "webp" else smooth
        tifffile.imwrite(
            tmp_path / "b.tif", picture, compression=compression, compressionargs={"level": 95}
        )
        assert np.abs(read_pixels(tmp_path / "b.tif")[0].astype(int) - smooth).max() < 12


def test_a_picture_inside_of_a_tiff_may_not_be_larger_than_it_declares(tmp_path):
    large = io.BytesIO()
    Image.fromarray(np.zeros((4096, 4096), "u1")).save(large, "JPEG")
    small = tiff_bytes(np.zeros((64, 64), "u1"), compression="jpeg")
    (tmp_path / "a.tif").write_bytes(with_strip(small, large.getvalue()))
    with pytest.raises(RecordingError, match="holds more than the size it declares"):
        read_pixels(tmp_path / "a.tif")


@pytest.mark.parametrize("compression", [None, "lzw", "zlib"])
def test_white_is_zero_is_inverted(tmp_path, compression):
    for image in (GRAY8, GRAY16, GRAY8 > 100):
        tifffile.imwrite(
            tmp_path / "a.tif", image, photometric="miniswhite", compression=compression
        )
        expected = (
            ~image if image.dtype == bool else image.max() * 0 + np.iinfo(image.dtype).max - image
        )
        np.testing.assert_array_equal(read_pixels(tmp_path / "a.tif")[0], expected)
    tifffile.imwrite(tmp_path / "a.tif", LABELS, photometric="miniswhite", compression=compression)
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.tif", labels=True)[0], LABELS)


def save_palette(path, image, table, **options):
    if path.suffix == ".tif":
        colormap = (table.T.astype("u2") * 257).copy()
        tifffile.imwrite(path, image, photometric="palette", colormap=colormap, **options)
    else:
        picture = Image.fromarray(image, "L").convert("P")
        picture.putpalette(table.astype("u1").tobytes())
        picture.save(path)
    return path


@pytest.mark.filterwarnings("ignore:'mode' parameter:DeprecationWarning")
@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.gif"])
def test_palettes_count_by_their_hue_or_their_brightness(tmp_path, name):
    image = np.arange(256, dtype="u1").reshape(16, 16)
    ramp = np.arange(256)
    zero = np.zeros(256, int)
    green, fire = np.stack([zero, ramp, zero], 1), np.stack([ramp, ramp // 2, ramp // 3], 1)
    inverse, mixed = (
        np.stack([255 - ramp] * 3, 1),
        np.random.default_rng(0).integers(0, 255, (256, 3)),
    )
    for table, expected in ((green, image), (fire, image), (inverse, 255 - image)):
        found = read_pixels(save_palette(tmp_path / name, image, table))[0]
        np.testing.assert_array_equal(found, expected)
    path = save_palette(tmp_path / name, image, mixed)
    if name != "a.gif":
        with pytest.raises(RecordingError, match=r"colour image \(a palette\)"):
            read_pixels(path)
        np.testing.assert_array_equal(read_pixels(path, labels=True)[0], image)


@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.bmp"])
@pytest.mark.parametrize("depth", ["u1", "u2"])
def test_the_only_colour_in_use_is_the_image(tmp_path, name, depth):
    image = GRAY8.astype(depth)
    rgb = np.zeros((6, 8, 3), depth)
    rgb[..., 1] = image
    path = tmp_path / name
    if name == "a.tif":
        tifffile.imwrite(path, rgb, photometric="rgb")
    elif depth == "u2":
        if name == "a.bmp":
            return
        path.write_bytes(imagecodecs.png_encode(rgb))
    else:
        save(path, rgb)
    np.testing.assert_array_equal(read_pixels(path)[0], image, strict=True)
    if name != "a.tif":
        return
    rgb[..., 0] = image[::-1]
    tifffile.imwrite(path, rgb, photometric="rgb")
    with pytest.raises(RecordingError, match=r"\(red, green, blue\); choose one with --channel"):
        read_pixels(path)
    np.testing.assert_array_equal(read_pixels(path, pick=Pick(channel="red"))[0], image[::-1])
    np.testing.assert_array_equal(read_pixels(path, pick=Pick(channel="2"))[0], image)
    with pytest.raises(RecordingError, match="has no channel 'nir'"):
        read_pixels(path, pick=Pick(channel="nir"))


@pytest.mark.parametrize("image", [GRAY8, GRAY16, GRAY8 > 100])
def test_png_values_are_exact(tmp_path, image):
    found, facts = read_pixels(save(tmp_path / "a.png", image))
    assert found.dtype == image.dtype
    np.testing.assert_array_equal(found, image)
    assert facts == {"format": "PNG"}


def test_gray_in_colour_is_one_channel(tmp_path):
    rgb = np.dstack([GRAY8] * 3)
    rgba = np.dstack([GRAY8] * 3 + [np.full_like(GRAY8, 9)])
    paths = [
        save(tmp_path / "rgb.png", rgb),
        save(tmp_path / "rgba.png", rgba),
        save(tmp_path / "la.png", np.dstack([GRAY8, GRAY8[::-1]])),
        tmp_path / "palette.png",
        tmp_path / "rgb.tif",
        tmp_path / "planar.tif",
    ]
    Image.fromarray(GRAY8).convert("P").save(paths[3])
    tifffile.imwrite(paths[4], rgb.astype("u2"), photometric="rgb")
    planar = np.stack([GRAY16] * 3)
    tifffile.imwrite(paths[5], planar, photometric="rgb", planarconfig="separate")
    for path in paths[:5]:
        np.testing.assert_array_equal(read_pixels(path)[0], GRAY8)
    np.testing.assert_array_equal(read_pixels(paths[5])[0], GRAY16)


def png_with_header(width, height, depth=8, colour=0):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
    data = b"".join(
        struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + data


def tiff_of(**tags):
    data = bytearray(tiff_bytes(GRAY16))
    with tifffile.TiffFile(io.BytesIO(data)) as opened:
        for name, value in tags.items():
            tag = opened.pages[0].tags[name]
            width = {3: "<H", 4: "<I"}[tag.dtype]
            struct.pack_into(width, data, tag.valueoffset, value)
    return bytes(data)


def test_what_is_not_one_image_is_said(tmp_path):
    rgb = np.dstack([GRAY8, GRAY8, GRAY8[::-1]])
    cases = {}
    for name in ("colour.png", "colour.tif", "colour.jpg"):
        save(tmp_path / name, np.kron(rgb, np.ones((4, 4, 1), "u1")))
        cases[name] = "holds 3 channels (red, green, blue); choose one with --channel"
    Image.fromarray(GRAY8).convert("CMYK").save(tmp_path / "cmyk.jpg")
    cases["cmyk.jpg"] = "is a colour image"
    for name, options in (
        ("movie.tif", {}),
        ("imagej.tif", {"imagej": True}),
        ("shaped.tif", {"metadata": {"axes": "TYX"}, "truncate": True}),
        ("ome.tif", {"ome": True, "metadata": {"axes": "TYX"}}),
        ("zlib.tif", {"compression": "zlib"}),
    ):
        tifffile.imwrite(
            tmp_path / name, np.stack([GRAY16] * 5), photometric="minisblack", **options
        )
        cases[name] = "is a movie of 5 frames: make an image of it with `fluxseg project"
    Image.fromarray(GRAY8).save(
        tmp_path / "movie.png", save_all=True, append_images=[Image.fromarray(GRAY8[::-1])]
    )
    cases["movie.png"] = "is a movie of 2 frames"
    for name, data, reason in (
        ("empty.png", b"", "is empty"),
        ("text.png", b"hello", "is no image file"),
        ("colour16.png", png_with_header(6, 6, 16, 2), "is damaged"),
        ("begun.png", png_with_header(6, 6)[:8] + bytes(50), "it begins as PNG does, but is none"),
        ("large.png", png_with_header(2**20, 2**20), "declares more than the limit"),
        ("medium.png", png_with_header(8193, 8192), "8192 x 8193 px large, the limit"),
        ("thin.png", png_with_header(4096, 4096), "too short for 4096 x 4096 px"),
        ("short.png", png_with_header(6, 600), "short.png: "),
        ("large.tif", tiff_of(ImageWidth=2**30, ImageLength=2**30), "px large, the limit"),
        ("wide.tif", tiff_of(ImageWidth=600, ImageLength=600), "is truncated"),
        ("long.tif", tiff_of(StripByteCounts=2**31), "is truncated"),
        ("missing.tif", tiff_of(RowsPerStrip=1), "a part of its pixels is missing"),
        ("samples.tif", tiff_of(SamplesPerPixel=30_000), "samples.tif: "),
    ):
        (tmp_path / name).write_bytes(data)
        cases[name] = reason
    for name, reason in cases.items():
        with refused(tmp_path / name, re.escape(reason), memory=2**24):
            read_pixels(tmp_path / name)


def test_compressed_bombs_are_not_unpacked(tmp_path):
    path = tmp_path / "bomb.tif"
    bomb = zlib.compress(bytes(2**28), 9)
    path.write_bytes(with_strip(tiff_bytes(GRAY16, compression="zlib"), bomb))
    with refused(path, "is damaged", memory=2**23):
        read_pixels(path)


@pytest.mark.parametrize(
    ("resolution", "unit", "metadata", "expected"),
    [
        ((1 / 0.785, 1 / 0.785), None, {"unit": "um"}, 0.785),
        ((2.0, 2.0), None, {"unit": "micron"}, 0.5),
        ((1000.0, 1000.0), None, {"unit": "mm"}, 1.0),
        ((20_000.0, 20_000.0), "CENTIMETER", None, 0.5),
        ((25_400.0, 25_400.0), "INCH", None, 1.0),
        ((72.0, 72.0), "INCH", None, None),
        ((2.0, 4.0), None, {"unit": "um"}, None),
        ((2.0, 2.0), "NONE", None, None),
        ((2.0, 2.0), None, {"unit": "pixel"}, None),
    ],
)
def test_pixel_sizes_come_from_tiff_tags(tmp_path, resolution, unit, metadata, expected):
    options = {"imagej": True, "metadata": metadata} if metadata else {"resolutionunit": unit}
    tifffile.imwrite(tmp_path / "a.tif", GRAY16, resolution=resolution, **options)
    found = read_image(tmp_path / "a.tif").metadata
    assert found == ({} if expected is None else {"um_per_px": pytest.approx(expected, rel=1e-6)})
