"""One pure training step and one pure evaluation step, for jit, pmap and shard_map alike."""

from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import optax
from flax import struct

from fluxseg.model.layers import Rows
from fluxseg.model.metrics import confusion_matrix, confusion_per_example
from fluxseg.training.state import TrainState


class StepMetrics(struct.PyTreeNode):
    """Sums over a global batch; they stay on the device until somebody asks.

    Attributes:
        loss_sum: float32 scalar, weighted loss summed over pixels.
        weight_sum: float32 scalar, sum of the weights.
        confusion: `[2, 2]` int32, truth by prediction, background and neuron.
        grad_norm: float32 scalar, global norm of the gradient; 0 in evaluation.
    """

    loss_sum: jax.Array
    weight_sum: jax.Array
    confusion: jax.Array
    grad_norm: jax.Array


def sum_gradients(
    state: TrainState,
    batch: dict[str, jax.Array],
    *,
    axis_name: str | None = None,
    parts: int = 1,
) -> tuple[Any, StepMetrics]:
    """Compute the gradient of the weighted loss summed over the rows of a batch that are here.

    Sums add up over parts (`add_gradients`) and devices (`add_over_devices`) and are divided once
    (`mean_gradients`), so that parts and devices with unequal weights (padding, few neurons) count
    as they should. Dropout depends on the number of a row in the global batch, and so neither on
    parts nor on devices.

    Args:
        state: current state.
        batch: image `[B, H, W, 1]`, label `[B, H, W]`, valid `[B, H, W]`. With several parts also
            row `[B]` int32, the numbers of these rows in the global batch.
        axis_name: name of the device axis under `jax.pmap` or `jax.shard_map`, over which the
            batch is divided; None under `jax.jit`, where the compiler sees the whole batch.
        parts: number of the equal parts of the global batch of which this is one.

    Returns:
        Gradients like `state.params`, float32, and the metrics of the batch but for `grad_norm`.
    """
    rows = _rows(batch, axis_name, parts)
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
    return grads, StepMetrics(total, weight, confusion, jnp.zeros(()))


def add_over_devices(grads: Any, metrics: StepMetrics, axis_name: str) -> tuple[Any, StepMetrics]:
    """Add up over devices what `sum_gradients` returned on each.

    All floating sums travel in one vector, since a message has its price whatever its length, and
    the counts in another, as only integers stay exact.

    Args:
        grads: gradients.
        metrics: sums of the metrics.
        axis_name: name of the device axis.

    Returns:
        The same, of all devices.
    """
    values, restore = jax.flatten_util.ravel_pytree((grads, metrics.loss_sum, metrics.weight_sum))
    values, confusion = jax.lax.psum(values, axis_name), jax.lax.psum(metrics.confusion, axis_name)
    grads, total, weight = restore(values)
    return grads, StepMetrics(total, weight, confusion, jnp.zeros(()))


def mean_gradients(sums: Any, metrics: StepMetrics) -> tuple[Any, StepMetrics]:
    """Divide summed gradients by the sum of weights.

    Args:
        sums: from `sum_gradients`, added up over parts and devices.
        metrics: likewise.

    Returns:
        Gradients of the weighted mean loss, and the metrics with their norm.
    """
    # A batch of padding alone has no weight and no gradient.
    weight = jnp.where(metrics.weight_sum > 0, metrics.weight_sum, 1)
    grads = jax.tree.map(lambda g: g / weight, sums)
    return grads, metrics.replace(grad_norm=optax.tree.norm(grads))


def compute_gradients(
    state: TrainState, batch: dict[str, jax.Array], *, axis_name: str | None = None
) -> tuple[Any, StepMetrics]:
    """Compute the gradient of the weighted mean loss over the global batch.

    Args:
        state: current state.
        batch: see `sum_gradients`.
        axis_name: see `sum_gradients`.

    Returns:
        Gradients like `state.params`, and the metrics of the batch.
    """
    sums = sum_gradients(state, batch, axis_name=axis_name)
    if axis_name is not None:
        sums = add_over_devices(*sums, axis_name)
    return mean_gradients(*sums)


