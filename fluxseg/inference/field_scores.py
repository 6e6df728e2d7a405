"""Scores of a model on whole labelled fields, just as it would be used."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fluxseg.data.recording import Recording, Source, pixel_size
from fluxseg.errors import FluxsegError, RecordingError
from fluxseg.inference.objects.counts import ObjectCounts, count_objects
from fluxseg.inference.objects.rois import Rois, find_rois
from fluxseg.inference.objects.scores import pool_recordings
from fluxseg.inference.predict import Predictor
from fluxseg.model.metrics import Totals, plain_scores, scores_from_confusion
from fluxseg.model.score_names import TITLES
from fluxseg.training.evaluation import SplitScores, split_scores_to_json

SHOWN = {name: TITLES[name] for name in ("neuron_iou", "macro_iou", "object_f1")}
"""The scores that are shown."""
DETAILS = SHOWN | {name: TITLES[name] for name in ("object_precision", "object_recall")}
"""The scores that are shown of every field."""


def find_in_field(model: Predictor, recording: Recording) -> tuple[np.ndarray, Rois]:
    """Find the neurons of a recording just as the model would be used: whole, nothing known.

    Args:
        model: the model, with its threshold and least confidence.
        recording: its image counts, its labels are not looked at.

    Returns:
        Probability of "neuron" `[H, W]` float32, NaN outside of the field, and the neurons.
    """
    # Estimated from the image alone: the labels would tell it too well.
    diameter = model.find_diameter(recording.image)
    probability = model.predict(recording.image, diameter=diameter)
    probability = np.where(np.isfinite(recording.image), probability, np.float32(np.nan))
    rois = find_rois(
        probability,
        threshold=model.threshold,
        um_per_px=pixel_size(recording.metadata) or model.um_per_px,
        diameter=diameter,
        min_confidence=model.min_confidence,
    )
    return probability, rois


def score_field(
    recording: Recording, key: str, probability: np.ndarray, rois: Rois, threshold: float
) -> dict[str, Any]:
    """Score what was found in a labelled recording.

    Args:
        recording: with masks.
        key: its key within the source.
        probability: see `find_in_field`.
        rois: see `find_in_field`.
        threshold: least probability of a neuron pixel.

    Returns:
        key, id, group, um_per_px, `confusion` `[2, 2]` `[[TN, FP], [FN, TP]]` and `objects`
        (`ObjectCounts` as plain values).

    Raises:
        RecordingError: if it has no masks.
    """
    if recording.masks is None:
        raise RecordingError("masks", f"{recording.id} is not annotated, so it has no scores")
    valid = np.isfinite(probability)
    masks = recording.masks & valid
    pixels = 2 * masks.any(0) + (np.where(valid, probability, 0) >= threshold)
    return {
        "key": key,
        "id": recording.id,
        "group": recording.group,
        "um_per_px": rois.um_per_px,
        "confusion": np.bincount(pixels[valid], minlength=4).reshape(2, 2).tolist(),
        "objects": count_objects(masks, rois.labels, um_per_px=rois.um_per_px).to_json(),
    }


def score_fields(model: Predictor, source: Source, keys: Iterable[str]) -> list[dict[str, Any]]:
    """Score a model on labelled recordings just as it would be used: whole, with its threshold.

    Args:
        model: the model.
        source: where the recordings are.
        keys: which of them.

    Returns:
        What `score_field` gives for each.

    Raises:
        RecordingError: if one has no masks, or cannot be read.
    """
    rows = []
    for key in keys:
        recording = source.read(key)
        rows.append(score_field(recording, key, *find_in_field(model, recording), model.threshold))
    return rows


def score_readable(
    model: Predictor, source: Source, progress: Callable[[int, int], None] | None = None
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Score a model on all recordings of a source that can be read and have masks.

    Args:
        model: the model.
        source: where the recordings are.
        progress: called with how many of how many are done.

    Returns:
        What `score_fields` gives, and key -> reason of those without scores.
    """
    rows: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    keys = source.keys()
    for number, key in enumerate(keys, 1):
        try:
            rows += score_fields(model, source, [key])
        except FluxsegError as error:
            failed[key] = str(error)
        if progress:
            progress(number, len(keys))
    return rows, failed


def pool_scores(rows: Iterable[Mapping[str, Any]]) -> dict[str, float | None]:
    """Pool rows of `score_fields`: scores of pixels and objects, None where undefined."""
    confusion, counts = np.zeros((2, 2), np.int64), ObjectCounts()
    for row in rows:
        confusion += np.array(row["confusion"])
        counts = counts.merge(ObjectCounts.from_json(row["objects"]))
    return plain_scores({**scores_from_confusion(confusion), **counts.scores()})


def summarise_fields(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the pooled scores of rows of `score_fields`, and those of each field."""
    return {
        "scores": pool_scores(rows),
        "n_groups": len({row["group"] for row in rows}),
        "recordings": [{**row, "scores": pool_scores([row])} for row in rows],
    }


def split_of_fields(rows: Sequence[Mapping[str, Any]], threshold: float) -> dict[str, Any]:
    """Return rows of `score_fields` as a split of `scores.json`, so that a report has one figure.

    Args:
        rows: one for each field.
        threshold: of the model that was scored, for the record.

    Returns:
        Like `split_scores_to_json`, without a loss, and with `objects` as of `pool_recordings`.
    """
    recordings = {row["key"]: np.array(row["confusion"]) for row in rows}
    totals = Totals(confusion=sum(recordings.values(), np.zeros((2, 2), np.int64)))
    ids = {row["key"]: (row["id"], row["group"]) for row in rows}
    objects = [
        {key: row[key] for key in ("id", "key", "group", "um_per_px")}
        | {"counts": row["objects"], "scores": pool_scores([row])}
        for row in rows
    ]
    split = split_scores_to_json(SplitScores(totals, recordings), ids)
    return {**split, "objects": pool_recordings(objects, threshold)}


def format_fields(summary: Mapping[str, Any]) -> list[str]:
    """Format what `summarise_fields` gives as lines of a table, one for each field and for all."""
    fields = summary["recordings"]
    title = f"all {len(fields)} fields, {summary['n_groups']} groups"
    rows = [*((row["key"], row["scores"]) for row in fields), (title, summary["scores"])]
    width = max(len(name) for name, _ in rows)
    lines = [" " * width + "".join(f"  {name}" for name in DETAILS.values())]
    for name, scores in rows:
        values = [scores[key] for key in DETAILS]
        shown = ["undefined" if value is None else f"{value:.4f}" for value in values]
        columns = zip(shown, DETAILS.values(), strict=True)
        texts = "".join(f"  {text:>{len(title)}}" for text, title in columns)
        lines.append(f"{name:<{width}}{texts}")
    return lines
