"""Fine-tuning: what learns how fast, and from where."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fluxseg.config import ModelConfig, TrainConfig
from fluxseg.errors import ConfigError
from fluxseg.training.finetune import DISCOUNT, label_parameters
from fluxseg.training.state import create_train_state
from fluxseg.training.steps import train_step
from tests.conftest import TINY, with_train


def make_state(encoder, norm="group", **changes):
    config = with_train(TINY, encoder=encoder, warmup_steps=0, schedule="constant", **changes)
    model = ModelConfig(features=(4, 8), convs=1, stem=1, norm=norm, bottleneck_convs=1)
    config = dataclasses.replace(config, model=model)
    return create_train_state(config, np.ones(2), 10, tile=16)


def make_batch():
    rng = np.random.default_rng(0)
    label = (rng.random((2, 16, 16)) > 0.7).astype(np.uint8)
    image = (label + 0.3 * rng.standard_normal((2, 16, 16))).astype(np.float32)
    return {"image": image[..., None], "label": label, "valid": np.ones_like(label)}


def by_part(tree):
    labels = jax.tree.leaves(label_parameters(tree))
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    return {
        part: [leaf for leaf, label in zip(leaves, labels, strict=True) if label == part]
        for part in ("encoder", "decoder")
    }


@pytest.mark.parametrize("norm", ["group", "none"])
def test_every_layer_before_the_first_up_sampling_is_encoder(norm):
    params = make_state("free", norm).params
    labels = label_parameters(params)
    assert jax.tree.structure(labels) == jax.tree.structure(params)
    for name, layer in labels.items():
        down = name.startswith(("encoder", "bottleneck"))
        assert set(jax.tree.leaves(layer)) == {"encoder" if down else "decoder"}, name
    assert {name.split("_")[0] for name in params} == {
        "encoder", "bottleneck", "up", "decoder", "head"
    }  # fmt: skip


@pytest.mark.parametrize("norm", ["group", "none"])
def test_a_frozen_encoder_keeps_every_bit_and_all_else_learns(norm):
    state = make_state("frozen", norm, weight_decay=0.1, clip_norm=0.5)
    before = by_part(state.params)
    step = jax.jit(train_step)
    for _ in range(3):
        state, _ = step(state, make_batch())
    after = by_part(state.params)
    assert len(before["encoder"]) >= 6
    for old, new in zip(before["encoder"], after["encoder"], strict=True):
        assert old.tobytes() == new.tobytes()
    for old, new in zip(before["decoder"], after["decoder"], strict=True):
        assert (old != new).any()


def test_a_discounted_encoder_takes_a_tenth_of_the_step_of_a_free_one():
    states = {name: make_state(name, weight_decay=0.1) for name in ("free", "discounted")}
    before = by_part(states["free"].params)
    step = jax.jit(train_step)
    after = {name: by_part(step(s, make_batch())[0].params) for name, s in states.items()}
    for part, share in (("encoder", DISCOUNT), ("decoder", 1)):
        for old, free, slow in zip(
            before[part], after["free"][part], after["discounted"][part], strict=True
        ):
            np.testing.assert_allclose(slow - old, share * (free - old), rtol=1e-3, atol=1e-7)


def test_the_gradient_of_a_frozen_encoder_has_no_part_in_clipping():
    frozen = make_state("frozen", clip_norm=1.0, weight_decay=0.0)
    labels = label_parameters(frozen.params)
    grads = jax.tree.map(
        lambda leaf, label: jnp.full(leaf.shape, 1e6 if label == "encoder" else 1e-3),
        frozen.params,
        labels,
    )
    small = jax.tree.map(lambda g, label: g * (label == "decoder"), grads, labels)
    moved = [frozen.tx.update(g, frozen.opt_state, frozen.params)[0] for g in (grads, small)]
    for one, other in zip(*map(jax.tree.leaves, moved), strict=True):
        np.testing.assert_array_equal(one, other)
    # Otherwise the scale would have been 1e-6, which Adam's epsilon would show.
    assert optax.tree.norm(moved[0]) > 0


def test_training_starts_from_given_parameters_and_does_not_consume_them():
    init = make_state("free", seed=5).params
    config = dataclasses.replace(
        TINY, model=ModelConfig(features=(4, 8), convs=1, stem=1, bottleneck_convs=1)
    )
    state = create_train_state(config, np.ones(2), 10, tile=16, init=init)
    jax.tree.map(np.testing.assert_array_equal, state.params, init)
    jax.jit(train_step, donate_argnums=0)(state, make_batch())
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(init))
    with pytest.raises(ConfigError, match="do not fit the architecture"):
        create_train_state(TINY, np.ones(2), 10, tile=16, init=init)


@pytest.mark.parametrize("crops", [1, 4, 28, 268, 5000])
@pytest.mark.parametrize("steps", [0, 1, 400])
def test_a_run_has_at_least_its_steps_and_hardly_more(crops, steps):
    train = TrainConfig(epochs=12, steps=steps, batch_size=8)
    repeats = train.repeats(crops)
    per_pass = 12 * -(-crops * repeats // 8)
    assert repeats >= 1
    assert per_pass >= steps
    assert repeats == 1 or 12 * crops * (repeats - 1) < steps * 8
