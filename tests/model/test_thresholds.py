import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fluxseg.errors import FluxsegError
from fluxseg.model.thresholds import choose_threshold, iou_by_threshold


def pixels(seed=0, size=40):
    rng = np.random.default_rng(seed)
    label = (rng.random((2, size, size)) < 0.3).astype(np.uint8)
    probability = np.clip(0.3 * label + rng.normal(0.3, 0.15, label.shape), 0, 1)
    valid = (rng.random(label.shape) < 0.8).astype(np.uint8)
    return probability.astype(np.float32), label, valid


def iou(probability, label, valid, threshold):
    predicted, true = (probability >= threshold) & (valid > 0), (label > 0) & (valid > 0)
    return (predicted & true).sum() / (predicted | true).sum()


def histogram_of(probability, label, valid, edges):
    level = np.searchsorted(edges, probability, side="right") - 1
    rows = [np.bincount(level[(valid > 0) & (label == c)], minlength=len(edges)) for c in (0, 1)]
    return np.stack(rows)


@pytest.mark.parametrize("edges", [np.arange(32) / 32, (np.arange(20) / 20) ** 2])
def test_the_best_threshold_is_found(edges):
    probability, label, valid = pixels(1, 80)
    histogram = histogram_of(probability, label, valid, edges)
    curve = iou_by_threshold(histogram)
    for edge, found in zip(edges, curve, strict=True):
        assert found == pytest.approx(iou(probability, label, valid, edge), abs=1e-9)
    best = choose_threshold(histogram, edges)
    assert best in edges
    assert iou(probability, label, valid, best) == pytest.approx(np.max(curve[1:]))


@given(hnp.arrays(np.int64, (2, 16), elements=st.integers(0, 50)))
@settings(max_examples=100, deadline=None)
def test_a_threshold_is_always_usable(histogram):
    assert 1 / 256 <= choose_threshold(histogram, np.arange(16) / 16) <= 255 / 256
    saturated = np.linspace(0, 1, 16) ** 9
    assert 1 / 256 <= choose_threshold(histogram, saturated) <= 255 / 256


def test_without_any_neuron_the_default_is_taken_and_nonsense_refused():
    edges = np.arange(16) / 16
    histogram = np.zeros((2, 16), np.int64)
    histogram[0] = 5
    assert choose_threshold(histogram, edges, default=0.5) == 0.5
    with pytest.raises(FluxsegError, match="histogram"):
        choose_threshold(np.zeros((3, 16), np.int64), edges)
    for wrong in (edges[1:], np.zeros(16)):
        with pytest.raises(FluxsegError, match="edges"):
            choose_threshold(histogram, wrong)
