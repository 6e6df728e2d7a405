"""Images for tools that know no pixels outside of the valid area: NaN goes, and comes back."""

from typing import Any

import numpy as np


def finite_image(image: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Replace what is not finite by the least value: the percentiles of most tools would be NaN.

    Args:
        image: `[H, W]`, any real dtype.

    Returns:
        The image, of the same dtype (uint8 for bool), and a remark if something was replaced.
    """
    image = image.astype(np.uint8) if image.dtype == bool else image
    finite = np.isfinite(image)
    count = image.size - np.count_nonzero(finite)
    if not count:
        return image, ()
    least = image[finite].min() if finite.any() else 0
    filled = np.where(finite, image, least).astype(image.dtype)
    return filled, (f"{count} pixels of the image are not finite: set to its least value, {least}",)


def pack_outside(image: np.ndarray) -> np.ndarray | None:
    """Return one bit for each pixel of an image `[H, W]`, 1 if it is not finite; None if all are.

    Returns:
        uint8, as `numpy.packbits` has it.
    """
    outside = ~np.isfinite(image)
    return np.packbits(outside) if outside.any() else None


def fill_outside(image: np.ndarray, packed: Any) -> np.ndarray:
    """Set those pixels of a float image to NaN that `pack_outside` found.

    Args:
        image: `[H, W]`.
        packed: from a file; what is not from `pack_outside` is ignored.

    Returns:
        `[H, W]` of the same dtype.
    """
    if not isinstance(packed, np.ndarray) or packed.dtype != np.uint8 or image.dtype.kind != "f":
        return image
    if packed.shape != (-(-image.size // 8),):
        return image
    outside = np.unpackbits(packed, count=image.size).reshape(image.shape).view(bool)
    return np.where(outside, np.array(np.nan, image.dtype), image)
