"""Our scores against those of the original programs (experiments/studies/reference_scores.py)."""

import json
from pathlib import Path

import numpy as np
import pytest

from fluxseg.inference.objects.counts import IOU_THRESHOLDS, ObjectCounts, count_objects

REFERENCE = json.loads(Path(__file__).with_name("reference_scores.json").read_text())
NEUROFINDER = ("recall", "precision", "combined", "inclusion", "exclusion")


def decode(runs):
    values, lengths = np.array(runs).T
    return np.repeat(values, lengths).reshape(REFERENCE["size"], REFERENCE["size"])


PAIRS = [tuple(map(decode, pair)) for pair in REFERENCE["labels"]]
COUNTS = [count_objects(*pair, distance=REFERENCE["distance"]) for pair in PAIRS]


def names(prefix):
    return [f"{prefix}_{threshold * 100:.0f}" for threshold in IOU_THRESHOLDS]


def same(found, expected, **tolerance):
    """Equal, where the programs say 0 for 0/0 and we say NaN."""
    if np.isnan(found):
        assert expected == 0
    else:
        assert found == pytest.approx(expected, **tolerance)


def total():
    counts = ObjectCounts()
    for part in COUNTS:
        counts = counts.merge(part)
    return counts.scores()


def test_object_scores_are_those_of_stardist():
    for counts, rows in zip(COUNTS, REFERENCE["stardist"]["each"], strict=True):
        scores = counts.scores()
        for name, row in zip(names("ap"), rows, strict=True):
            same(scores[name], row["accuracy"], abs=1e-9)
        for name in ("precision", "recall", "f1"):
            same(scores[f"object_{name}"], rows[0][name], abs=1e-9)
    scores, rows = total(), REFERENCE["stardist"]["all"]
    assert [scores[name] for name in names("ap")] == pytest.approx([r["accuracy"] for r in rows])
    assert scores["ap_mean"] == pytest.approx(np.mean([row["accuracy"] for row in rows]))
    for name in ("precision", "recall", "f1"):
        assert scores[f"object_{name}"] == pytest.approx(rows[0][name])


def test_panoptic_quality_is_that_of_stardist_without_an_iou_of_just_a_half():
    # StarDist adds up its IoU in float32.
    for counts, row in zip(COUNTS, REFERENCE["stardist"]["each_strict"], strict=True):
        same(counts.scores()["panoptic_quality"], row["panoptic_quality"], abs=1e-6)
    pooled = REFERENCE["stardist"]["all_strict"]
    assert total()["panoptic_quality"] == pytest.approx(pooled["panoptic_quality"], abs=1e-6)
    # One pair has an IoU of exactly 0.5, where the definitions part.
    kept = [counts.true_positives[0] - counts.panoptic_matches for counts in COUNTS]
    assert sum(kept) == 1


def test_average_precision_is_that_of_cellpose():
    cellpose = REFERENCE["cellpose"]
    for number, counts in enumerate(COUNTS):
        assert counts.true_positives.tolist() == cellpose["tp"][number]
        false = (counts.n_predicted - counts.true_positives).tolist()
        missed = (counts.n_true - counts.true_positives).tolist()
        assert (false, missed) == (cellpose["fp"][number], cellpose["fn"][number])
        scores = counts.scores()
        assert [scores[n] for n in names("ap_image")] == pytest.approx(cellpose["ap"][number])
    mean = np.mean(cellpose["ap"], axis=0)
    assert [total()[name] for name in names("ap_image")] == pytest.approx(mean.tolist())
    assert total()["ap_image_mean"] == pytest.approx(mean.mean())


def test_neurofinder_scores_are_those_of_neurofinder():
    compared = 0
    for counts, row in zip(COUNTS, REFERENCE["neurofinder"], strict=True):
        if row is not None:
            scores = counts.scores()
            found = {name: scores[f"neurofinder_{name}"] for name in NEUROFINDER}
            assert found == pytest.approx(row, abs=1e-12)
            compared += 1
    assert compared == 6
