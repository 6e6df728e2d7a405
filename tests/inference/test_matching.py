"""Overlaps, assignments and nearest centres against loops over everything."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from fluxseg.errors import RecordingError
from fluxseg.inference.objects.matching import (
    assign_pairs,
    match_centres,
    overlap_objects,
)


def random_masks(rng, count, shape=(12, 13)):
    """Overlapping rectangles, some of them twice and some empty."""
    masks = np.zeros((count, *shape), bool)
    for mask in masks:
        row, column = rng.integers(0, 10, 2)
        mask[row : row + rng.integers(0, 6), column : column + rng.integers(1, 6)] = True
    if count > 2 and rng.random() < 0.5:
        masks[-1] = masks[0]
    return masks


def iou_table(true, predicted):
    return np.array(
        [[(a & b).sum() / (a | b).sum() for b in predicted] for a in true], float
    ).reshape(len(true), len(predicted))


@given(st.integers(0, 10**6), st.integers(0, 7), st.integers(0, 7))
@settings(max_examples=50, deadline=None)
def test_overlaps_are_those_of_loops(seed, count, other):
    rng = np.random.default_rng(seed)
    true, predicted = random_masks(rng, count), random_masks(rng, other)
    overlaps = overlap_objects(true, predicted)
    true, predicted = (m[m.any((1, 2))] for m in (true, predicted))
    table = np.zeros((len(true), len(predicted)))
    table[overlaps.true, overlaps.predicted] = overlaps.iou
    np.testing.assert_array_equal(table, iou_table(true, predicted))
    assert (overlaps.pixels > 0).all()
    assert overlaps.true_area.tolist() == [m.sum() for m in true]
    for mask, centre in zip(predicted, overlaps.predicted_centre, strict=True):
        np.testing.assert_allclose(centre, np.argwhere(mask).mean(0))


@given(st.integers(0, 10**6), st.sampled_from([0.05, 0.2, 0.5, 0.75]))
@settings(max_examples=60, deadline=None)
def test_assignment_is_that_of_the_dense_hungarian_method(seed, iou):
    rng = np.random.default_rng(seed)
    true, predicted = (random_masks(rng, rng.integers(1, 9)) for _ in range(2))
    true, predicted = (m[m.any((1, 2))] for m in (true, predicted))
    table = iou_table(true, predicted)
    matches = assign_pairs(overlap_objects(true, predicted), iou)
    assert len(set(matches.true)) == len(set(matches.predicted)) == len(matches.iou)
    np.testing.assert_array_equal(table[matches.true, matches.predicted], matches.iou)
    assert (matches.iou >= iou).all()
    assert (np.diff(matches.true) > 0).all()
    if table.size:
        smaller = min(table.shape)
        rows, columns = linear_sum_assignment(-1.0 * (table >= iou) - table / (2 * smaller))
        good = table[rows, columns] >= iou
        assert len(matches.iou) == good.sum()
        accepted = np.where(table >= iou, 1 + table / (2 * smaller), 0)
        best = accepted[linear_sum_assignment(accepted, maximize=True)].sum()
        np.testing.assert_allclose((1 + matches.iou / (2 * smaller)).sum(), best)


def test_the_threshold_itself_counts_unless_strict():
    true, predicted = np.zeros((2, 2, 8), bool)
    true[0, :4] = True
    predicted[0, :8] = True
    overlaps = overlap_objects(true[None], predicted[None])
    assert overlaps.iou.tolist() == [0.5]
    assert len(assign_pairs(overlaps, 0.5).iou) == 1
    assert len(assign_pairs(overlaps, 0.5, strict=True).iou) == 0


def test_labels_and_masks_are_the_same_objects():
    labels = np.array([[0, 7, 7], [300, 0, 7], [300, 300, 2]], np.uint16)
    masks = np.stack([labels == label for label in (2, 7, 300)])
    by_label, by_mask = overlap_objects(labels, masks), overlap_objects(masks, labels)
    assert by_label.true.tolist() == by_label.predicted.tolist() == [0, 1, 2]
    assert by_mask.pixels.tolist() == by_label.pixels.tolist() == [1, 3, 3]


def nearest_by_hand(true, predicted, distance):
    left, pairs = list(range(len(predicted))), []
    for number, centre in enumerate(true):
        if left:
            away = [np.sqrt(((predicted[other] - centre) ** 2).sum()) for other in left]
            if min(away) < distance:
                pairs.append((number, left.pop(int(np.argmin(away)))))
    return pairs


@given(st.integers(0, 10**6), st.integers(0, 12), st.integers(0, 12))
@settings(max_examples=60, deadline=None)
def test_nearest_centres_in_order_with_ties(seed, count, other):
    rng = np.random.default_rng(seed)
    # Whole numbers, so that many distances are equal and some are exactly 5.
    true, predicted = (rng.integers(0, 12, (n, 2)).astype(float) for n in (count, other))
    first, second = match_centres(true, predicted, 5.0)
    assert list(zip(first, second, strict=True)) == nearest_by_hand(true, predicted, 5.0)


@pytest.mark.parametrize(
    ("true", "predicted", "words"),
    [
        (np.zeros((2, 3, 3)), np.zeros((3, 3), int), "bool"),
        (np.zeros((3, 3), int), np.zeros((3, 4), int), "pixels"),
        (np.zeros((3, 3)), np.zeros((3, 3), int), "whole numbers"),
        (np.full((3, 3), -1), np.zeros((3, 3), int), "whole numbers"),
        (np.zeros(3, int), np.zeros((3, 3), int), "masks"),
    ],
)
def test_what_is_no_object_is_refused(true, predicted, words):
    with pytest.raises(RecordingError, match=words):
        overlap_objects(true, predicted)
