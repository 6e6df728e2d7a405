"""Images are brought to the size of cells that a network knows, and the size is estimated."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from fluxseg.errors import ConfigError
from fluxseg.inference.resample import MOST, TOLERANCE, choose_zoom, resample_image, zoomed_shape
from fluxseg.inference.scale import estimate_diameter

TRAINED = 14.0


def discs(diameter, side=512, count=40, seed=0):
    """Bright discs that do not touch, on a dark ground."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side]
    image, centres = np.zeros((side, side), np.float32), []
    for _ in range(20 * count):
        centre = rng.uniform(diameter, side - diameter, 2)
        if all(np.hypot(*(centre - other)) > 1.6 * diameter for other in centres):
            centres.append(centre)
            image[np.hypot(rows - centre[0], columns - centre[1]) < diameter / 2] = 1
        if len(centres) == count:
            break
    return image


def only_trained_sizes(image):
    """A stand-in for a network: marks what is about as large as `TRAINED`, and nothing else."""
    opened = ndimage.grey_opening(image, footprint=disc(0.55 * TRAINED))
    large = ndimage.grey_opening(image, footprint=disc(1.7 * TRAINED))
    return np.clip(opened - large, 0, 1).astype(np.float32)


def disc(diameter):
    radius = diameter / 2
    reach = np.arange(-int(radius), int(radius) + 1)
    return np.hypot(reach[:, None], reach) <= radius


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    wanted=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    seed=st.integers(0, 9),
)
def test_resampling_keeps_range_mean_and_shape(shape, wanted, seed):
    image = np.random.default_rng(seed).random(shape).astype(np.float32)
    found = resample_image(image, wanted)
    assert found.shape == wanted
    assert found.dtype == np.float32
    assert image.min() - 1e-6 <= found.min() <= found.max() <= image.max() + 1e-6
    np.testing.assert_array_equal(resample_image(image, shape), image)


def test_resampling_down_averages_and_does_not_alias():
    stripes = np.tile(np.array([0.0, 1.0], np.float32), (64, 32))
    np.testing.assert_allclose(resample_image(stripes, (16, 16)), 0.5, atol=0.05)


def test_resampling_keeps_places():
    image = np.zeros((40, 60), np.float32)
    image[10:20, 30:50] = 1
    twice = resample_image(image, zoomed_shape(image.shape, 2.0))
    assert twice.shape == (80, 120)
    np.testing.assert_allclose(
        ndimage.center_of_mass(twice), (2 * 14.5 + 0.5, 2 * 39.5 + 0.5), atol=0.05
    )


def test_small_differences_of_size_are_left_alone():
    assert choose_zoom(TRAINED * TOLERANCE * 0.999, TRAINED) == 1
    assert choose_zoom(2 * TRAINED, TRAINED) == pytest.approx(0.5)
    assert choose_zoom(1.0, TRAINED) == MOST
    assert choose_zoom(1000.0, TRAINED) == 1 / MOST


@pytest.mark.parametrize("diameter", [0, 0.5, -3, np.nan, np.inf])
def test_a_diameter_must_be_sensible(diameter):
    with pytest.raises(ConfigError, match="diameter"):
        choose_zoom(diameter, TRAINED)


@pytest.mark.parametrize("diameter", [6, 8, 11, 14, 18, 24, 31, 44])
def test_the_diameter_is_estimated(diameter):
    found = estimate_diameter(only_trained_sizes, discs(diameter), TRAINED)
    assert found == pytest.approx(diameter, rel=0.2)


def test_of_an_image_without_cells_nothing_is_known():
    assert estimate_diameter(only_trained_sizes, np.zeros((200, 300), np.float32), TRAINED) is None
    assert estimate_diameter(only_trained_sizes, np.zeros((1, 1), np.float32), TRAINED) is None
