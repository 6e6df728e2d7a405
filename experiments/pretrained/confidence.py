"""Fit what tells cells from what else is found, and choose how the shipped network is used.

What: a logistic of four measures of each found cell (`fluxseg.inference.objects.confidence`),
    whether it matches a label at IoU 0.5. It is fitted on simulated fields, and on real ones with
    each source left out in turn; threshold and least confidence are chosen on the real fields by
    the mean F1 over sources, and again with each source left out. Predictions of the real fields
    are those that the yardstick has stored.
Result: averaged over 8 views, at threshold 0.45, the logistic of simulated fields, which ships, has
    a mean F1 of 0.547 at the cut 0.65 (at each field's best cut 0.561, average precision 0.433),
    that of real ones 0.545 at 0.25 (0.556, 0.433). With each source left out the cut is 0.6 to 0.7,
    and the left-out source has 0.757 (allen_275), 0.242 (janelia_00), 0.552 (janelia_02) and 0.625
    (princeton), as good as with the logistic of the other real sources. Thresholds of 0.4 and 0.5
    give 0.545 and 0.544.
Hardware: 2 CPU cores, a few minutes.
Command: python -m experiments.pretrained.confidence --model FILE --data FOLDER --output runs/real
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.pretrained.crops import training_ranges
from experiments.pretrained.real_fields import ASIDE, cache_name, predict_field, read_fields
from experiments.pretrained.scores import HELD_OUT_SEED, simulate_held_out
from fluxseg.inference.objects.confidence import FEATURES, describe_cells
from fluxseg.inference.objects.ranking import compare_objects, score_ranking
from fluxseg.inference.objects.rois import find_rois
from fluxseg.inference.run_model import load_model

THRESHOLDS = (0.4, 0.45, 0.5)
CUTS = tuple(round(0.05 * step, 2) for step in range(16))
Found = tuple[str, np.ndarray, np.ndarray, int]
"""Source, measures `[M, 4]`, which ones match `[M]` bool, and number of labels of a field."""


def measure_field(
    source: str,
    true: np.ndarray,
    probability: np.ndarray,
    threshold: float,
    diameter: float | None,
    doubtful: np.ndarray | None = None,
) -> Found:
    """Find the cells of a field and tell which ones match a label; doubtful ones are left out."""
    rois = find_rois(probability, threshold=threshold, diameter=diameter)
    agreement = compare_objects(true, rois.labels)
    measures = describe_cells(rois.labels, rois.area, rois.probability, rois.quality)
    keep = np.ones(len(rois), bool)
    if doubtful is not None:
        share = np.bincount(rois.labels[doubtful], minlength=len(rois) + 1)[1:] / rois.area
        keep = agreement.matched | (share < 0.5)
    return source, measures[keep], agreement.matched[keep], len(agreement.found)


def fit_logistic(fields: Sequence[Found], strength: float = 1e-3) -> np.ndarray:
    """Fit weights and bias `[5]` by Newton's method, every source weighing the same."""
    total = {source: sum(len(m) for s, _, m, _ in fields if s == source) for source, *_ in fields}
    x = np.concatenate([np.c_[measures, np.ones(len(measures))] for _, measures, _, _ in fields])
    y = np.concatenate([matched for _, _, matched, _ in fields]).astype(float)
    w = np.concatenate([np.full(len(m), 1 / total[s]) for s, _, m, _ in fields]) / len(total)
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


def mean_scores(fields: Sequence[Found], weights: np.ndarray, cut: float) -> np.ndarray:
    """Return F1 at the cut, F1 at each field's best cut, average precision: means over sources."""
    by_source: dict[str, list[tuple[float, float, float]]] = {}
    for source, measures, matched, count in fields:
        confidence = rate(weights, measures)
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
            best = max(CUTS, key=lambda cut: mean_scores(fields, weights, cut)[0])
            figures = mean_scores(fields, weights, best).round(4).tolist()
            shown = dict(zip((*FEATURES, "bias"), weights.round(2).tolist(), strict=True))
            print(f"  {name}: {shown}; best cut {best}: F1, at best cuts, AP {figures}")
        for left_out in sorted({source for source, *_ in fields}):
            others = [field for field in fields if field[0] != left_out]
            rest = [field for field in fields if field[0] == left_out]
            for name, weights in (("simulated", from_drawn), ("real", fit_logistic(others))):
                cut = max(CUTS, key=lambda cut: mean_scores(others, weights, cut)[0])
                figures = mean_scores(rest, weights, cut).round(4).tolist()
                print(f"  without {left_out}, {name}: cut {cut}: on it {figures}")


if __name__ == "__main__":
    main()
