"""The mesh of devices, and the steps compiled for it."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from fluxseg.errors import ConfigError
from fluxseg.training.steps import eval_step, train_step

AXIS = "data"
"""Name of the mesh axis over which batches are divided."""

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


def make_train_step(mesh: Mesh) -> Callable[..., Any]:
    """Compile `train_step` for batches divided over a mesh; the state passed in is consumed."""
    whole, divided = _shardings(mesh)
    return jax.jit(
        train_step,
        in_shardings=(whole, divided),
        out_shardings=whole,
        donate_argnames="state",
    )


def make_eval_step(mesh: Mesh) -> Callable[..., Any]:
    """Compile `eval_step` for batches divided over a mesh; its results are on every device."""
    whole, divided = _shardings(mesh)
    return jax.jit(eval_step, in_shardings=(whole, divided), out_shardings=whole)


def _shardings(mesh: Mesh) -> tuple[NamedSharding, NamedSharding]:
    return NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(AXIS))
