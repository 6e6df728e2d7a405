"""How well found objects are ranked, and how large they are beside their labels."""

import dataclasses
import math

import numpy as np

from fluxseg.inference.objects.matching import assign_pairs, overlap_objects


@dataclasses.dataclass(frozen=True, eq=False)
class Agreement:
    """Which found objects are rightly found.

    Attributes:
        matched: `[M]` bool, whether a found object has a label at IoU 0.5 or more (Hungarian).
        found: `[N]` bool, whether a label has a found object.
        area_ratio: median area of the matched objects over that of their labels; NaN without any.
    """

    matched: np.ndarray
    found: np.ndarray
    area_ratio: float


def compare_objects(true: np.ndarray, predicted: np.ndarray, iou: float = 0.5) -> Agreement:
    """Match found objects with labels.

    Args:
        true: masks `[N, H, W]` bool, none of them empty, or labels `[H, W]` int, 0 is background.
        predicted: the same for the prediction.
        iou: least intersection over union of a match.

    Returns:
        What matches.

    Raises:
        RecordingError: see `overlap_objects`.
    """
    overlaps = overlap_objects(true, predicted)
    pairs = assign_pairs(overlaps, iou)
    matched = np.zeros(len(overlaps.predicted_area), bool)
    found = np.zeros(len(overlaps.true_area), bool)
    matched[pairs.predicted], found[pairs.true] = True, True
    ratio = math.nan
    if len(pairs.true):
        sizes = overlaps.predicted_area[pairs.predicted] / overlaps.true_area[pairs.true]
        ratio = float(np.median(sizes))
    return Agreement(matched, found, ratio)


@dataclasses.dataclass(frozen=True)
class Ranking:
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
    """Score how well a confidence ranks found objects.

    The average precision is the mean over the labels of the precision at which each is found, 0
    for those that never are (Manning et al. 2008, Introduction to Information Retrieval, section
    8.4, without interpolation). Objects of equal confidence are kept or left out together.

    Args:
        matched: `[M]` bool, see `Agreement`.
        confidence: `[M]` float.
        n_true: number of labels.

    Returns:
        The scores; NaN and 0 if there are no labels.
    """
    order = np.argsort(-confidence, kind="stable")
    hits = np.cumsum(matched[order])
    last = np.flatnonzero(np.append(np.diff(confidence[order]) != 0, True)[: len(order)])
    kept, hits = last + 1, hits[last]
    if not n_true:
        return Ranking(math.nan, 0.0, math.inf)
    gained = np.diff(hits, prepend=0)
    precision = float((gained * hits / kept).sum() / n_true)
    f1 = 2 * hits / (kept + n_true)
    if not len(f1) or f1.max() == 0:
        return Ranking(precision, 0.0, math.inf)
    best = int(f1.argmax())
    return Ranking(precision, float(f1[best]), float(confidence[order][last[best]]))
