"""Fine-tuning: what learns, from where, and which fields a learning curve uses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxseg.config import ModelConfig, TrainConfig
from fluxseg.errors import ConfigError
from fluxseg.training.finetune import (
    DISCOUNT,
    curve_sizes,
    explain_groups,
    few_shot_epochs,
    group_folds,
    label_parameters,
    order_fields,
)
from fluxseg.training.state import create_train_state
from fluxseg.training.steps import train_step
from tests.conftest import TINY, with_train

FIELDS = st.dictionaries(
    st.text("abcdefgh", min_size=1, max_size=4), st.sampled_from("tuvwxyz"), min_size=1, max_size=20
)


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
    after = {name: by_part(train_step(s, make_batch())[0].params) for name, s in states.items()}
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


@settings(max_examples=60, deadline=None)
@given(FIELDS, st.integers(0, 5))
def test_fields_are_ordered_so_that_each_beginning_covers_the_most_groups(fields, seed):
    order = order_fields(fields, seed)
    assert sorted(order) == sorted(fields)
    assert order == order_fields(dict(reversed(fields.items())), seed)
    for size in range(1, len(order) + 1):
        counts = [
            sum(fields[key] == group for key in order[:size]) for group in set(fields.values())
        ]
        assert sum(c > 0 for c in counts) == min(size, len(set(fields.values())))


@settings(max_examples=60, deadline=None)
@given(FIELDS, st.integers(2, 5), st.integers(0, 3))
def test_folds_hold_every_field_once_and_share_no_group(fields, folds, seed):
    if len(set(fields.values())) < folds:
        with pytest.raises(ConfigError, match="folds"):
            group_folds(fields, folds, seed)
        return
    parts = group_folds(fields, folds, seed)
    assert len(parts) == folds
    assert all(parts)
    assert sorted(key for part in parts for key in part) == sorted(fields)
    groups = [{fields[key] for key in part} for part in parts]
    assert sum(map(len, groups)) == len(set(fields.values()))


@pytest.mark.parametrize(
    ("most", "sizes"),
    [
        (0, []), (1, [1]), (2, [1, 2]), (3, [1, 3]), (4, [1, 3, 4]), (10, [1, 3, 10]),
        (11, [1, 3, 11]), (15, [1, 3, 10, 15]), (200, [1, 3, 10, 30, 100, 200]),
    ],
)  # fmt: skip
def test_the_sizes_of_a_curve(most, sizes):
    assert curve_sizes(most) == sizes


@pytest.mark.parametrize("crops", [1, 4, 20, 80, 900])
def test_the_number_of_steps_hardly_depends_on_the_number_of_fields(crops):
    epochs, repeats = few_shot_epochs(crops, 8, 120, 4)
    steps = epochs * -(-crops * repeats // 8)
    assert epochs == 4
    # A field that is larger than the whole budget is still seen once an epoch.
    assert 100 <= steps <= 160 or (repeats == 1 and steps > 160)


def test_too_few_groups_are_explained():
    assert "no honest score" in explain_groups(["a", "a"])
    assert "2 groups" in explain_groups(["a", "b", "b"])
    assert explain_groups(["a", "b", "c"]) == ""


def test_the_settings_of_the_encoder_are_checked():
    with pytest.raises(ConfigError, match="repeats"):
        TrainConfig(repeats=0)
