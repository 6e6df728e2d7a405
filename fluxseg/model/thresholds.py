"""The threshold that turns a probability into a mask, chosen on labelled pixels.

Pixels are counted by class and probability in bins whose edges are the candidate thresholds, so
that counts of any number of batches add up and every candidate is scored exactly.
"""

import numpy as np

from fluxseg.errors import FluxsegError

MARGIN = 1 / 256
"""No threshold is nearer to 0 or to 1."""


def iou_by_threshold(histogram: np.ndarray) -> np.ndarray:
    """Neuron IoU, pooled over all counted pixels, at every edge of a histogram.

    Args:
        histogram: `[2, bins]` integer, pixels by ascending probability; row 0 counts background,
            row 1 neuron. Else `FluxsegError`.

    Returns:
        `[bins]` float64; entry k is the IoU of "neuron from bin k on", NaN if there is no neuron
        pixel, neither true nor predicted.
    """
    counts = np.asarray(histogram)
    if counts.ndim != 2 or len(counts) != 2 or counts.dtype.kind not in "iu" or counts.size < 4:
        raise FluxsegError(
            f"a histogram must be [2, bins] integers, got {list(counts.shape)} {counts.dtype}"
        )
    counts = counts.astype(np.int64)
    false_positive, true_positive = np.cumsum(counts[:, ::-1], axis=1)[:, ::-1]
    union = counts[1].sum() + false_positive
    return np.divide(true_positive, union, out=np.full(counts.shape[1], np.nan), where=union > 0)


def choose_threshold(histogram: np.ndarray, edges: np.ndarray, default: float = 0.5) -> float:
    """Choose the threshold with the largest pooled neuron IoU.

    It has the largest pooled Dice as well, as Dice = 2 IoU / (1 + IoU) grows with the IoU. Of
    equally good thresholds the one nearest to `default` is taken.

    Args:
        histogram: `[2, bins]` integer, see `iou_by_threshold`, of validation pixels.
        edges: `[bins]` float, ascending, the least probability of each bin.
        default: what is returned if there is no neuron pixel to choose by.

    Returns:
        One of the edges, at least `MARGIN` away from 0 and 1, for `probability >= threshold`;
        `FluxsegError` if none can be chosen.
    """
    iou = iou_by_threshold(histogram)
    usable = (edges >= MARGIN) & (edges <= 1 - MARGIN)
    if len(edges) != len(iou) or not usable.any():
        raise FluxsegError(f"{len(edges)} edges do not suit a histogram of {len(iou)} bins")
    if not np.asarray(histogram)[1].sum():
        return default
    iou, edges = iou[usable], edges[usable]
    best = edges[iou == np.nanmax(iou)]
    return float(best[np.argmin(np.abs(best - default))])
