"""A step in several parts is the step on the whole batch."""

import jax
import numpy as np
import pytest

from fluxseg.config import Config, DataConfig, ModelConfig, TrainConfig
from fluxseg.training.sharding import count_parts, make_mesh, make_train_step, replicate
from fluxseg.training.state import create_train_state


def create_config(**train):
    model = ModelConfig(features=(4, 8), convs=1, dropout=0.0)
    settings = {"batch_size": 6, "weight_decay": 0.0, "warmup_steps": 0, **train}
    return Config(data=DataConfig(tile=32), model=model, train=TrainConfig(**settings))


def create_batch(size=6):
    rng = np.random.default_rng(0)
    valid = np.ones((size, 32, 32), np.uint8)
    # Parts of unequal weight, one of them padding alone.
    valid[1, :16] = 0
    valid[-2:] = 0
    return {
        "image": rng.normal(size=(size, 32, 32, 1)).astype(np.float32),
        "label": (rng.random((size, 32, 32)) < 0.2).astype(np.uint8),
        "valid": valid,
        "crop": np.arange(size, dtype=np.int32),
    }


def take_steps(parts, steps=2, **train):
    mesh = make_mesh()
    weights = np.array([1.0, 3.0])
    state = replicate(create_train_state(create_config(**train), weights, 10), mesh)
    step = make_train_step(mesh, parts)
    for _ in range(steps):
        state, metrics = step(state, create_batch())
    return state, metrics


@pytest.mark.parametrize("parts", [2, 3, 6])
def test_parts_add_up_to_the_whole(parts):
    # Without Adam's division the parameters show the gradients as they are.
    whole, expected = take_steps(1, clip_norm=1e-3)
    state, metrics = take_steps(parts, clip_norm=1e-3)
    np.testing.assert_array_equal(metrics.confusion, expected.confusion)
    for name in ("loss_sum", "weight_sum", "grad_norm"):
        np.testing.assert_allclose(getattr(metrics, name), getattr(expected, name), rtol=1e-5)
    assert int(state.step) == int(whole.step) == 2
    for ours, theirs in zip(
        jax.tree.leaves(state.opt_state), jax.tree.leaves(whole.opt_state), strict=True
    ):
        scale = max(float(np.abs(theirs).max()), 1e-12)
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * scale)


def test_a_padded_part_counts_nothing():
    state, metrics = take_steps(3, steps=1)
    inside = create_batch()["valid"] > 0
    assert int(metrics.confusion.sum()) == inside.sum()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


@pytest.mark.parametrize(
    ("batch_size", "micro_batch", "tile", "parts"),
    [(8, 0, 256, 2), (8, 0, 512, 8), (8, 0, 64, 1), (8, 0, 1024, 8), (6, 4, 256, 2), (7, 4, 64, 7)],
)
def test_parts_are_equal_and_no_larger_than_asked(batch_size, micro_batch, tile, parts):
    train = TrainConfig(batch_size=batch_size, micro_batch=micro_batch)
    config = Config(data=DataConfig(tile=tile), train=train)
    assert count_parts(config, make_mesh(jax.devices()[:1])) == parts
