"""How surely a person would mark a found cell, told from its probability, edge, size and shape."""

import numpy as np

FEATURES = ("probability", "edge", "smaller", "larger", "roundness")
WEIGHTS = (3.15, 2.37, -3.31, -0.91, 1.51)
BIAS = -2.57
"""A logistic, fitted by `experiments/pretrained/confidence.py`."""
FEW = 5
"""With fewer cells than this a field has no typical size."""


def describe_cells(
    labels: np.ndarray,
    area: np.ndarray,
    probability: np.ndarray,
    edge: np.ndarray,
    diameter: float | None = None,
) -> np.ndarray:
    """Measure what tells cells from what else is found.

    Brightness over the surroundings, which was tried too, tells nothing more: a network that sees
    an image in many displays has it in its probability.

    Args:
        labels: `[H, W]` int, 0 is background, cells are numbered from 1 without gaps.
        area: `[N]`, px.
        probability: `[N]`, mean probability of "neuron" inside.
        edge: `[N]`, that minus the mean in the rim around.
        diameter: typical diameter of the cells, px; None for the median of these.

    Returns:
        `[N, 5]` float64, by `FEATURES`: the last three, how much smaller and how much larger a cell
        is than a typical one (logarithm of the ratio, or 0), and its area over that of a disc of
        the same spread, 1 for a disc and less for what is long or ragged.
    """
    if diameter is not None:
        typical = np.pi / 4 * diameter**2
    else:
        typical = np.median(area) if len(area) >= FEW else np.nan
    size = np.nan_to_num(np.log(np.maximum(area, 1) / typical))
    return np.stack(
        [
            probability, edge, np.maximum(-size, 0), np.maximum(size, 0),
            measure_roundness(labels, area),
        ],
        1,
    )  # fmt: skip


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
