"""The threshold that turns a probability into a mask, chosen on labelled pixels.

Pixels are counted by class and probability in bins whose edges are the candidate thresholds, so
that counts of any number of batches add up and every candidate is scored exactly.
"""

import jax
import jax.numpy as jnp
import numpy as np

from fluxseg.errors import FluxsegError

BINS = 256
"""Bins of the histogram; a power of two, so that `probability * BINS` is exact in float32."""


def probability_histogram(
    probability: jax.Array, label: jax.Array, valid: jax.Array, bins: int = BINS
) -> jax.Array:
    """Count the valid pixels of a batch by true class and predicted probability.

    Args:
        probability: `[B, H, W]` float32, 0 to 1, of "neuron".
        label: `[B, H, W]` integer, above 0 is neuron.
        valid: `[B, H, W]`, bool or number; pixels of 0 are not counted.
        bins: bin k holds k / bins <= probability < (k + 1) / bins; the last one holds 1 as well.

    Returns:
        `[2, bins]` int32; row 0 counts background, row 1 neuron. Add up batches in int64.
    """
    level = jnp.clip(jnp.floor(probability * bins).astype(jnp.int32), 0, bins - 1)
    cell = jnp.where(label > 0, bins, 0) + level
    cell = jnp.where(valid > 0, cell, 2 * bins)
    counts = jnp.bincount(cell.ravel(), length=2 * bins + 1)
    return counts[: 2 * bins].reshape(2, bins).astype(jnp.int32)


def iou_by_threshold(histogram: np.ndarray) -> np.ndarray:
    """Neuron IoU, pooled over all counted pixels, at every edge of a histogram.

    Args:
        histogram: `[2, bins]` integer, see `probability_histogram`.

    Returns:
        `[bins]` float64; entry k is the IoU of "neuron where probability >= k / bins", NaN if
        there is no neuron pixel, neither true nor predicted.

    Raises:
        FluxsegError: if the histogram is of another form.
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


def choose_threshold(histogram: np.ndarray, default: float = 0.5) -> float:
    """Choose the threshold with the largest pooled neuron IoU.

    It has the largest pooled Dice as well, as Dice = 2 IoU / (1 + IoU) grows with the IoU. Of
    equally good thresholds the one nearest to `default` is taken.

    Args:
        histogram: `[2, bins]` integer, see `probability_histogram`, of validation pixels.
        default: what is returned if there is no neuron pixel to choose by.

    Returns:
        Threshold above 0 and below 1, for `probability >= threshold`.

    Raises:
        FluxsegError: if the histogram is of another form.
    """
    iou = iou_by_threshold(histogram)[1:]
    if not np.asarray(histogram)[1].sum():
        return default
    edges = np.arange(1, len(iou) + 1) / (len(iou) + 1)
    best = edges[iou == np.nanmax(iou)]
    return float(best[np.argmin(np.abs(best - default))])
