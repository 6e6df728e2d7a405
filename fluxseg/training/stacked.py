"""Runs that differ in numbers only, as one state with a further axis and one compiled program.

The step is that of a single run (`fluxseg.training.steps`) under `jax.vmap`. What a single run has
compiled in as constants (learning rates, weight decay, dropout, the weights of the parts of the
loss) comes in as arrays, one value for each member of the stack. The sums are those of a single
run, taken in another order: members equal single runs within the tolerance of floats.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from fluxseg.config import AugmentConfig, Config
from fluxseg.model.convolutions import compiler_options
from fluxseg.model.layers import Dropout
from fluxseg.model.losses import make_loss, make_touching_loss
from fluxseg.training.programs import without_optimizer
from fluxseg.training.sharding import divide_rows
from fluxseg.training.state import TrainState, chain_optimizer, create_schedule
from fluxseg.training.steps import StepMetrics, add_gradients, finish_step, train_step, zero_sums

StackedStep = Callable[
    [TrainState, "Numbers", Mapping[str, np.ndarray]], tuple[TrainState, StepMetrics]
]


class Numbers(struct.PyTreeNode):
    """The settings of a run that may differ within a stack; with a first axis for its members.

    Attributes:
        rates: `[T]` float32, learning rate of each step.
        clip_norm: float32 scalar, as are the others; see `fluxseg.config`.
        weight_decay: of `train`.
        ema_decay: of `train`.
        dropout: of `model`.
        focal_gamma: of `loss`.
        dice: of `loss`.
    """

    rates: jax.Array
    clip_norm: jax.Array
    weight_decay: jax.Array
    ema_decay: jax.Array
    dropout: jax.Array
    focal_gamma: jax.Array
    dice: jax.Array


def create_numbers(config: Config, total_steps: int) -> Numbers:
    """Take the numbers of a run out of its config.

    Args:
        config: settings of the run.
        total_steps: steps of the whole run, for the schedule.
    """
    train, loss = config.train, config.loss
    rates = jax.vmap(create_schedule(train, total_steps))(jnp.arange(total_steps))
    values = (
        train.clip_norm,
        train.weight_decay,
        train.ema_decay,
        config.model.dropout,
        loss.focal_gamma,
        loss.dice,
    )
    return Numbers(
        jnp.broadcast_to(rates, (total_steps,)).astype(jnp.float32),
        *(jnp.float32(value) for value in values),
    )


def stack_key(config: Config) -> Config:
    """Return what runs must have in common to be stacked: the config without its numbers.

    Whether a number is 0 remains: then a part of the optimiser, the loss or the network is absent.
    The weights of the classes, the seed, the schedule and augmentation are no part of the program.
    """

    def used(number: float, one: float = 1.0) -> float:
        return one if number else 0.0

    train, loss = config.train, config.loss
    return dataclasses.replace(
        config,
        augment=AugmentConfig(),
        model=dataclasses.replace(config.model, dropout=used(config.model.dropout, 0.5)),
        loss=dataclasses.replace(
            loss,
            class_weights="none",
            neuron_weight=1.0,
            focal_gamma=used(loss.focal_gamma),
            dice=used(loss.dice),
        ),
        train=dataclasses.replace(
            train,
            learning_rate=1.0,
            schedule="constant",
            warmup_steps=0,
            weight_decay=used(train.weight_decay),
            clip_norm=used(train.clip_norm),
            ema_decay=used(train.ema_decay, 0.5),
            seed=0,
            monitor="val_loss",
            patience=0,
        ),
    )


def stack_states(states: Sequence[TrainState]) -> TrainState:
    """Stack the arrays of states of runs with one `stack_key`; the rest is that of the first."""
    aligned = [align_state(state, states[0]) for state in states]
    stacked: TrainState = jax.tree.map(lambda *leaves: jnp.stack(leaves), *aligned)
    return stacked


def unstack_states(stacked: TrainState, members: Sequence[TrainState]) -> list[TrainState]:
    """Take a stack apart.

    Args:
        stacked: the arrays, with a first axis for the members.
        members: states from which each takes what is not an array.

    Returns:
        One state for each member.
    """
    return [
        align_state(jax.tree.map(lambda leaf, n=number: leaf[n], stacked), member)
        for number, member in enumerate(members)
    ]


def align_state(state: TrainState, like: TrainState) -> TrainState:
    """Return a state with everything but its arrays from another one."""
    return state.replace(
        ema_decay=like.ema_decay, apply_fn=like.apply_fn, loss_fn=like.loss_fn, tx=like.tx
    )


def use_numbers(state: TrainState, numbers: Numbers, config: Config) -> TrainState:
    """Return a state that computes with given numbers, which may be traced, in place of its own.

    Args:
        state: the state of one run.
        numbers: those of one run.
        config: says which parts optimiser, loss and network have; see `stack_key`.
    """
    optimizer = chain_optimizer(
        config.train, lambda count: numbers.rates[count], numbers.clip_norm, numbers.weight_decay
    )
    make = make_touching_loss if config.data.touching else make_loss

    def replace_rate(method: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if isinstance(context.module, Dropout) and context.method_name == "__call__":
            kwargs = {**kwargs, "rate": numbers.dropout}
        return method(*args, **kwargs)

    def apply_fn(*args: Any, **kwargs: Any) -> Any:
        with nn.intercept_methods(replace_rate):
            return state.apply_fn(*args, **kwargs)

    return state.replace(
        ema_decay=numbers.ema_decay,
        apply_fn=apply_fn,
        loss_fn=make(config.loss, numbers.focal_gamma, numbers.dice),
        tx=optimizer,
    )


def make_stacked_step(config: Config, parts: int = 1) -> StackedStep:
    """Compile the training step of a stack.

    Args:
        config: of any of its runs.
        parts: into how many parts the rows of a batch are divided, see
            `fluxseg.training.sharding.make_train_step`.

    Returns:
        Function from the stacked state, which is consumed, the stacked numbers and the batch of
        each run, stacked (`image`, `label`, `valid`), to the next state and the stacked metrics.
    """

    def step_one(state: TrainState, numbers: Numbers, batch: Any) -> Any:
        new, metrics = train_step(use_numbers(state, numbers, config), batch)
        return align_state(new, state), metrics

    def add_one(network: TrainState, numbers: Numbers, sums: Any, batch: Any) -> Any:
        return add_gradients(use_numbers(network, numbers, config), sums, batch, parts=parts)

    def finish_one(state: TrainState, numbers: Numbers, sums: Any) -> Any:
        new, metrics = finish_step(use_numbers(state, numbers, config), sums)
        return align_state(new, state), metrics

    options = compiler_options()
    whole = jax.jit(jax.vmap(step_one), donate_argnums=0, compiler_options=options)
    zeros = jax.jit(jax.vmap(zero_sums))
    # The number of a row in its batch is the same for all members.
    rows = {"image": 0, "label": 0, "valid": 0, "row": None}
    each = jax.vmap(add_one, in_axes=(0, 0, 0, rows))
    add = jax.jit(each, donate_argnums=2, compiler_options=options)
    finish = jax.jit(jax.vmap(finish_one), donate_argnums=0, compiler_options=options)

    def step(state: TrainState, numbers: Numbers, batch: Mapping[str, np.ndarray]) -> Any:
        if parts == 1:
            return whole(
                state, numbers, {name: batch[name] for name in ("image", "label", "valid")}
            )
        network, sums = without_optimizer(state), zeros(state.params)
        for piece in divide_rows(batch, parts, axis=1):
            sums = add(network, numbers, sums, piece)
        return finish(state, numbers, sums)

    return step
