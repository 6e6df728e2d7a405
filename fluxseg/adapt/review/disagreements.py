"""Where a model and labels disagree, and the model is sure: candidates for a second look."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from fluxseg.errors import ConfigError, RecordingError
from fluxseg.inference.objects.matching import overlap_objects
from fluxseg.inference.objects.rois import Rois

Kind = Literal["missed", "doubtful"]
KINDS: tuple[Kind, ...] = ("missed", "doubtful")
MIN_CONFIDENCE = 0.7
"""Disagreements of which the model is less sure are left out."""
MAX_OVERLAP = 0.2
"""Largest share of its pixels that a missed cell, or a doubtful label, has in common with the
other side."""


@dataclasses.dataclass(frozen=True, eq=False)
class Disagreement:
    """One place where the model and the labels say different things."""

    # "missed": a predicted cell where no label is. "doubtful": a label where the model sees
    # background.
    kind: Kind
    confidence: float  # 0 to 1, see `find_disagreements`
    quality: float  # quality of the predicted cell (`Rois.quality`); 0 for a doubtful label
    rois: tuple[int, ...]  # numbers of the predicted cells that have a part in it, from 0
    labels: tuple[int, ...]  # numbers of the labels that do, from 0
    # `[h, w]` bool, the predicted cell, or the doubtful label, cut to its box: whole fields would
    # take a hundred times the memory.
    mask: np.ndarray
    corner: tuple[int, int]  # row and column of the box in the field, px
    centre: tuple[float, float]  # mean row and column of the mask, px
    area: int  # pixels of the mask
    overlap: float  # largest share that the two sides have in common, of the smaller one
    iou: float  # largest intersection over union with anything on the other side

    def full_mask(self, shape: Sequence[int]) -> np.ndarray:
        """Return the mask in its field of view, `[H, W]` bool."""
        full = np.zeros(tuple(shape), bool)
        (top, left), (height, width) = self.corner, self.mask.shape
        full[top : top + height, left : left + width] = self.mask
        return full


def find_disagreements(
    masks: np.ndarray, probability: np.ndarray, rois: Rois, min_confidence: float = MIN_CONFIDENCE
) -> list[Disagreement]:
    """Find what the labels of one field of view probably miss, or have too much, surest first.

    - **missed**: a predicted cell of which at most `MAX_OVERLAP` lies on labels (on all of them
      together), and that covers at most `MAX_OVERLAP` of any label; the latter spares cells
      whose label is much smaller. Confidence: mean probability inside.
    - **doubtful**: a label of which at most `MAX_OVERLAP` lies on predicted cells (together), and
      that covers at most `MAX_OVERLAP` of any. Confidence: 1 - mean probability inside.

    The idea is that of confident learning (Northcutt, Jiang & Chuang 2021, arXiv:1911.00068), by
    objects instead of pixels. The confidence is no probability that the label is wrong: a model
    learns what its labels leave out.

    Args:
        masks: `[N, H, W]` bool, the labels; they may overlap, empty ones are passed over.
        probability: `[H, W]` float, 0 to 1, of "neuron"; NaN is outside of the field.
        rois: the predicted cells.
        min_confidence: least confidence of a disagreement, 0 to 1.

    Raises `RecordingError` if masks and probability do not fit together; and `ConfigError` if the
    least confidence is out of its range.
    """
    if not 0 <= min_confidence <= 1:
        raise ConfigError(f"min_confidence must be 0 to 1, got {min_confidence}")
    if masks.ndim != 3 or masks.shape[1:] != probability.shape:
        raise RecordingError(
            "masks", f"are {list(masks.shape)}, the probability is {list(probability.shape)}"
        )
    # What lies outside of the field can neither be confirmed nor doubted.
    inside = masks & np.isfinite(probability)
    present = np.flatnonzero(inside.any((1, 2)))
    pairs = overlap_objects(inside[present], rois.labels)
    label, cell = present[pairs.true], pairs.predicted
    of_label = pairs.pixels / pairs.true_area[pairs.true]
    of_cell = pairs.pixels / pairs.predicted_area[cell]
    covered = np.bincount(rois.labels[inside.any(0)], minlength=len(rois) + 1)[1:] / rois.area
    found: list[Disagreement] = []

    def add(
        kind: Kind,
        number: int,
        sure: float,
        quality: float,
        overlap: float,
        part: np.ndarray,
        mask: np.ndarray,
    ) -> None:
        if overlap > MAX_OVERLAP or sure < min_confidence:
            return
        rows, columns = np.nonzero(mask)
        top, left = int(rows.min()), int(columns.min())
        doubted = kind == "doubtful"
        found.append(
            Disagreement(
                kind,
                float(np.clip(sure, 0, 1)),
                float(quality),
                tuple(np.unique(cell[part]).tolist()) if doubted else (number,),
                (number,) if doubted else tuple(np.unique(label[part]).tolist()),
                mask[top : rows.max() + 1, left : columns.max() + 1].copy(),
                (top, left),
                (float(rows.mean()), float(columns.mean())),
                len(rows),
                float(overlap),
                float(pairs.iou[part].max(initial=0)),
            )
        )

    for number in range(len(rois)):
        part = cell == number
        overlap = max(covered[number], of_label[part].max(initial=0))
        mask = rois.labels == number + 1
        add("missed", number, rois.probability[number], rois.quality[number], overlap, part, mask)
    for number in present.tolist():
        part, mask = label == number, inside[number]
        overlap = max((rois.labels[mask] > 0).mean(), of_cell[part].max(initial=0))
        sure = 1 - probability[mask].mean(dtype=np.float64)
        add("doubtful", number, sure, 0.0, overlap, part, mask)
    return sorted(found, key=lambda one: (-one.confidence, -one.quality, one.centre, one.kind))
