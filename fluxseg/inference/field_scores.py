"""Scores of a model on whole labelled fields, just as it would be used."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from fluxseg.data.recording import Source, pixel_size
from fluxseg.errors import FluxsegError, RecordingError
from fluxseg.inference.objects.counts import ObjectCounts
from fluxseg.inference.objects.scores import score_objects
from fluxseg.inference.predict import Predictor
from fluxseg.model.metrics import plain_scores, scores_from_confusion
from fluxseg.model.score_names import TITLES

SHOWN = {name: TITLES[name] for name in ("neuron_iou", "macro_iou", "object_f1")}
"""The scores that are shown."""
DETAILS = SHOWN | {name: TITLES[name] for name in ("object_precision", "object_recall")}
"""The scores that are shown of every field."""


def score_fields(model: Predictor, source: Source, keys: Iterable[str]) -> list[dict[str, Any]]:
    """Score a model on labelled recordings just as it would be used: whole, with its threshold.

    Args:
        model: the model.
        source: where the recordings are.
        keys: which of them.

    Returns:
        For each: key, id, group, `confusion` `[2, 2]` `[[TN, FP], [FN, TP]]` and `objects`
        (`ObjectCounts` as plain values).

    Raises:
        RecordingError: if one has no masks, or cannot be read.
    """
    rows = []
    for key in keys:
        recording = source.read(key)
        if recording.masks is None:
            raise RecordingError("masks", f"{recording.id} is not annotated, so it has no scores")
        # Estimated from the image alone: the labels would tell it too well.
        diameter = model.find_diameter(recording.image)
        probability = model.predict(recording.image, diameter=diameter)
        valid = np.isfinite(recording.image)
        truth, found = recording.masks.any(0), probability >= model.threshold
        confusion = np.bincount((2 * truth + found)[valid], minlength=4).reshape(2, 2)
        scale = pixel_size(recording.metadata) or model.um_per_px
        seen = np.where(valid, probability, np.nan)
        objects = score_objects(
            recording.masks,
            seen,
            model.threshold,
            um_per_px=scale,
            diameter=diameter,
            min_confidence=model.min_confidence,
        )["counts"]
        rows.append(
            {
                "key": key,
                "id": recording.id,
                "group": recording.group,
                "confusion": confusion.tolist(),
                "objects": objects.to_json(),
            }
        )
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
        counts = counts.merge(ObjectCounts(**{k: np.asarray(v) for k, v in row["objects"].items()}))
    return plain_scores({**scores_from_confusion(confusion), **counts.scores()})


def summarise_fields(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the pooled scores of rows of `score_fields`, and those of each field."""
    return {
        "scores": pool_scores(rows),
        "n_groups": len({row["group"] for row in rows}),
        "recordings": [{**row, "scores": pool_scores([row])} for row in rows],
    }


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
