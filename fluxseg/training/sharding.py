"""The mesh of devices, what lies on them, and the compiled steps.

The state is replicated on every device and the batch is sharded over them: `jax.jit` sees one
program for the whole batch, and the compiler adds the messages between devices (one all-reduce of
the gradients and one of the counts a step).
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from fluxseg.config import Config
from fluxseg.errors import ConfigError
from fluxseg.model.convolutions import compiler_options
from fluxseg.training import steps
from fluxseg.training.profiling import log_memory_once
from fluxseg.training.state import TrainState

AXIS = "data"  # name of the mesh axis over which batches are sharded
CPU_PIXELS = 512 * 512  # of a micro-batch: with more, a layer falls out of the caches
ON_DEVICE = ("image", "label", "valid")  # the parts of a batch that the steps need

TrainStep = Callable[[TrainState, Mapping[str, Any]], tuple[TrainState, steps.StepMetrics]]


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """Make a mesh of all devices of all processes, along one axis."""
    devices = devices if devices is not None else jax.devices()
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of a whole copy on each device."""
    return NamedSharding(mesh, PartitionSpec())


def sharded(mesh: Mesh) -> NamedSharding:
    """Return the sharding of rows over the devices."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def make_train_step(mesh: Mesh | None = None, micro_batches: int = 1) -> TrainStep:
    """Compile `train_step` for batches of the host, which it shards over a mesh.

    With several micro-batches the step is the same two functions that `train_step` calls, compiled
    apart: gradients are summed over the micro-batches, then applied once. What a step needs of
    memory is that of one micro-batch. The loop over them is the host's: inside a compiled loop
    convolutions are tens of times slower on CPUs, and caches hold a small batch better than a large
    one. The results depend on micro-batches and devices only in the order of sums. Returns a
    function from a state, which is consumed, and this process's rows of a batch (`image`, `label`
    and `valid`, see `sum_gradients`) to the next state and the metrics.
    """
    mesh = mesh or make_mesh()
    same, rows = replicated(mesh), sharded(mesh)
    compile_step = functools.partial(
        jax.jit, out_shardings=same, compiler_options=compiler_options()
    )
    if micro_batches == 1:
        step = log_memory_once(
            compile_step(steps.train_step, in_shardings=(same, rows), donate_argnums=0)
        )
        return lambda state, batch: step(state, put_batch(batch, mesh))

    # A program of its own for the first micro-batch would take as long to compile as this one.
    begin = jax.jit(steps.zero_gradients, in_shardings=same, out_shardings=same)
    add_named = functools.partial(steps.add_gradients, micro_batches=micro_batches)
    add = log_memory_once(
        compile_step(
            functools.wraps(steps.add_gradients)(add_named),
            in_shardings=(same, same, rows),
            donate_argnums=1,
        )
    )
    apply = compile_step(steps.apply_gradients, in_shardings=same, donate_argnums=0)

    def step_by_step(state: TrainState, batch: Mapping[str, np.ndarray]) -> Any:
        sums = begin(state.params)
        network = state.replace(opt_state=None, ema_params=None)
        for micro_batch in split_rows(batch, micro_batches):
            sums = add(network, sums, put_batch(micro_batch, mesh))
        return apply(state, sums)

    return step_by_step


def make_eval_step(mesh: Mesh) -> Any:
    """Compile `eval_step` for batches sharded over a mesh; its results are on every device."""
    return jax.jit(
        steps.eval_step, in_shardings=(None, sharded(mesh)), out_shardings=replicated(mesh)
    )


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raise `ConfigError` unless a batch can be sharded equally."""
    if batch_size % mesh.size:
        raise ConfigError(
            f"train.batch_size must be a multiple of the {mesh.size} devices, got {batch_size}"
        )


def count_micro_batches(config: Config, mesh: Mesh) -> int:
    """Return the least number of equal micro-batches of at most `train.micro_batch` crops each.

    They divide each device's rows of a batch.
    """
    rows = config.train.batch_size // mesh.size
    most = config.train.micro_batch
    if most == 0:
        on_cpu = mesh.devices.flat[0].platform == "cpu"
        most = max(CPU_PIXELS // config.data.tile**2, 1) if on_cpu else rows
    return next(n for n in range(1, rows + 1) if rows % n == 0 and rows // n <= most)


def split_rows(batch: Mapping[str, np.ndarray], micro_batches: int) -> list[dict[str, np.ndarray]]:
    """Split this process's rows of a batch into micro-batches, whose number divides the rows'.

    Each has `row`, the numbers of its rows in the global batch.
    """
    size = len(batch["image"])
    # This process's rows follow those of the processes before it.
    row = np.arange(size, dtype=np.int32) + size * jax.process_index()
    arrays = {**{name: batch[name] for name in ON_DEVICE}, "row": row}
    pieces = {name: np.split(array, micro_batches) for name, array in arrays.items()}
    return [{name: piece[n] for name, piece in pieces.items()} for n in range(micro_batches)]


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Put this process's rows of a batch, `[B / processes, ...]`, on its devices.

    Returns `image`, `label`, `valid`, and `row` if it is there: global arrays `[B, ...]`, sharded.
    """
    names = [*ON_DEVICE, *(["row"] if "row" in batch else [])]
    return {
        name: jax.make_array_from_process_local_data(sharded(mesh), batch[name]) for name in names
    }


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Put a whole copy of a tree of arrays on every device; every process must have the same."""
    sharding = replicated(mesh)
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def put(leaf: jax.Array) -> jax.Array:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(
                put(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf)
            )
        values = np.asarray(leaf)
        return jax.make_array_from_callback(values.shape, sharding, values.__getitem__)

    return jax.tree.map(put, tree)


def gather(tree: Any) -> Any:
    """Return a tree of replicated arrays as it lies on this process's first device."""
    if jax.process_count() == 1:
        return tree
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)
