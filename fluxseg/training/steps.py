"""The training step and the evaluation step: pure functions for jit, pmap and shard_map alike.

`train_step` is `sum_gradients`, then `apply_gradients`. Sums of the loss, of its weights and of the
gradients are divided once, at the end: micro-batches and devices with unequal weights (padding,
few neurons) count as they should.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from fluxseg.model.layers import Rows
from fluxseg.model.metrics import confusion_matrix, confusion_per_example
from fluxseg.training.state import TrainState


class StepMetrics(struct.PyTreeNode):
    """Sums over a global batch; they stay on the device until somebody asks."""

    loss_sum: jax.Array  # float32 scalar, weighted loss summed over pixels
    weight_sum: jax.Array  # float32 scalar, sum of the weights
    confusion: jax.Array  # `[2, 2]` int32, truth by prediction, background and neuron
    grad_norm: jax.Array  # float32 scalar, global norm of the gradient; 0 in evaluation


Sums = tuple[Any, StepMetrics]  # gradients of the summed loss, like `params`; metrics


def train_step(
    state: TrainState, batch: dict[str, jax.Array], *, axis_name: str | None = None
) -> tuple[TrainState, StepMetrics]:
    """Take one optimiser step: this is the function that training compiles.

    Wrap it in `jax.jit`, with the batch sharded over a mesh if there are several devices (the
    default: `fluxseg.training.sharding.make_train_step`), or in `jax.pmap` with
    `in_axes=(None, 0), out_axes=(None, 0)`, or in `jax.shard_map`. On CPUs a plain `jax.jit` takes
    about 1.5 times as long as that of `make_train_step`, which passes
    `fluxseg.model.convolutions.compiler_options`.

    Args:
        state: current state.
        batch: image `[B, H, W, 1]`, label `[B, H, W]`, valid `[B, H, W]`.
        axis_name: see `sum_gradients`.

    Returns:
        The next state, and the metrics of this batch before the update.
    """
    sums = sum_gradients(state, batch, axis_name=axis_name)
    return apply_gradients(state, sums)


def sum_gradients(
    state: TrainState,
    batch: dict[str, jax.Array],
    *,
    axis_name: str | None = None,
    micro_batches: int = 1,
) -> Sums:
    """Compute the gradient of the weighted loss, summed over the pixels of a batch.

    Dropout depends on the number of a row in the global batch, and so neither on micro-batches nor
    on devices.

    Args:
        state: current state.
        batch: image `[B, H, W, 1]` float32, label `[B, H, W]` uint8 (0 or 1), valid `[B, H, W]`
            uint8 (0 where nothing counts). Of a micro-batch also row `[B]` int32, the numbers of
            these rows in the global batch.
        axis_name: name of the device axis under `jax.pmap` or `jax.shard_map`, over which the
            batch is sharded; None under `jax.jit`, where the compiler sees the whole batch.
        micro_batches: number of equal micro-batches of which this is one.

    Returns the sums, over all devices.
    """
    rows = _rows(batch, axis_name, micro_batches)
    # A network of one's own need not know of rows as long as the batch is in one piece.
    further = {} if rows is None else {"rows": rows}
    params = state.params if axis_name is None else _vary(state.params, axis_name)
    rngs = {"dropout": jax.random.fold_in(state.key, state.step)}

    def loss_sum(params: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        logits = state.apply_fn({"params": params}, batch["image"], True, rngs=rngs, **further)
        total, weight = state.loss_fn(logits, batch["label"], batch["valid"], state.class_weights)
        return total, (weight, logits)

    (total, (weight, logits)), grads = jax.value_and_grad(loss_sum, has_aux=True)(params)
    confusion = confusion_matrix(batch["label"], logits.argmax(-1), batch["valid"])
    if axis_name is not None:
        grads, total, weight = jax.lax.psum((grads, total, weight), axis_name)
        confusion = jax.lax.psum(confusion, axis_name)
    return grads, StepMetrics(total, weight, confusion, jnp.zeros(()))


def zero_gradients(params: Any) -> Sums:
    """Return the sums of no micro-batch."""
    zero = jnp.zeros(())
    metrics = StepMetrics(zero, zero, jnp.zeros((2, 2), jnp.int32), zero)
    return jax.tree.map(jnp.zeros_like, params), metrics


def add_gradients(
    state: TrainState, sums: Sums, batch: dict[str, jax.Array], *, micro_batches: int
) -> Sums:
    """Add what `sum_gradients` returns for one more micro-batch to the sums so far."""
    more = sum_gradients(state, batch, micro_batches=micro_batches)
    return jax.tree.map(jnp.add, sums, more)


def mean_gradients(sums: Sums) -> Sums:
    """Divide summed gradients of a whole batch by its sum of weights; add their norm."""
    grads, metrics = sums
    # A batch of padding alone has no weight and no gradient.
    weight = jnp.where(metrics.weight_sum > 0, metrics.weight_sum, 1)
    grads = jax.tree.map(lambda g: g / weight, grads)
    return grads, metrics.replace(grad_norm=optax.tree.norm(grads))


def apply_gradients(state: TrainState, sums: Sums) -> tuple[TrainState, StepMetrics]:
    """Update parameters, their running average and the optimiser's state.

    Takes the sums of the whole global batch, and returns what `train_step` does.
    """
    grads, metrics = mean_gradients(sums)
    updates, opt_state = state.tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    step = state.step + 1
    ema_params = state.ema_params
    if ema_params is not None:
        # The average forgets its random start quickly and slows down to `ema_decay`.
        decay = jnp.minimum(state.ema_decay, (1 + step) / (10 + step))
        ema_params = optax.incremental_update(params, ema_params, 1 - decay)
    state = state.replace(step=step, params=params, opt_state=opt_state, ema_params=ema_params)
    return state, metrics


def eval_step(
    state: TrainState, batch: dict[str, jax.Array], *, axis_name: str | None = None
) -> tuple[StepMetrics, jax.Array]:
    """Score one batch without dropout.

    Args:
        state: its `eval_params` are used.
        batch: see `sum_gradients`; examples whose `valid` is 0 count nothing.
        axis_name: see there.

    Returns:
        Sums over the global batch, and the confusion matrix of each example `[B, 2, 2]` int32.
    """
    logits = state.apply_fn({"params": state.eval_params}, batch["image"], False)
    total, weight = state.loss_fn(logits, batch["label"], batch["valid"], state.class_weights)
    each = confusion_per_example(batch["label"], logits.argmax(-1), batch["valid"])
    confusion = each.sum(0)
    if axis_name is not None:
        total, weight, confusion = jax.lax.psum((total, weight, confusion), axis_name)
    return StepMetrics(total, weight, confusion, jnp.zeros(())), each


def _rows(batch: dict[str, jax.Array], axis_name: str | None, micro_batches: int) -> Rows | None:
    """Return which rows of the global batch these are; None if they are all."""
    size = batch["image"].shape[0]
    if axis_name is not None:
        first = jax.lax.axis_index(axis_name) * size
        return Rows(first + jnp.arange(size), size * jax.lax.axis_size(axis_name))
    return None if micro_batches == 1 else Rows(batch["row"], size * micro_batches)


def _vary(params: Any, axis_name: str) -> Any:
    # Under shard_map the gradient with respect to an unvarying value is summed over the devices
    # by itself, and the explicit psum would count it once more for each device.
    def mark(leaf: jax.Array) -> jax.Array:
        if axis_name in getattr(jax.typeof(leaf), "vma", frozenset()):
            return leaf
        return jax.lax.pcast(leaf, axis_name, to="varying")

    return jax.tree.map(mark, params)
