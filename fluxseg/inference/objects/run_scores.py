"""Scores of single neurons for the recordings of a run, beside the scores of its pixels."""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fluxseg.data.cache import CacheIndex
from fluxseg.data.recording import Recording, Source, pixel_size
from fluxseg.data.resample import median_diameter, resample_image
from fluxseg.errors import RecordingError
from fluxseg.inference.calibrate import OperatingPoint
from fluxseg.inference.examples import stitch_recording
from fluxseg.inference.objects.levels import UNSURE
from fluxseg.inference.objects.matching import assign_pairs, overlap_objects
from fluxseg.inference.objects.rois import Rois, choose_rois, find_rois
from fluxseg.inference.objects.scores import pool_recordings, score_neurons
from fluxseg.io.files import write_json
from fluxseg.training.state import TrainState

CUTS = (0.0, *(round(0.05 * step, 2) for step in range(4, 19)))
"""Least confidences to choose from; 0: the pieces at the threshold alone, whatever their own."""

logger = logging.getLogger(__name__)


def choose_cut(
    state: TrainState,
    index: CacheIndex,
    scores: Mapping[str, Any],
    source: Source,
    point: OperatingPoint,
) -> OperatingPoint:
    """Choose the least confidence of a neuron: the best F1 over the recordings that chose `point`.

    Returns the point with it; without such a split, or if a recording can no longer be read, as it
    was.
    """
    rows = scores["splits"].get(point.chosen_on, {}).get("recordings", [])
    counts = np.zeros((len(CUTS), 3))
    try:
        for row in rows:
            seen = _see(state, index, source, row["key"], point)
            every = seen.find(point.threshold, UNSURE)
            counts[0] += seen.count(seen.find(point.threshold, 0.0))
            counts[1:] += [
                seen.count(choose_rois(every, every.confidence >= cut)) for cut in CUTS[1:]
            ]
    except (RecordingError, OSError):
        return point
    if not counts[0, 2]:
        return point
    f1 = 2 * counts[:, 0] / counts[:, 1:].sum(1)
    # Of few neurons many cuts are equally good: the middle one is the furthest from worse ones.
    equal = np.flatnonzero(f1 == f1.max())
    best = int(equal[len(equal) // 2]) if f1.max() > 0 else 0
    logger.info("Least confidence of a neuron %.2f (chosen on %s)", CUTS[best], point.chosen_on)
    return dataclasses.replace(point, min_confidence=CUTS[best])


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
            found |= dataclasses.asdict(point)
            split = {**split, "objects": found}
        splits[name] = split
    result = {**scores, "operating_point": dataclasses.asdict(point), "splits": splits}
    write_json(output / "scores.json", result)
    return result


def _differs(objects: Mapping[str, Any] | None, point: OperatingPoint) -> bool:
    return objects is None or any(
        objects.get(name, 0.0) != getattr(point, name)
        for name in ("threshold", "temperature", "min_confidence")
    )


def _score(
    state: TrainState, index: CacheIndex, source: Source, key: str, point: OperatingPoint
) -> dict[str, Any]:
    seen = _see(state, index, source, key, point)
    return score_neurons(seen.recording, key, seen.find(point.threshold, point.min_confidence))


@dataclasses.dataclass(frozen=True, eq=False)
class _Seen:
    """A recording as the network sees it: the probability `[H, W]`, NaN outside of the field."""

    recording: Recording
    probability: np.ndarray
    diameter: float | None

    def find(self, threshold: float, min_confidence: float) -> Rois:
        return find_rois(
            self.probability,
            threshold=threshold,
            um_per_px=pixel_size(self.recording.metadata),
            diameter=self.diameter,
            min_confidence=min_confidence,
        )

    def count(self, rois: Rois) -> tuple[int, int, int]:
        """Count the neurons that are rightly found, that are found, and that are labelled."""
        if self.recording.masks is None:
            return 0, 0, 0
        inside = self.recording.masks & np.isfinite(self.recording.image)
        overlaps = overlap_objects(inside, rois.labels)
        return len(assign_pairs(overlaps).true), len(rois), len(overlaps.true_area)


def _see(
    state: TrainState, index: CacheIndex, source: Source, key: str, point: OperatingPoint
) -> _Seen:
    entry = next(entry for entry in index.entries if entry.key == key)
    probability = stitch_recording(state, index, entry, point.temperature)["probability"]
    recording, diameter = source.read(key), None
    if "diameter_px" in index.settings:
        # The crops were brought to one size of cells, by the diameter of the labels.
        height, width = recording.image.shape
        probability = resample_image(probability, (height, width))
        if recording.masks is not None:
            diameter = median_diameter(recording.masks)
    inside = np.where(np.isfinite(recording.image), probability, np.float32(np.nan))
    return _Seen(recording, inside, diameter)
