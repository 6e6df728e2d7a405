import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fluxseg.errors import FluxsegError
from fluxseg.model.thresholds import choose_threshold, iou_by_threshold, probability_histogram


def pixels(seed=0, size=40):
    rng = np.random.default_rng(seed)
    label = (rng.random((2, size, size)) < 0.3).astype(np.uint8)
    probability = np.clip(0.3 * label + rng.normal(0.3, 0.15, label.shape), 0, 1)
    valid = (rng.random(label.shape) < 0.8).astype(np.uint8)
    return probability.astype(np.float32), label, valid


def iou(probability, label, valid, threshold):
    predicted, true = (probability >= threshold) & (valid > 0), (label > 0) & (valid > 0)
    return (predicted & true).sum() / (predicted | true).sum()


def test_a_histogram_counts_every_valid_pixel_in_its_bin():
    probability, label, valid = pixels()
    probability[0, 0, :2] = (0, 1)
    valid[0, 0, :2] = 1
    found = np.asarray(probability_histogram(probability, label, valid, bins=8))
    expected = np.zeros((2, 8), int)
    for p, t, v in zip(probability.ravel(), label.ravel(), valid.ravel(), strict=True):
        if v:
            expected[t, min(int(p * 8), 7)] += 1
    np.testing.assert_array_equal(found, expected)


def test_the_best_threshold_is_found():
    probability, label, valid = pixels(1, 80)
    histogram = np.asarray(probability_histogram(probability, label, valid, bins=32))
    curve = iou_by_threshold(histogram)
    for edge in range(1, 32):
        assert curve[edge] == pytest.approx(iou(probability, label, valid, edge / 32), abs=1e-9)
    best = choose_threshold(histogram)
    assert iou(probability, label, valid, best) == pytest.approx(np.max(curve[1:]))


@given(hnp.arrays(np.int64, (2, 16), elements=st.integers(0, 50)))
@settings(max_examples=100, deadline=None)
def test_a_threshold_is_always_usable(histogram):
    assert 0 < choose_threshold(histogram) < 1


def test_without_any_neuron_the_default_is_taken_and_nonsense_refused():
    histogram = np.zeros((2, 16), np.int64)
    histogram[0] = 5
    assert choose_threshold(histogram, default=0.5) == 0.5
    with pytest.raises(FluxsegError, match="histogram"):
        choose_threshold(np.zeros((3, 16), np.int64))
