"""Which pixels count for which ROI, as Suite2p defines it: cells, and the neuropil around them.

Checked against the code of Suite2p 1.1.0 (`suite2p/extraction/masks.py`) with its default settings.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import ndimage, sparse

from fluxseg.data.recording import Recording, annotated_masks, check_masks
from fluxseg.errors import RecordingError
from fluxseg.formats.suite2p_stat import measure_soma

INNER_PX = 2  # pixels around a ROI that belong to neither it nor its neuropil
LEAST_NEUROPIL_PX = 350  # the neuropil of a ROI grows until it has more pixels than this
_GROWTH_PX, _MOST_STEPS = 5, 100
_CHUNK = 4096


@dataclasses.dataclass(frozen=True, eq=False)
class Footprints:
    """The pixels of N ROIs and what each weighs."""

    pixels: tuple[np.ndarray, ...]  # N times `[K]` int64, places in the flattened field, ascending
    weights: tuple[np.ndarray, ...]  # N times `[K]` float32, 0 or more
    shape: tuple[int, int]  # height and width of the field, px

    def __len__(self) -> int:
        """Return the number of ROIs."""
        return len(self.pixels)

    def masks(self) -> np.ndarray:
        """Return one mask for each ROI, `[N, H, W]` bool."""
        masks = np.zeros((len(self), self.shape[0] * self.shape[1]), bool)
        for mask, pixels in zip(masks, self.pixels, strict=True):
            mask[pixels] = True
        return masks.reshape(-1, *self.shape)


def create_footprints(rois: Any, shape: tuple[int, int]) -> Footprints:
    """Take ROIs of any kind apart, in their order; those that have no pixel stay.

    They are `Rois`; a `Recording` with masks; labels `[H, W]` of whole numbers, 0 is background;
    masks `[N, H, W]` bool; or weights `[N, H, W]` float, 0 outside. `shape` is that of the movie's
    frames, px. Raises `RecordingError` if they are of another kind, or of a field of another size.
    """
    if isinstance(rois, Recording):
        rois = annotated_masks(rois)
    array = np.asarray(getattr(rois, "labels", rois))
    if array.shape[-2:] != shape:
        raise RecordingError(
            "rois", f"are of a field of {list(array.shape[-2:])} px, the movie has {list(shape)} px"
        )
    if array.ndim == 2 and array.dtype.kind in "iu":
        return _from_labels(array)
    if array.ndim != 3 or array.dtype.kind != "f":
        check_masks(array, shape, "rois")
    elif not (np.isfinite(array).all() and (array >= 0).all()):
        raise RecordingError("rois", "have weights that are negative or not finite")
    flat = array.reshape(len(array), array[0].size if len(array) else 0)
    pixels = tuple(map(np.flatnonzero, flat))
    weights = (row[p].astype(np.float32) for row, p in zip(flat, pixels, strict=True))
    return Footprints(pixels, tuple(weights), shape)


def _from_labels(labels: np.ndarray) -> Footprints:
    if labels.size and labels.min() < 0:
        raise RecordingError("rois", f"must be labels of 0 or more, found {labels.min()}")
    flat = labels.reshape(-1)
    order = np.argsort(flat, kind="stable")
    starts = np.flatnonzero(np.diff(flat[order])) + 1
    pixels = [part for part in np.split(order, starts) if len(part) and flat[part[0]]]
    ones = tuple(np.ones(len(part), np.float32) for part in pixels)
    return Footprints(tuple(pixels), ones, (labels.shape[0], labels.shape[1]))


def create_cell_matrix(footprints: Footprints) -> sparse.csr_array:
    """Create the weights of N cells, `[N, H W]` float32, without pixels that several ROIs share.

    The sum of a row is 1, or 0 if no pixel is the ROI's alone.
    """
    alone = _count(footprints) == 1
    rows = []
    for pixels, weights in zip(footprints.pixels, footprints.weights, strict=True):
        kept = alone[pixels]
        total = weights[kept].sum()
        rows.append((pixels[kept], weights[kept] / total if total > 0 else 0 * weights[kept]))
    return _to_matrix(rows, footprints.shape)


def create_neuropil_matrix(footprints: Footprints) -> sparse.csr_array:
    """Create the weights of the neuropil around each of N ROIs.

    The neuropil is what no ROI covers in a rectangle around the ROI, without a border of
    `INNER_PX` around the ROI. The rectangle grows in steps until it has more than
    `LEAST_NEUROPIL_PX` such pixels.

    Returns `[N, H W]` float32; all pixels of a row are equal, their sum is 1, or 0 without any.
    """
    height, width = footprints.shape
    free = ~_cell_pixels(footprints)
    sums = np.pad(free.cumsum(0, dtype=np.int64).cumsum(1), ((1, 0), (1, 0)))
    rows = []
    for pixels in footprints.pixels:
        if not len(pixels):
            rows.append((pixels, np.zeros(0, np.float32)))
            continue
        y, x = np.divmod(pixels, width)
        top, bottom = max(0, y.min() - INNER_PX), min(height, y.max() + INNER_PX + 1)
        left, right = max(0, x.min() - INNER_PX), min(width, x.max() + INNER_PX + 1)
        own = np.zeros((bottom - top, right - left), bool)
        own[y - top, x - left] = True
        own = ndimage.binary_dilation(own, iterations=INNER_PX)
        box = (top, bottom, left, right)
        near = np.count_nonzero(free[top:bottom, left:right] & own)
        for _ in range(_MOST_STEPS):
            box = (max(0, box[0] - _GROWTH_PX), min(height, box[1] + _GROWTH_PX),
                   max(0, box[2] - _GROWTH_PX), min(width, box[3] + _GROWTH_PX))  # fmt: skip
            inside = (
                sums[box[1], box[3]] - sums[box[0], box[3]]
                - sums[box[1], box[2]] + sums[box[0], box[2]]
            )  # fmt: skip
            if inside - near > LEAST_NEUROPIL_PX:
                break
        part = free[box[0] : box[1], box[2] : box[3]].copy()
        part[top - box[0] : bottom - box[0], left - box[2] : right - box[2]] &= ~own
        y, x = np.nonzero(part)
        found = (y + box[0]) * width + x + box[2]
        rows.append((found, np.full(len(found), 1 / max(len(found), 1), np.float32)))
    return _to_matrix(rows, footprints.shape)


def _to_matrix(
    rows: Sequence[tuple[np.ndarray, np.ndarray]], shape: tuple[int, int]
) -> sparse.csr_array:
    ends = np.cumsum([0, *(len(pixels) for pixels, _ in rows)])
    pixels = np.concatenate([np.zeros(0, np.int64), *(pixels for pixels, _ in rows)])
    weights = np.concatenate([np.zeros(0, np.float32), *(weights for _, weights in rows)])
    size = (len(rows), shape[0] * shape[1])
    return sparse.csr_array((weights.astype(np.float32), pixels, ends), size)


def _count(footprints: Footprints) -> np.ndarray:
    """Return how many ROIs cover each pixel, `[H W]`."""
    size = footprints.shape[0] * footprints.shape[1]
    covered = np.concatenate([np.zeros(0, np.int64), *footprints.pixels])
    return np.bincount(covered, minlength=size)


def _cell_pixels(footprints: Footprints) -> np.ndarray:
    """Mark the pixels of cells `[H, W]`: those whose weight is not below the median around.

    The median counts in crowded fields only, where ROIs cover half of the surroundings.
    """
    height, width = footprints.shape
    flat = np.zeros(height * width)
    for pixels, values in zip(footprints.pixels, footprints.weights, strict=True):
        flat[pixels] = np.maximum(flat[pixels], values)
    weight = flat.reshape(height, width)
    cells = weight > 0
    if not cells.any():
        return cells
    side = int(_median_radius(footprints) * 5)
    if side < 1:
        return cells
    # Where at least half of the surroundings is empty, the median is 0.
    rank = side * side // 2
    before, after = side // 2, side - 1 - side // 2
    padded = np.pad(weight, (before, after), "symmetric")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side))
    covered = np.pad((padded > 0).cumsum(0, dtype=np.int64).cumsum(1), ((1, 0), (1, 0)))
    count = (
        covered[side:, side:] - covered[:-side, side:]
        - covered[side:, :-side] + covered[:-side, :-side]
    )  # fmt: skip
    y, x = np.nonzero(cells & (count > side * side - rank - 1))
    for start in range(0, len(y), _CHUNK):
        rows, columns = y[start : start + _CHUNK], x[start : start + _CHUNK]
        larger = (windows[rows, columns] > weight[rows, columns][:, None, None]).sum((1, 2))
        cells[rows, columns] = larger <= side * side - rank - 1
    return cells


def _median_radius(footprints: Footprints) -> float:
    radii = []
    for pixels, weights in zip(footprints.pixels, footprints.weights, strict=True):
        if not len(pixels):
            continue
        y, x = np.divmod(pixels, footprints.shape[1])
        radii.append(measure_soma(y, x, weights)[2])
    return float(np.median(radii))
