"""Single-channel TIFF, PNG and JPEG files as arrays, with their exact values."""

import contextlib
import math
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fluxseg.errors import RecordingError
from fluxseg.formats.npy import naming_file, open_regular
from fluxseg.io.files import atomic_path

MAX_PIXELS = 8192 * 8192
"""Pixels of an image; a few bytes can declare any number."""
MAX_BYTES = 2**30
"""Bytes of an image in memory."""
MAX_RATIO = 2048
"""No compression of single-channel images makes them so many times smaller."""
MAGICS: dict[bytes, Literal["PNG", "JPEG", "TIFF"]] = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
    b"II+\x00": "TIFF",
    b"MM\x00+": "TIFF",
}
"""How files of each format begin."""
# Micrometres of the length units that TIFF tags and ImageJ know.
_UNITS = {"um": 1.0, "µm": 1.0, "μm": 1.0, "\\u00b5m": 1.0, "micron": 1.0, "microns": 1.0}
_UNITS |= {"nm": 1e-3, "mm": 1e3, "cm": 1e4, "inch": 25400.0}
RAW, DEFLATE = 1, (8, 32946)
"""Compressions that are read with a check of what they unpack to; others go through Pillow."""


def read_pixels(
    path: Path | str, *, labels: bool = False, page: int | None = None
) -> tuple[np.ndarray, dict[str, Any]]:
    """Read one single-channel image.

    Colour images whose channels are equal count as one channel; an alpha channel is ignored.

    Args:
        path: TIFF, PNG or JPEG file, told by its content.
        labels: whether the values are labels: those of a palette are then its numbers, not its
            colours.
        page: number of the page of a TIFF file, from 0; None if it must have one only.

    Returns:
        `[H, W]` of the file's own dtype (16-bit integers, floats), and what is known about it:
        `format`, and `um_per_px` if a TIFF file says so.

    Raises:
        RecordingError: naming the file, if it is in colour, holds several pages, is larger than
            `MAX_PIXELS`, or cannot be read.
    """
    path = Path(path)
    with naming_file(path):
        with open_regular(path) as (file, _):
            start = file.read(32)
        kind = next((kind for magic, kind in MAGICS.items() if start.startswith(magic)), None)
        if kind is None:
            raise RecordingError("", "is neither a TIFF, PNG nor JPEG file")
        if kind == "PNG" and start[24:25] == b"\x10" and start[25:26] != b"\x00":
            raise RecordingError("", "is a 16-bit PNG in colour; save it with one channel")
        facts: dict[str, Any] = {"format": kind}
        try:
            if kind == "TIFF":
                image, scale = _read_tiff(path, labels, page)
                facts |= {} if scale is None else {"um_per_px": scale}
            else:
                image = _read_with_pillow(path, kind, labels)
        except (RecordingError, OSError, MemoryError):
            raise
        except Exception as error:
            # Both libraries meet damaged files with exceptions of any kind.
            raise RecordingError("", f"is damaged: {type(error).__name__}: {error}") from error
        return _one_channel(image), facts


def count_pages(path: Path | str) -> int:
    """Count the pages of a TIFF file that `read_pixels` can read; 1 for any other file.

    Raises:
        RecordingError: naming the file, if it cannot be read.
    """
    path = Path(path)
    with naming_file(path):
        with open_regular(path) as (file, _):
            start = file.read(4)
        if MAGICS.get(start) != "TIFF":
            return 1
        with open_tiff(path) as tiff:
            return len(tiff.pages)


@contextlib.contextmanager
def open_tiff(path: Path) -> Iterator[Any]:
    """Open a TIFF file with `tifffile`.

    Raises:
        RecordingError: without the name of the file, if what is read in the block is damaged.
    """
    import tifffile

    try:
        # Some formats name further files, which are none of ours to open.
        with tifffile.TiffFile(path, is_ome=False, _multifile=False) as tiff:
            yield tiff
    except (RecordingError, OSError, MemoryError):
        raise
    except Exception as error:
        # The library meets damaged files with exceptions of any kind.
        raise RecordingError("", f"is damaged: {type(error).__name__}: {error}") from error


