"""Counts of found neurons that add up over recordings, and the scores that the field quotes."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fluxseg.errors import ConfigError
from fluxseg.inference.objects.matching import (
    Overlaps,
    assign_pairs,
    match_centres,
    overlap_objects,
)

IOU_THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))
"""IoU thresholds of the average precision."""
CENTRE_DISTANCE = 5.0
"""Neurofinder's distance: um where the size of a pixel is known (as its server), else px."""
SCORE_SOURCES: Mapping[str, str] = {
    "object": "IoU >= 0.5, Hungarian matching: STNeuroNet (Soltanian-Zadeh et al. 2019, PNAS "
    "116:8554) and SUNS (Bao et al. 2021, Nat Mach Intell 3:590)",
    "ap": "TP / (TP + FP + FN) of the summed counts: StarDist (Schmidt et al. 2018, MICCAI), "
    "matching_dataset; not the average precision of COCO",
    "ap_image": "TP / (TP + FP + FN) of each recording, then the mean: Cellpose (Stringer et al. "
    "2021, Nat Methods 18:100), metrics.average_precision",
    "panoptic": "sum of IoU / (TP + FP/2 + FN/2), IoU > 0.5: Kirillov et al. 2019, CVPR; "
    "that of StarDist counts an IoU of exactly 0.5 too",
    "neurofinder": "nearest centres closer than 5 um (5 px where the pixel size is unknown): "
    "Neurofinder challenge (codeneuro, 2016), its evaluation of centres and shapes",
}
"""Definition and source of the scores, by the first part of their names."""


@dataclasses.dataclass(frozen=True, eq=False)
class ObjectCounts:
    """Sums over any number of recordings; every field may have leading axes in common.

    Attributes:
        n_true: true objects.
        n_predicted: predicted objects.
        true_positives: `[..., T]` matches at each of `IOU_THRESHOLDS`.
        ap_sum: `[..., T]` sum over recordings of TP / (TP + FP + FN).
        ap_recordings: recordings in which that is defined.
        panoptic_matches: matches with IoU above 0.5.
        panoptic_iou: sum of their IoU.
        centre_matches: Neurofinder's matches.
        inclusion: sum over them of the share of the true object that is covered.
        exclusion: sum over them of the share of the predicted object that is inside.
    """

    n_true: Any = 0
    n_predicted: Any = 0
    true_positives: Any = dataclasses.field(
        default_factory=lambda: np.zeros(len(IOU_THRESHOLDS), np.int64)
    )
    ap_sum: Any = dataclasses.field(default_factory=lambda: np.zeros(len(IOU_THRESHOLDS)))
    ap_recordings: Any = 0
    panoptic_matches: Any = 0
    panoptic_iou: Any = 0.0
    centre_matches: Any = 0
    inclusion: Any = 0.0
    exclusion: Any = 0.0

    def merge(self, other: "ObjectCounts") -> "ObjectCounts":
        """Add two counts."""
        return ObjectCounts(
            *(a + b for a, b in zip(count_values(self), count_values(other), strict=True))
        )

    def scores(self) -> dict[str, float]:
        """Compute all scores; see `SCORE_SOURCES`.

        A score of 0/0 is NaN, such as the recall where nothing is to be found; recordings without
        any object, true or predicted, are left out of `ap_image`. Neurofinder's figures are
        rounded to 4 digits as in its own output.
        """
        return {name: float(value) for name, value in compute_scores(self).items()}

    def to_json(self) -> dict[str, Any]:
        """Return the counts as plain values."""
        return {name: np.asarray(getattr(self, name)).tolist() for name in _NAMES}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "ObjectCounts":
        """Restore what `to_json` returned, to the last bit."""
        return cls(*(np.asarray(values[name]) for name in _NAMES))


_NAMES = tuple(field.name for field in dataclasses.fields(ObjectCounts))


def count_values(counts: ObjectCounts) -> list[Any]:
    """Return the fields in their order, for functions of each of them."""
    return [getattr(counts, name) for name in _NAMES]


def _ratio(part: Any, whole: Any, empty: float = math.nan) -> np.ndarray:
    part, whole = np.broadcast_arrays(np.asarray(part, float), whole)
    return np.divide(part, whole, out=np.full(part.shape, empty), where=whole > 0)


