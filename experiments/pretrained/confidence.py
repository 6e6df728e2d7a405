"""Fit what tells cells from what else is found, and choose how the shipped network is used.

What: a logistic of five measures of each piece that is found at one of the levels around a
    threshold (`fluxseg.inference.objects.levels`), whether it matches a label at IoU 0.5. It is
    fitted on simulated fields, and on real ones with each source left out in turn; threshold and
    least confidence are chosen on the real fields by the mean F1 over sources, and again with each
    source left out. Predictions of the real fields are those that the yardstick has stored.
Result: at threshold 0.4 the logistic of 32 simulated fields, which ships, has a mean F1 of 0.560
    at the cut 0.7 (at each field's best cut 0.575, average precision 0.461), that of real ones
    0.559 at 0.2 (0.572, 0.459). With each source left out the cut is 0.65 to 0.8, and the left-out
    source has 0.769 (allen_275), 0.254 (janelia_00), 0.551 (janelia_02) and 0.651 (princeton), as
    good as with the logistic of the other real sources. Thresholds of 0.45 and 0.5 give 0.559.
Hardware: 2 CPU cores, a few minutes.
Command: python -m experiments.pretrained.confidence --model FILE --data FOLDER --output runs/real
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.pretrained.crops import training_ranges
from experiments.pretrained.ranking import compare_objects, score_ranking
from experiments.pretrained.real_fields import ASIDE, cache_name, predict_field, read_fields
from experiments.pretrained.scores import HELD_OUT_SEED, simulate_held_out
from fluxseg.inference.objects.confidence import FEATURES, describe_cells
from fluxseg.inference.objects.levels import keep_surest, levels_around
from fluxseg.inference.objects.rois import find_rois
from fluxseg.inference.run_model import load_model

THRESHOLDS = (0.4, 0.45, 0.5)
CUTS = tuple(round(0.05 * step, 2) for step in range(1, 19))


@dataclasses.dataclass(frozen=True, eq=False)
class Field:
    """What is found in a field, by level.

    Attributes:
        source: its laboratory.
        true: labels `[H, W]` int, or masks `[N, H, W]` bool.
        labels: of each level `[H, W]` int.
        measures: of each level `[M, 5]`, of its pieces.
        matched: of each level `[M]` bool, which pieces match a label.
        counts: of each level `[M]` bool, which pieces are not doubtful.
    """

    source: str
    true: np.ndarray
    labels: list[np.ndarray]
    measures: list[np.ndarray]
    matched: list[np.ndarray]
    counts: list[np.ndarray]


def measure_field(
    source: str,
    true: np.ndarray,
    probability: np.ndarray,
    threshold: float,
    diameter: float | None,
    doubtful: np.ndarray | None = None,
) -> Field:
    """Find the pieces of a field at each level and tell which ones match a label."""
    field = Field(source, true, [], [], [], [])
    for level in levels_around(threshold):
        rois = find_rois(probability, threshold=level, diameter=diameter)
        matched = compare_objects(true, rois.labels).matched
        counts = np.ones(len(rois), bool)
        if doubtful is not None:
            share = np.bincount(rois.labels[doubtful], minlength=len(rois) + 1)[1:] / rois.area
            counts = matched | (share < 0.5)
        field.labels.append(rois.labels)
        field.measures.append(
            describe_cells(rois.labels, rois.area, rois.probability, rois.quality, diameter)
        )
        field.matched.append(matched)
        field.counts.append(counts)
    return field


def fit_logistic(fields: Sequence[Field], strength: float = 1e-3) -> np.ndarray:
    """Fit weights and bias `[6]` by Newton's method, every source weighing the same."""
    x, y = (
        np.concatenate(
            [one[keep] for f in fields for one, keep in zip(getattr(f, of), f.counts, strict=True)]
        )
        for of in ("measures", "matched")
    )
    source = np.repeat([f.source for f in fields], [sum(c.sum() for c in f.counts) for f in fields])
    _, which, total = np.unique(source, return_inverse=True, return_counts=True)
    w = 1 / total[which] / len(total)
    x = np.c_[x, np.ones(len(x))]
    penalty = strength * np.diag([1.0] * (x.shape[1] - 1) + [1e-6])
    weights = np.zeros(x.shape[1])
    for _ in range(30):
        p = 1 / (1 + np.exp(-x @ weights))
        gradient = x.T @ (w * (p - y)) + penalty @ weights
        weights -= np.linalg.solve((x.T * (w * p * (1 - p))) @ x + penalty, gradient)
    return weights