def write_label_tiff(path: Path | str, labels: np.ndarray) -> None:
    """Write a label image as TIFF, compressed without loss.

    Args:
        path: file to write, whole or not at all.
        labels: `[H, W]` whole numbers of 8, 16 or 32 bits.

    Raises:
        WorkdirError: if the file cannot be written.
    """
    write_image_tiff(path, labels, compress=True)


def write_image_tiff(
    path: Path | str,
    image: np.ndarray,
    um_per_px: float | None = None,
    *,
    compress: bool = False,
) -> None:
    """Write an image as TIFF in its own dtype, with the size of a pixel where it is known.

    Args:
        path: file to write, whole or not at all.
        image: `[H, W]`.
        um_per_px: size of a pixel, um; `read_pixels` finds it again.
        compress: without loss; not every tool reads that.

    Raises:
        WorkdirError: if the file cannot be written.
    """
    import tifffile

    with atomic_path(path) as temporary:
        tifffile.imwrite(
            temporary,
            image,
            photometric="minisblack",
            compression="zlib" if compress else None,
            resolution=None if um_per_px is None else (1e4 / um_per_px, 1e4 / um_per_px),
            resolutionunit=None if um_per_px is None else "CENTIMETER",
        )


def _read_with_pillow(path: Path, kind: str, labels: bool, page: int | None = None) -> np.ndarray:
    from PIL import Image

    with warnings.catch_warnings():
        # Its warning about large images comes before its error; the limit here is lower.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with _open_picture(path, kind) as picture:
            if page is not None:
                picture.seek(page)
            _check_size(picture.size[::-1], 1 if picture.mode == "1" else 8, path)
            frames = getattr(picture, "n_frames", 1)
            if frames > 1 and page is None:
                raise RecordingError("", _several(frames))
            if picture.mode in ("P", "PA") and not labels:
                return np.asarray(picture.convert("RGB"))
            if picture.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
                raise RecordingError("", f"is a colour image ({picture.mode}); save one channel")
            return np.asarray(picture)


def _open_picture(path: Path, kind: str) -> Any:
    from PIL import Image

    try:
        return Image.open(path, formats=(kind,))
    except Image.DecompressionBombError as error:
        raise RecordingError("", f"declares more than the limit of {MAX_PIXELS} pixels") from error


def _check_size(shape: tuple[int, ...], bits: int, path: Path) -> None:
    height, width = shape
    if height * width > MAX_PIXELS:
        raise RecordingError(
            "", f"is {height} x {width} px large, the limit is {MAX_PIXELS} pixels"
        )
    if height * width * bits // 8 > MAX_RATIO * path.stat().st_size + 2**20:
        raise RecordingError("", f"is damaged: too short for {height} x {width} px")


def _several(count: int) -> str:
    return f"holds {count} pages; if it is a movie, save its projection over time instead"


def _one_channel(image: np.ndarray) -> np.ndarray:
    """Drop channels that say the same as the first, and alpha."""
    if image.ndim == 3 and image.shape[2] in (2, 4):
        image = image[..., :-1]
    if image.ndim == 3 and image.shape[2] in (1, 3):
        if (image != image[..., :1]).any():
            raise RecordingError("", "is a colour image; save the channel that shows the neurons")
        image = image[..., 0]
    if image.ndim != 2:
        raise RecordingError("", f"is not an image [H, W] but has the shape {list(image.shape)}")
    return np.ascontiguousarray(image, image.dtype.newbyteorder("="))


