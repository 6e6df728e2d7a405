"""Scores of single neurons for the recordings of a run, beside the scores of its pixels."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fluxseg.data.cache import CacheIndex
from fluxseg.data.recording import Source, pixel_size
from fluxseg.data.resample import median_diameter, resample_image
from fluxseg.errors import RecordingError
from fluxseg.inference.calibrate import OperatingPoint
from fluxseg.inference.examples import stitch_recording
from fluxseg.inference.objects.rois import find_rois
from fluxseg.inference.objects.scores import pool_recordings, score_neurons
from fluxseg.io.files import write_json
from fluxseg.training.state import TrainState

logger = logging.getLogger(__name__)


def write_object_scores(
    state: TrainState,
    index: CacheIndex,
    scores: Mapping[str, Any],
    source: Source,
    output: Path,
    point: OperatingPoint,
) -> dict[str, Any]:
    """Add `objects` to every split of `scores.json`: separate neurons against the true masks.

    Each recording is read again, one at a time, since the prepared crops hold merged masks only.
    Splits that have their object scores at this operating point already are left as they are, and
    so are all if a recording can no longer be read. Returns the scores, as written to `output`.
    """
    splits: dict[str, Any] = {}
    for name, split in scores["splits"].items():
        if _differs(split.get("objects"), point):
            keys = [row["key"] for row in split["recordings"]]
            try:
                rows = [_score(state, index, source, key, point) for key in keys]
            except (RecordingError, OSError) as error:
                logger.warning("No object scores: a recording cannot be read again: %s", error)
                return dict(scores)
            found = pool_recordings(rows, point.threshold)
            found |= {"temperature": point.temperature, "chosen_on": point.chosen_on}
            split = {**split, "objects": found}
        splits[name] = split
    result = {**scores, "splits": splits}
    write_json(output / "scores.json", result)
    return result


def _differs(objects: Mapping[str, Any] | None, point: OperatingPoint) -> bool:
    return objects is None or any(
        objects.get(name) != getattr(point, name) for name in ("threshold", "temperature")
    )


def _score(
    state: TrainState, index: CacheIndex, source: Source, key: str, point: OperatingPoint
) -> dict[str, Any]:
    entry = next(entry for entry in index.entries if entry.key == key)
    probability = stitch_recording(state, index, entry, point.temperature)["probability"]
    recording, diameter = source.read(key), None
    if "diameter_px" in index.settings:
        # The crops were brought to one size of cells, by the diameter of the labels.
        height, width = recording.image.shape
        probability = resample_image(probability, (height, width))
        if recording.masks is not None:
            diameter = median_diameter(recording.masks)
    rois = find_rois(
        np.where(np.isfinite(recording.image), probability, np.float32(np.nan)),
        threshold=point.threshold,
        um_per_px=pixel_size(recording.metadata),
        diameter=diameter,
    )
    return score_neurons(recording, key, rois)