def rate(weights: np.ndarray, measures: np.ndarray) -> np.ndarray:
    """Return the confidence `[M]`."""
    return np.asarray(1 / (1 + np.exp(-(measures @ weights[:-1] + weights[-1]))))


def rank(field: Field, weights: np.ndarray) -> tuple[str, np.ndarray, np.ndarray, int]:
    """Return source, confidence `[M]` and matches `[M]` of what is kept, and the labels' number."""
    sure = [rate(weights, measures) for measures in field.measures]
    labels, confidence = keep_surest(field.labels, sure, 0.0)
    agreement = compare_objects(field.true, labels)
    return field.source, confidence, agreement.matched, len(agreement.found)


def mean_scores(
    ranked: Sequence[tuple[str, np.ndarray, np.ndarray, int]], cut: float
) -> np.ndarray:
    """Return F1 at the cut, F1 at each field's best cut, average precision: means over sources."""
    by_source: dict[str, list[tuple[float, float, float]]] = {}
    for source, confidence, matched, count in ranked:
        keep = confidence >= cut
        f1 = 2 * (matched & keep).sum() / (keep.sum() + count)
        ranking = score_ranking(matched, confidence, count)
        row = (float(f1), ranking.best_f1, ranking.average_precision)
        by_source.setdefault(source, []).append(row)
    return np.mean([np.mean(rows, 0) for rows in by_source.values()], 0)


def main() -> None:
    """Fit and choose; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--simulated", type=int, default=16, help="simulated fields")
    arguments = parser.parse_args()
    model = load_model(arguments.model)
    digest = cache_name(arguments.model, model.tta)
    simulated = []
    for held in simulate_held_out(training_ranges(), arguments.simulated, HELD_OUT_SEED + 7):
        probability = model.predict(held.image, tta=False, diameter=held.diameter_px)
        simulated.append((held, probability))
    real = []
    for field in read_fields(arguments.data):
        if field.row not in ASIDE and field.recording.masks is not None:
            found = predict_field(model, digest, field, arguments.output / "cache")
            real.append((field.source, field.recording.masks, *found))
    for threshold in THRESHOLDS:
        fields = [measure_field(s, m, p, threshold, d) for s, m, p, d in real]
        drawn = [
            measure_field("simulated", h.instances, p, threshold, h.diameter_px, h.ignore)
            for h, p in simulated
        ]
        from_drawn, from_real = fit_logistic(drawn), fit_logistic(fields)
        print(f"threshold {threshold}")
        for name, weights in (("simulated", from_drawn), ("real", from_real)):
            ranked = [rank(field, weights) for field in fields]
            best = max(CUTS, key=lambda cut: mean_scores(ranked, cut)[0])
            figures = mean_scores(ranked, best).round(4).tolist()
            shown = dict(zip((*FEATURES, "bias"), weights.round(2).tolist(), strict=True))
            print(f"  {name}: {shown}; best cut {best}: F1, at best cuts, AP {figures}", flush=True)
        for left_out in sorted({field.source for field in fields}):
            others = [field for field in fields if field.source != left_out]
            rest = [field for field in fields if field.source == left_out]
            for name, weights in (("simulated", from_drawn), ("real", fit_logistic(others))):
                ranked = [rank(field, weights) for field in others]
                cut = max(CUTS, key=lambda cut: mean_scores(ranked, cut)[0])
                figures = mean_scores([rank(field, weights) for field in rest], cut)
                print(f"  without {left_out}, {name}: cut {cut}: on it {figures.round(4).tolist()}")


if __name__ == "__main__":
    main()
