"""The compiled programs of training and evaluation on a mesh of devices.

On one device they are the steps themselves. On several, each device computes its rows alone, and
the devices tell each other their sums once a step: one all-reduce for all floating sums and one
for the counts, by construction and not by the compiler's favour.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fluxseg.model.convolutions import compiler_options
from fluxseg.training.state import TrainState
from fluxseg.training.steps import (
    StepMetrics,
    add_gradients,
    add_over_devices,
    eval_step,
    finish_step,
    sum_gradients,
    train_step,
    zero_sums,
)

AXIS = "data"
"""Name of the mesh axis over which batches are divided."""

WHOLE, DIVIDED = PartitionSpec(), PartitionSpec(AXIS)
"""A copy on each device, or rows divided among them."""


class PartPrograms(NamedTuple):
    """The programs of a step in several parts.

    Attributes:
        zeros: from the parameters to the sums to begin with, each device's own.
        add: from the state, the sums, which are consumed, and a part to the sums.
        finish: from the state, which is consumed, and the sums to the next state and metrics.
    """

    zeros: Any
    add: Any
    finish: Any


def whole_program(mesh: Mesh, placed: Any) -> Any:
    """Wire up `train_step` for whole batches divided over a mesh.

    Args:
        mesh: the devices.
        placed: sharding of each array of the state.

    Returns:
        A jitted function, which consumes its state.
    """
    whole, divided = _shardings(mesh)
    return jax.jit(
        train_step if mesh.size == 1 else _train_step_over(mesh),
        in_shardings=(placed, divided),
        out_shardings=(placed, whole),
        donate_argnums=0,
        compiler_options=compiler_options(),
    )


def part_programs(mesh: Mesh, placed: Any, parts: int) -> PartPrograms:
    """Wire up a step in several parts, each divided over a mesh.

    Args:
        mesh: the devices.
        placed: sharding of each array of the state.
        parts: number of parts.

    Returns:
        The programs; `add` takes a state `without_optimizer`.
    """
    whole, divided = _shardings(mesh)
    # Each device has sums of its own until the last part is done.
    own = whole if mesh.size == 1 else divided
    compile_for = functools.partial(jax.jit, compiler_options=compiler_options())
    # A program of its own for the first part would take as long to compile as that for the others.
    zeros = jax.jit(_zero_sums(mesh), in_shardings=whole, out_shardings=own)
    add = compile_for(
        _add_gradients(mesh, parts),
        in_shardings=(without_optimizer(placed), own, divided),
        out_shardings=own,
        donate_argnums=1,
    )
    finish = compile_for(
        finish_step if mesh.size == 1 else _finish_step_over(mesh),
        in_shardings=(placed, own),
        out_shardings=(placed, whole),
        donate_argnums=0,
    )
    return PartPrograms(zeros, add, finish)


def make_eval_step(mesh: Mesh) -> Any:
    """Wire up `eval_step` for batches divided over a mesh; its results are on every device."""
    whole, divided = _shardings(mesh)

    @functools.wraps(eval_step)
    def step(state: TrainState, batch: dict[str, jax.Array]) -> tuple[StepMetrics, jax.Array]:
        # The average may be divided among the devices.
        params = jax.lax.with_sharding_constraint(state.eval_params, whole)
        return eval_step(state.replace(params=params, ema_params=None), batch)

    return jax.jit(step, in_shardings=(None, divided), out_shardings=whole)


def without_optimizer(state: TrainState) -> TrainState:
    """Return the part of a state, or of its shardings, from which gradients are computed."""
    return state.replace(opt_state=None, ema_params=None)


def _train_step_over(mesh: Mesh) -> Callable[..., Any]:
    def sums_over(network: TrainState, batch: dict[str, jax.Array]) -> Any:
        return add_over_devices(*sum_gradients(network, batch, axis_name=AXIS), AXIS)

    sums = jax.shard_map(sums_over, mesh=mesh, in_specs=(WHOLE, DIVIDED), out_specs=WHOLE)

    @functools.wraps(train_step)
    def step(state: TrainState, batch: dict[str, jax.Array]) -> tuple[TrainState, StepMetrics]:
        return finish_step(state, sums(without_optimizer(state), batch))

    return step


def _zero_sums(mesh: Mesh) -> Callable[..., Any]:
    if mesh.size == 1:
        return zero_sums

    @functools.wraps(zero_sums)
    def zeros(params: Any) -> Any:
        return jax.tree.map(
            lambda leaf: jnp.zeros((mesh.size, *leaf.shape), leaf.dtype), zero_sums(params)
        )

    return zeros


def _add_gradients(mesh: Mesh, parts: int) -> Callable[..., Any]:
    if mesh.size == 1:
        return functools.wraps(add_gradients)(functools.partial(add_gradients, parts=parts))

    @functools.wraps(add_gradients)
    def add(network: TrainState, sums: Any, batch: dict[str, jax.Array]) -> Any:
        sums = jax.tree.map(lambda leaf: leaf[0], sums)
        sums = add_gradients(network, sums, batch, parts=parts, axis_name=AXIS)
        return jax.tree.map(lambda leaf: leaf[None], sums)

    specs = (WHOLE, DIVIDED, DIVIDED)
    return jax.shard_map(add, mesh=mesh, in_specs=specs, out_specs=DIVIDED)


def _finish_step_over(mesh: Mesh) -> Callable[..., Any]:
    def sums_over(sums: Any) -> Any:
        grads, metrics = jax.tree.map(lambda leaf: leaf[0], sums)
        return add_over_devices(grads, metrics, AXIS)

    total = jax.shard_map(sums_over, mesh=mesh, in_specs=DIVIDED, out_specs=WHOLE)

    @functools.wraps(finish_step)
    def finish(state: TrainState, sums: Any) -> tuple[TrainState, StepMetrics]:
        return finish_step(state, total(sums))

    return finish


def _shardings(mesh: Mesh) -> tuple[NamedSharding, NamedSharding]:
    return NamedSharding(mesh, WHOLE), NamedSharding(mesh, DIVIDED)
