"""How surely a person would mark a found cell, told from its probability, edge, size and shape."""

import numpy as np

FEATURES = ("probability", "edge", "smaller", "roundness")
WEIGHTS = (2.44, 2.87, -3.8, 1.74)
BIAS = -2.63
"""A logistic, fitted by `experiments/pretrained/confidence.py`."""
FEW = 5
"""With fewer cells than this a field has no typical size."""


def describe_cells(
    labels: np.ndarray, area: np.ndarray, probability: np.ndarray, edge: np.ndarray
) -> np.ndarray:
    """Measure what tells cells from what else is found.

    Brightness over the surroundings, which was tried too, tells nothing more: a network that sees
    an image in many displays has it in its probability.

    Args:
        labels: `[H, W]` int, 0 is background, cells are numbered from 1 without gaps.
        area: `[N]`, px.
        probability: `[N]`, mean probability of "neuron" inside.
        edge: `[N]`, that minus the mean in the rim around.

    Returns:
        `[N, 4]` float64, by `FEATURES`: the last two, how much smaller a cell is than the field's
        median (logarithm of the ratio, 0 for larger ones), and its area over that of a disc of the
        same spread, 1 for a disc and less for what is long or ragged.
    """
    typical = np.median(area) if len(area) >= FEW else np.inf
    smaller = np.log(np.maximum(typical / area, 1)) if np.isfinite(typical) else 0 * area
    return np.stack([probability, edge, smaller, measure_roundness(labels, area)], 1)


def rate_cells(features: np.ndarray) -> np.ndarray:
    """Return the confidence `[N]`, 0 to 1, of what `describe_cells` gives."""
    return np.asarray(1 / (1 + np.exp(-(features @ np.array(WEIGHTS) + BIAS))))


def measure_roundness(labels: np.ndarray, area: np.ndarray) -> np.ndarray:
    """Return `[N]`, the area of each cell over that of a disc of the same second moment."""
    count = len(area)
    rows, columns = np.nonzero(labels)
    which = labels[rows, columns].astype(np.intp)
    size = np.maximum(area, 1)
    spread = np.zeros(count)
    for place in (rows, columns):
        middle = np.bincount(which, place, count + 1)[1:] / size
        spread += np.bincount(which, (place - middle[which - 1]) ** 2, count + 1)[1:] / size
    # The second moment of a disc is its area over 2 pi; a single pixel has 1/6.
    return np.minimum(area / (2 * np.pi * np.maximum(spread, 1 / 6)), 1)
