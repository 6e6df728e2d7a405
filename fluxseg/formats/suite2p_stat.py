"""What Suite2p says of a ROI in `stat.npy`, computed from the ROI's mask alone.

The definitions are those of Suite2p 1.0 (`suite2p/detection/stats.py`, `roi_stats`); lengths are
in diameters where it measures so. What only a movie tells (skewness, standard deviation and
signal-to-noise ratio of the trace) is 0.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fluxseg.data.resample import median_diameter

_FIRST = 100  # Suite2p takes the sizes of its first and best ROIs as the usual ones


def create_stat(
    masks: np.ndarray, weights: Sequence[np.ndarray] | None = None
) -> list[dict[str, Any]]:
    """Compute the entries of `stat.npy` from masks `[N, H, W]` bool, none of them empty.

    `weights` are N times `[K]`, of the pixels in the order of `np.nonzero`; None: equal, with the
    sum 1. Each entry has `ypix`, `xpix` `[K]` int32, `lam` `[K]` float32, the weights, `med` the
    [y, x] of the pixel that is closest to the median, `soma_crop` `[K]` bool without what looks
    like a dendrite, `overlap` `[K]` bool for the pixels in other ROIs too, and numbers.
    """
    diameter = usual_diameter(masks)
    covered = masks.sum(axis=0, dtype=np.int32)
    most = int(masks.sum(axis=(1, 2)).max(initial=1))
    # The distances from the centre of as many pixels as the largest ROI has, in order.
    side = int(np.sqrt(most / np.pi)) + 3
    y, x = np.mgrid[-side : side + 1, -side : side + 1]
    disc = np.sort(np.hypot(y, x).ravel())[:most] / diameter
    parts: Sequence[np.ndarray | None] = [None] * len(masks) if weights is None else weights
    stat = [_describe(*each, covered, disc, diameter) for each in zip(masks, parts, strict=True)]
    for name, norm in (("npix_soma", "npix_norm"), ("npix", "npix_norm_no_crop")):
        usual = np.median([entry[name] for entry in stat[:_FIRST]]) if stat else 1.0
        for entry in stat:
            entry[norm] = float(entry[name] / (usual + 1e-10))
    return stat


def usual_diameter(masks: np.ndarray) -> float:
    """Return the median diameter of discs as large as the ROIs `[N, H, W]` bool, px, rounded.

    It is 12, as Suite2p has it, without any ROI.
    """
    found = median_diameter(masks)
    return 12.0 if found is None else float(np.round(found))


def crop_soma(distances: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Choose the pixels of a ROI that belong to its soma, `[K]` bool; all of at most ten.

    Around the centre the weight within a radius grows fast with the radius, and slowly again where
    only a dendrite is left: the soma ends where, after it was larger, the growth by a further pixel
    falls below a third of its maximum. `distances` `[K]` are from the centre, px.
    """
    everything = np.ones(len(distances), bool)
    if len(distances) <= 10:
        return everything
    radii = np.arange(0, distances.max())
    growth = np.diff([weights[distances < radius].sum() for radius in radii])
    end = len(radii) - 1
    third = growth.max() / 3
    large = np.flatnonzero(growth > third)
    if len(large):
        small = np.flatnonzero(growth[large[0] :] < third)
        end = int(large[0] + small[0]) if len(small) else end
    soma = distances < radii[end]
    return soma if soma.any() else everything


def measure_soma(
    rows: np.ndarray, columns: np.ndarray, weights: np.ndarray
) -> tuple[list[int], np.ndarray, float, float]:
    """Measure the soma of a ROI, of the rows, columns and weights `[K]` of its pixels.

    Returns [y, x] of the pixel that is closest to the median, `[K]` bool for the pixels of the
    soma, and the radii of its longer and shorter axis, two standard deviations of the weights, px.
    """
    closest = np.argmin(_squared_distances(rows, columns))
    center = [int(rows[closest]), int(columns[closest])]
    soma = crop_soma(np.hypot(rows - center[0], columns - center[1]), weights)
    share = weights[soma].astype(np.float64) / weights[soma].sum(dtype=np.float64)
    y, x = rows[soma] - share @ rows[soma], columns[soma] - share @ columns[soma]
    # The eigenvalues of the matrix of covariances.
    middle = share @ (y**2 + x**2) / 2
    spread = np.hypot(share @ (y**2 - x**2) / 2, share @ (y * x))
    longer, shorter = np.maximum([middle + spread, middle - spread], 0)
    return center, soma, float(2 * np.sqrt(longer)), float(2 * np.sqrt(shorter))


def _describe(
    mask: np.ndarray,
    given: np.ndarray | None,
    covered: np.ndarray,
    disc: np.ndarray,
    diameter: float,
) -> dict[str, Any]:
    rows, columns = np.nonzero(mask)
    count = len(rows)
    weights = np.full(count, 1 / count, np.float32) if given is None else given.astype(np.float32)
    center, soma, major, minor = measure_soma(rows, columns, weights)
    y, x = rows[soma], columns[soma]
    # The mean distance from the median, against that of a disc with as many pixels.
    mrs = float(np.sqrt(_squared_distances(y, x)).mean()) / diameter
    mrs0 = float(disc[: len(y)].mean())
    minor, major = minor / diameter, major / diameter
    return {
        "ypix": rows.astype(np.int32),
        "xpix": columns.astype(np.int32),
        "lam": weights,
        "med": center,
        "footprint": 0,
        "npix": count,
        "npix_soma": len(y),
        "soma_crop": soma,
        "npix_norm": 1.0,
        "npix_norm_no_crop": 1.0,
        "radius": float(major * diameter),
        "aspect_ratio": float(2 * major / (0.01 + major + minor)),
        "compact": max(1.0, mrs / (1e-10 + mrs0)),
        "mrs": mrs,
        "mrs0": mrs0,
        "overlap": covered[rows, columns] > 1,
        "skew": 0.0,
        "std": 0.0,
        "snr": 0.0,
    }


def _squared_distances(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return (rows - np.median(rows)) ** 2 + (columns - np.median(columns)) ** 2
