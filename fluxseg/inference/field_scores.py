"""Scores of a model on whole labelled fields, just as it would be used."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fluxseg.data.checks import COMMON, inspect_recording
from fluxseg.data.recording import Recording, Source, annotated_masks, pixel_size
from fluxseg.errors import FluxsegError
from fluxseg.inference.objects.counts import ObjectCounts
from fluxseg.inference.objects.rois import Rois
from fluxseg.inference.objects.scores import pool_recordings, score_neurons
from fluxseg.inference.predict import Predictor, Segmentation
from fluxseg.io.progress import Progressed, tracked
from fluxseg.model.metrics import Totals, plain_scores, scores_from_confusion
from fluxseg.model.score_names import TITLES
from fluxseg.training.evaluation import SplitScores, split_scores_to_json

SHOWN = {name: TITLES[name] for name in ("neuron_iou", "macro_iou", "object_f1")}  # scores
DETAILS = SHOWN | {name: TITLES[name] for name in ("object_precision", "object_recall")}
"""The scores that are shown of every field."""


def find_in_field(model: Predictor, recording: Recording, **settings: Any) -> Segmentation:
    """Find the neurons of a recording just as the model would be used: whole, nothing known.

    Its diameter is estimated from the image alone: the labels would tell it too well.
    """
    scale = pixel_size(recording.metadata)
    return model.find_neurons(recording.image, um_per_px=scale, **settings)


def score_field(
    recording: Recording, key: str, probability: np.ndarray, rois: Rois, threshold: float
) -> dict[str, Any]:
    """Score what was found in a recording with masks, which its source calls `key`.

    Pixels of a probability `[H, W]` float32 of at least `threshold` are neuron. Returns the row of
    `score_neurons`, with `confusion` `[2, 2]` `[[TN, FP], [FN, TP]]` and the scores of pixels.
    """
    row = score_neurons(recording, key, rois)
    valid = np.isfinite(recording.image)
    pixels = 2 * annotated_masks(recording).any(0) + (probability >= threshold)
    row["confusion"] = np.bincount(pixels[valid], minlength=4).reshape(2, 2).tolist()
    return {**row, "scores": pool_scores([row])}


def score_fields(model: Predictor, source: Source, keys: Iterable[str]) -> list[dict[str, Any]]:
    """Score a model on labelled recordings of a source: what `score_field` gives for each key.

    Raises `RecordingError` if one has no masks, or cannot be read.
    """
    return [_score(model, source.read(key), key) for key in keys]


def _score(model: Predictor, recording: Recording, key: str) -> dict[str, Any]:
    annotated_masks(recording)  # The network need not run for one without any.
    found = find_in_field(model, recording)
    return score_field(recording, key, found.probability, found.rois, model.threshold)


def score_readable(
    model: Predictor, source: Source, progress: Progressed | None = None
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Score a model on all recordings of a source that can be read and have masks.

    Returns what `score_field` gives for each, with `remarks` on what is odd about its image and
    labels, as `check` has them; and key -> reason of those without scores.
    """
    rows: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    for key in tracked(source.keys(), progress):
        try:
            recording = source.read(key)
            reasons = inspect_recording(recording, key).row.reasons
            remarks = [reason for reason in reasons if reason not in COMMON]
            rows.append({**_score(model, recording, key), "remarks": remarks})
        except FluxsegError as error:
            failed[key] = str(error)
    return rows, failed


def pool_scores(rows: Iterable[Mapping[str, Any]]) -> dict[str, float | None]:
    """Pool rows of `score_field`: scores of pixels and objects, None where undefined."""
    confusion, counts = np.zeros((2, 2), np.int64), ObjectCounts()
    for row in rows:
        confusion += np.array(row["confusion"])
        counts = counts.merge(ObjectCounts.from_json(row["counts"]))
    return plain_scores({**scores_from_confusion(confusion), **counts.scores()})


def summarise_fields(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the pooled scores of rows of `score_field`, and those of each field."""
    groups = len({row["group"] for row in rows})
    return {"scores": pool_scores(rows), "n_groups": groups, "recordings": rows}


def split_of_fields(rows: Sequence[dict[str, Any]], threshold: float) -> dict[str, Any]:
    """Return rows of `score_field` as a split of `scores.json`, so that a report has one figure.

    It is like `split_scores_to_json`, without a loss, and with `objects` as of `pool_recordings`;
    `threshold` is that of the model, for the record.
    """
    recordings = {row["key"]: np.array(row["confusion"]) for row in rows}
    totals = Totals(confusion=sum(recordings.values(), np.zeros((2, 2), np.int64)))
    ids = {row["key"]: (row["id"], row["group"]) for row in rows}
    split = split_scores_to_json(SplitScores(totals, recordings), ids)
    return {**split, "objects": pool_recordings(rows, threshold)}


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
