"""The size of the cells in an image, estimated."""

from collections.abc import Callable

import numpy as np

from fluxseg.data.resample import disc_diameter, resample_image, zoomed_shape
from fluxseg.inference.objects.rois import Rois, find_rois

ZOOMS = (1.0, 0.5, 2.0, 0.25)
"""Magnifications at which cells are looked for, the likeliest first."""
LOOKED_AT = 512
"""Side of the part of a magnified image that is looked at, px."""
USUAL = 0.6
"""Standard deviation of the logarithm of cells' diameters in the images that people have."""
FEW = 5
"""With fewer cells than this nothing is known of their size."""

ProbabilityFn = Callable[[np.ndarray], np.ndarray]


def estimate_diameter(
    probability: ProbabilityFn, image: np.ndarray, trained_px: float, threshold: float = 0.5
) -> float | None:
    """Estimate the median diameter of the cells in an image.

    The image is magnified in turn by each of `ZOOMS`. Cells that a network finds are convincing
    (sure inside, not so around, of about the size it was trained on) at the right magnification
    only; where the convincing ones cover most, their median diameter counts. Grains of noise, much
    magnified, and crowds of cells, much reduced, look like cells too: the further a diameter is
    from that of the training, the more of the image they must cover.

    Args:
        probability: gives the probability of "neuron", `[h, w]`, of an image `[h, w]` float32.
        image: `[H, W]` float32, normalised.
        trained_px: median diameter of the cells that the network was trained on, px.
        threshold: least probability of a neuron pixel.

    Returns:
        Median diameter, px; None if there are fewer than `FEW` convincing cells.
    """
    best, diameter = 0.0, None
    for zoom in ZOOMS:
        part = _middle(image, round(LOOKED_AT / zoom))
        seen = resample_image(part, zoomed_shape((part.shape[0], part.shape[1]), zoom))
        if min(seen.shape) < 2 * trained_px:
            continue
        rois = find_rois(probability(seen), threshold=threshold, diameter=trained_px)
        sizes, quality = roi_diameters(rois), rois.quality
        right = (sizes > 0.6 * trained_px) & (sizes < 1.65 * trained_px) & (quality > 0.4)
        if right.sum() < FEW:
            continue
        found = float(np.median(sizes[right]) / zoom)
        # The share of the image that cells cover, whatever the magnification.
        covered = float((rois.area * quality)[right].sum() / seen.size)
        score = covered * np.exp(-0.5 * (np.log(found / trained_px) / USUAL) ** 2)
        if score > best:
            best, diameter = score, found
    return diameter


def roi_diameters(rois: Rois) -> np.ndarray:
    """Return `[N]` float64, diameters of the circles with the areas of the ROIs, px."""
    return disc_diameter(rois.area)


def _middle(image: np.ndarray, side: int) -> np.ndarray:
    starts = [max((length - side) // 2, 0) for length in image.shape]
    return image[starts[0] : starts[0] + side, starts[1] : starts[1] + side]
