"""The size of the cells in an image, estimated."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from fluxseg.data.resample import choose_zoom, disc_diameter, resample_image, zoomed_shape
from fluxseg.data.transforms import crop_middle
from fluxseg.inference.objects.rois import find_rois

ZOOMS: tuple[float, ...] = (1.0, 0.5, 2.0, 0.25)
"""Magnifications at which cells are looked for, the likeliest first."""
LOOKED_AT = 512  # side of the part of a magnified image that is looked at, px
POWER = 8
"""Cells count by their area times this power of their quality: few sure ones beat many fair ones,
as clumps of much reduced cells and parts of much magnified ones are."""
SMALLER, LARGER = 0.45, 2.0
"""Deviation of the logarithm of cells' diameters in the images that people have, to either side."""
FEW = 5  # with fewer cells than this nothing is known of their size
MAGNIFIED = 0.0035
"""Least share of the image that cells cover once they are magnified: in a noisy field with hardly a
cell some grains of the noise pass for cells."""

SURE = 0.5  # least threshold to measure sizes by: below it, small cells look larger
LOOKS = 2  # how often it is looked again at what was estimated

ProbabilityFn = Callable[[np.ndarray], np.ndarray]


def estimate_diameter(
    probability: ProbabilityFn, image: np.ndarray, trained_px: float, threshold: float = 0.5
) -> float | None:
    """Estimate the median diameter of the cells in a normalised image `[H, W]` float32, px.

    The image is magnified in turn by each of `ZOOMS`. Cells that a network finds are convincing
    (sure inside, not so around, of about the size it was trained on) at the right magnification
    only. Where the surest ones cover most (see `POWER`), their median diameter counts; the further
    it is from that of the training (`trained_px`), the more they must cover. Where it is far from
    it, the smallest or largest cells were not convincing: it is looked again at that magnification.

    `probability` gives that of "neuron", `[h, w]`, of an image `[h, w]` float32. A threshold below
    `SURE` is raised to it. Returns None if there are too few convincing cells.
    """
    look = partial(_look, probability, image, trained_px, max(threshold, SURE))
    # Side by side, as most of the first looks is compilation.
    with ThreadPoolExecutor() as pool:
        seen = [view for view in pool.map(look, ZOOMS) if view is not None]
    if not seen:
        return None
    diameter, covered = max(seen, key=lambda view: view[1] * _usual(view[0] / trained_px))
    for _ in range(LOOKS):
        again = look(trained_px / diameter) if choose_zoom(diameter, trained_px) != 1 else None
        if again is None or again[1] < covered:
            break
        diameter, covered = again
    return diameter


def _look(
    probability: ProbabilityFn, image: np.ndarray, trained_px: float, threshold: float, zoom: float
) -> tuple[float, float] | None:
    # Median diameter, px, of the convincing cells, and how much they cover, see `POWER`.
    part = crop_middle(image, round(LOOKED_AT / zoom))
    seen = resample_image(part, zoomed_shape((part.shape[0], part.shape[1]), zoom))
    if min(seen.shape) < 2 * trained_px:
        return None
    rois = find_rois(probability(seen), threshold=threshold, diameter=trained_px)
    sizes, quality = disc_diameter(rois.area), rois.quality
    right = (sizes > 0.6 * trained_px) & (sizes < 1.65 * trained_px) & (quality > 0.4)
    area, quality = rois.area[right] / seen.size, quality[right]
    if len(area) < FEW or (zoom > 1 and (area * quality).sum() < MAGNIFIED):
        return None
    return float(np.median(sizes[right]) / zoom), float((area * quality**POWER).sum())


def _usual(ratio: float) -> float:
    apart = np.log(ratio)
    return float(np.exp(-0.5 * (apart / (SMALLER if apart < 0 else LARGER)) ** 2))
