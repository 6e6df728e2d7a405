"""Recordings as image files with masks beside them."""

import io
import random
import struct
import time
import tracemalloc
import warnings
import zlib
from collections import deque

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from fluxseg.data.recording import NO_GROUP
from fluxseg.errors import RecordingError
from fluxseg.formats import labels as labels_module
from fluxseg.formats import tiff
from fluxseg.formats.images import read_image
from fluxseg.formats.labels import label_components, masks_from_labels, merge_labels
from fluxseg.formats.pairs import find_labels
from fluxseg.formats.pick import Pick
from fluxseg.formats.pixels import read_pixels, write_label_tiff

GRAY8 = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
GRAY16 = np.arange(48, dtype=np.uint16).reshape(6, 8) * 1365
LABELS = np.zeros((6, 8), np.uint8)
LABELS[:2, :2], LABELS[3:5, 3:6], LABELS[5, 7] = 1, 2, 7


def save(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


def flood_components(mask):
    """Brute-force reference: flood each component, corners connect."""
    found, count = np.zeros(mask.shape, np.int64), 0
    for start in zip(*np.nonzero(mask), strict=True):
        if found[start]:
            continue
        count += 1
        found[start] = count
        queue = deque([start])
        while queue:
            row, column = queue.popleft()
            for r in range(max(row - 1, 0), min(row + 2, mask.shape[0])):
                for c in range(max(column - 1, 0), min(column + 2, mask.shape[1])):
                    if mask[r, c] and not found[r, c]:
                        found[r, c] = count
                        queue.append((r, c))
    return found


@settings(max_examples=200, deadline=None)
@given(mask=hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)))
def test_components_are_those_of_a_flood(mask):
    np.testing.assert_array_equal(label_components(mask), flood_components(mask))


def test_components_of_large_masks_take_bounded_time():
    rng = np.random.default_rng(0)
    comb = np.zeros((1024, 1024), bool)
    comb[::2] = comb[1::4, -1] = comb[3::4, 0] = True
    began = time.perf_counter()
    for mask in (comb, comb.T, rng.random((1024, 1024)) < 0.4):
        label_components(mask)
    assert label_components(comb).max() == 1
    assert time.perf_counter() - began < 10


@settings(max_examples=100, deadline=None)
@given(
    labels=hnp.arrays(
        st.sampled_from(["u1", "u2", "i4", "f4", "?"]),
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=8),
        elements=st.integers(0, 1),
    ),
    factor=st.integers(1, 100),
)
def test_labels_become_masks_and_back(labels, factor):
    if labels.dtype != bool:
        labels = (labels * factor).astype(labels.dtype)
    masks, names = masks_from_labels(labels)
    expected = [v for v in np.unique(labels) if v != 0]
    assert names == tuple(str(int(v)) for v in expected)
    for mask, value in zip(masks, expected, strict=True):
        np.testing.assert_array_equal(mask, labels == value)
    again, _ = masks_from_labels(merge_labels(masks))
    np.testing.assert_array_equal(again, masks)


def test_small_rois_are_drawn_over_large_ones():
    masks = np.zeros((3, 4, 4), bool)
    masks[0, 1, 1] = masks[1] = masks[2, 1, :2] = True
    assert merge_labels(masks)[1].tolist() == [3, 1, 2, 2]
    many = np.zeros((70_000, 1, 1), bool)
    assert merge_labels(many).dtype == np.uint32


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (np.array([[-1, 2]]), "0 or more, found -1"),
        (np.array([[0.5, 2]]), "whole numbers"),
        (np.array([[np.nan, 2]]), "whole numbers"),
        (np.array([[np.inf, 2]]), "whole numbers"),
        (np.arange(500 * 500).reshape(500, 500), "249999 different labels would take 58.2 GiB"),
    ],
)
def test_labels_that_are_none_are_said(labels, reason):
    with pytest.raises(RecordingError, match=reason):
        masks_from_labels(labels)


TIFF_DTYPES = ["u1", "u2", "u4", "i2", "i4", "f4", "f8", ">u2", ">f4"]


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("dtype", TIFF_DTYPES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bigtiff": True},
        {"rowsperstrip": 2},
        {"tile": (16, 16)},
        {"imagej": True},
        {"ome": True},
        {"byteorder": ">"},
    ],
)
def test_tiff_values_are_exact(tmp_path, dtype, compression, options):
    image = (np.arange(48).reshape(6, 8) * 3 - 20 * (np.dtype(dtype).kind != "u")).astype(dtype)
    if image.dtype.kind == "f":
        image[0, 0] = 0.1
    if "imagej" in options and dtype not in ("u1", "u2", "f4"):
        options = {"metadata": None}  # ImageJ has no other dtypes
    tifffile.imwrite(tmp_path / "a.tif", image, compression=compression, **options)
    found, facts = read_pixels(tmp_path / "a.tif")
    assert found.dtype == image.dtype.newbyteorder("=")
    np.testing.assert_array_equal(found, image)
    assert facts["format"] == "TIFF"


