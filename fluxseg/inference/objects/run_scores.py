"""Scores of single neurons for the recordings of a run, beside the scores of its pixels."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fluxseg.data.cache import CacheIndex
from fluxseg.data.recording import Source
from fluxseg.data.resample import median_diameter, resample_image
from fluxseg.errors import RecordingError
from fluxseg.inference.calibrate import OperatingPoint
from fluxseg.inference.examples import stitch_recording
from fluxseg.inference.objects.scores import Field, pool_recordings, score_recordings
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
    Predictions of resampled crops (`DataConfig.diameter_px`) are brought to its pixels.
    Splits that have their object scores at this threshold already are left as they are, and so
    are all if a recording can no longer be read.

    Args:
        state: trained state, on devices of this process.
        index: the prepared crops.
        scores: content of `scores.json`.
        source: where the recordings came from.
        output: folder of `scores.json`.
        point: temperature and threshold, chosen on validation, whatever split is scored.

    Returns:
        The scores with those of objects, as written.
    """
    splits: dict[str, Any] = {}
    for name, split in scores["splits"].items():
        if _differs(split.get("objects"), point):
            keys = [row["key"] for row in split["recordings"]]
            fields = _predictions(state, index, source, keys, point.temperature)
            try:
                rows = score_recordings(fields, point.threshold)
            except (RecordingError, OSError) as error:
                logger.warning("No object scores: a recording cannot be read again: %s", error)
                return dict(scores)
            by_key = {row["key"]: row for row in rows}
            found = pool_recordings([by_key[key] for key in keys], point.threshold)
            found |= {"temperature": point.temperature, "chosen_on": point.chosen_on}
            split = {**split, "objects": found}
        splits[name] = split
    result = {**scores, "splits": splits}
    write_json(output / "scores.json", result)
    return result


def _differs(objects: Mapping[str, Any] | None, point: OperatingPoint) -> bool:
    # Scores of an earlier version were made at 0.5, whatever the model's own threshold.
    return objects is None or any(
        objects.get(name) != getattr(point, name) for name in ("threshold", "temperature")
    )


def _predictions(
    state: TrainState, index: CacheIndex, source: Source, keys: list[str], temperature: float
) -> Iterator[Field]:
    entries = {entry.key: entry for entry in index.entries}
    resampled = "diameter_px" in index.settings
    for key in keys:
        probability = stitch_recording(state, index, entries[key], temperature)["probability"]
        recording, diameter = source.read(key), None
        if resampled:
            shape = (recording.image.shape[0], recording.image.shape[1])
            probability = resample_image(probability, shape)
            if recording.masks is not None:
                # The crops were made with it, too.
                diameter = median_diameter(recording.masks)
        yield key, recording, probability, diameter
