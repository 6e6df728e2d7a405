import numpy as np
import pytest
from scipy.special import ndtri

from fluxseg.simulation.detector import collapse, digitise, spoil_borders
from fluxseg.simulation.ranges import DEFAULT, draw_parameters


def drawn(**changes):
    return draw_parameters(np.random.default_rng(0), DEFAULT) | {"resampled": -1.0} | changes


def movie(values, frames, pixels=4000):
    rng = np.random.default_rng(1)
    spread = np.sqrt(values["photons"] + values["read_noise"] ** 2)
    return rng.normal(values["photons"], spread, (frames, pixels))


@pytest.mark.parametrize("mode", ["maximum", "mean", "percentile"])
def test_a_projection_is_like_that_of_a_movie_drawn_frame_by_frame(mode):
    values = drawn(mode=mode, photons=20.0, read_noise=1.0, frames=1000.0, percentile=95.0)
    # What Gaussian noise of so many frames has.
    values |= {"tail_scale": 1 / ndtri(0.999) ** 2, "tail_shape": 1e-3}
    frames = movie(values, 1000)
    functions = {
        "maximum": np.max,
        "mean": np.mean,
        "percentile": lambda x, axis: np.percentile(x, 95, axis),
    }
    expected = functions[mode](frames, axis=0)
    light = np.ones((64, 64), np.float32)
    image = collapse(np.random.default_rng(2), light, values)
    assert image.mean() == pytest.approx(expected.mean(), rel=0.06)
    assert image.std() == pytest.approx(expected.std(), rel=0.35)


def test_digits_stay_in_their_type_and_the_brightest_saturate():
    rng = np.random.default_rng(0)
    image = rng.gamma(2.0, 10, (128, 128)).astype(np.float32)
    for levels, dtype in (
        (100.0, np.uint8),
        (255.0, np.uint8),
        (256.0, np.uint16),
        (4000.0, np.uint16),
    ):
        out = digitise(np.random.default_rng(1), image, drawn(levels=levels, saturated=-2.0))
        assert out.dtype == dtype
        share = (out == out.max()).mean()
        assert 0.008 < share < 0.05
        assert (
            np.corrcoef(out.ravel(), np.minimum(image, np.percentile(image, 99)).ravel())[0, 1]
            > 0.98
        )


@pytest.mark.parametrize("mode", ["maximum", "mean"])
def test_only_the_fields_borders_are_spoiled(mode):
    image = np.random.default_rng(0).random((80, 80)).astype(np.float32) + 1
    values = drawn(mode=mode, border=9.0)
    changed = np.zeros((80, 80), bool)
    for seed in range(20):
        out = spoil_borders(np.random.default_rng(seed), image, (True, False, False, True), values)
        changed |= out != image
    assert changed[:3].all()
    assert changed[:, -3:].all()
    assert not changed[12:, :68].any()
