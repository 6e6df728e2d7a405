"""Temperature and threshold of a run, chosen on validation, and how reliable that makes it."""

import dataclasses
import functools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from fluxseg.inference.probability import neuron_log_odds
from fluxseg.io.files import write_json
from fluxseg.model import calibration
from fluxseg.model.metrics import plain_scores
from fluxseg.model.thresholds import choose_threshold

if TYPE_CHECKING:
    from fluxseg.data.cache import CacheIndex
    from fluxseg.training.state import TrainState

CONFIDENCE = 0.95  # probability that an interval is to cover
BATCH = 8  # crops that are predicted at once

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class OperatingPoint:
    """What stands between the logits of a network and its masks."""

    temperature: float = 1.0  # what log-odds are divided by
    threshold: float = 0.5  # least tempered probability of a neuron pixel
    chosen_on: str | None = None  # split that all were chosen on; None: they are defaults
    min_confidence: float = 0.0  # least confidence of a neuron, see `find_rois`


def choose_operating_point(histogram: np.ndarray) -> OperatingPoint:
    """Fit the temperature, and choose the threshold of the tempered probability.

    `histogram`, `[2, LEVELS]` integer (see `log_odds_histogram`), is of validation pixels; without
    any the defaults are returned.
    """
    if not histogram.any():
        return OperatingPoint()
    temperature = calibration.fit_temperature(histogram)
    threshold = choose_threshold(histogram, calibration.probability_edges(temperature))
    return OperatingPoint(temperature, threshold, "val")


def group_histograms(
    state: "TrainState", index: "CacheIndex", crops: Sequence[tuple[str, int]]
) -> dict[str, np.ndarray]:
    """Count the pixels of crops by true class and log-odds, for each group of recordings.

    `crops` are (key, crop number) of those to count, each pixel once, with the `eval_params` of the
    state, on devices of this process. Returns by sorted group `[2, LEVELS]` int64, 32 kB each, see
    `log_odds_histogram`.
    """
    from fluxseg.data.pipeline import CropSource, iterate_evaluation

    groups = {entry.key: entry.group for entry in index.entries}
    found = {
        group: np.zeros((2, calibration.LEVELS), np.int64)
        for group in {groups[key] for key, _ in crops}
    }
    for batch in iterate_evaluation(CropSource(index, list(crops)), BATCH):
        arrays = (batch["image"], batch["label"], batch["valid"])
        counts = np.asarray(_histograms(state.apply_fn, state.eval_params, *arrays))
        for number, count in zip(batch["crop"], counts, strict=True):
            if number >= 0:
                found[groups[crops[number][0]]] += count
    return {group: found[group] for group in sorted(found)}


def pool_histograms(histograms: Mapping[str, np.ndarray]) -> np.ndarray:
    """Add up the histograms of all groups; `[2, LEVELS]` int64."""
    return sum(histograms.values(), np.zeros((2, calibration.LEVELS), np.int64))


@functools.partial(jax.jit, static_argnums=0)
def _histograms(
    apply_fn: Any, params: Any, images: jax.Array, label: jax.Array, valid: jax.Array
) -> jax.Array:
    return calibration.log_odds_histogram(neuron_log_odds(apply_fn, params, images), label, valid)


def describe_calibration(
    histograms: Mapping[str, np.ndarray], temperature: float
) -> dict[str, Any]:
    """Say how reliable the probabilities of a split are, before and after the temperature.

    Takes what `group_histograms` gives. Returns plain values: `temperature`, `confidence`, and
    under `before` (temperature 1) and `after` the `scores` (`ece`, `mce`, `brier`, `nll`; None if
    undefined), their `intervals` from a bootstrap over groups, and the `curve`.
    """
    stacked = np.stack(list(histograms.values()))
    parts: dict[str, Any] = {}
    for name, value in (("before", 1.0), ("after", temperature)):
        sums = calibration.sum_reliability(stacked, value)
        total = sums.weighted(np.ones(len(stacked)))
        scores = {key: float(score) for key, score in calibration.calibration_scores(total).items()}
        rng = np.random.default_rng(0)
        parts[name] = {
            "scores": plain_scores(scores),
            "intervals": calibration.bootstrap_calibration(sums, rng, confidence=CONFIDENCE),
            "curve": calibration.reliability_curve(total),
        }
    return {"temperature": temperature, "confidence": CONFIDENCE, **parts}


def calibrate(
    state: "TrainState",
    index: "CacheIndex",
    crops: Mapping[str, Sequence[tuple[str, int]]],
    scores: Mapping[str, Any],
    output: Path,
    point: OperatingPoint | None = None,
) -> tuple[dict[str, Any], OperatingPoint]:
    """Add `operating_point`, and to every split `calibration`, to `scores.json` in `output`.

    `crops` are (key, crop number) of all splits of the scores. `point` is what was chosen before;
    None: it is chosen here, on the split "val" alone. Returns scores, as written, and point.
    """
    found = {split: group_histograms(state, index, crops[split]) for split in scores["splits"]}
    if point is None:
        point = OperatingPoint()
        if "val" in found:
            point = choose_operating_point(pool_histograms(found["val"]))
    splits = {
        name: {**split, "calibration": describe_calibration(found[name], point.temperature)}
        for name, split in scores["splits"].items()
    }
    result = {**scores, "operating_point": dataclasses.asdict(point), "splits": splits}
    write_json(output / "scores.json", result)
    how = f"chosen on {point.chosen_on}" if point.chosen_on else "defaults: no split could choose"
    logger.info("Temperature %.3f, threshold %.3f (%s)", point.temperature, point.threshold, how)
    return result, point