def _rows(batch: dict[str, jax.Array], axis_name: str | None, parts: int) -> Rows | None:
    """Return which rows of the global batch these are; None if they are all."""
    if axis_name is None and parts == 1:
        return None
    size = batch["image"].shape[0]
    devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
    if "row" in batch:
        return Rows(batch["row"], size * devices * parts)
    return Rows(jax.lax.axis_index(axis_name) * size + jnp.arange(size), size * devices)


def _vary(params: Any, axis_name: str) -> Any:
    # Under shard_map the gradient with respect to an unvarying value is summed over the devices
    # by itself, and the explicit psum would count it once more for each device.
    def mark(leaf: jax.Array) -> jax.Array:
        if axis_name in getattr(jax.typeof(leaf), "vma", frozenset()):
            return leaf
        return jax.lax.pcast(leaf, axis_name, to="varying")

    return jax.tree.map(mark, params)


def train_step(
    state: TrainState, batch: dict[str, jax.Array], *, axis_name: str | None = None
) -> tuple[TrainState, StepMetrics]:
    """Take one optimiser step.

    Pure: wrap it in `jax.jit` (batch sharded over a mesh), `jax.pmap` with
    `in_axes=(None, 0), out_axes=(None, 0)` or `jax.shard_map`; or take `make_train_step`, which
    compiles it as training does. On CPUs that takes about two thirds of the time of a plain
    `jax.jit` (see `fluxseg.model.convolutions.compiler_options`).

    Args:
        state: current state.
        batch: see `sum_gradients`.
        axis_name: see `sum_gradients`.

    Returns:
        The next state, and the metrics of this batch before the update.
    """
    grads, metrics = compute_gradients(state, batch, axis_name=axis_name)
    return apply_gradients(state, grads), metrics


def zero_sums(params: Any) -> tuple[Any, StepMetrics]:
    """Return what `add_gradients` begins with.

    Args:
        params: parameters of the network.

    Returns:
        Zeros in the form of what `sum_gradients` returns.
    """
    zero = jnp.zeros(())
    metrics = StepMetrics(zero, zero, jnp.zeros((2, 2), jnp.int32), zero)
    return jax.tree.map(jnp.zeros_like, params), metrics


def add_gradients(
    state: TrainState,
    sums: tuple[Any, StepMetrics],
    batch: dict[str, jax.Array],
    *,
    parts: int,
    axis_name: str | None = None,
) -> tuple[Any, StepMetrics]:
    """Add the gradients and metrics of one more part of a batch to those of the parts before it.

    Args:
        state: current state.
        sums: what this function returned for the parts before, or `zero_sums`.
        batch: the part, see `sum_gradients`.
        parts: number of parts of the batch.
        axis_name: see `sum_gradients`.

    Returns:
        The sums, of this device alone.
    """
    more = sum_gradients(state, batch, axis_name=axis_name, parts=parts)
    return jax.tree.map(jnp.add, sums, more)


def finish_step(state: TrainState, sums: tuple[Any, StepMetrics]) -> tuple[TrainState, StepMetrics]:
    """Take one optimiser step with the gradients of all parts of a batch.

    Args:
        state: current state.
        sums: from `add_gradients`, added up over devices.

    Returns:
        As `train_step`.
    """
    grads, metrics = mean_gradients(*sums)
    return apply_gradients(state, grads), metrics


def apply_gradients(state: TrainState, grads: Any) -> TrainState:
    """Update parameters, their running average and the optimiser's state.

    Args:
        state: current state.
        grads: like `state.params`.

    Returns:
        The next state.
    """
    updates, opt_state = state.tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    step = state.step + 1
    ema_params = state.ema_params
    if ema_params is not None:
        # The average forgets its random start quickly and slows down to `ema_decay`.
        decay = jnp.minimum(state.ema_decay, (1 + step) / (10 + step))
        ema_params = optax.incremental_update(params, ema_params, 1 - decay)
    return state.replace(step=step, params=params, opt_state=opt_state, ema_params=ema_params)


def eval_step(
    state: TrainState, batch: dict[str, jax.Array], *, axis_name: str | None = None
) -> tuple[StepMetrics, jax.Array]:
    """Score one batch without dropout.

    Args:
        state: its `eval_params` are used.
        batch: see `sum_gradients`; examples whose `valid` is 0 count nothing.
        axis_name: see `sum_gradients`.

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
