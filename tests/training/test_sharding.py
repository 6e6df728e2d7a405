"""A step in micro-batches is the step on the whole batch."""

import jax
import numpy as np
import pytest

from fluxseg.config import Config, DataConfig, ModelConfig, TrainConfig
from fluxseg.training.sharding import (
    count_micro_batches,
    make_mesh,
    make_train_step,
    replicate,
)
from fluxseg.training.state import create_train_state


def create_config(dropout=0.3, **train):
    model = ModelConfig(features=(4, 8), convs=1, dropout=dropout)
    settings = {"batch_size": 6, "weight_decay": 0.0, "warmup_steps": 0, **train}
    return Config(data=DataConfig(tile=32), model=model, train=TrainConfig(**settings))


def create_batch(size=6):
    rng = np.random.default_rng(0)
    valid = np.ones((size, 32, 32), np.uint8)
    # Micro-batches of unequal weight, one of them padding alone.
    valid[1, :16] = 0
    valid[-2:] = 0
    return {
        "image": rng.normal(size=(size, 32, 32, 1)).astype(np.float32),
        "label": (rng.random((size, 32, 32)) < 0.2).astype(np.uint8),
        "valid": valid,
        "crop": np.arange(size, dtype=np.int32),
    }


def take_steps(micro_batches, steps=2, **train):
    mesh = make_mesh()
    weights = np.array([1.0, 3.0])
    state = replicate(create_train_state(create_config(**train), weights, 10), mesh)
    step = make_train_step(mesh, micro_batches)
    for _ in range(steps):
        state, metrics = step(state, create_batch())
    return state, metrics


@pytest.mark.parametrize("count", [2, 6])
def test_micro_batches_add_up_to_the_whole(count):
    # Without Adam's division the parameters show the gradients as they are.
    whole, expected = take_steps(1, clip_norm=1e-3)
    state, metrics = take_steps(count, clip_norm=1e-3)
    np.testing.assert_array_equal(metrics.confusion, expected.confusion)
    for name in ("loss_sum", "weight_sum", "grad_norm"):
        np.testing.assert_allclose(getattr(metrics, name), getattr(expected, name), rtol=1e-5)
    assert int(state.step) == int(whole.step) == 2
    for ours, theirs in zip(
        jax.tree.leaves(state.opt_state), jax.tree.leaves(whole.opt_state), strict=True
    ):
        scale = max(float(np.abs(theirs).max()), 1e-12)
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * scale)


def test_by_default_all_devices_take_the_step_and_other_batches_may_follow():
    state = create_train_state(create_config(), np.array([1.0, 3.0]), 10)
    step = make_train_step()
    for size in (6, 4):
        batch = {name: array[:size] for name, array in create_batch().items()}
        state, metrics = step(state, batch)
        assert int(metrics.confusion.sum()) == (batch["valid"] > 0).sum()
    assert int(state.step) == 2


@pytest.mark.parametrize(
    ("batch_size", "micro_batch", "tile", "count"),
    [(8, 0, 256, 2), (8, 0, 512, 8), (8, 0, 64, 1), (8, 0, 1024, 8), (6, 4, 256, 2), (7, 4, 64, 7)],
)
def test_micro_batches_are_equal_and_no_larger_than_asked(batch_size, micro_batch, tile, count):
    train = TrainConfig(batch_size=batch_size, micro_batch=micro_batch)
    config = Config(data=DataConfig(tile=tile), train=train)
    assert count_micro_batches(config, make_mesh(jax.devices()[:1])) == count
