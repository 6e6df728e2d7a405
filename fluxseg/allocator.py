"""Memory settings of a process with which training and prediction run faster.

A training step asks for some hundred megabytes and gives them back, again and again. By default
glibc (the C library of most Linux systems) returns such memory to the system at once, which then
has to hand out and clear every page anew; that is a quarter to a third of a step on a CPU. With
these settings the process keeps what it has freed, to use it again, until it ends: its memory
stays at its peak between steps. `experiments/benchmarks/train_step.py` measures it.

`FLUXSEG_ALLOCATOR=default` switches this off. Malloc settings of the user's own, in
`GLIBC_TUNABLES` or the older `MALLOC_...` variables, and other allocators in `LD_PRELOAD` are
left alone. `import fluxseg` and calls from Python never do any of it.
"""

import ctypes
import os
import sys
from collections.abc import Mapping

SWITCH = "FLUXSEG_ALLOCATOR"  # environment variable: "default" leaves the allocator as it is
SETTINGS = {
    # M_TRIM_THRESHOLD: the heap is never given back.
    -1: -1,
    # M_TOP_PAD: the heap grows by at least 256 MB; what is not touched takes no memory.
    -2: 256 * 2**20,
    # M_MMAP_MAX: large arrays come from the heap, which is kept, not from mappings.
    -4: 0,
    # M_ARENA_MAX: all threads share one heap, so that what one has freed another can use.
    -8: 1,
}
"""Parameters of `mallopt`, by their numbers in glibc's `malloc.h`."""


def is_chosen(environ: Mapping[str, str]) -> bool:
    """Tell whether the user has chosen memory settings, by environment variables."""
    return (
        SWITCH in environ
        or "glibc.malloc." in environ.get("GLIBC_TUNABLES", "")
        or "malloc" in environ.get("LD_PRELOAD", "")
        or any(name.startswith("MALLOC_") for name in environ)
    )


def tune_allocator() -> bool:
    """Keep freed memory in this process from now on; to be called first of all by a command.

    Returns whether that was done: only with glibc, and if the user has chosen no settings.
    """
    if not _has_glibc() or is_chosen(os.environ):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    made = [mallopt(parameter, value) for parameter, value in SETTINGS.items()]
    return all(made)


def _has_glibc() -> bool:
    if not sys.platform.startswith("linux"):
        return False
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (ValueError, OSError):
        return False
