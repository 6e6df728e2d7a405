"""Cells at several levels of a probability: of what overlaps, the surest piece is kept."""

from collections.abc import Sequence

import numpy as np

OFFSETS = (-1.4, 0.0, 1.4)
"""Log-odds of the levels, relative to those of the threshold."""
SHARED = 0.3
"""A piece of which more than this share is taken by surer ones is the same cell, or none."""
UNSURE = 1e-3
"""Least confidence of what is ranked, or shown by a slider: next to everything."""


def levels_around(threshold: float) -> list[float]:
    """Return the levels at which cells are looked for, the lowest first.

    Dim cells come apart from the background at a low level only, crowded ones from each other at a
    high one.

    Args:
        threshold: above 0, at most 1; at 1 it is the only level.
    """
    if threshold >= 1:
        return [threshold]
    odds = np.log(threshold / (1 - threshold)) + np.array(OFFSETS)
    return [float(level) for level in 1 / (1 + np.exp(-odds))]


def keep_surest(
    labels: Sequence[np.ndarray], confidence: Sequence[np.ndarray], least: float
) -> tuple[np.ndarray, np.ndarray]:
    """Keep the surest of overlapping pieces (non-maximum suppression, as StarDist has it).

    Schmidt et al., "Cell Detection with Star-Convex Polygons", MICCAI 2018.

    Args:
        labels: of each level `[H, W]` int, 0 is background, pieces are numbered from 1 without
            gaps.
        confidence: of each level `[N]`, of its pieces.
        least: pieces of less confidence are left out.

    Returns:
        Labels `[H, W]` int64, numbered in the order of their first pixels, and the confidence
        `[M]` of each.
    """
    pieces = [piece for image in labels for piece in _pixels(image)]
    sure = np.concatenate([np.zeros(0), *confidence])
    taken = np.zeros(labels[0].size, np.int64)
    kept: list[float] = []
    for number in np.argsort(-sure, kind="stable"):
        if sure[number] < least:
            break
        pixels = pieces[number]
        free = pixels[taken[pixels] == 0]
        if len(free) >= (1 - SHARED) * len(pixels):
            kept.append(sure[number])
            taken[free] = len(kept)
    order, first = np.unique(taken, return_index=True)
    order = order[order > 0][np.argsort(first[order > 0])]
    number_of = np.zeros(len(kept) + 1, np.int64)
    number_of[order] = np.arange(1, len(order) + 1)
    return number_of[taken].reshape(labels[0].shape), np.array(kept)[order - 1]


def _pixels(labels: np.ndarray) -> list[np.ndarray]:
    """Return the places of each piece in the flattened image."""
    flat = np.flatnonzero(labels)
    which = labels.reshape(-1)[flat]
    flat = flat[np.argsort(which, kind="stable")]
    return np.split(flat, np.cumsum(np.bincount(which)[1:])[:-1]) if len(flat) else []