@pytest.mark.parametrize("compression", ["lzw", "packbits", "zlib", "zstd", "lzma", "jpeg2000"])
@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "i4", "i2", "f4", "f8"])
@pytest.mark.parametrize("predictor", [False, True])
def test_compressed_tiff_values_are_exact(tmp_path, dtype, compression, predictor):
    image = np.random.default_rng(0).integers(0, 250, (33, 47)).astype(dtype)
    if compression == "jpeg2000" and (predictor or dtype not in ("u1", "u2")):
        pytest.skip("JPEG 2000 has no predictor, and no such pixels")
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, compression=compression, predictor=predictor)
    np.testing.assert_array_equal(read_pixels(path)[0], image, strict=True)


def test_packed_and_lossy_tiff_files_are_read(tmp_path):
    image = np.random.default_rng(0).integers(0, 4096, (32, 48)).astype("u2")
    write_12_bit(tmp_path / "a.tif", image)
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
    small = np.zeros((64, 64), "u1")
    tifffile.imwrite(tmp_path / "a.tif", small, compression="jpeg")
    data = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as opened:
        for name, value in (("StripOffsets", len(data)), ("StripByteCounts", large.tell())):
            struct.pack_into("<HII", data, opened.pages[0].tags[name].offset + 2, 4, 1, value)
    (tmp_path / "a.tif").write_bytes(bytes(data) + large.getvalue())
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
    file = io.BytesIO()
    tifffile.imwrite(file, GRAY16)
    data = bytearray(file.getvalue())
    with tifffile.TiffFile(io.BytesIO(data)) as opened:
        for name, value in tags.items():
            tag = opened.pages[0].tags[name]
            width = {3: "<H", 4: "<I"}[tag.dtype]
            struct.pack_into(width, data, tag.valueoffset, value)
    return bytes(data)


def write_12_bit(path, image):
    """Write a TIFF of packed 12-bit pixels, as cameras do."""
    packed = imagecodecs.packints_encode(image, 12)
    tifffile.imwrite(path, image)
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as opened:
        tags = opened.pages[0].tags
        struct.pack_into("<H", data, tags["BitsPerSample"].valueoffset, 12)
        for name, value in (("StripOffsets", len(data)), ("StripByteCounts", len(packed))):
            struct.pack_into("<HII", data, tags[name].offset + 2, 4, 1, value)
    path.write_bytes(bytes(data) + packed)


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
        ("empty.png", b"", "is no image file"),
        ("text.png", b"hello", "is no image file"),
        ("colour16.png", png_with_header(6, 6, 16, 2), "is damaged"),
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
        tracemalloc.start()
        with pytest.raises(RecordingError) as raised:
            read_pixels(tmp_path / name)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert reason in str(raised.value), name
        assert str(raised.value).startswith(str(tmp_path / name)), name
        assert peak < 2**24, name


def test_compressed_bombs_are_not_unpacked(tmp_path):
    path = tmp_path / "bomb.tif"
    bomb = zlib.compress(bytes(2**28), 9)
    file = io.BytesIO()
    tifffile.imwrite(file, GRAY16, compression="zlib")
    data = bytearray(file.getvalue())
    with tifffile.TiffFile(io.BytesIO(data)) as opened:
        tags = opened.pages[0].tags
        for name, value in (("StripOffsets", len(data)), ("StripByteCounts", len(bomb))):
            width = {3: "<H", 4: "<I"}[tags[name].dtype]
            if width == "<H":
                struct.pack_into("<HI", data, tags[name].offset + 2, 4, 1)
            struct.pack_into("<I", data, tags[name].offset + 8, value)
    path.write_bytes(bytes(data) + bomb)
    tracemalloc.start()
    with pytest.raises(RecordingError, match="is damaged"):
        read_pixels(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**23


@pytest.mark.parametrize("kind", ["tif", "zlib", "lzw", "png", "jpg"])
def test_damage_is_an_error_or_harmless(tmp_path, kind):
    source = tmp_path / "source"
    noise = np.random.default_rng(0).integers(0, 255, (24, 24), np.uint8)
    if kind in ("tif", "zlib"):
        tifffile.imwrite(source, noise, compression="zlib" if kind == "zlib" else None)
    else:
        options = {"lzw": {"format": "TIFF", "compression": "tiff_lzw"}}
        save(source, noise, **options.get(kind, {"format": {"jpg": "JPEG"}.get(kind, "PNG")}))
    data = source.read_bytes()
    path = tmp_path / "damaged"
    rng = random.Random(kind)  # noqa: S311
    read, messages = 0, []
    tracemalloc.start()
    for _ in range(200):
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(damaged)) if rng.random() < 0.5 else rng.randrange(200)
            if rng.random() < 0.8:
                damaged[place] = rng.randrange(256)
            else:
                del damaged[place : place + rng.randint(1, 30)]
        path.write_bytes(damaged)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                read_pixels(path)
            read += 1
        except RecordingError as error:
            messages.append(str(error))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert messages
    assert all(message.startswith(f"{path}: ") for message in messages)
    assert kind == "png" or read
    assert peak < 2**25


