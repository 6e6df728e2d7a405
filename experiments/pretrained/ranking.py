"""How well found objects are ranked, and how large they are beside their labels."""

import math
from typing import NamedTuple

import numpy as np

from fluxseg.inference.objects.matching import assign_pairs, overlap_objects


class Agreement(NamedTuple):
    """Which found objects are rightly found.

    Attributes:
        matched: `[M]` bool, whether a found object has a label at IoU 0.5 or more (Hungarian).
        found: `[N]` bool, whether a label has a found object.
        area_ratio: median area of the matched objects over that of their labels; NaN without any.
    """

    matched: np.ndarray
    found: np.ndarray
    area_ratio: float


def compare_objects(true: np.ndarray, predicted: np.ndarray) -> Agreement:
    """Match found objects with labels; arguments as of `overlap_objects`."""
    overlaps = overlap_objects(true, predicted)
    pairs = assign_pairs(overlaps)
    matched = np.isin(np.arange(len(overlaps.predicted_area)), pairs.predicted)
    found = np.isin(np.arange(len(overlaps.true_area)), pairs.true)
    sizes = overlaps.predicted_area[pairs.predicted] / overlaps.true_area[pairs.true]
    return Agreement(matched, found, float(np.median(sizes)) if len(sizes) else math.nan)


class Ranking(NamedTuple):
    """Scores of a ranking of found objects.

    Attributes:
        average_precision: area under precision over recall, every object taken in turn.
        best_f1: largest F1 that a cut of the confidence gives.
        best_cut: the least confidence that is kept then; infinite if nothing is worth keeping.
    """

    average_precision: float
    best_f1: float
    best_cut: float


def score_ranking(matched: np.ndarray, confidence: np.ndarray, n_true: int) -> Ranking:
    """Score how well a confidence `[M]` ranks found objects, `matched` `[M]`; NaN without labels.

    The average precision is the mean over the labels of the precision at which each is found, 0
    for those that never are (Manning et al. 2008, Introduction to Information Retrieval, section
    8.4, without interpolation). Objects of equal confidence are kept or left out together.
    """
    order = np.argsort(-confidence, kind="stable")
    hits = np.cumsum(matched[order])
    last = np.flatnonzero(np.append(np.diff(confidence[order]) != 0, True)[: len(order)])
    kept, hits = last + 1, hits[last]
    if not n_true:
        return Ranking(math.nan, 0.0, math.inf)
    precision = float((np.diff(hits, prepend=0) * hits / kept).sum() / n_true)
    f1 = 2 * hits / (kept + n_true)
    if not len(f1) or f1.max() == 0:
        return Ranking(precision, 0.0, math.inf)
    best = int(f1.argmax())
    return Ranking(precision, float(f1[best]), float(confidence[order][last[best]]))