def _read_tiff(path: Path, labels: bool, number: int | None) -> tuple[np.ndarray, float | None]:
    import tifffile

    with open_tiff(path) as tiff:
        stored, declared = len(tiff.pages), _declared_pages(tiff)
        if number is not None and not 0 <= number < stored:
            raise RecordingError("", f"has no page {number + 1}, it holds {stored}")
        if number is not None and declared > stored:
            raise RecordingError("", f"stores {declared} images as one page; save it as pages")
        # All pages as they are stored: by default the first one would stand in for their tags.
        tiff.pages.useframes = False
        page = tiff.pages[number or 0]
        if not isinstance(page, tifffile.TiffPage):
            raise RecordingError("", "is damaged: its first page is not an image")
        _check_size((page.imagelength, page.imagewidth), page.bitspersample, path)
        samples = math.prod(page.shape) / max(page.imagelength * page.imagewidth, 1)
        if number is None and max(stored, declared) > 1:
            raise RecordingError("", _several(max(stored, declared)))
        if samples > 4 or page.imagedepth > 1:
            raise RecordingError("", f"holds {list(page.shape)} values a page; save one channel")
        scale = read_scale(tiff, page)
        if page.compression in (RAW, *DEFLATE):
            check_segments(path, page)
            image = page.asarray()
            planar = image.ndim == 3 and page.planarconfig == 2
            return (np.moveaxis(image, 0, -1) if planar else image), scale
        if page.bitspersample > 16 and page.dtype != np.float32:
            raise RecordingError("", "has a compression that is not known; save it without")
    # Pillow's library knows other compressions, but not every depth exactly.
    return _read_with_pillow(path, "TIFF", labels, number), scale


def _declared_pages(tiff: Any) -> int:
    """Return the pages of files that store many as one: ImageJ's and tifffile's own."""
    series = first_series(tiff)
    stored = math.prod(tiff.pages[0].shape)
    return 1 if series is None or not stored else math.prod(series.shape) // stored


def first_series(tiff: Any) -> Any:
    """Return the first series of images of a TIFF file, None if it has none.

    Raises:
        RecordingError: if a page has no size, over which the library would never end.
    """
    for number in range(len(tiff.pages) if tiff.is_shaped else 1):
        shape = tiff.pages.get(number, None, aspage=True).shape
        if any(side < 0 for side in shape):
            raise RecordingError("", f"is damaged: page {number + 1} is {list(shape)} px large")
    return tiff.series[0] if tiff.series else None


def check_segments(path: Path, page: Any) -> None:
    """Raise unless the file holds what the page declares, and no segment decodes to more."""
    size = path.stat().st_size
    packed = page.compression == RAW and page.size * page.bitspersample // 8
    if max(sum(page.databytecounts), packed) > size:
        raise RecordingError("", f"is truncated, or damaged: its pixels do not fit in {size} bytes")
    if len(page.dataoffsets) != math.prod(page.chunked) or 0 in page.databytecounts:
        raise RecordingError("", "is damaged: a part of its pixels is missing")
    if page.nbytes > MAX_BYTES:
        raise RecordingError("", f"would take {page.nbytes} bytes, the limit is {MAX_BYTES}")
    if page.compression == RAW:
        return
    left = page.nbytes + 2**16
    with path.open("rb") as file:
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
            file.seek(offset)
            left -= len(zlib.decompressobj().decompress(file.read(count), left + 1))
            if left < 0:
                raise RecordingError("", "is damaged: it holds more than the size it declares")


def read_scale(tiff: Any, page: Any) -> float | None:
    """Return the size of the pixels that a page of a TIFF file states, um; None if it does not."""
    x, y = (page.tags.get(name) for name in ("XResolution", "YResolution"))
    if x is None or y is None:
        return None
    unit = {2: "inch", 3: "cm"}.get(int(page.resolutionunit), "")
    unit = str((tiff.imagej_metadata or {}).get("unit", unit)).lower()
    size = _UNITS.get(unit)
    values = [*x.value, *y.value] if x.dtype == y.dtype == 5 else []
    if size is None or len(values) != 4 or not all(values):
        return None
    x_pixels, x_units, y_pixels, y_units = values
    x_size, y_size = size * x_units / x_pixels, size * y_units / y_pixels
    # Printers' resolutions, such as 72 per inch, are no sizes of a field of view.
    plausible = 0.01 <= x_size <= 50 and abs(x_size - y_size) <= 0.01 * x_size
    return round(x_size, 9) if plausible else None
