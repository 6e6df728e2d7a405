"""The mesh of devices, and the steps compiled for it."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from fluxseg.config import Config
from fluxseg.errors import ConfigError
from fluxseg.model.convolutions import compiler_options
from fluxseg.training.steps import (
    add_gradients,
    eval_step,
    finish_step,
    train_step,
    zero_sums,
)

AXIS = "data"
"""Name of the mesh axis over which batches are divided."""

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
        batch: arrays `[B / processes, ...]`.
        mesh: from `make_mesh`.

    Returns:
        Global arrays `[B, ...]`, divided over the devices.
    """
    sharding = NamedSharding(mesh, PartitionSpec(AXIS))
    return {
        name: jax.make_array_from_process_local_data(sharding, batch[name]) for name in ON_DEVICE
    }


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Put a whole copy of a tree of arrays on every device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def make_train_step(mesh: Mesh, parts: int = 1) -> Callable[..., Any]:
    """Compile `train_step` for batches of the host, which it divides over a mesh.

    In several parts, what a step needs of memory is that of one part. The loop over them is the
    host's: inside a compiled loop convolutions are tens of times slower on CPUs, and caches hold
    a small part better than a large one.

    Args:
        mesh: from `make_mesh`.
        parts: into how many parts each device's rows of a batch are divided; the gradients of
            all parts are added up before the one update.

    Returns:
        Function from a state, which is consumed, and this process's rows of a batch to the next
        state and the metrics.
    """
    whole, divided = _shardings(mesh)
    compiled = functools.partial(jax.jit, compiler_options=compiler_options())
    if parts == 1:
        step = compiled(
            train_step,
            in_shardings=(whole, divided),
            out_shardings=whole,
            donate_argnames="state",
        )
        return lambda state, batch: step(state, put_batch(batch, mesh))
    # A program of its own for the first part would take as long to compile as that for the others.
    zeros = jax.jit(zero_sums, in_shardings=whole, out_shardings=whole)
    add = compiled(
        add_gradients,
        in_shardings=(whole, whole, divided, whole),
        out_shardings=whole,
        donate_argnames="sums",
    )
    finish = compiled(finish_step, in_shardings=whole, out_shardings=whole, donate_argnames="state")

    def step_in_parts(state: Any, batch: Mapping[str, np.ndarray]) -> Any:
        pieces = {name: np.array_split(batch[name], parts) for name in ON_DEVICE}
        sums = zeros(state.params)
        for part in range(parts):
            rows = put_batch({name: piece[part] for name, piece in pieces.items()}, mesh)
            sums = add(state, sums, rows, np.int32(part))
        return finish(state, sums)

    return step_in_parts


def make_eval_step(mesh: Mesh) -> Callable[..., Any]:
    """Compile `eval_step` for batches divided over a mesh; its results are on every device."""
    whole, divided = _shardings(mesh)
    return jax.jit(eval_step, in_shardings=(whole, divided), out_shardings=whole)


def _shardings(mesh: Mesh) -> tuple[NamedSharding, NamedSharding]:
    return NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(AXIS))
