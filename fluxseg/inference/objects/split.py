"""Touching cells of a mask taken apart by a watershed, and holes filled."""

import numpy as np
from scipy import ndimage
from skimage.morphology import local_maxima, reconstruction
from skimage.segmentation import watershed

from fluxseg.formats.labels import label_components


def split_mask(mask: np.ndarray, *, h: float, smooth: float, min_area: float) -> np.ndarray:
    """Take touching cells of a mask `[H, W]` bool apart by their outlines.

    The distance to the background is smoothed; each of its maxima that rises by more than `h`
    above the passes to higher ones is a cell (extended maxima: P. Soille, "Morphological Image
    Analysis", 2003, section 6.3.4), and a watershed from these markers (Beucher and Lantuejoul
    1979; scikit-image's `watershed`, which floods by priority) shares out the mask. Markers whose
    basin stays below `min_area` are given up, and their neighbours grow into it.

    Args:
        mask: see above.
        h: depth of the waist between two cells, px.
        smooth: standard deviation of the Gaussian, px; 0 for none.
        min_area: area of the smallest cell, px; smaller components are dropped.

    Returns:
        `[H, W]` int, 0 is background, cells from 1.
    """
    components = label_components(mask)
    small = np.bincount(components.ravel()) < min_area
    components[small[components]] = 0
    mask = components > 0
    if not mask.any():
        return np.zeros(mask.shape, np.int64)
    # What lies beyond the image is background, so that a mask of all pixels has a distance too.
    distance = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    if smooth:
        distance = ndimage.gaussian_filter(distance, smooth)
    # Regional maxima of the reconstruction, as equal peaks with a shallow pass count as one.
    peaks = local_maxima(lower_peaks(distance, h), connectivity=2) & mask
    reached = np.zeros(len(small), bool)
    reached[components[peaks]] = True
    markers = label_components(peaks | (mask & ~reached[components]))
    labels = watershed(-distance, markers, mask=mask, connectivity=2)
    keep = _large_or_largest(labels, components, min_area)
    if not keep.all():
        markers[~keep[markers]] = 0
        labels = watershed(-distance, markers, mask=mask, connectivity=2)
    return labels


def lower_peaks(distance: np.ndarray, h: float) -> np.ndarray:
    """Reconstruct `distance - h` below `distance` `[H, W]`, 0 or more, h above 0, by dilation.

    It sorts all pixels, most of which are at distance 0, where nothing above 0 passes: so it is
    done component by component, with the same result.
    """
    parts, _ = ndimage.label(distance > 0, np.ones((3, 3)))
    floor = min(distance.max() - h, 0.0)
    result = np.full(distance.shape, floor)
    for number, where in enumerate(ndimage.find_objects(parts), 1):
        inside = parts[where] == number
        part = np.where(inside, distance[where], 0)
        lowered = np.maximum(reconstruction(part - h, part), floor)
        result[where][inside] = lowered[inside]
    return result


def _large_or_largest(labels: np.ndarray, components: np.ndarray, min_area: float) -> np.ndarray:
    """Tell which basins have `min_area` or are the largest ones of their component."""
    area = np.bincount(labels.ravel())
    component = np.zeros(len(area), np.int64)
    component[labels.ravel()] = components.ravel()
    order = np.lexsort((-area, component))
    keep = area >= min_area
    keep[order[np.unique(component[order], return_index=True)[1]]] = True
    keep[0] = True
    return keep


def fill_enclosed(labels: np.ndarray) -> np.ndarray:
    """Fill the holes that border on one ROI only."""
    padded = np.pad(labels, 1)
    holes, count = ndimage.label(padded == 0)
    low, high = np.full(count + 1, labels.max() + 1), np.zeros(count + 1, labels.dtype)
    for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
        beside = np.roll(padded, step, axis)
        edge = (holes > 0) & (beside > 0)
        np.minimum.at(low, holes[edge], beside[edge])
        np.maximum.at(high, holes[edge], beside[edge])
    high[low != high] = 0
    high[holes[0, 0]] = 0
    return np.where(holes > 0, high[holes], padded)[1:-1, 1:-1]
