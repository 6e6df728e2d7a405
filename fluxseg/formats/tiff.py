"""TIFF files by `tifffile` and `imagecodecs`; sizes are checked before memory is taken."""

import contextlib
import io
import logging
import math
import struct
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fluxseg.errors import RecordingError
from fluxseg.formats.npy import explain_damage

MAX_PIXELS = 8192 * 8192  # pixels of an image; a few bytes can declare any number
MAX_BYTES = 2**30  # bytes of an image in memory
MAX_RATIO = 2048  # no compression of single-channel images makes them so many times smaller
TIFF_MAGICS = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")  # how TIFF files begin
_FILTERS = threading.Lock()
# Decoders of bytes stop at the size that is asked for: none, CCITT, LZW, deflate, PackBits, LZMA,
# Zstandard.
_BYTES = (1, 2, 3, 4, 5, 8, 32946, 32773, 34925, 50000)
# Those of pictures give what the picture itself declares: JPEG, JPEG 2000, WebP, PNG.
_PICTURES = (7, 33003, 33004, 33005, 33007, 34712, 34933, 50001)
# Of these the most that a byte can become is known.
_LIMITED = (1, 5, 8, 32946, 32773)
# Micrometres of the length units that TIFF tags, ImageJ and NWB files know.
_UNITS = {"nm": 1e-3, "mm": 1e3, "millimeters": 1e3, "cm": 1e4, "inch": 25400.0}
_UNITS |= dict.fromkeys(("meters", "meter", "m"), 1e6)
_UNITS |= dict.fromkeys(("um", "µm", "μm", "\\u00b5m", "micron", "microns"), 1.0)
_UNITS |= dict.fromkeys(("micrometer", "micrometers", "micrometres"), 1.0)


@contextlib.contextmanager
def open_tiff(path: Path) -> Iterator[Any]:
    """Open a TIFF file with `tifffile`, whose own log lines are not shown."""
    import tifffile

    logger = logging.getLogger("tifffile")
    before, logger.disabled = logger.disabled, True
    try:
        # Some formats name further files, which are none of ours to open; of ScanImage's the
        # library would guess where the pages are.
        options: dict[str, Any] = {"is_ome": False, "is_scanimage": False, "_multifile": False}
        with explain_damage(), tifffile.TiffFile(path, **options) as tiff:
            tiff.pages.useframes = False
            yield tiff
    finally:
        logger.disabled = before


def get_page(tiff: Any, number: int) -> Any:
    """Return a page of a TIFF file; an error if it is no image of real numbers."""
    page = tiff.pages.get(number, None, aspage=True)
    if page.dtype is None or any(side < 0 for side in page.shape) or page.imagedepth > 1:
        raise RecordingError("", f"page {number + 1} is of an unknown kind: {list(page.shape)}")
    if page.dtype.kind not in "biuf":
        raise RecordingError("", f"must hold real numbers, got {page.dtype}")
    return page


def decode_page(path: Path, page: Any) -> np.ndarray:
    """Return the pixels of a page: `[H, W]`, or `[H, W, S]` with several samples a pixel."""
    check_segments(path, page)
    image = np.asarray(page.asarray(maxworkers=1))
    height, width = page.imagelength, page.imagewidth
    samples = page.size // max(height * width, 1)
    if image.size != height * width * samples:
        raise RecordingError("", f"is damaged: its pixels do not make {height} x {width} px")
    if samples == 1:
        return image.reshape(height, width)
    if page.planarconfig == 2:
        return np.moveaxis(image.reshape(samples, height, width), 0, -1)
    return image.reshape(height, width, samples)


def check_segments(path: Path, page: Any) -> None:
    """Raise unless the file holds what the page declares, and no part decodes to more."""
    height, width = page.imagelength, page.imagewidth
    check_size((height, width), path, page.bitspersample * (page.compression in _LIMITED))
    size = path.stat().st_size
    name = getattr(page.compression, "name", page.compression)
    if page.compression not in (*_BYTES, *_PICTURES):
        raise RecordingError("", f"has a compression that is not read ({name}); save it without")
    packed = page.compression == 1 and page.size * page.bitspersample // 8
    if max(sum(page.databytecounts), packed) > size:
        raise RecordingError("", f"is truncated, or damaged: its pixels do not fit in {size} bytes")
    if len(page.dataoffsets) != math.prod(page.chunked) or 0 in page.databytecounts:
        raise RecordingError("", "is damaged: a part of its pixels is missing")
    if page.nbytes > MAX_BYTES:
        raise RecordingError("", f"would take {page.nbytes} bytes, the limit is {MAX_BYTES}")
    if page.compression in _PICTURES:
        limits = (page.tilewidth, page.tilelength) if page.is_tiled else (width, height)
        with path.open("rb") as file:
            for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
                file.seek(offset)
                _check_picture(file.read(count), limits, name)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Ignore warnings; one thread at a time, as the whole process has one list of filters."""
    with _FILTERS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _check_picture(data: bytes, limits: tuple[int, int], name: str) -> None:
    from PIL import Image

    damage = explain_damage(f"is damaged: a part of it is no {name} picture")
    with quiet(), damage, Image.open(io.BytesIO(data)) as picture:
        sides = picture.size
    # Parts of a picture may be filled up to whole blocks.
    if any(side > limit + 64 for side, limit in zip(sides, limits, strict=True)):
        raise RecordingError("", "is damaged: it holds more than the size it declares")


def check_size(shape: tuple[int, int], path: Path, bits: int = 8) -> None:
    """Raise if an image is too large, or larger than its compression could make of the file."""
    height, width = shape
    if height * width > MAX_PIXELS:
        reason = f"is {height} x {width} px large, the limit is {MAX_PIXELS} pixels"
        raise RecordingError("", reason)
    if height * width * bits // 8 > MAX_RATIO * path.stat().st_size + 2**20:
        raise RecordingError("", f"is damaged: too short for {height} x {width} px")


def check_end(path: Path, tiff: Any, pages: int) -> None:
    """Raise unless the chain of pages ends as it should; a broken one is read up to the break."""
    form, last = tiff.tiff, tiff.pages.get(pages - 1, None, aspage=True)
    with path.open("rb") as file:
        file.seek(last.offset)
        count = struct.unpack(form.tagnoformat, file.read(form.tagnosize))[0]
        file.seek(last.offset + form.tagnosize + count * form.tagsize)
        following = file.read(form.offsetsize)
    if len(following) < form.offsetsize or any(following):
        raise RecordingError("", f"is truncated, or damaged: what follows page {pages} is missing")


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
    return square_pixels(size * x_units / x_pixels, size * y_units / y_pixels)


def square_pixels(x: float, y: float) -> float | None:
    """Return the side of square pixels, um; None if they are not, or of no field of view."""
    # Printers' resolutions, such as 72 per inch, are no sizes of a field of view.
    plausible = 0.01 <= x <= 50 and abs(x - y) <= 0.01 * x
    return round(x, 9) if plausible else None


def unit_length(unit: str) -> float | None:
    """Return the micrometres of a unit of length, None if it is not known."""
    return _UNITS.get(unit.strip().lower())