def test_jpeg_images_are_remarked_on(tmp_path):
    found = read_image(save(tmp_path / "a.jpg", GRAY8, quality=95))
    assert found.image.dtype == np.uint8
    assert any("JPEG" in remark for remark in found.remarks)


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


def folder(tmp_path, mask_name, labels, image_name="cell.tif"):
    for name in (image_name, mask_name):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(tmp_path / image_name, GRAY16)
    if mask_name.lower().endswith((".tif", ".tiff")):
        write_label_tiff(tmp_path / mask_name, labels)
    else:
        save(tmp_path / mask_name, labels)
    return tmp_path / image_name


@pytest.mark.parametrize(
    ("mask", "image"),
    [
        ("cell_masks.tif", "cell.tif"),
        ("cell_mask.png", "cell.tif"),
        ("cell_labels.TIFF", "cell.tif"),
        ("cell_label.png", "cell.tif"),
        ("masks/cell.png", "images/cell.tif"),
        ("masks/cell.tif", "images/cell.TIF"),
    ],
)
def test_label_images_are_found_by_name(tmp_path, mask, image):
    path = folder(tmp_path, mask, LABELS, image)
    assert find_labels(path) == (tmp_path / mask,)
    found = read_image(path)
    assert (found.id, found.group, found.roi_ids) == ("cell", "cell", ("1", "2", "7"))
    for roi, mask_found in zip((1, 2, 7), found.masks, strict=True):
        np.testing.assert_array_equal(mask_found, np.equal(LABELS, roi))
    assert found.remarks == (NO_GROUP,)


def test_images_without_masks_are_not_annotated(tmp_path):
    found = read_image(save(tmp_path / "cell.png", GRAY8))
    assert (found.masks, found.roi_ids) == (None, ())


@pytest.mark.parametrize("value", [1, 255])
def test_binary_masks_are_taken_apart(tmp_path, value):
    binary = (LABELS > 0).astype(np.uint8) * value
    found = read_image(folder(tmp_path, "cell_mask.png", binary))
    assert found.roi_ids == ("1", "2", "3")
    np.testing.assert_array_equal(found.masks.any(0), LABELS > 0)
    whole = read_image(folder(tmp_path / "other", "cell_labels.png", binary))
    assert whole.roi_ids == (str(value),)


@pytest.mark.parametrize("labels", [np.zeros((6, 8), "u1"), np.ones((6, 8), "u1")])
def test_masks_of_one_value(tmp_path, labels):
    found = read_image(folder(tmp_path, "cell_masks.png", labels))
    assert len(found.masks) == labels[0, 0]


def test_jpeg_masks_are_cut_at_half(tmp_path):
    mask = np.zeros((32, 32), np.uint8)
    mask[4:12, 4:12] = mask[20:28, 16:30] = 255
    tifffile.imwrite(tmp_path / "cell.tif", np.arange(1024, dtype="u2").reshape(32, 32))
    save(tmp_path / "cell_mask.jpg", mask, quality=90)
    found = read_image(tmp_path / "cell.tif")
    np.testing.assert_array_equal(found.masks.any(0), mask > 0)
    assert len(found.masks) == 2
    assert "the masks are a JPEG file: cut at half of the largest value" in found.remarks


def test_palette_numbers_are_labels(tmp_path):
    tifffile.imwrite(tmp_path / "cell.tif", GRAY16)
    picture = Image.fromarray(LABELS, "L").convert("P")
    picture.putpalette([value * 37 % 256 for value in range(768)])
    picture.save(tmp_path / "cell_masks.png")
    assert len(np.unique(Image.open(tmp_path / "cell_masks.png"))) == 4
    assert len(read_image(tmp_path / "cell.tif").masks) == 3


def test_masks_that_do_not_fit_name_their_file(tmp_path):
    path = folder(tmp_path, "cell_masks.tif", LABELS[:5])
    with pytest.raises(RecordingError, match=r"cell_masks\.tif: masks: are \[5, 8\] px"):
        read_image(path)
    write_label_tiff(tmp_path / "cell_masks.tif", LABELS)
    save(tmp_path / "cell_label.png", LABELS)
    with pytest.raises(RecordingError, match=r"several .*: cell_label\.png, cell_masks\.tif"):
        read_image(path)
    with pytest.raises(RecordingError, match="named as labels, but its image is not there"):
        read_image(save(tmp_path / "alone_mask.png", LABELS))


def test_limits_are_those_that_are_said(tmp_path, monkeypatch):
    monkeypatch.setattr(tiff, "MAX_PIXELS", 47)
    with pytest.raises(RecordingError, match="6 x 8 px large, the limit is 47 pixels"):
        read_pixels(save(tmp_path / "a.png", GRAY8))
    monkeypatch.setattr(labels_module, "MAX_BYTES", 3 * 48 - 1)
    with pytest.raises(RecordingError, match="3 different labels"):
        masks_from_labels(LABELS)


def test_real_projections_are_read(real_data):
    paths = sorted((real_data / "allen_mesoscope_unlabelled").glob("*.png"))
    assert len(paths) == 8
    for path in paths:
        assert read_image(path).image.shape == (512, 512)
