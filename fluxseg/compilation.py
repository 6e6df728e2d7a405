"""Compiled programs are kept between runs, in the user's cache folder."""

import os
import sys
from pathlib import Path


def cache_folder() -> Path:
    """Return the folder for fluxseg's own cache, as the operating system has it."""
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "fluxseg"


def enable_compilation_cache() -> None:
    """Let JAX keep compiled programs, so that the next process starts in seconds.

    What compiles calls it: loading and using a model, and training. Does nothing if the user has
    told JAX where they belong, by its setting `jax_compilation_cache_dir` or by the environment
    variable `JAX_COMPILATION_CACHE_DIR` (empty: nowhere), or if the folder cannot be written.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    folder = cache_folder() / "compiled"
    if jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # The many small programs of a start take longer to compile than to read.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    # JAX looks for a cache once, which a program that was compiled before this has made it do.
    compilation_cache.reset_cache()
