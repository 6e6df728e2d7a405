"""Cells at several levels: what is found below and above the threshold, and which piece is kept."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from fluxseg.inference.objects.levels import SHARED, keep_surest, levels_around
from fluxseg.inference.objects.rois import find_rois
from tests.data.fields import disc


@pytest.mark.parametrize("threshold", [0.01, 0.4, 0.5, 0.99])
def test_the_threshold_is_one_of_its_levels(threshold):
    low, middle, high = levels_around(threshold)
    assert 0 < low < middle < high < 1
    assert middle == pytest.approx(threshold)


def test_a_threshold_of_one_is_the_only_level():
    assert levels_around(1.0) == [1.0]


def test_a_dim_cell_and_two_that_meet_are_found_by_their_confidence():
    shape = (60, 90)
    probability = np.full(shape, 0.02)
    probability[disc(shape, (20, 20), 7)] = 0.35
    # Two cells whose common outline has no waist.
    probability[33:48, 41:71] = 0.42
    probability[disc(shape, (40, 48), 6) | disc(shape, (40, 63), 6)] = 0.95
    probability = ndimage.gaussian_filter(probability, 0.5)
    alone = find_rois(probability, threshold=0.4, diameter=15)
    assert np.round(alone.centroid[:, 1]).tolist() == [56]
    rois = find_rois(probability, threshold=0.4, diameter=15, min_confidence=0.05)
    middles = np.round(rois.centroid).astype(int).tolist()
    assert middles == [[20, 20], [40, 48], [40, 63]]
    assert len(rois) == rois.labels.max() == len(rois.confidence)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 1))
def test_kept_pieces_are_those_of_a_plain_loop(seed, least):
    rng = np.random.default_rng(seed)
    shape = (12, 15)
    labels = [ndimage.label(rng.random(shape) < rng.uniform(0.2, 0.7))[0] for _ in range(3)]
    confidence = [rng.integers(0, 8, image.max()) / 8 for image in labels]
    found, sure = keep_surest(labels, confidence, least)

    pieces = [
        (-c, image == number)
        for image, values in zip(labels, confidence, strict=True)
        for number, c in enumerate(values, 1)
    ]
    taken = np.zeros(shape, bool)
    kept = []
    for negative, mask in sorted(pieces, key=lambda piece: piece[0]):
        free = mask & ~taken
        if -negative >= least and free.sum() >= (1 - SHARED) * mask.sum():
            kept.append((int(np.flatnonzero(free)[0]), -negative, free))
            taken |= free
    kept.sort(key=lambda one: one[0])
    assert sure.tolist() == [one[1] for one in kept]
    for number, (_, _, mask) in enumerate(kept, 1):
        np.testing.assert_array_equal(found == number, mask)
    assert found.max(initial=0) == len(kept)
