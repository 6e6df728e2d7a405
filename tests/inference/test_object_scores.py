"""Each definition against a plain reference written here, and scores of sets of recordings."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxseg.data.recording import Recording
from fluxseg.errors import ConfigError, RecordingError
from fluxseg.inference.objects.counts import ObjectCounts, count_objects
from fluxseg.inference.objects.rois import find_rois
from fluxseg.inference.objects.scores import pool_recordings, score_neurons
from tests.data.fields import disc

SHAPE = (24, 26)


def random_objects(seed, overlapping=True):
    """True rectangles, and predictions that are some of them moved a little, and others."""
    rng = np.random.default_rng(seed)
    true, predicted = [], []
    for _ in range(rng.integers(0, 9)):
        row, column, high, wide = *rng.integers(0, 18, 2), *rng.integers(2, 8, 2)
        mask = np.zeros(SHAPE, bool)
        mask[row : row + high, column : column + wide] = True
        if overlapping or not (true and (np.any(true, axis=0) & mask).any()):
            true.append(mask)
    labels = np.zeros(SHAPE, np.uint16)
    for number, mask in enumerate(true):
        if rng.random() < 0.8:
            labels[np.roll(mask, rng.integers(-1, 2, 2), (0, 1)) & (labels == 0)] = number + 1
    for number in range(rng.integers(0, 3)):
        row, column = rng.integers(0, 20, 2)
        labels[row : row + 4, column : column + 4] = 100 + number
    predicted = labels
    return (np.stack(true) if true else np.zeros((0, *SHAPE), bool)), predicted


def divide(part, whole):
    return part / whole if whole else math.nan


@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_exchanging_truth_and_prediction_exchanges_precision_and_recall(seed):
    true, labels = random_objects(seed)
    there, back = count_objects(true, labels).scores(), count_objects(labels, true).scores()
    for one, other in (
        ("object_precision", "object_recall"),
        ("object_f1", "object_f1"),
        ("ap_mean", "ap_mean"),
        ("panoptic_quality", "panoptic_quality"),
    ):
        np.testing.assert_allclose(there[one], back[other], atol=1e-12)


@given(st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_a_perfect_prediction_scores_one(seed):
    true, _ = random_objects(seed, overlapping=False)
    scores = count_objects(true, true.copy()).scores()
    if len(true):
        assert set(scores.values()) == {1.0}
    else:
        names = {name for name, value in scores.items() if not math.isnan(value)}
        assert names == {"neurofinder_inclusion", "neurofinder_exclusion"}


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=4))
@settings(max_examples=15, deadline=None)
def test_counts_add_up(seeds):
    parts = [count_objects(*random_objects(seed)) for seed in seeds]
    total = ObjectCounts()
    for part in parts:
        total = total.merge(part)
    scores = total.scores()
    n = sum(p.n_true + p.n_predicted for p in parts)
    tp = sum(p.true_positives for p in parts)
    np.testing.assert_allclose(scores["object_f1"], divide(2 * tp[0], n))
    np.testing.assert_allclose(scores["ap_75"], divide(tp[5], n - tp[5]))
    each = [p.scores()["ap_75"] for p in parts]
    each = [value for value in each if not math.isnan(value)]
    np.testing.assert_allclose(scores["ap_image_75"], np.mean(each) if each else math.nan)
    iou = sum(p.panoptic_iou for p in parts)
    np.testing.assert_allclose(scores["panoptic_quality"], divide(2 * iou, n))


def test_centres_at_the_distance_do_not_match_in_either_unit():
    labels = np.zeros((2, 20, 20), int)
    labels[0, 4:7, 4:7] = labels[1, 4:7, 9:12] = 1
    for um_per_px, distance, found in ((None, 5, 0), (None, 5.01, 1), (0.8, 4, 0), (0.8, 5, 1)):
        counts = count_objects(*labels, um_per_px=um_per_px, distance=distance)
        assert counts.centre_matches == found
    assert counts.scores()["neurofinder_inclusion"] == 0
    with pytest.raises(ConfigError, match="um_per_px"):
        count_objects(*labels, um_per_px=0)


def fields(count=4, size=96):
    """Recordings of discs, and probabilities that miss one and invent one."""
    for number in range(count):
        centres = [(20, 20), (20, 60), (60, 25), (62, 70)]
        discs = [disc((size, size), centre, 7) for centre in centres]
        spare = disc((size, size), (45, 45), 7)
        probability = np.any([*discs[: 2 + number % 3], spare], axis=0) * np.float32(0.9)
        scale = {"um_per_px": 0.8} if number else {}
        image, masks = np.ones((size, size), np.float32), np.stack(discs)
        recording = Recording(f"r{number}", image, masks, tuple("abcd"), f"g{number // 2}", scale)
        yield f"{number}.npz", recording, probability


def score(found, **settings):
    """The rows of fields, and what they are together."""
    rows = [
        score_neurons(recording, key, find_rois(
            probability, um_per_px=recording.metadata.get("um_per_px"), **settings))
        for key, recording, probability in found
    ]  # fmt: skip
    return pool_recordings(rows)


def test_a_split_is_scored_by_recording_and_summed():
    result = score(fields(), min_area=20.0)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert [row["key"] for row in result["recordings"]] == [f"{n}.npz" for n in range(4)]
    assert [row["counts"]["true_positives"][0] for row in result["recordings"]] == [2, 3, 4, 2]
    assert (result["n_recordings"], result["n_groups"], result["distance_unit"]) == (4, 2, "mixed")
    assert result["scores"]["object_recall"] == 11 / 16
    assert result["scores"]["object_precision"] == 11 / 15
    low, high = result["intervals"]["object_recall"]
    assert [low, high] == [5 / 8, 6 / 8]
    assert result == score(fields(), min_area=20.0)


def test_without_recordings_or_with_one_group_nothing_is_made_up():
    empty = pool_recordings([])
    assert (empty["n_recordings"], empty["scores"]["object_f1"]) == (0, None)
    one = score(list(fields())[:2])
    assert one["intervals"]["object_f1"] is None
    assert one["intervals"].keys() == one["scores"].keys()


def test_pixels_outside_of_the_field_do_not_count():
    key, recording, probability = next(fields())
    recording.image[:, 40:] = np.nan
    seen = np.where(np.isfinite(recording.image), probability, np.nan)
    (row,) = score([(key, recording, seen)])["recordings"]
    assert (row["counts"]["n_true"], row["counts"]["true_positives"][0]) == (2, 1)


def test_a_recording_without_masks_is_refused():
    bare = Recording(id="bare", image=np.ones((8, 8)))
    with pytest.raises(RecordingError, match="bare is not annotated"):
        score([("bare", bare, np.zeros((8, 8)))])


def test_sizes_that_differ_are_refused():
    with pytest.raises(RecordingError, match="pixels"):
        count_objects(np.ones((1, 8, 8), bool), np.zeros((8, 9), int))
