"""Scores of the neurons found in a recording and in a set of recordings, with intervals."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fluxseg.data.recording import Recording, annotated_masks
from fluxseg.inference.objects.counts import (
    IOU_THRESHOLDS,
    SCORE_SOURCES,
    ObjectCounts,
    compute_scores,
    count_objects,
    count_values,
)
from fluxseg.inference.objects.rois import Rois
from fluxseg.model.metrics import draw_groups, percentile_interval, plain_scores


def score_neurons(recording: Recording, key: str, rois: Rois) -> dict[str, Any]:
    """Score the neurons found in a recording, which its source calls `key`.

    Pixels of the image that are not finite are outside of the field. The pixel size of the ROIs is
    that of Neurofinder's distance.

    Returns:
        A row of plain values: `id`, `key`, `group`, `um_per_px`, `counts` (of `ObjectCounts`), and
        `scores`, None where undefined.

    Raises:
        RecordingError: if it has no masks, or the sizes differ.
    """
    inside = annotated_masks(recording) & np.isfinite(recording.image)
    counts = count_objects(inside, rois.labels, um_per_px=rois.um_per_px)
    return {
        "id": recording.id,
        "key": key,
        "group": recording.group,
        "um_per_px": rois.um_per_px,
        "counts": counts.to_json(),
        "scores": plain_scores(counts.scores()),
    }


def pool_recordings(
    rows: Sequence[dict[str, Any]],
    threshold: float = 0.5,
    *,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Any]:
    """Score the neurons of a set of recordings together, from rows of `score_neurons`.

    `threshold` is the least probability of a neuron, for the record; `seed` that of the bootstrap,
    and `confidence` the probability that an interval is to cover.

    Returns:
        Plain values: `scores` and `counts` of all, `intervals` (percentile bootstrap over groups),
        `distance_unit` of Neurofinder ("um", "px" or "mixed"), `sources`, and the rows; what is
        undefined is None.
    """
    parts = [ObjectCounts.from_json(row["counts"]) for row in rows]
    groups = [row["group"] for row in rows]
    units = {"px" if row["um_per_px"] is None else "um" for row in rows}
    total = ObjectCounts()
    for part in parts:
        total = total.merge(part)
    return {
        "threshold": threshold,
        "scores": plain_scores(total.scores()),
        "counts": total.to_json(),
        "intervals": bootstrap_object_intervals(
            parts, groups, np.random.default_rng(seed), confidence=confidence
        ),
        "confidence": confidence,
        "distance_unit": units.pop() if len(units) == 1 else "mixed" if units else None,
        "iou_thresholds": list(IOU_THRESHOLDS),
        "sources": dict(SCORE_SOURCES),
        "n_groups": len(set(groups)),
        "n_recordings": len(rows),
        "recordings": list(rows),
    }


def bootstrap_object_intervals(
    counts: Sequence[ObjectCounts],
    groups: Sequence[str],
    rng: np.random.Generator,
    samples: int = 2000,
    confidence: float = 0.95,
) -> dict[str, list[float] | None]:
    """Percentile intervals [low, high] of the pooled scores by resampling groups of recordings.

    As `fluxseg.model.metrics.bootstrap_intervals`, for the counts of R recordings and the group of
    each; None with fewer than two groups, or if a score is always undefined.
    """
    names, index = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    if len(names) < 2:
        return dict.fromkeys(compute_scores(ObjectCounts()))
    weights = draw_groups(len(names), rng, samples).astype(float)[:, index]
    drawn = ObjectCounts(
        *(
            np.tensordot(weights, np.stack(part), 1)
            for part in zip(*map(count_values, counts), strict=True)
        )
    )
    scores = compute_scores(drawn)
    intervals = {name: percentile_interval(v, confidence) for name, v in scores.items()}
    return {name: None if pair is None else list(pair) for name, pair in intervals.items()}
