"""The fast forms against the plain ones and against flax's own layers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxseg.model import layers


def _normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def _assert_same(function, other, *arguments):
    """Equal outputs, and equal gradients with respect to all arguments (arrays or trees)."""

    def run(f):
        def values_and_gradients(*arguments):
            out, backward = jax.vjp(f, *arguments)
            return out, backward(_normal(99, *out.shape))

        return jax.jit(values_and_gradients)(*arguments)

    (out, grads), (expected, wanted) = run(function), run(other)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
    assert jax.tree.structure(grads) == jax.tree.structure(wanted)
    for left, right in zip(jax.tree.leaves(grads), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-4)


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.sampled_from([1, 2, 4]))
@settings(max_examples=15, deadline=None)
def test_shuffle_inverts_unshuffle(batch, height, width, factor):
    x = _normal(0, batch, height * factor, width * factor, 3)
    y = layers.pixel_unshuffle(x, factor)
    assert y.shape == (batch, height, width, 3 * factor**2)
    np.testing.assert_array_equal(layers.pixel_shuffle(y, factor), x)


def test_max_pool_is_flax_max_pool():
    x = _normal(1, 2, 6, 4, 3)
    assert len(np.unique(x)) == x.size, "gradients agree where no values tie"

    def reference(x):
        return nn.max_pool(x, (2, 2), (2, 2))

    _assert_same(lambda x: layers.max_pool(x, fast=True), reference, x)
    _assert_same(layers.max_pool, reference, x)


def _assert_like_flax(ours, theirs, *inputs):
    """The parameters, outputs and gradients of flax's layer for the concatenated inputs."""
    key = jax.random.key(0, impl="rbg")
    params = ours.init(key, *inputs)["params"]
    expected = theirs.init(key, jnp.concatenate(inputs, -1))["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, expected)
    # Scales begin as ones and biases as zeros, which could hide.
    params = jax.tree.map(lambda p: p if p.ndim > 1 else _normal(7, *p.shape), params)
    _assert_same(
        lambda params, *xs: ours.apply({"params": params}, *xs),
        lambda params, *xs: theirs.apply({"params": params}, jnp.concatenate(xs, -1)),
        params,
        *inputs,
    )


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("channels", [(3,), (3, 2), (1, 4, 2)])
def test_conv_is_flax_conv_of_the_concatenation(fast, size, channels):
    inputs = [_normal(i, 2, 5, 4, c) for i, c in enumerate(channels)]
    ours = layers.Conv(5, size, layers.Compute(fast=fast))
    _assert_like_flax(ours, nn.Conv(5, (size, size)), *inputs)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("sides", [(4, 6), (1, 1), (5, 3)])
def test_conv_transpose_is_flax_conv_transpose(fast, size, sides):
    ours = layers.ConvTranspose(5, size, layers.Compute(fast=fast))
    theirs = nn.ConvTranspose(5, (size, size), (2, 2))
    _assert_like_flax(ours, theirs, _normal(0, 2, *sides, 3))


@pytest.mark.parametrize(("channels", "groups"), [(24, 8), (7, 7), (9, 3), (11, 1), (10, 5)])
def test_group_norm_is_flax_group_norm(channels, groups):
    theirs = nn.GroupNorm(groups, use_fast_variance=False)
    _assert_like_flax(layers.GroupNorm(), theirs, _normal(0, 2, 4, 5, channels) * 2 + 1)


def test_standardised_weights_keep_the_variance_through_many_layers():
    kernel, gain = 3 + 0.2 * _normal(0, 3, 3, 64, 64), _normal(1, 64)
    made = np.asarray(layers.standardise_weights(kernel, gain))
    for output in range(64):
        one = np.asarray(kernel, np.float64)[..., output]
        expected = (one - one.mean()) / np.sqrt(one.var() + 1e-6) * gain[output]
        expected *= np.sqrt(2 / (1 - 1 / np.pi) / one.size)
        np.testing.assert_allclose(made[..., output], expected, rtol=1e-4, atol=1e-5)
    x = _normal(2, 1, 32, 32, 64)
    for seed in range(8):
        conv = layers.Conv(64, standardise=True)
        x = nn.relu(conv.apply(conv.init(jax.random.key(seed), x), x))
    assert 0.3 < np.var(x[:, 9:-9, 9:-9]) < 3, "zeros at the border take some"


def test_group_norm_keeps_its_digits_far_from_zero():
    x = _normal(0, 1, 32, 32, 16)
    out = layers.GroupNorm().apply(
        {"params": {"scale": jnp.ones(16), "bias": jnp.zeros(16)}}, x + 4096.0
    )
    assert out.mean() == pytest.approx(0, abs=1e-3)
    assert out.std() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("size", [2, 4])
def test_initial_up_sampling_keeps_the_variance(size):
    x = _normal(0, 1, 16, 16, 64)
    up = layers.ConvTranspose(64, size)
    out = up.apply(up.init(jax.random.key(0, impl="rbg"), x), x)
    assert out[:, 2:-2, 2:-2].std() == pytest.approx(1, rel=0.1)


def test_dropout_of_channels_is_that_of_flax():
    x = jnp.asarray(np.random.default_rng(0).random((6, 4, 4, 16)), jnp.float32)
    key = {"dropout": jax.random.key(3)}
    ours = layers.Dropout(0.3).apply({}, x, True, rngs=key)
    theirs = nn.Dropout(0.3, broadcast_dims=(1, 2)).apply({}, x, deterministic=False, rngs=key)
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(layers.Dropout(0.3).apply({}, x, False), x)


def test_a_piece_of_a_batch_drops_what_the_batch_does():
    x = jnp.ones((6, 3, 5, 8))
    dropout = layers.Dropout(0.4)

    def apply(x, rows=None):
        return np.asarray(dropout.apply({}, x, True, rows, rngs={"dropout": jax.random.key(1)}))

    whole = apply(x)
    numbers = np.array([4, 1, 5], np.int32)
    np.testing.assert_array_equal(apply(x[:3], layers.Rows(numbers, 6)), whole[numbers])
    assert len(np.unique(whole.reshape(6, -1), axis=0)) == 6
    assert (whole == whole[:, :1, :1]).all()
    assert 0.2 < np.mean(whole == 0) < 0.6
