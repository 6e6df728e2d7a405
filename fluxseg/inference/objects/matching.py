"""Which predicted object is which true one: sparse overlaps, Hungarian and nearest-centre match."""

import dataclasses
from typing import Any

import numpy as np
from scipy import sparse
from scipy.optimize import linear_sum_assignment

from fluxseg.errors import RecordingError


@dataclasses.dataclass(frozen=True, eq=False)
class Overlaps:
    """Pairs of a true and a predicted object that share pixels.

    Attributes:
        true: `[K]` int, number of the true object, from 0.
        predicted: `[K]` int, number of the predicted object, from 0.
        pixels: `[K]` int64, pixels that both have, above 0.
        true_area: `[N]` int64, px.
        predicted_area: `[M]` int64, px.
        true_centre: `[N, 2]` float64, mean row and column, px.
        predicted_centre: `[M, 2]` float64, mean row and column, px.
    """

    true: np.ndarray
    predicted: np.ndarray
    pixels: np.ndarray
    true_area: np.ndarray
    predicted_area: np.ndarray
    true_centre: np.ndarray
    predicted_centre: np.ndarray

    @property
    def iou(self) -> np.ndarray:
        """`[K]` float64, intersection over union of each pair."""
        union = self.true_area[self.true] + self.predicted_area[self.predicted] - self.pixels
        return self.pixels / union


@dataclasses.dataclass(frozen=True, eq=False)
class Matches:
    """Objects that correspond, each at most once.

    Attributes:
        true: `[K]` int, number of the true object, ascending.
        predicted: `[K]` int, number of the predicted object.
        iou: `[K]` float64, intersection over union of each pair.
    """

    true: np.ndarray
    predicted: np.ndarray
    iou: np.ndarray


def overlap_objects(true: np.ndarray, predicted: np.ndarray) -> Overlaps:
    """Count the pixels that true and predicted objects share.

    Objects are numbered from 0 in the order of the masks, or of ascending labels. Masks without a
    pixel are no objects and are not counted.

    Args:
        true: masks `[N, H, W]` bool, which may overlap, or labels `[H, W]` of whole numbers, 0 is
            background.
        predicted: the same for the prediction, of equal height and width.

    Returns:
        All pairs that share a pixel; time and memory grow with the pixels of objects, not with
        N times M.

    Raises:
        RecordingError: if one is neither masks nor labels, or the sizes differ.
    """
    first, second = _membership(true, "true"), _membership(predicted, "predicted")
    if true.shape[-2:] != predicted.shape[-2:]:
        raise RecordingError(
            "predicted",
            f"objects lie in {list(predicted.shape[-2:])} pixels, the true ones in "
            f"{list(true.shape[-2:])}",
        )
    shared = (first @ second.T).tocoo()
    width = true.shape[-1]
    return Overlaps(
        true=shared.row.astype(np.int64),
        predicted=shared.col.astype(np.int64),
        pixels=shared.data.astype(np.int64),
        true_area=np.diff(first.indptr).astype(np.int64),
        predicted_area=np.diff(second.indptr).astype(np.int64),
        true_centre=_centres(first, width),
        predicted_centre=_centres(second, width),
    )


def _membership(objects: Any, field: str) -> Any:
    """Sparse `[objects, pixels]`, 1 where a pixel belongs to an object."""
    if not isinstance(objects, np.ndarray) or objects.ndim not in (2, 3):
        raise RecordingError(field, "objects must be masks [N, H, W] or a label image [H, W]")
    if objects.ndim == 3:
        if objects.dtype != np.bool_:
            raise RecordingError(field, f"masks must be bool, got dtype {objects.dtype}")
        size = objects.shape[1] * objects.shape[2]
        which, pixel = np.nonzero(objects.reshape(len(objects), size))
    else:
        if objects.dtype.kind not in "iu" or (objects.size and objects.min() < 0):
            raise RecordingError(field, "labels must be whole numbers of 0 or more")
        pixel = np.flatnonzero(objects)
        which, size = objects.ravel()[pixel], objects.size
    names, number = np.unique(which, return_inverse=True)
    ones = np.ones(len(pixel), np.int64)
    return sparse.csr_array((ones, (number, pixel)), shape=(len(names), size))


def _centres(members: Any, width: int) -> np.ndarray:
    area = np.diff(members.indptr)
    number = np.repeat(np.arange(len(area)), area)
    place = np.divmod(members.indices, max(width, 1))
    sums = [np.bincount(number, at, len(area)) for at in place]
    return np.stack(sums, 1) / area[:, None]


def assign_pairs(overlaps: Overlaps, iou: float = 0.5, *, strict: bool = False) -> Matches:
    """Choose as many pairs of sufficient IoU as can be, and of those the ones that fit best.

    It is the assignment of StarDist and Cellpose: the Hungarian method on the cost
    -(IoU >= t) - IoU / (2 min(N, M)) (stardist `matching.py`, cellpose `metrics.py`), with the
    second term only for pairs that can match. So the number of matches is always theirs; their
    choice among equal numbers may differ where several objects overlap one. Pairs of which neither
    has another match are taken at once; few others are left.

    Args:
        overlaps: from `overlap_objects`.
        iou: least IoU, above 0.
        strict: whether the IoU must exceed it instead.
    """
    values = overlaps.iou
    chosen = np.flatnonzero(values > iou if strict else values >= iou)
    true, predicted, values = overlaps.true[chosen], overlaps.predicted[chosen], values[chosen]
    count, other = len(overlaps.true_area), len(overlaps.predicted_area)
    alone = (np.bincount(true, minlength=count)[true] == 1) & (
        np.bincount(predicted, minlength=other)[predicted] == 1
    )
    pairs, rest = np.flatnonzero(alone), np.flatnonzero(~alone)
    if len(rest):
        gain = 1 + values[rest] / (2 * min(count, other))
        pairs = np.append(pairs, rest[_best(true[rest], predicted[rest], gain)])
    pairs = pairs[np.argsort(true[pairs])]
    return Matches(true[pairs], predicted[pairs], values[pairs])


def _best(rows: np.ndarray, columns: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """Numbers of the edges of the assignment of greatest gain."""
    row, column = (np.unique(ends, return_inverse=True)[1] for ends in (rows, columns))
    table = np.zeros((row.max() + 1, column.max() + 1))
    edge = np.full(table.shape, -1)
    table[row, column], edge[row, column] = gain, np.arange(len(gain))
    picked = edge[linear_sum_assignment(table, maximize=True)]
    return picked[picked >= 0]


def match_centres(
    true: np.ndarray, predicted: np.ndarray, distance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Match by nearest centres as Neurofinder does (`match` of its Python package).

    Each true centre `[N, 2]`, px, in its order takes the nearest prediction `[M, 2]` that is left,
    the first of equals, if it is nearer than `distance`, px. Returns the numbers of the true and of
    the predicted objects of the matches, `[K]` int each.
    """
    pairs: list[tuple[int, int]] = []
    free = np.ones(len(predicted), bool)
    for number, centre in enumerate(true if len(predicted) else ()):
        away = np.where(free, np.sqrt(((predicted - centre) ** 2).sum(1)), np.inf)
        nearest = int(away.argmin())
        if away[nearest] < distance:
            pairs.append((number, nearest))
            free[nearest] = False
    found = np.array(pairs, np.int64).reshape(-1, 2)
    return found[:, 0], found[:, 1]
