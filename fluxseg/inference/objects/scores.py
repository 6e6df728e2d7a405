"""Scores of the neurons found in a recording and in a set of recordings, with intervals."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fluxseg.data.recording import Recording, pixel_size
from fluxseg.errors import RecordingError
from fluxseg.inference.objects.counts import (
    IOU_THRESHOLDS,
    SCORE_SOURCES,
    ObjectCounts,
    compute_scores,
    count_objects,
    count_values,
)
from fluxseg.inference.objects.rois import find_rois
from fluxseg.model.metrics import draw_groups, percentile_interval, plain_scores

Field = tuple[str, Recording, np.ndarray] | tuple[str, Recording, np.ndarray, float | None]
"""Key, recording, probability `[H, W]` of "neuron", and perhaps the typical diameter of the cells,
px (see `find_rois`)."""


def score_objects(
    masks: np.ndarray,
    probability: np.ndarray,
    threshold: float = 0.5,
    *,
    um_per_px: float | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Find the neurons of one recording and score them.

    Args:
        masks: `[N, H, W]` bool, the true ROIs.
        probability: `[H, W]` float, 0 to 1; NaN is outside of the field, also for the masks.
        threshold: least probability of a neuron.
        um_per_px: size of a pixel, um, if known.
        settings: further arguments of `find_rois`.

    Returns:
        `counts` (an `ObjectCounts`) and `scores` (name -> float, NaN if undefined).

    Raises:
        RecordingError, ConfigError: see `find_rois` and `count_objects`.
    """
    rois = find_rois(probability, threshold=threshold, um_per_px=um_per_px, **settings)
    outside = ~np.isfinite(probability)
    if outside.any() and masks.shape[1:] == outside.shape:
        masks = masks & ~outside
    counts = count_objects(masks, rois.labels, um_per_px=um_per_px)
    return {"counts": counts, "scores": counts.scores()}


def object_scores_for_split(
    recordings: Iterable[Field],
    threshold: float = 0.5,
    *,
    seed: int = 0,
    confidence: float = 0.95,
    **settings: Any,
) -> dict[str, Any]:
    """Score the neurons of a set of recordings: each of them, and all together.

    Args:
        recordings: the whole fields, one at a time.
        threshold: least probability of a neuron.
        seed: seed of the bootstrap.
        confidence: probability that an interval is to cover.
        settings: further arguments of `find_rois`.

    Returns:
        Plain values: `scores` and `counts` of all, `intervals` (percentile bootstrap over groups,
        None where undefined), `distance_unit` of Neurofinder ("um", "px" or "mixed"), `sources`,
        and a row for each recording; undefined scores are None.

    Raises:
        RecordingError: if a recording has no masks, or see `score_objects`.
    """
    rows = score_recordings(recordings, threshold, **settings)
    return pool_recordings(rows, threshold, seed=seed, confidence=confidence)


def score_recordings(
    recordings: Iterable[Field], threshold: float = 0.5, **settings: Any
) -> list[dict[str, Any]]:
    """Score the neurons of each recording; arguments and errors as `object_scores_for_split`.

    Returns:
        A row of plain values for each: `id`, `key`, `group`, `um_per_px`, `counts`, `scores`.
    """
    rows = []
    for key, recording, probability, *others in recordings:
        if recording.masks is None:
            raise RecordingError("masks", f"{recording.id} is not annotated, so it has no scores")
        scale = pixel_size(recording.metadata)
        valid = np.isfinite(recording.image)
        seen = probability if valid.all() else np.where(valid, probability, np.nan)
        known = dict(zip(("diameter",), others, strict=False))
        result = score_objects(
            recording.masks, seen, threshold, um_per_px=scale, **known, **settings
        )
        rows.append(
            {
                "id": recording.id,
                "key": key,
                "group": recording.group,
                "um_per_px": scale,
                "counts": result["counts"].to_json(),
                "scores": plain_scores(result["scores"]),
            }
        )
    return rows


def pool_recordings(
    rows: Sequence[dict[str, Any]],
    threshold: float = 0.5,
    *,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Any]:
    """Add up the rows of `score_recordings`; see `object_scores_for_split`."""
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
    """Percentile intervals of the pooled scores by resampling groups of recordings.

    As `fluxseg.model.metrics.bootstrap_intervals`, for objects.

    Args:
        counts: `[R]` counts of each recording.
        groups: `[R]` group of each recording.
        rng: source of the draws.
        samples: number of samples.
        confidence: share of the samples inside the interval.

    Returns:
        [low, high] per score; None with fewer than two groups, or if it is always undefined.
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
