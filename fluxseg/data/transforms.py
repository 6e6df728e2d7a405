"""Pure functions from a recording's arrays to the crops that a network sees."""

import numpy as np

from fluxseg.errors import RecordingError

CLIP = (-1.0, 3.0)  # range that normalised images are clipped to; their percentiles lie at 0 and 1


def merge_masks(masks: np.ndarray) -> np.ndarray:
    """Merge the masks of all ROIs into one semantic mask by OR.

    Args:
        masks: `[N, H, W]` bool, or numbers of which those above 0 belong to the ROI; N may be 0.

    Returns:
        `[H, W]` bool, true where at least one ROI is.

    Raises:
        RecordingError: if `masks` is not 3-D.
    """
    return merge_and_count(masks)[0]


def merge_and_count(masks: np.ndarray) -> tuple[np.ndarray, int]:
    """Merge masks as `merge_masks` does, and count those that are empty, in one pass."""
    if masks.ndim != 3:
        raise RecordingError("masks", f"must be [N, H, W], got shape {list(masks.shape)}")
    merged = np.zeros(masks.shape[1:], bool)
    empty = 0
    # One ROI at a time: float masks of hundreds of ROIs never exist a second time as bool, and
    # what the second look at a mask needs is still in the cache.
    for mask in masks:
        inside = mask if mask.dtype == np.bool_ else mask > 0
        np.logical_or(merged, inside, out=merged)
        empty += not inside.reshape(-1).any()
    return merged, empty


