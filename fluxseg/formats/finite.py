"""Images for tools that know no pixels outside of the valid area: NaN goes, and comes back."""

from pathlib import Path
from typing import Any

import numpy as np

from fluxseg.data.recording import Recording, pixel_size
from fluxseg.errors import RecordingError, WorkdirError
from fluxseg.formats.pixels import read_pixels, write_image_tiff

COPY = "fluxseg predict: a copy of the image"
"""In an image that a network's labels lie beside: it is one of its own if they are corrected."""


def finite_image(image: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Replace what is not finite by the least value: the percentiles of most tools would be NaN.

    Returns the image `[H, W]` of the same dtype (uint8 for bool), and a remark if it was changed.
    """
    image = image.astype(np.uint8) if image.dtype == bool else image
    finite = np.isfinite(image)
    count = image.size - np.count_nonzero(finite)
    if not count:
        return image, ()
    least = image[finite].min() if finite.any() else 0
    filled = np.where(finite, image, least).astype(image.dtype)
    return filled, (f"{count} pixels of the image are not finite: set to its least value, {least}",)


def write_image(path: Path, recording: Recording, *, once: bool = False) -> tuple[str, ...]:
    """Write the image of a recording, made finite, as TIFF with the size of its pixels.

    With `once` somebody's own image is never written over: `WorkdirError` if it is another one; and
    beside labels of a network it is marked as a copy.
    """
    image, remarks = finite_image(recording.image)
    if not (once and path.exists()):
        copy = COPY if once and recording.metadata.get("made_by") else None
        write_image_tiff(path, image, pixel_size(recording.metadata), software=copy)
    elif not holds_image(path, image):
        raise WorkdirError(f"{path}: is there and holds another image; choose another name")
    return remarks


def holds_image(path: Path, image: np.ndarray) -> bool:
    """Tell whether a file holds just these pixels."""
    try:
        return bool(np.array_equal(read_pixels(path)[0], image))
    except RecordingError:
        return False


def pack_outside(image: np.ndarray) -> np.ndarray | None:
    """Return what of an image is not finite as `numpy.packbits` has it; None if all is finite."""
    outside = ~np.isfinite(image)
    return np.packbits(outside) if outside.any() else None


def fill_outside(image: np.ndarray, packed: Any) -> np.ndarray:
    """Set those pixels of a float image `[H, W]` to NaN that `pack_outside` found.

    `packed` comes from a file; what is not from `pack_outside` is ignored.
    """
    if not isinstance(packed, np.ndarray) or packed.dtype != np.uint8 or image.dtype.kind != "f":
        return image
    if packed.shape != (-(-image.size // 8),):
        return image
    outside = np.unpackbits(packed, count=image.size).reshape(image.shape).view(bool)
    return np.where(outside, np.array(np.nan, image.dtype), image)
