"""Where a model and labels disagree, and the model is sure; small pictures of the surest."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from fluxseg.data.recording import Recording
from fluxseg.data.transforms import normalize_image
from fluxseg.errors import ConfigError, RecordingError
from fluxseg.inference.objects.matching import overlap_objects
from fluxseg.inference.objects.rois import Rois

Kind = Literal["missed", "doubtful"]
KINDS: tuple[Kind, ...] = ("missed", "doubtful")
MIN_CONFIDENCE = 0.7  # disagreements of which the model is less sure are left out
MAX_OVERLAP = 0.2  # most that a missed cell, or a doubtful label, shares with the other side
PATCH = 72  # side of the patch around a disagreement, px
PICTURED = 192  # disagreements of each kind, over all recordings, that are pictured


@dataclasses.dataclass(frozen=True, eq=False)
class Disagreement:
    """One place where the model and the labels say different things."""

    kind: Kind  # "missed": a cell without a label; "doubtful": a label on background
    confidence: float  # 0 to 1, see `find_disagreements`
    quality: float  # quality of the predicted cell (`Rois.quality`); 0 for a doubtful label
    rois: tuple[int, ...]  # numbers of the predicted cells that have a part in it, from 0
    labels: tuple[int, ...]  # numbers of the labels that do, from 0
    mask: np.ndarray  # `[h, w]` bool, the cell or label, cut to its box to save memory
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

    def candidates() -> Iterator[tuple[Kind, Any, Any, Any, Any, np.ndarray, np.ndarray]]:
        for number in range(len(rois)):
            part, mask = cell == number, rois.labels == number + 1
            overlap = max(covered[number], of_label[part].max(initial=0))
            sure, quality = rois.probability[number], rois.quality[number]
            yield "missed", number, sure, quality, overlap, part, mask
        for number in present.tolist():
            part, mask = label == number, inside[number]
            overlap = max((rois.labels[mask] > 0).mean(), of_cell[part].max(initial=0))
            sure = 1 - probability[mask].mean(dtype=np.float64)
            yield "doubtful", number, sure, 0.0, overlap, part, mask

    found = []
    for kind, number, sure, quality, overlap, part, mask in candidates():
        if overlap > MAX_OVERLAP or sure < min_confidence:
            continue
        rows, columns = np.nonzero(mask)
        top, left = int(rows.min()), int(columns.min())
        doubted = kind == "doubtful"
        found.append(
            Disagreement(
                kind=kind,
                confidence=float(np.clip(sure, 0, 1)),
                quality=float(quality),
                rois=tuple(np.unique(cell[part]).tolist()) if doubted else (number,),
                labels=(number,) if doubted else tuple(np.unique(label[part]).tolist()),
                mask=mask[top : rows.max() + 1, left : columns.max() + 1].copy(),
                corner=(top, left),
                centre=(float(rows.mean()), float(columns.mean())),
                area=len(rows),
                overlap=float(overlap),
                iou=float(pairs.iou[part].max(initial=0)),
            )
        )
    return sorted(found, key=lambda one: (-one.confidence, -one.quality, one.centre, one.kind))


class Patch(NamedTuple):
    """What is around a disagreement."""

    image: np.ndarray  # `[S, S]` float32, 0 to 1 by its own percentiles, for dim cells
    labels: np.ndarray  # `[K, S, S]` bool, the labels in it
    mask: np.ndarray  # `[S, S]` bool, see `Disagreement`


@dataclasses.dataclass(frozen=True, eq=False)
class ReviewedRecording:
    """The disagreements of one recording."""

    name: str  # begin of the names of its files
    key: str  # its key in the source
    id: str  # name that the recording gives itself
    labels: tuple[str, ...]  # names of its labels
    found: tuple[Disagreement, ...]  # surest first
    files: tuple[str, ...] = ()  # names of the ROI sets that were written
    # Number in `found` -> what is around it, for the surest of all recordings.
    patches: Mapping[int, Patch] = dataclasses.field(default_factory=dict)

    def count(self, kind: str) -> int:
        """Return the number of disagreements of a kind."""
        return sum(one.kind == kind for one in self.found)


def rank_places(
    reviewed: Sequence[ReviewedRecording], kind: str
) -> list[tuple[int, ReviewedRecording, Disagreement]]:
    """List the disagreements of a kind over all recordings, surest first, with ranks from 1."""
    pairs = [(one, found) for one in reviewed for found in one.found if found.kind == kind]
    pairs.sort(key=lambda pair: (-pair[1].confidence, -pair[1].quality, pair[0].key))
    return [(rank, one, found) for rank, (one, found) in enumerate(pairs, 1)]


def cut_patch(recording: Recording, found: Disagreement, side: int = PATCH) -> Patch:
    """Cut out what is around a disagreement, `side` px, moved in at the border of the field."""
    corner = [
        min(max(round(middle) - side // 2, 0), max(length - side, 0))
        for middle, length in zip(found.centre, recording.image.shape, strict=True)
    ]
    box = np.s_[corner[0] : corner[0] + side, corner[1] : corner[1] + side]
    image = np.clip(normalize_image(recording.image[box]), 0, 1)
    labels = np.zeros((0, *image.shape), bool)
    if recording.masks is not None:
        labels = recording.masks[:, box[0], box[1]]
    mask = found.full_mask(recording.image.shape)[box]
    return Patch(image, labels[labels.any((1, 2))], mask.copy())


def cut_patches(recording: Recording, found: Sequence[Disagreement]) -> dict[int, Patch]:
    """Cut the patches of the surest of each kind."""
    chosen = [
        number
        for kind in KINDS
        for number in [n for n, one in enumerate(found) if one.kind == kind][:PICTURED]
    ]
    return {number: cut_patch(recording, found[number]) for number in chosen}


def keep_surest(reviewed: Sequence[ReviewedRecording]) -> list[ReviewedRecording]:
    """Drop the patches that no sheet will show, so that memory does not grow with the fields."""
    shown = {id(found) for kind in KINDS for _, _, found in rank_places(reviewed, kind)[:PICTURED]}
    return [
        dataclasses.replace(
            one, patches={n: patch for n, patch in one.patches.items() if id(one.found[n]) in shown}
        )
        for one in reviewed
    ]
