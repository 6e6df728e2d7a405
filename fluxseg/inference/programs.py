"""Compiled networks, kept whole: a later process that uses one neither traces nor lowers it.

JAX's own cache is asked with the lowered program, and to get that far takes four times as long as
to read the compiled one. Here what the program is made of is the key: architecture, size of the
image, source code, versions, processor. On one CPU device alone; elsewhere JAX's cache must do.
"""

import collections
import functools
import hashlib
import logging
import os
import pickle
import platform
import threading
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import serialize_executable

from fluxseg import model
from fluxseg.compilation import enable_compilation_cache
from fluxseg.config import ModelConfig
from fluxseg.errors import FluxsegError
from fluxseg.inference import probability
from fluxseg.io.files import atomic_path

logger = logging.getLogger(__name__)
FORMAT = 2
"""Programs that were kept in another way have another key."""
_programs: dict[tuple[ModelConfig, tuple[int, ...]], Any] = {}
_locks: dict[Any, threading.Lock] = collections.defaultdict(threading.Lock)


def network_probability(
    config: ModelConfig, params: Any, images: np.ndarray, temperature: float
) -> Any:
    """Do as `neuron_probability` does with a network of this architecture; see there.

    The result, `[B, H, W]` float32, may still be to be computed.
    """
    enable_compilation_cache()
    if jax.default_backend() != "cpu" or jax.device_count() > 1:
        return probability.neuron_probability(apply_of(config), params, images, temperature)
    key, arguments = (config, images.shape), (params, images, np.float32(temperature))
    with _locks[key]:
        # Threads that meet the same size wait for one compilation.
        if key not in _programs:
            _programs[key], result = _prepare(config, arguments)
            return result
    return _programs[key](*arguments)


@functools.cache
def apply_of(config: ModelConfig) -> probability.ApplyFn:
    """Return `apply` of a network; one object for equal architectures."""
    from fluxseg.model.unet import create_unet

    return create_unet(config).apply


def _prepare(config: ModelConfig, arguments: tuple[Any, ...]) -> tuple[Any, Any]:
    """Read a compiled network, or compile it and keep it; return it and its first result."""
    folder = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    path = Path(folder) / f"fluxseg-{_key(config, arguments[1].shape)}" if folder else None
    if path and path.exists() and (found := _try_kept(path, arguments)):
        return found
    compiled = _compile(config, arguments)
    try:
        if path:
            content = pickle.dumps(serialize_executable.serialize(compiled))
            with atomic_path(path) as temporary:
                temporary.write_bytes(content)
            if found := _try_kept(path, arguments):
                return found
            path.unlink(missing_ok=True)
    except (FluxsegError, OSError, ValueError, NotImplementedError) as error:
        logger.debug("%s: not kept: %s", path, error)
    return compiled, compiled(*arguments)


def _try_kept(path: Path, arguments: tuple[Any, ...]) -> tuple[Any, Any] | None:
    """Return a kept program and its result; None if it is damaged or another machine's."""
    try:
        # What lies there is run in any case: it is code.
        content = pickle.loads(path.read_bytes())  # noqa: S301
        program = serialize_executable.deserialize_and_load(*content)
        # That a part of it is missing shows when it runs.
        return program, jax.block_until_ready(program(*arguments))
    except Exception as error:  # In whatever way.
        logger.debug("%s: compiled anew: %s", path, error)
        return None


def _compile(config: ModelConfig, arguments: tuple[Any, ...]) -> Any:
    def network(params: Any, images: jax.Array, temperature: jax.Array) -> jax.Array:
        return probability.neuron_probability(apply_of(config), params, images, temperature)

    # What JAX has read from its own cache it cannot store whole again: parts are missing. By a name
    # that is never used again nothing is found there.
    network.__name__ = f"network_{os.urandom(8).hex()}"
    described = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments)
    return jax.jit(network).lower(*described).compile()


def _key(config: ModelConfig, shape: tuple[int, ...]) -> str:
    flags = os.environ.get("XLA_FLAGS", "")
    return hashlib.sha256(
        repr((FORMAT, config, shape, flags, _surroundings())).encode()
    ).hexdigest()


@functools.cache
def _surroundings() -> tuple[str, ...]:
    """Return what a compiled network depends on beside its architecture and shape."""
    processor = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        # Of the first core: model and instructions.
        processor = cpuinfo.read_text().partition("\n\n")[0]
        wanted = ("model name", "flags", "Features", "CPU part")
        processor = "\n".join(line for line in processor.splitlines() if line.startswith(wanted))
    sources = sorted([*Path(model.__path__[0]).glob("*.py"), Path(probability.__file__)])
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    version = jax.devices()[0].client.platform_version
    return jax.__version__, version, platform.machine(), processor, digest
