import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxseg.model.calibration import (
    BINS,
    EDGES,
    LEVELS,
    LEVELS_PER_UNIT,
    LIMIT,
    bootstrap_calibration,
    calibration_scores,
    fit_temperature,
    log_odds_histogram,
    sum_reliability,
)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def draw(seed=0, size=(4, 150, 150), temperature=1.0, spread=2.5):
    """Log-odds, and labels drawn so that they are calibrated at this temperature."""
    rng = np.random.default_rng(seed)
    log_odds = rng.normal(-1, spread, size).astype(np.float32)
    label = (rng.random(size) < sigmoid(log_odds / temperature)).astype(np.uint8)
    valid = (rng.random(size) < 0.9).astype(np.uint8)
    return log_odds, label, valid


def histogram_of(log_odds, label, valid):
    return np.asarray(log_odds_histogram(log_odds, label, valid)).astype(np.int64)


def brute_force(log_odds, label, valid, temperature=1.0):
    """The definitions, on the pixels themselves."""
    p = sigmoid(log_odds[valid > 0].astype(np.float64) / temperature)
    y = (label[valid > 0] > 0).astype(np.float64)
    gaps, shares = [], []
    for number in range(BINS):
        last = number == BINS - 1
        inside = (p >= number / BINS) & ((p < (number + 1) / BINS) | last)
        if inside.any():
            gaps.append(abs(p[inside].mean() - y[inside].mean()))
            shares.append(inside.mean())
    return {
        "ece": float(np.dot(gaps, shares)),
        "mce": max(gaps),
        "brier": ((p - y) ** 2).mean(),
        "nll": -(y * np.log(p) + (1 - y) * np.log1p(-p)).mean(),
    }


def test_a_histogram_counts_every_valid_pixel_of_each_example_in_its_level():
    log_odds, label, valid = draw(size=(3, 12, 12), spread=9)
    log_odds[0, 0, :5] = (0, -1e-8, -40, 40, 1 / LEVELS_PER_UNIT)
    valid[0, 0, :5] = 1
    expected = np.zeros((3, 2, LEVELS), int)
    for place, z in np.ndenumerate(log_odds):
        if valid[place]:
            level = int(np.floor(np.float64(z) * LEVELS_PER_UNIT)) + LIMIT * LEVELS_PER_UNIT
            expected[place[0], label[place], min(max(level, 0), LEVELS - 1)] += 1
    np.testing.assert_array_equal(histogram_of(log_odds, label, valid), expected)
    assert expected[..., EDGES < 0].sum() == ((log_odds < 0) & (valid > 0)).sum()


@pytest.mark.parametrize("temperature", [1.0, 0.6, 2.5])
def test_all_figures_are_those_of_their_definitions(temperature):
    arrays = draw(1, temperature=1.8)
    sums = sum_reliability(histogram_of(*arrays).sum(0), temperature)
    expected = brute_force(*arrays, temperature)
    found = calibration_scores(sums)
    assert found["ece"] == pytest.approx(expected["ece"], abs=4e-4)
    assert found["mce"] == pytest.approx(expected["mce"], abs=4e-3)
    assert found["brier"] == pytest.approx(expected["brier"], abs=1e-4)
    assert found["nll"] == pytest.approx(expected["nll"], rel=1e-3)
    assert sums.pixels.sum() == arrays[2].sum()


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.5, 1.0, 3.0]))
@settings(max_examples=25, deadline=None)
def test_figures_are_exact_for_pixels_at_the_centres_of_levels(seed, temperature):
    rng = np.random.default_rng(seed)
    levels = rng.integers(LEVELS // 4, 3 * LEVELS // 4, (1, 20, 20))
    log_odds = (EDGES[levels] + 0.5 / LEVELS_PER_UNIT).astype(np.float32)
    label, valid = (rng.integers(0, 2, log_odds.shape).astype(np.uint8) for _ in range(2))
    valid[0, 0, 0] = 1
    found = calibration_scores(
        sum_reliability(histogram_of(log_odds, label, valid)[0], temperature)
    )
    for name, value in brute_force(log_odds, label, valid, temperature).items():
        assert found[name] == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_temperature_that_labels_were_drawn_with_is_found(temperature):
    arrays = draw(2, size=(4, 300, 300), temperature=temperature)
    histogram = histogram_of(*arrays).sum(0)
    found = fit_temperature(histogram)
    assert found == pytest.approx(temperature, rel=0.02)
    likelihood = calibration_scores(sum_reliability(histogram, found))["nll"]
    for other in (found * 0.97, found * 1.03):
        assert likelihood < brute_force(*arrays, other)["nll"]
    before, after = (calibration_scores(sum_reliability(histogram, t)) for t in (1.0, found))
    assert after["ece"] <= max(before["ece"], 0.003)
    assert after["ece"] < 0.004


def test_without_both_classes_there_is_no_temperature_to_fit():
    histogram = np.zeros((2, LEVELS), np.int64)
    assert fit_temperature(histogram) == 1
    histogram[0, 100] = 7
    assert fit_temperature(histogram) == 1
    assert np.isnan(calibration_scores(sum_reliability(0 * histogram))["ece"])
    histogram[1, 1500] = 7
    assert fit_temperature(histogram) == pytest.approx(0.1, rel=0.01)


def test_batches_and_groups_add_up():
    arrays = draw(3)
    each = histogram_of(*arrays)
    sums = sum_reliability(each, 1.3)
    total = sum_reliability(each.sum(0), 1.3)
    added = sums.weighted(np.ones(len(each)))
    for name in ("pixels", "neurons", "probability", "squares", "nll"):
        np.testing.assert_allclose(getattr(added, name), getattr(total, name), rtol=1e-12)


def test_intervals_hold_what_resampled_groups_give():
    each = np.stack([histogram_of(*draw(s, (1, 60, 60), 1.5)).sum(0) for s in range(5)])
    sums = sum_reliability(each)
    found = bootstrap_calibration(sums, np.random.default_rng(0), samples=200)
    draws = np.random.default_rng(0).integers(5, size=(200, 5))
    values = [calibration_scores(sum_reliability(each[d].sum(0)))["ece"] for d in draws]
    np.testing.assert_allclose(found["ece"], np.quantile(values, [0.025, 0.975]), rtol=1e-9)
    one = sum_reliability(each[:1])
    assert set(bootstrap_calibration(one, np.random.default_rng(0)).values()) == {None}
