import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fluxseg.config import Config, LossConfig, ModelConfig, TrainConfig
from fluxseg.training.sharding import make_mesh, make_train_step
from fluxseg.training.stacked import (
    create_numbers,
    make_stacked_step,
    stack_key,
    stack_states,
    unstack_states,
)
from fluxseg.training.state import create_train_state

STEPS = 6
BASE = Config(
    model=ModelConfig(features=(4, 8), convs=1, stem=1, dropout=0.1),
    loss=LossConfig(class_weights="fixed", neuron_weight=2.0, focal_gamma=1.0, dice=0.5),
    train=TrainConfig(
        learning_rate=1e-2, warmup_steps=2, weight_decay=1e-3, clip_norm=0.3, ema_decay=0.5
    ),
)


def change(config=BASE, **tables):
    return dataclasses.replace(
        config,
        **{
            name: dataclasses.replace(getattr(config, name), **values)
            for name, values in tables.items()
        },
    )


MEMBERS = (
    BASE,
    change(train={"learning_rate": 1e-3, "warmup_steps": 0, "schedule": "constant"}),
    change(train={"seed": 3, "weight_decay": 0.5, "clip_norm": 10.0, "ema_decay": 0.9}),
    change(model={"dropout": 0.6}, loss={"focal_gamma": 3.0, "dice": 2.0, "neuron_weight": 9.0}),
)


def make_batch(seed, size=4):
    rng = np.random.default_rng(seed)
    label = np.zeros((size, 16, 16), np.uint8)
    label[:, 4:9, 5:11] = 1
    image = label[..., None] + 0.3 * rng.standard_normal((size, 16, 16, 1))
    valid = np.ones((size, 16, 16), np.uint8)
    valid[:, :, :3] = 0
    return {"image": image.astype(np.float32), "label": label, "valid": valid}


def make_state(config):
    weights = np.array([1.0, config.loss.neuron_weight, 3.0][: len(config.data.classes)])
    return create_train_state(config, weights, STEPS, tile=16)


def train_alone(config, parts, seed):
    step = make_train_step(make_mesh(jax.devices()[:1]), parts)
    state, seen = make_state(config), []
    for number in range(STEPS):
        state, metrics = step(state, make_batch(100 * seed + number))
        seen.append(jax.device_get(metrics))
    return state, seen


def train_stacked(configs, parts):
    states = [make_state(config) for config in configs]
    numbers = [create_numbers(config, STEPS) for config in configs]
    numbers = jax.tree.map(lambda *leaves: jnp.stack(leaves), *numbers)
    stacked, step, seen = stack_states(states), make_stacked_step(configs[0], parts), []
    for number in range(STEPS):
        batches = [make_batch(100 * seed + number) for seed in range(len(configs))]
        batch = {name: np.stack([b[name] for b in batches]) for name in batches[0]}
        stacked, metrics = step(stacked, numbers, batch)
        seen.append(jax.device_get(metrics))
    return unstack_states(stacked, states), seen


def close(first, second, rtol=2e-3, atol=2e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), first, second)


@pytest.mark.parametrize("parts", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_members_equal_single_runs(parts):
    assert len({stack_key(config) for config in MEMBERS}) == 1
    together, seen = train_stacked(MEMBERS, parts)
    for number, (config, member) in enumerate(zip(MEMBERS, together, strict=True)):
        alone, metrics = train_alone(config, parts, number)
        close(alone.params, member.params)
        close(alone.ema_params, member.ema_params)
        close(alone.opt_state, member.opt_state, rtol=1e-2)
        assert jax.tree.structure(alone) == jax.tree.structure(member)
        for one, many in zip(metrics, seen, strict=True):
            close(one, jax.tree.map(lambda leaf, n=number: leaf[n], many))


def test_members_do_differ():
    members, _ = train_stacked(MEMBERS, 1)
    kernels = [np.asarray(state.params["head"]["kernel"]) for state in members]
    for first in range(len(kernels)):
        for second in range(first):
            assert np.abs(kernels[first] - kernels[second]).max() > 1e-4


@pytest.mark.slow
def test_three_classes_and_a_discounted_encoder():
    base = change(data={"touching": True}, train={"encoder": "discounted"})
    configs = (base, change(base, loss={"dice": 1.5}, train={"learning_rate": 5e-3}))
    together, _ = train_stacked(configs, 1)
    for number, member in enumerate(together):
        close(train_alone(configs[number], 1, number)[0].params, member.params)


@pytest.mark.parametrize(
    "tables",
    [
        {"model": {"dropout": 0.0}},
        {"loss": {"dice": 0.0}},
        {"loss": {"focal_gamma": 0.0}},
        {"train": {"weight_decay": 0.0}},
        {"train": {"ema_decay": 0.0}},
        {"train": {"clip_norm": 0.0}},
        {"train": {"epochs": 3}},
        {"train": {"batch_size": 2}},
        {"model": {"features": (4, 16)}},
        {"data": {"split_seed": 1}},
    ],
)
def test_what_changes_the_program_is_not_stacked(tables):
    assert stack_key(change(**tables)) != stack_key(BASE)
