import numpy as np
import pytest

from fluxseg.errors import FluxsegError
from fluxseg.model.paired import paired_difference


def rows(seed=0, recordings=12, groups=4, gain=0.05, noise=0.01):
    rng = np.random.default_rng(seed)
    names = [f"r{number}" for number in range(recordings)]
    first = dict(zip(names, rng.uniform(0.2, 0.9, recordings).tolist(), strict=True))
    second = {key: value + gain + rng.normal(0, noise) for key, value in first.items()}
    return first, second, {key: f"g{int(key[1:]) % groups}" for key in names}


def test_a_small_gain_on_all_recordings_is_seen_though_the_recordings_vary():
    first, second, groups = rows()
    found = paired_difference(first, second, groups, np.random.default_rng(0))
    expected = [second[key] - first[key] for key in first]
    assert found["mean"] == pytest.approx(np.mean(expected))
    low, high = found["interval"]
    assert 0.03 < low < found["mean"] < high < 0.07
    assert np.std(list(first.values())) > 3 * (high - low)
    assert (found["better"], found["worse"], found["n_groups"]) == (12, 0, 4)
    back = paired_difference(second, first, groups, np.random.default_rng(0))
    assert back["interval"] == pytest.approx([-high, -low])


def test_the_interval_is_that_of_resampled_groups():
    first, second, groups = rows(1, 7, 3, 0.0, 0.1)
    found = paired_difference(first, second, groups, np.random.default_rng(5), samples=300)
    draws = np.random.default_rng(5).integers(3, size=(300, 3))
    means = []
    for draw in draws:
        keys = [key for number in draw for key in first if groups[key] == f"g{number}"]
        means.append(np.mean([second[key] - first[key] for key in keys]))
    assert found["interval"] == pytest.approx(np.quantile(means, [0.025, 0.975]).tolist())


def test_only_recordings_that_both_have_scored_count():
    first, second, groups = rows()
    first["r0"], second["r1"] = None, None
    del second["r2"]
    second["new"] = 0.5
    found = paired_difference(first, second, groups, np.random.default_rng(0))
    assert found["n_recordings"] == 9
    assert not {"r0", "r1", "r2", "new"} & set(found["differences"])
    nothing = paired_difference({}, second, groups, np.random.default_rng(0))
    assert (nothing["mean"], nothing["interval"], nothing["n_groups"]) == (None, None, 0)
    one = paired_difference({"r5": 0.2}, {"r5": 0.1}, groups, np.random.default_rng(0))
    assert (one["mean"], one["interval"]) == (pytest.approx(-0.1), None)
    assert (one["better"], one["worse"]) == (0, 1)
    with pytest.raises(FluxsegError, match="r5"):
        paired_difference({"r5": 0.2}, {"r5": 0.1}, {}, np.random.default_rng(0))