def compute_scores(counts: ObjectCounts) -> dict[str, np.ndarray]:
    """Compute all scores of counts with any leading axes; see `ObjectCounts.scores`."""
    true, predicted = np.asarray(counts.n_true), np.asarray(counts.n_predicted)
    found = np.asarray(counts.true_positives)
    either = np.expand_dims(true + predicted, -1) - found
    pooled = _ratio(found, either)
    each = _ratio(counts.ap_sum, np.expand_dims(counts.ap_recordings, -1))
    near, matched = np.asarray(counts.centre_matches), np.asarray(counts.panoptic_matches)
    names = [f"{threshold * 100:.0f}" for threshold in IOU_THRESHOLDS]
    values = {
        "object_precision": _ratio(found[..., 0], predicted),
        "object_recall": _ratio(found[..., 0], true),
        "object_f1": _ratio(2 * found[..., 0], true + predicted),
        **{f"ap_{name}": pooled[..., i] for i, name in enumerate(names)},
        "ap_mean": pooled.mean(-1),
        **{f"ap_image_{name}": each[..., i] for i, name in enumerate(names)},
        "ap_image_mean": each.mean(-1),
        "panoptic_quality": _ratio(2 * np.asarray(counts.panoptic_iou), true + predicted),
        "panoptic_segmentation": _ratio(counts.panoptic_iou, matched),
        "panoptic_recognition": _ratio(2 * matched, true + predicted),
    }
    # Without matches Neurofinder's code calls inclusion and exclusion 0.
    neurofinder = {
        "neurofinder_recall": _ratio(near, true),
        "neurofinder_precision": _ratio(near, predicted),
        "neurofinder_combined": _ratio(2 * near, true + predicted),
        "neurofinder_inclusion": _ratio(counts.inclusion, near, 0.0),
        "neurofinder_exclusion": _ratio(counts.exclusion, near, 0.0),
    }
    return values | {name: value.round(4) for name, value in neurofinder.items()}


def count_objects(
    true: np.ndarray,
    predicted: np.ndarray,
    *,
    um_per_px: float | None = None,
    distance: float = CENTRE_DISTANCE,
) -> ObjectCounts:
    """Compare the true and predicted objects of one recording.

    Args:
        true: masks `[N, H, W]` bool, which may overlap, or labels `[H, W]`, 0 is background.
        predicted: the same for the prediction.
        um_per_px: size of a pixel, um, if known.
        distance: Neurofinder's distance, um, or px where the size of a pixel is unknown.

    Raises:
        RecordingError: see `overlap_objects`.
        ConfigError: if `um_per_px` or `distance` is not above 0.
    """
    for name, value in (("um_per_px", um_per_px), ("distance", distance)):
        if value is not None and not 0 < value < math.inf:
            raise ConfigError(f"{name} must be above 0, got {value!r}")
    overlaps = overlap_objects(true, predicted)
    found = np.array([len(assign_pairs(overlaps, iou).iou) for iou in IOU_THRESHOLDS])
    total = len(overlaps.true_area) + len(overlaps.predicted_area)
    panoptic = assign_pairs(overlaps, 0.5, strict=True).iou
    near, inclusion, exclusion = _neurofinder(overlaps, distance / (um_per_px or 1.0))
    return ObjectCounts(
        n_true=len(overlaps.true_area),
        n_predicted=len(overlaps.predicted_area),
        true_positives=found,
        ap_sum=_ratio(found, total - found, 0.0),
        ap_recordings=int(total > 0),
        panoptic_matches=len(panoptic),
        panoptic_iou=float(panoptic.sum()),
        centre_matches=near,
        inclusion=inclusion,
        exclusion=exclusion,
    )


def _neurofinder(overlaps: Overlaps, distance: float) -> tuple[int, float, float]:
    pairs = match_centres(overlaps.true_centre, overlaps.predicted_centre, distance)
    keys = zip(overlaps.true.tolist(), overlaps.predicted.tolist(), strict=True)
    pixels = dict(zip(keys, overlaps.pixels.tolist(), strict=True))
    shared = np.array([pixels.get((int(a), int(b)), 0) for a, b in zip(*pairs, strict=True)], float)
    inclusion = shared / overlaps.true_area[pairs[0]]
    exclusion = shared / overlaps.predicted_area[pairs[1]]
    return len(shared), float(inclusion.sum()), float(exclusion.sum())
