"""The local normalisation in front of a network against a brute-force reference."""

import jax
import numpy as np
import pytest
from scipy import ndimage

from fluxseg.config import ModelConfig
from fluxseg.errors import ConfigError
from fluxseg.model.local import LEAST_SPREAD, LOW, RANGE, normalise_locally
from fluxseg.model.unet import create_unet


def test_it_is_what_gaussian_filters_give():
    image = np.random.default_rng(1).random((2, 40, 50, 1)).astype(np.float32)
    found = np.asarray(normalise_locally(image, 5.0))[..., 0]

    def blur(values):
        weight = ndimage.gaussian_filter(np.ones_like(values), 5.0, mode="constant", truncate=12)
        return ndimage.gaussian_filter(values, 5.0, mode="constant", truncate=12) / weight

    for one, expected in zip(found, image[..., 0].astype(float), strict=True):
        centred = expected - blur(expected)
        expected = (centred / (np.sqrt(blur(centred**2)) + LEAST_SPREAD) - LOW) / RANGE
        np.testing.assert_allclose(one, expected, atol=2e-5)


@pytest.mark.parametrize("shape", [(1, 1), (3, 200)])
def test_a_network_begins_with_it(shape):
    image = np.random.default_rng(2).random((1, *shape, 1)).astype(np.float32)
    plain = create_unet(ModelConfig(features=(4, 8), convs=1))
    local = create_unet(ModelConfig(features=(4, 8), convs=1, local_px=9.0))
    params = jax.jit(plain.init)(jax.random.key(0), image)["params"]
    found = jax.jit(local.apply)({"params": params}, image)
    expected = jax.jit(plain.apply)({"params": params}, normalise_locally(image, 9.0))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.isfinite(found).all()


def test_a_window_of_negative_width_is_refused():
    with pytest.raises(ConfigError, match="local_px"):
        ModelConfig(local_px=-1)
