"""Reviewed recordings, ranked places of disagreement, and small pictures of the surest."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fluxseg.adapt.review.disagreements import KINDS, Disagreement
from fluxseg.data.recording import Recording
from fluxseg.data.transforms import normalize_image

PATCH = 72
"""Side of the patch around a disagreement, px."""
PICTURED = 192
"""Disagreements of each kind, over all recordings, that are pictured."""


class Patch(NamedTuple):
    """What is around a disagreement."""

    # `[S, S]` float32, 0 to 1 by its own percentiles: dim cells are what it is about.
    image: np.ndarray
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
