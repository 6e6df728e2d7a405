"""What the losses do about wrong labels, against loops over pixels."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fluxseg.config import LossConfig
from fluxseg.errors import ConfigError
from fluxseg.model.label_noise import ignore_rim, soften_label
from fluxseg.model.losses import make_loss, make_touching_loss

SHAPE = (2, 7, 9)


def _batch(seed, classes=2):
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2, size=(*SHAPE, classes)).astype(np.float32)
    label = (rng.random(SHAPE) < 0.3) * rng.integers(1, classes, SHAPE)
    valid = rng.random(SHAPE) < 0.8
    return logits, label, valid, rng.uniform(0.5, 3, classes).astype(np.float32)


def _square(array, where, distance):
    image, row, column = where
    rows = np.clip(np.arange(row - distance, row + distance + 1), 0, SHAPE[1] - 1)
    columns = np.clip(np.arange(column - distance, column + distance + 1), 0, SHAPE[2] - 1)
    return array[image][np.ix_(rows, columns)]


@pytest.mark.parametrize("distance", [1, 2])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_the_rim_is_what_sees_another_valid_class(distance, dtype):
    for seed in range(3):
        _, label, valid, _ = _batch(seed, 3)
        expected = np.zeros(SHAPE, bool)
        for where in np.ndindex(*SHAPE):
            seen = _square(label, where, distance)[_square(valid, where, distance)]
            expected[where] = valid[where] and len(set(seen.tolist())) == 1
        found = ignore_rim(jnp.asarray(label.astype(dtype)), jnp.asarray(valid), distance)
        np.testing.assert_array_equal(found, expected)


def test_a_rim_keeps_the_weights_of_the_other_pixels():
    label = np.zeros((1, 5, 6), np.uint8)
    label[..., 4:] = 1
    weights = np.random.default_rng(0).uniform(0.1, 1, label.shape).astype(np.float32)
    kept = np.array(ignore_rim(jnp.asarray(label), jnp.asarray(weights), 1))
    np.testing.assert_array_equal(kept[..., [0, 1, 2, 5]], weights[..., [0, 1, 2, 5]])
    assert not kept[..., 3:5].any()


def test_soft_labels_are_shares_of_the_valid_pixels():
    for seed in range(3):
        _, label, valid, _ = _batch(seed, 3)
        found = np.array(soften_label(jnp.asarray(label), jnp.asarray(valid), 1, 3))
        for where in np.ndindex(*SHAPE):
            seen = _square(label, where, 1)[_square(valid, where, 1)]
            expected = np.bincount(seen, minlength=3) / max(len(seen), 1)
            np.testing.assert_allclose(found[(slice(None), *where)], expected, atol=1e-6)


@pytest.mark.parametrize("radius", [0, 1])
def test_soft_cross_entropy_is_the_loop_over_pixels(radius):
    logits, label, valid, weights = map(jnp.asarray, _batch(0, 3))
    config = LossConfig(dice=0, soften=1, ignore_rim=radius)
    total, weight = make_loss(config)(logits, label, valid, weights)
    shares = np.array(soften_label(label, valid, 1, 3), np.float64)
    counted = np.array(ignore_rim(label, valid, radius) if radius else valid, np.float64)
    logs = np.array(jax.nn.log_softmax(logits), np.float64)
    parts = np.moveaxis(shares, 0, -1) * np.array(weights, np.float64) * counted[..., None]
    np.testing.assert_allclose([total, weight], [-(parts * logs).sum(), parts.sum()], rtol=1e-5)


def test_pixels_far_from_their_label_have_no_gradient():
    logits, label, valid, weights = map(jnp.asarray, _batch(1))
    chance = jnp.take_along_axis(jax.nn.softmax(logits), label[..., None], -1)[..., 0]
    loss_fn = make_loss(LossConfig(dice=0, truncate=0.2))
    grads = jax.grad(lambda values: loss_fn(values, label, valid, weights)[0])(logits)
    moves = np.abs(np.array(grads)).max(-1) > 0
    np.testing.assert_array_equal(moves, np.array(valid & (chance > 0.2)))
    assert moves.any()
    assert (np.array(valid) & ~moves).any()


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_truncation_bounds_the_loss_of_a_pixel(gamma):
    _, label, valid, weights = map(jnp.asarray, _batch(2))
    loss_fn = make_loss(LossConfig(dice=0, focal_gamma=gamma, truncate=0.1))
    wrong = 50.0 * jax.nn.one_hot(1 - label, 2)
    total, weight = loss_fn(wrong, label, valid, weights)
    np.testing.assert_allclose(total / weight, 0.9**gamma * -np.log(0.1), rtol=1e-5)


ROBUST = [
    LossConfig(ignore_rim=1),
    LossConfig(soften=1, dice=0),
    LossConfig(truncate=0.1, focal_gamma=1.5),
]


@pytest.mark.parametrize("config", ROBUST)
@pytest.mark.parametrize("make", [make_loss, make_touching_loss])
def test_invalid_pixels_add_exactly_nothing(config, make):
    logits, label, valid, weights = _batch(3, 2 if make is make_loss else 3)
    loss_fn = make(config)
    changed = np.where(valid[..., None], logits, np.nan)
    other = np.where(valid, label, 1 - label.clip(0, 1))
    results = [
        jax.value_and_grad(lambda *batch: loss_fn(*batch)[0])(
            *map(jnp.asarray, (values, truth, valid, weights))
        )
        for values, truth in ((logits, label), (changed, other))
    ]
    for first, second in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_array_equal(first, second)
    assert not np.array(results[1][1])[~valid].any()


@pytest.mark.parametrize("config", ROBUST)
def test_each_way_changes_the_loss_and_is_off_by_default(config):
    batch = tuple(map(jnp.asarray, _batch(4)))
    off = {"ignore_rim": 0, "soften": 0, "truncate": 0.0}
    plain = make_loss(dataclasses.replace(config, **off))(*batch)
    assert make_loss(config)(*batch)[0] != plain[0]
    assert {name: getattr(LossConfig(), name) for name in off} == off


@pytest.mark.parametrize(
    "values",
    [{"ignore_rim": -1}, {"soften": 9}, {"truncate": 1.0}, {"soften": 1, "truncate": 0.1}],
)
def test_settings_out_of_range_are_refused(values):
    with pytest.raises(ConfigError, match=r"loss\."):
        LossConfig(**values)
