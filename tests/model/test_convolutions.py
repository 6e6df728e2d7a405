"""The fast forms of a convolution compute what the plain one does, and so do their gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fluxseg.model import convolutions
from fluxseg.model.convolutions import (
    LEAST_CHANNELS,
    compiler_options,
    convolve_fast,
    convolve_plain,
)

SHAPES = [
    (2, 64, 48, (1,), 8), (1, 64, 64, (2, 5), 6), (1, 7, 5, (1,), 2),
    (2, 64, 48, (LEAST_CHANNELS,), 8), (2, 64, 48, (LEAST_CHANNELS, 4), 8),
    (1, 65, 67, (LEAST_CHANNELS, LEAST_CHANNELS + 1), 3),
    (1, 1, 4100, (LEAST_CHANNELS,), 2), (1, 4100, 1, (2,), 2),
]  # fmt: skip


@pytest.mark.parametrize(("batch", "height", "width", "channels", "features"), SHAPES)
def test_output_and_gradients_are_those_of_the_plain_form(batch, height, width, channels, features):
    rng = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    inputs = tuple(draw(batch, height, width, count) for count in channels)
    kernel = draw(3, 3, sum(channels), features)
    cotangent = draw(batch, height, width, features)

    def plain(inputs, kernel):
        return convolve_plain(jnp.concatenate(inputs, -1), kernel)

    @functools.partial(jax.jit, static_argnums=0)
    def run(function, inputs, kernel):
        output, pull = jax.vjp(function, inputs, kernel)
        return jax.tree.leaves((output, pull(cotangent)))

    found, expected = (run(function, inputs, kernel) for function in (convolve_fast, plain))
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        scale = float(jnp.abs(theirs).max())
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * scale)


def test_an_xla_without_the_pass_is_told_nothing(monkeypatch):
    def fail(*_, **__):
        raise jax.errors.JaxRuntimeError("UNIMPLEMENTED")

    monkeypatch.setattr(jax.stages.Lowered, "compile", fail)
    compiler_options.cache_clear()
    try:
        assert compiler_options() == {}
    finally:
        compiler_options.cache_clear()
    monkeypatch.setattr(convolutions.jax, "default_backend", lambda: "gpu")
    assert compiler_options() == {}
    compiler_options.cache_clear()
