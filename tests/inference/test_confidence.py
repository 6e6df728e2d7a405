"""The confidence of a found cell: what raises it, and what a cut leaves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxseg.errors import ConfigError
from fluxseg.inference.objects.confidence import measure_roundness
from fluxseg.inference.objects.rois import choose_rois, find_rois, measure_rois
from tests.data.fields import disc


def draw_discs(centres, radius=7, shape=(120, 160)):
    labels = np.zeros(shape, int)
    for number, centre in enumerate(centres, 1):
        labels[disc(shape, centre, radius)] = number
    return labels


GRID = [(row, column) for row in (20, 60, 100) for column in (20, 60, 100, 140)]


def test_a_disc_is_round_and_a_line_is_not():
    labels = draw_discs([(30, 30)], 10)
    labels[70:72, 20:80] = 2
    labels[100, 100] = 3
    area = np.bincount(labels.ravel())[1:]
    disc, line, pixel = measure_roundness(labels, area)
    assert disc > 0.98
    assert line < 0.1
    assert pixel == pytest.approx(3 / np.pi)
    # Brute force: the variance of the line's pixels along both axes.
    places = np.argwhere(labels == 2)
    assert line == pytest.approx(len(places) / (2 * np.pi * places.var(0).sum()))


def test_sure_round_cells_of_the_usual_size_are_rated_highest():
    labels = draw_discs(GRID)
    labels[labels == 2] = 0
    labels[58:62, 56:64][labels[58:62, 56:64] == 0] = 0
    labels[18:22, 56:64] = 2  # a small piece
    labels[(labels == 3)] = 0
    labels[19:22, 80:125] = 3  # a fibre
    probability = np.where(labels > 0, 0.9, 0.02)
    probability[labels == 4] = 0.4  # a faint cell
    rois = measure_rois(labels, probability)
    plain = rois.confidence[4:]
    assert np.ptp(plain) < 0.02
    assert (rois.confidence[[1, 2, 3]] < plain.min() - 0.05).all()


@settings(max_examples=10, deadline=None)
@given(st.floats(0.01, 1), st.integers(0, 1000))
def test_a_cut_leaves_the_sure_ones_as_they_were(cut, seed):
    rng = np.random.default_rng(seed)
    probability = np.clip((draw_discs(GRID) > 0) * rng.random((120, 160)) ** 0.3, 0, 1)
    every = find_rois(probability, threshold=0.3, min_confidence=1e-9)
    some = find_rois(probability, threshold=0.3, min_confidence=cut)
    keep = every.confidence >= cut
    assert len(some) == keep.sum()
    np.testing.assert_array_equal(some.confidence, every.confidence[keep])
    np.testing.assert_array_equal(some.area, np.bincount(some.labels.ravel())[1:])
    kept = np.isin(every.labels, 1 + np.flatnonzero(keep))
    np.testing.assert_array_equal(some.labels > 0, kept)
    assert some.labels.dtype == every.labels.dtype


def test_nothing_is_left_of_nothing():
    rois = find_rois(np.zeros((20, 20)))
    assert rois.confidence.shape == (0,)
    assert len(choose_rois(rois, np.zeros(0, bool))) == 0


def test_a_cut_out_of_range_is_named():
    with pytest.raises(ConfigError, match="min_confidence"):
        find_rois(np.zeros((20, 20)), min_confidence=1.5)
