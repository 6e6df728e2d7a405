"""The memory that a step needs on each device, known before the first one is taken.

The compiler has laid out every buffer of a program when it is compiled, so nothing is estimated.
"""

import logging
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from fluxseg.config import Config
from fluxseg.errors import ConfigError

logger = logging.getLogger(__name__)

MB = 1e6


class MemoryUse(NamedTuple):
    """Bytes on one device while a training step is computed.

    Attributes:
        parameters: the network's parameters.
        optimizer: state of the optimiser and running average of the parameters.
        step: everything else: the batch, what layers leave for the gradient, the gradient.
    """

    parameters: int
    optimizer: int
    step: int

    @property
    def state(self) -> int:
        """Bytes that stay between steps."""
        return self.parameters + self.optimizer

    @property
    def total(self) -> int:
        """Bytes in all."""
        return self.state + self.step

    def __str__(self) -> str:
        """Return the figures in MB."""
        return (
            f"{_mb(self.total)} MB (parameters {_mb(self.parameters)}, "
            f"optimiser {_mb(self.optimizer)}, step {_mb(self.step)})"
        )


def measure_memory(state: Any, programs: Sequence[tuple[jax.stages.Compiled, Any]]) -> MemoryUse:
    """Measure what the programs of a step need on one device, one after the other.

    Args:
        state: the `TrainState` that they start from, as it lies on the devices.
        programs: each compiled program, and a tree of the arrays that are kept meanwhile although
            it is not given them.

    Returns:
        The bytes at the time when most are needed.
    """
    parameters = bytes_per_device(state.params)
    optimizer = bytes_per_device((state.opt_state, state.ema_params))
    peak = max(program_bytes(program) + bytes_per_device(kept) for program, kept in programs)
    return MemoryUse(parameters, optimizer, max(peak - parameters - optimizer, 0))


def program_bytes(program: jax.stages.Compiled) -> int:
    """Return the bytes of a compiled program's arguments, results and temporaries on one device.

    Results that take the place of an argument count once.
    """
    found = program.memory_analysis()
    if found is None:
        return 0
    buffers = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    return int(buffers + found.temp_size_in_bytes + found.generated_code_size_in_bytes)


def bytes_per_device(tree: Any) -> int:
    """Return the bytes of a tree of arrays on one device, each by its sharding."""

    def size(leaf: jax.Array) -> int:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.eval_shape(jax.random.key_data, leaf)
            return math.prod(leaf.shape) * leaf.dtype.itemsize
        return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize

    return sum(size(leaf) for leaf in jax.tree.leaves(tree))


def device_capacity(mesh: Mesh, state: int = 0) -> int | None:
    """Return the bytes that one device has for a training step.

    GPUs and TPUs say themselves what JAX may take. CPUs share what the machine, or the control
    group of the process, has left; what the state takes there already is added.

    Args:
        mesh: the devices.
        state: bytes of the state on one device.

    Returns:
        The bytes; None where that cannot be known.
    """
    device = mesh.local_devices[0]
    if device.platform != "cpu":
        limit = (device.memory_stats() or {}).get("bytes_limit")
        return None if limit is None else int(limit)
    free = host_memory()
    return None if free is None else free // len(mesh.local_devices) + state


def host_memory(root: Path = Path("/")) -> int | None:
    """Return the bytes that this process may still take; None where Linux does not say.

    It is the lesser of what the machine has and what the process's control group (version 2) has,
    the file caches that can be given up counted as free.

    Args:
        root: where the file systems `proc` and `sys` are.
    """
    try:
        text = (root / "proc/meminfo").read_text(encoding="ascii")
        kilobytes = re.search(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)
        free = int(kilobytes[1]) * 1024 if kilobytes else None
    except (OSError, ValueError):
        return None
    group = root / "sys/fs/cgroup"
    try:
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        taken = int((group / "memory.current").read_text(encoding="ascii"))
        files = re.search(r"^inactive_file (\d+)$", (group / "memory.stat").read_text(), re.M)
    except (OSError, ValueError):
        return free
    left = max(limit - taken + (int(files[1]) if files else 0), 0)
    return left if free is None else min(free, left)


def check_memory(use: MemoryUse, config: Config, mesh: Mesh, parts: int) -> None:
    """Log what memory a training step needs, and refuse if a device has less.

    Args:
        use: from `measure_memory`.
        config: settings of the run, for the advice.
        mesh: the devices.
        parts: in how many parts a step is taken.

    Raises:
        ConfigError: if it will not fit, with the settings that need less.
    """
    capacity = device_capacity(mesh, use.state)
    logger.info("Memory per device: %s", use)
    if capacity is not None and use.total > capacity:
        raise ConfigError(
            f"a training step needs {use} on each device, which has {_mb(capacity)} MB. What "
            f"needs less: {'; '.join(advice(config, mesh, parts))}"
        )


def advice(config: Config, mesh: Mesh, parts: int) -> list[str]:
    """List the settings with which a training step needs less memory, the cheapest first.

    Args:
        config: settings that need too much.
        mesh: the devices.
        parts: in how many parts a step is taken with them.

    Returns:
        Phrases that name settings and values.
    """
    at_once = config.train.batch_size // mesh.size // parts
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    found = []
    if at_once > 1:
        found.append(f"train.micro_batch {at_once // 2} (the same results, in more parts)")
    if not config.model.remat:
        found.append("model.remat (the same results, longer steps)")
    if mesh.size > 1 and not config.train.shard_optimizer:
        found.append("train.shard_optimizer (the same results)")
    if not on_cpu and config.model.dtype == "float32":
        found.append("model.dtype bfloat16")
    return [*found, f"data.tile smaller than {config.data.tile}", "fewer model.features"]


def _mb(size: int) -> str:
    return f"{size / MB:.0f}" if size >= 10 * MB else f"{size / MB:.2g}"
