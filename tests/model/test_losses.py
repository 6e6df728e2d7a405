"""The losses against loops over pixels, and gradients where numbers are hard."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxseg.config import LossConfig
from fluxseg.errors import ConfigError
from fluxseg.model.losses import class_weights, dice_loss, make_loss, weighted_cross_entropy

SHAPE = (3, 4, 5)


def _batch(seed, classes=2, scale=3.0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=scale, size=(*SHAPE, classes)).astype(np.float32)
    label = rng.integers(classes, size=SHAPE)
    valid = rng.random(SHAPE) < 0.7
    weights = rng.uniform(0.5, 5, classes).astype(np.float32)
    return logits, label, valid, weights


def _softmax(logits):
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def _cross_entropy_loop(logits, label, valid, weights):
    total = weight_sum = 0.0
    for where in np.ndindex(*label.shape):
        probability = _softmax(logits[where].astype(np.float64))[label[where]]
        weight = float(valid[where]) * weights[label[where]]
        total -= weight * np.log(probability)
        weight_sum += weight
    return total, weight_sum


def _dice_loop(logits, label, valid, weights, smooth=1.0):
    total = weight_sum = 0.0
    classes = logits.shape[-1]
    for image in range(len(label)):
        weight = sum(
            float(valid[image][p]) * weights[label[image][p]] for p in np.ndindex(*SHAPE[1:])
        )
        losses = []
        for c in range(1, classes):
            overlap = predicted = true = 0.0
            for p in np.ndindex(*SHAPE[1:]):
                share = float(valid[image][p])
                probability = _softmax(logits[image][p].astype(np.float64))[c]
                overlap += share * probability * (label[image][p] == c)
                predicted += share * probability
                true += share * (label[image][p] == c)
            losses.append(1 - (2 * overlap + smooth) / (predicted + true + smooth))
        total += weight * np.mean(losses)
        weight_sum += weight
    return total, weight_sum


LOSSES = [(weighted_cross_entropy, _cross_entropy_loop), (dice_loss, _dice_loop)]


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(("loss", "loop"), LOSSES)
def test_a_loss_is_the_loop_over_pixels_also_with_fractions_as_weights(loss, loop, classes):
    for seed in range(5):
        logits, label, valid, weights = _batch(seed, classes)
        fractions = np.random.default_rng(seed).random(SHAPE).astype(np.float32)
        for share in (valid, fractions):
            batch = (logits, label, share, weights)
            result = loss(*map(jnp.asarray, batch))
            np.testing.assert_allclose(result, loop(*batch), rtol=1e-5)
            assert {value.dtype for value in result} == {jnp.dtype("float32")}


def test_dice_of_perfect_empty_and_opposite_predictions():
    label = np.zeros(SHAPE, int)
    label[0, :2] = 1
    ones, weights = jnp.ones(SHAPE), jnp.ones(2)
    right = jnp.asarray(np.stack([1 - label, label], -1) * 60.0 - 30)
    # The second and third image have no neuron and none predicted.
    assert dice_loss(right, jnp.asarray(label), ones, weights)[0] == pytest.approx(0, abs=1e-5)
    total, weight = dice_loss(-right, jnp.asarray(label), ones, weights)
    assert total / weight == pytest.approx(np.mean([20 / 21, 20 / 21, 20 / 21]), rel=1e-5)


def test_make_loss_adds_dice_on_the_same_denominator():
    batch = tuple(map(jnp.asarray, _batch(3)))
    config = LossConfig(dice=0.7)
    total, weight = make_loss(config)(*batch)
    cross_entropy = _cross_entropy_loop(*_batch(3))
    dice = _dice_loop(*_batch(3))
    assert total == pytest.approx(cross_entropy[0] + 0.7 * dice[0], rel=1e-5)
    assert weight == pytest.approx(cross_entropy[1], rel=1e-5) == dice[1]


@functools.cache
def _gradient(config):
    loss = make_loss(config)
    return jax.jit(jax.value_and_grad(lambda *batch: loss(*batch)[0]))


CONFIGS = [LossConfig(class_weights="reference", dice=0.0), LossConfig()]


@pytest.mark.parametrize("config", CONFIGS)
@given(seed=st.integers(0, 99), hidden=st.sampled_from([np.nan, np.inf, -np.inf, 1e38]))
@settings(max_examples=15, deadline=None)
def test_invalid_pixels_add_exactly_nothing(config, seed, hidden):
    logits, label, valid, weights = _batch(seed)
    spoilt = np.where(valid[..., None], logits, np.float32(hidden))
    outside = np.where(valid, label, 255)
    value, grad = _gradient(config)(logits, label, valid, weights)
    spoilt_value, spoilt_grad = _gradient(config)(spoilt, outside, valid, weights)
    assert value == spoilt_value
    np.testing.assert_array_equal(grad, spoilt_grad)
    assert not grad[~valid].any()
    assert (grad[valid] != 0).any()
    weight = make_loss(config)(*map(jnp.asarray, (spoilt, outside, valid, weights)))[1]
    np.testing.assert_allclose(weight, weights[label][valid].sum(), rtol=1e-5)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e4, 1e30])
def test_gradient_is_finite_for_extreme_logits(config, size):
    logits, label, valid, weights = _batch(0)
    value, grad = _gradient(config)(np.sign(logits) * np.float32(size), label, valid, weights)
    assert np.isfinite(grad).all()
    assert np.isfinite(value)


def test_class_weights():
    reference = class_weights(
        LossConfig(class_weights="reference", dice=0.0), neuron_pixels=100, background_pixels=1500
    )
    np.testing.assert_allclose(reference, [1, 5])
    assert reference.dtype == np.float32
    balanced = class_weights(LossConfig(class_weights="balanced"), 100, 1500)
    np.testing.assert_allclose(balanced, [1, 15])
    np.testing.assert_array_equal(class_weights(LossConfig(class_weights="none"), 0, 9), [1, 1])


@pytest.mark.parametrize(("pixels", "absent"), [((0, 9), "neuron"), ((9, 0), "background")])
@pytest.mark.parametrize("rule", ["reference", "balanced"])
def test_class_weights_need_both_classes(pixels, absent, rule):
    with pytest.raises(ConfigError, match=f"loss.class_weights.*no {absent} pixel"):
        class_weights(LossConfig(class_weights=rule), *pixels)
