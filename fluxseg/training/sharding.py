"""The mesh of devices, what is put on it, and the steps that run there."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from fluxseg.config import Config
from fluxseg.errors import ConfigError
from fluxseg.training.memory import MemoryUse, measure_memory
from fluxseg.training.programs import (
    AXIS,
    DIVIDED,
    WHOLE,
    part_programs,
    whole_program,
    without_optimizer,
)
from fluxseg.training.state import TrainState
from fluxseg.training.steps import StepMetrics

CPU_PIXELS = 512 * 512
"""Pixels that CPUs compute at once: with more, what a layer leaves falls out of their caches."""

ON_DEVICE = ("image", "label", "valid")
"""The parts of a batch that the steps need."""


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """Make a mesh of all devices of all processes, along one axis."""
    devices = devices if devices is not None else jax.devices()
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raise `ConfigError` unless the devices can share a batch equally."""
    if batch_size % mesh.size:
        raise ConfigError(
            f"train.batch_size must be a multiple of the {mesh.size} devices, got {batch_size}"
        )


def count_parts(config: Config, mesh: Mesh) -> int:
    """Count the parts in which each device computes its rows of a batch.

    Args:
        config: `train.batch_size`, `train.micro_batch` and `data.tile`.
        mesh: the devices.

    Returns:
        The least number of equal parts with at most `train.micro_batch` crops each.
    """
    rows = config.train.batch_size // mesh.size
    most = config.train.micro_batch
    if most == 0:
        on_cpu = mesh.devices.flat[0].platform == "cpu"
        most = max(CPU_PIXELS // config.data.tile**2, 1) if on_cpu else rows
    return next(
        parts for parts in range(1, rows + 1) if rows % parts == 0 and rows // parts <= most
    )


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Put this process's rows of a batch on its devices, as parts of the global batch.

    Args:
        batch: arrays `[B / processes, ...]`; `image`, `label`, `valid`, and `row` if it is there.
        mesh: from `make_mesh`.

    Returns:
        Global arrays `[B, ...]`, divided over the devices.
    """
    sharding = NamedSharding(mesh, DIVIDED)
    names = [*ON_DEVICE, *(["row"] if "row" in batch else [])]
    return {name: jax.make_array_from_process_local_data(sharding, batch[name]) for name in names}


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Put a whole copy of a tree of arrays on every device; every process must have the same."""
    return _put(tree, jax.tree.map(lambda _: NamedSharding(mesh, WHOLE), tree))


def _put(tree: Any, shardings: Any) -> Any:
    if all(sharding.is_fully_addressable for sharding in jax.tree.leaves(shardings)):
        return jax.device_put(tree, shardings)

    def put(leaf: jax.Array, sharding: NamedSharding) -> jax.Array:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = put(jax.random.key_data(leaf), sharding)
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        values = np.asarray(leaf)
        return jax.make_array_from_callback(values.shape, sharding, values.__getitem__)

    return jax.tree.map(put, tree, shardings)


def state_shardings(state: TrainState, mesh: Mesh, shard_optimizer: bool = False) -> TrainState:
    """Say where each array of a state belongs.

    Args:
        state: the state, or its shapes.
        mesh: from `make_mesh`.
        shard_optimizer: divide the kernels' optimiser state and running averages among the
            devices, each along its largest axis that can be divided equally, in place of a copy
            on each device (stage 1 of ZeRO; Rajbhandari et al., SC 2020, arXiv:1910.02054).

    Returns:
        A sharding for each array.
    """

    def divided(leaf: jax.Array) -> NamedSharding:
        sides = [side if side % mesh.size == 0 else 0 for side in leaf.shape]
        # Biases and the like are not worth a message.
        if leaf.ndim < 2 or max(sides) == 0:
            return NamedSharding(mesh, WHOLE)
        largest = sides.index(max(sides))
        return NamedSharding(mesh, PartitionSpec(*[None] * largest, AXIS))

    placed: TrainState = jax.tree.map(lambda _: NamedSharding(mesh, WHOLE), state)
    if not shard_optimizer:
        return placed
    averages = jax.tree.map(divided, state.ema_params)
    return placed.replace(opt_state=jax.tree.map(divided, state.opt_state), ema_params=averages)


def place_state(state: TrainState, mesh: Mesh, shard_optimizer: bool = False) -> TrainState:
    """Put a state on the devices; every process must have the same.

    Args:
        state: the state, not yet divided.
        mesh: from `make_mesh`.
        shard_optimizer: see `state_shardings`.

    Returns:
        The state, whose shardings `make_train_step` keeps. Checkpoints do not depend on them.
    """
    placed: TrainState = _put(state, state_shardings(state, mesh, shard_optimizer))
    return placed


def make_train_step(
    mesh: Mesh | None = None,
    parts: int = 1,
    check: Callable[[MemoryUse], None] | None = None,
    evaluate: jax.stages.Wrapped | None = None,
) -> Callable[..., tuple[TrainState, StepMetrics]]:
    """Compile `train_step` for batches of the host, which it divides over a mesh.

    In several parts, what a step needs of memory is that of one part. The loop over them is the
    host's: inside a compiled loop convolutions are tens of times slower on CPUs, and caches hold
    a small part better than a large one.

    The results depend on parts and devices only in the order of sums.

    Args:
        mesh: from `make_mesh`; by default all devices.
        parts: into how many parts each device's rows of a batch are divided; the gradients of
            all parts are added up before the one update.
        check: told, before the first step is taken, what memory it needs; an error that it
            raises is passed on.
        evaluate: `make_eval_step`'s program, which is to run on as many rows as one part has:
            what it needs is part of what `check` is told.

    Returns:
        Function from a state, which is consumed, and this process's rows of a batch (`image`,
        `label` and `valid`, see `train_step`) to the next state and the metrics. The state stays
        where `place_state` has put it.
    """
    mesh = mesh or make_mesh()
    make = _make_step if parts == 1 else functools.partial(_make_step_in_parts, parts)
    step: Callable[..., tuple[TrainState, StepMetrics]] | None = None

    def train(state: TrainState, batch: Mapping[str, np.ndarray]) -> tuple[TrainState, StepMetrics]:
        nonlocal step
        if step is None:
            step = make(mesh, _shardings_of(state, mesh), check, evaluate)
        return step(state, batch)

    return train


def _make_step(mesh: Mesh, placed: Any, check: Any, evaluate: Any) -> Callable[..., Any]:
    program = whole_program(mesh, placed)

    def step(state: TrainState, batch: Mapping[str, np.ndarray]) -> Any:
        nonlocal check
        rows = put_batch(batch, mesh)
        if check:
            # The call below finds what is compiled here.
            training = (program.lower(state, rows).compile(), None)
            check(measure_memory(state, [training, *_evaluating(evaluate, state, rows)]))
            check = None
        return program(state, rows)

    return step


def _make_step_in_parts(
    parts: int, mesh: Mesh, placed: Any, check: Any, evaluate: Any
) -> Callable[..., Any]:
    zeros, add, finish = part_programs(mesh, placed, parts)

    def step(state: TrainState, batch: Mapping[str, np.ndarray]) -> Any:
        nonlocal check
        network = without_optimizer(state)
        sums = zeros(state.params)
        for piece in divide_rows(batch, parts):
            rows = put_batch(piece, mesh)
            if check:
                kept = (state.opt_state, state.ema_params)
                adding = add.lower(network, sums, rows).compile()
                finishing = finish.lower(state, sums).compile()
                training = [(adding, kept), (finishing, None)]
                check(measure_memory(state, [*training, *_evaluating(evaluate, state, rows)]))
                check = None
            sums = add(network, sums, rows)
        return finish(state, sums)

    return step


def _evaluating(
    evaluate: Any, state: TrainState, rows: Mapping[str, jax.Array]
) -> list[tuple[jax.stages.Compiled, Any]]:
    if evaluate is None:
        return []
    batch = {name: rows[name] for name in ON_DEVICE}
    # Of the parameters and their average it is given one.
    kept = (state.opt_state, None if state.ema_params is None else state.params)
    return [(evaluate.lower(state, batch).compile(), kept)]


def divide_rows(
    batch: Mapping[str, np.ndarray], parts: int, axis: int = 0
) -> list[dict[str, np.ndarray]]:
    """Divide this process's rows of a batch into parts.

    Args:
        batch: `image`, `label` and `valid`.
        parts: number of parts, which divides the number of rows.
        axis: that of the rows.

    Returns:
        The parts, each with `row`, the numbers of its rows in the global batch.
    """
    size = batch["image"].shape[axis]
    # This process's rows follow those of the processes before it.
    row = np.arange(size, dtype=np.int32) + size * jax.process_index()
    pieces = {name: np.array_split(batch[name], parts, axis) for name in ON_DEVICE}
    pieces["row"] = np.array_split(row, parts)
    return [{name: piece[part] for name, piece in pieces.items()} for part in range(parts)]


def _shardings_of(state: TrainState, mesh: Mesh) -> TrainState:
    def sharding(leaf: Any) -> NamedSharding:
        found = getattr(leaf, "sharding", None)
        if isinstance(found, NamedSharding) and found.mesh == mesh:
            return found
        return NamedSharding(mesh, WHOLE)

    return jax.tree.map(sharding, state)
