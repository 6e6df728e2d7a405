"""Where a model and labels disagree, and the model is sure: candidates for a second look."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np

from fluxseg.errors import ConfigError, RecordingError
from fluxseg.inference.objects.matching import overlap_objects
from fluxseg.inference.objects.rois import Rois, find_rois

Kind = Literal["missed", "doubtful", "merged", "split"]
KINDS: tuple[Kind, ...] = ("missed", "doubtful", "merged", "split")
MIN_CONFIDENCE = 0.7
"""Disagreements of which the model is less sure are left out."""
MAX_OVERLAP = 0.2
"""Largest share of its pixels that a missed cell, or a doubtful label, has in common with the
other side."""
MIN_SHARE = 0.5
"""Least share of each part that lies in the whole for a merge or a split."""


@dataclasses.dataclass(frozen=True, eq=False)
class Disagreement:
    """One place where the model and the labels say different things.

    Attributes:
        kind: "missed": a predicted cell where no label is. "doubtful": a label where the model
            sees background. "merged": one predicted cell on several labels. "split": several
            predicted cells on one label.
        confidence: 0 to 1, see `find_disagreements`.
        quality: quality of the predicted cell (`Rois.quality`), of the least one for a split; 0
            for a doubtful label.
        rois: numbers of the predicted cells, from 0.
        labels: numbers of the labels, from 0.
        mask: `[h, w]` bool, the predicted cell or cells; the label itself for a doubtful one. It
            is cut to its box: whole fields would take a hundred times the memory.
        corner: row and column of the box in the field, px.
        centre: mean row and column of the mask, px.
        area: pixels of the mask.
        overlap: largest share that the two sides have in common, of the smaller one.
        iou: largest intersection over union with anything on the other side.
    """

    kind: Kind
    confidence: float
    quality: float
    rois: tuple[int, ...]
    labels: tuple[int, ...]
    mask: np.ndarray
    corner: tuple[int, int]
    centre: tuple[float, float]
    area: int
    overlap: float
    iou: float

    def full_mask(self, shape: Sequence[int]) -> np.ndarray:
        """Return the mask in its field of view, `[H, W]` bool."""
        full = np.zeros(tuple(shape), bool)
        (top, left), (height, width) = self.corner, self.mask.shape
        full[top : top + height, left : left + width] = self.mask
        return full


def find_disagreements(
    masks: np.ndarray,
    probability: np.ndarray,
    rois: Rois | None = None,
    *,
    threshold: float = 0.5,
    um_per_px: float | None = None,
    min_confidence: float = MIN_CONFIDENCE,
    max_overlap: float = MAX_OVERLAP,
    kinds: Sequence[Kind] = KINDS,
) -> list[Disagreement]:
    """Find what the labels of one field of view probably miss, or have too much, surest first.

    - **missed**: a predicted cell of which at most `max_overlap` lies on labels (on all of them
      together), and that covers at most `max_overlap` of any label; the latter spares cells
      whose label is much smaller. Confidence: mean probability inside.
    - **doubtful**: a label of which at most `max_overlap` lies on predicted cells (together), and
      that covers at most `max_overlap` of any. Confidence: 1 - mean probability inside.
    - **merged**: a predicted cell in which at least two labels lie with `MIN_SHARE` of their
      pixels or more. Confidence: mean probability inside.
    - **split**: a label in which at least two predicted cells lie likewise. Confidence: the
      least mean probability of these cells.

    For all kinds the confidence must reach `min_confidence`. The idea is that of confident
    learning (Northcutt, Jiang & Chuang 2021, arXiv:1911.00068), by objects instead of pixels. The
    confidence is no probability that the label is wrong: a model learns what its labels leave out.

    Args:
        masks: `[N, H, W]` bool, the labels; they may overlap, empty ones are passed over.
        probability: `[H, W]` float, 0 to 1, of "neuron"; NaN is outside of the field.
        rois: the predicted cells; None to find them with `find_rois`.
        threshold: least probability of a neuron pixel, for `find_rois`.
        um_per_px: size of a pixel, um, for `find_rois`.
        min_confidence: 0 to 1.
        max_overlap: 0 to 1.
        kinds: what to look for.

    Returns:
        The disagreements, by falling confidence, then quality, then place.

    Raises:
        RecordingError: if masks and probability do not fit together.
        ConfigError: if a setting is out of its range.
    """
    for name, value in (("min_confidence", min_confidence), ("max_overlap", max_overlap)):
        if not 0 <= value <= 1:
            raise ConfigError(f"{name} must be 0 to 1, got {value}")
    if unknown := sorted(set(kinds) - set(KINDS)):
        raise ConfigError(f"there is no kind {unknown[0]!r}; known: {', '.join(KINDS)}")
    if masks.ndim != 3 or masks.shape[1:] != probability.shape:
        raise RecordingError(
            "masks", f"are {list(masks.shape)}, the probability is {list(probability.shape)}"
        )
    valid = np.isfinite(probability)
    if rois is None:
        rois = find_rois(probability, threshold=threshold, um_per_px=um_per_px)
    seen = np.where(valid, probability, 0)
    # What lies outside of the field can neither be confirmed nor doubted.
    inside = masks & valid
    present = np.flatnonzero(inside.any((1, 2)))
    table = _Table.create(inside[present], present, rois)
    found: list[Disagreement] = []
    if "missed" in kinds:
        found += _missed(table, rois, inside.any(0), max_overlap)
    if "doubtful" in kinds:
        found += _doubtful(table, inside, rois.labels > 0, seen, max_overlap)
    if "merged" in kinds:
        found += _several("merged", table.of_label, table.roi, table, rois)
    if "split" in kinds:
        found += _several("split", table.of_roi, table.label, table, rois)
    sure = [one for one in found if one.confidence >= min_confidence]
    return sorted(sure, key=lambda one: (-one.confidence, -one.quality, one.centre, one.kind))


@dataclasses.dataclass(frozen=True, eq=False)
class _Table:
    """Pairs of a label and a predicted cell that share pixels, with the shares of both."""

    label: np.ndarray
    roi: np.ndarray
    of_label: np.ndarray
    of_roi: np.ndarray
    iou: np.ndarray
    present: np.ndarray

    @classmethod
    def create(cls, masks: np.ndarray, present: np.ndarray, rois: Rois) -> "_Table":
        pairs = overlap_objects(masks, rois.labels)
        return cls(
            present[pairs.true],
            pairs.predicted,
            pairs.pixels / pairs.true_area[pairs.true],
            pairs.pixels / pairs.predicted_area[pairs.predicted],
            pairs.iou,
            present,
        )


def _create(
    kind: Kind,
    confidence: float,
    quality: float,
    rois: Iterable[Any],
    labels: Iterable[Any],
    mask: np.ndarray,
    overlap: float,
    iou: float,
) -> Disagreement:
    (rows_at, columns_at), area = np.nonzero(mask), int(mask.sum())
    top, left = int(rows_at.min()), int(columns_at.min())
    box = mask[top : rows_at.max() + 1, left : columns_at.max() + 1]
    return Disagreement(
        kind,
        float(np.clip(confidence, 0, 1)),
        float(quality),
        tuple(int(number) for number in rois),
        tuple(int(number) for number in labels),
        box.copy(),
        (top, left),
        (float(rows_at.mean()), float(columns_at.mean())),
        area,
        float(overlap),
        float(iou),
    )


def _missed(
    table: _Table, rois: Rois, labelled: np.ndarray, max_overlap: float
) -> list[Disagreement]:
    covered = np.bincount(rois.labels[labelled], minlength=len(rois) + 1)[1:]
    found = []
    for number in np.flatnonzero(covered <= max_overlap * rois.area):
        pairs = table.roi == number
        most = table.of_label[pairs].max(initial=0)
        if most > max_overlap:
            continue
        overlap = max(most, covered[number] / rois.area[number])
        mask = rois.labels == number + 1
        sure, quality = rois.probability[number], rois.quality[number]
        iou = table.iou[pairs].max(initial=0)
        found.append(
            _create(
                "missed", sure, quality, [number], np.unique(table.label[pairs]), mask, overlap, iou
            )
        )
    return found


def _doubtful(
    table: _Table,
    masks: np.ndarray,
    predicted: np.ndarray,
    probability: np.ndarray,
    max_overlap: float,
) -> list[Disagreement]:
    found = []
    for number in table.present:
        mask = masks[number]
        pairs = table.label == number
        share = predicted[mask].mean()
        most = max(share, table.of_roi[pairs].max(initial=0))
        if most > max_overlap:
            continue
        iou = table.iou[pairs].max(initial=0)
        sure = 1 - probability[mask].mean(dtype=np.float64)
        rois = np.unique(table.roi[pairs])
        found.append(_create("doubtful", sure, 0.0, rois, [number], mask, most, iou))
    return found


def _several(
    kind: Kind, share: np.ndarray, whole: np.ndarray, table: _Table, rois: Rois
) -> list[Disagreement]:
    """Find the cells, or the labels, in which several of the others lie.

    Args:
        kind: "merged" or "split".
        share: share of each pair's part that lies in the whole.
        whole: number of the whole of each pair.
        table: the pairs.
        rois: predicted cells.
    """
    found = []
    inside = share >= MIN_SHARE
    numbers, counts = np.unique(whole[inside], return_counts=True)
    for number in numbers[counts >= 2]:
        pairs = inside & (whole == number)
        labels, cells = np.unique(table.label[pairs]), np.unique(table.roi[pairs])
        sure, quality = rois.probability[cells].min(), rois.quality[cells].min()
        mask, iou = np.isin(rois.labels, cells + 1), table.iou[pairs].max()
        found.append(_create(kind, sure, quality, cells, labels, mask, share[pairs].max(), iou))
    return found


def merge_masks_into(
    masks: np.ndarray, names: Sequence[str], added: np.ndarray, prefix: str = "review"
) -> tuple[np.ndarray, tuple[str, ...], int]:
    """Add masks to those of a recording; those that are there already are not added twice.

    Args:
        masks: `[N, H, W]` bool.
        names: `[N]` names of the ROIs.
        added: `[M, H, W]` bool.
        prefix: the new ROIs are called "review-1", "review-2", ..., numbers that are taken left
            out.

    Returns:
        masks `[N + K, H, W]`, their names, and K: how many were added. An empty one, and one that
        has an IoU of at least 0.5 with a mask that is there, is not.
    """
    kept: list[np.ndarray] = []
    for mask in added:
        both = [*masks, *kept]
        shared = [(mask & other).sum() / max((mask | other).sum(), 1) for other in both]
        if mask.any() and max(shared, default=0) < 0.5:
            kept.append(mask)
    taken, fresh, number = set(names), list[str](), 0
    while len(fresh) < len(kept):
        number += 1
        if (name := f"{prefix}-{number}") not in taken:
            fresh.append(name)
    if not kept:
        return masks, tuple(names), 0
    return np.concatenate([masks, np.stack(kept)]), (*names, *fresh), len(kept)