def crop_quarters(image: np.ndarray) -> np.ndarray:
    """Cut an image into its four quarters, row-major, as the reference protocol does.

    For a square image these are the crops that `prepare` makes with a tile of half its side.

    Args:
        image: `[H, W]` or `[H, W, C]`, H and W even.

    Returns:
        `[4, H/2, W/2]` or `[4, H/2, W/2, C]`: top left, top right, bottom left, bottom right.

    Raises:
        ValueError: if a side is odd.
    """
    height, width = image.shape[:2]
    if height % 2 or width % 2:
        raise ValueError(f"quarters need even sides, got {height} x {width}")
    split = image.reshape(2, height // 2, 2, width // 2, *image.shape[2:])
    return split.swapaxes(1, 2).reshape(4, height // 2, width // 2, *image.shape[2:])


def join_quarters(quarters: np.ndarray) -> np.ndarray:
    """Put four quarters together again; the inverse of `crop_quarters`.

    Args:
        quarters: `[4, h, w]` or `[4, h, w, C]`.

    Returns:
        `[2h, 2w]` or `[2h, 2w, C]`.

    Raises:
        ValueError: if there are not four.
    """
    if len(quarters) != 4:
        raise ValueError(f"expected 4 quarters, got {len(quarters)}")
    height, width = quarters.shape[1:3]
    split = quarters.reshape(2, 2, height, width, *quarters.shape[3:])
    return split.swapaxes(1, 2).reshape(2 * height, 2 * width, *quarters.shape[3:])


def normalize_image(
    image: np.ndarray, low_percentile: float = 1.0, high_percentile: float = 99.5
) -> np.ndarray:
    """Scale an image so that two of its percentiles become 0 and 1, whatever its dtype.

    Args:
        image: `[H, W]`, any real dtype. Pixels that are not finite take no part in the
            percentiles and become 0.
        low_percentile: percentile that becomes 0, in [0, 100).
        high_percentile: percentile that becomes 1, above `low_percentile`.

    Returns:
        `[H, W]` float32, clipped to `CLIP`. An image without contrast becomes all 0.

    Raises:
        ValueError: if the percentiles are not in order.
    """
    if not 0 <= low_percentile < high_percentile <= 100:
        raise ValueError(f"need 0 <= low < high <= 100, got {low_percentile}, {high_percentile}")
    table = _normalize_levels(image, low_percentile, high_percentile)
    if table is not None:
        return table
    # float64, because differences of large integers (or of float16) are not exact below it.
    values = np.asarray(image, np.float64)
    finite = np.isfinite(values)
    whole = bool(finite.all())
    kept = values.ravel() if whole else values[finite]
    if kept.size == 0:
        return np.zeros(image.shape, np.float32)
    low, high = np.percentile(kept, (low_percentile, high_percentile))
    if high <= low:
        # Nearly all pixels are equal; what contrast there is lies in the few others.
        low, high = kept.min(), kept.max()
    return _scale(values if whole else np.where(finite, values, low), low, high)


def _scale(values: np.ndarray, low: float, high: float) -> np.ndarray:
    # Halved, since the difference of two finite numbers may not be finite.
    span = high / 2 - low / 2
    if span <= 0:
        return np.zeros(values.shape, np.float32)
    return np.clip((values / 2 - low / 2) / span, *CLIP).astype(np.float32)


def _normalize_levels(
    image: np.ndarray, low_percentile: float, high_percentile: float
) -> np.ndarray | None:
    """Do the same by a table of all levels, where an image of integers has few of them."""
    if image.dtype.kind not in "iu" or image.dtype.itemsize > 4 or not image.size:
        return None
    bottom, top = int(image.min()), int(image.max())
    # Each step is then a fraction of the work on all pixels.
    if top - bottom > min(image.size // 4, 2**16):
        return None
    levels = image.astype(np.intp).ravel()
    levels -= bottom
    below = np.cumsum(np.bincount(levels))
    low, high = (_percentile(below, bottom, p) for p in (low_percentile, high_percentile))
    if high <= low:
        low, high = float(bottom), float(top)
    table = _scale(np.arange(bottom, top + 1, dtype=np.float64), low, high)
    return np.take(table, levels).reshape(image.shape)


def _percentile(below: np.ndarray, bottom: int, percent: float) -> float:
    """Percentile of integers, of which `below[i]` are at most `bottom + i`, rounded as numpy's."""
    count = int(below[-1])
    position = (count - 1) * (percent / 100)
    first = int(position)
    ranks = (first + 1, min(first + 2, count))
    start, end = (float(bottom + level) for level in np.searchsorted(below, ranks).tolist())
    share = position - first
    return start + (end - start) * share if share < 0.5 else end - (end - start) * (1 - share)


def crop_middle(image: np.ndarray, side: int) -> np.ndarray:
    """Return the middle of an image `[H, W]`, at most `side` px high and wide, as a view."""
    top, left = (max(length - side, 0) // 2 for length in image.shape)
    return image[top : top + side, left : left + side]


def to_uint8(normalized: np.ndarray) -> np.ndarray:
    """Map a normalised image to 8 bits: 0 to 0, 1 to 255, clipped (nothing wraps around)."""
    return np.rint(np.clip(normalized, 0, 1) * 255).astype(np.uint8)


def quantize(image: np.ndarray) -> np.ndarray:
    """Store a normalised float image as uint16; more than 14 bits lie between 0 and 1.

    Values outside of `CLIP` are clipped; `dequantize` gives it back within 1 / 32768.
    """
    low, high = CLIP
    scaled = (np.clip(image, low, high) - low) * np.float32(65535 / (high - low))
    return np.rint(scaled).astype(np.uint16)


def dequantize(stored: np.ndarray) -> np.ndarray:
    """Return the float32 image that `quantize` stored."""
    low, high = CLIP
    return stored * np.float32((high - low) / 65535) + np.float32(low)


def rotate(array: np.ndarray, symmetry: int) -> np.ndarray:
    """Rotate `[H, W]` or `[H, W, C]` by `symmetry % 4` quarter turns, and flip it from 4 on.

    These are the 8 symmetries of the square; the result is a view.
    """
    rotated = np.rot90(array, symmetry % 4)
    return rotated[:, ::-1] if symmetry >= 4 else rotated


def rotate_back(array: np.ndarray, symmetry: int) -> np.ndarray:
    """Undo `rotate` with the same `symmetry`; `[H, W]` or `[H, W, C]`."""
    return np.rot90(array[:, ::-1] if symmetry >= 4 else array, -(symmetry % 4))
