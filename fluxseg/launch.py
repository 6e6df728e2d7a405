"""How the commands begin: under memory settings with which training and prediction run faster.

A training step asks for some hundred megabytes and gives them back, again and again. By default
glibc (the C library of most Linux systems) returns such memory to the system at once, which then
has to hand out and clear every page anew; that is a quarter to a third of a step on a CPU. Its
settings can only be chosen before a process starts, so the commands that train or predict replace
themselves by the same command, with `GLIBC_TUNABLES` set: same process, same terminal.

What that does to memory: the process keeps what it has freed, to use it again, until it ends. Its
share of the machine's memory therefore stays at its peak, where it would otherwise rise and fall
with every step. The peak itself is no higher, rather lower, since what is freed is used again
in place: `experiments/benchmarks/allocator.py` measures it. Other processes that it starts run
under the user's own settings.

`FLUXSEG_ALLOCATOR=default` switches all this off. Malloc settings of the user's own, in
`GLIBC_TUNABLES` or the older `MALLOC_...` variables, and other allocators in `LD_PRELOAD` are
left alone. `import fluxseg` and calls from Python never do any of it.
"""

import os
import sys
from collections.abc import Mapping, Sequence

SWITCH = "FLUXSEG_ALLOCATOR"
"""Environment variable: "default" leaves the allocator as it is; "tuned" marks a process that has
been given the settings."""
TUNABLES = "GLIBC_TUNABLES"
SETTINGS = ":".join(
    (
        # Memory comes in pages of 2 MB, where the system has them: fewer of them to hand out.
        "glibc.malloc.hugetlb=1",
        # Large arrays come from the heap, which is kept, not from mappings, which are not.
        "glibc.malloc.mmap_max=0",
        # The heap is given back only if more than 16 GB of it are free.
        "glibc.malloc.trim_threshold=17179869184",
        # All threads share one heap, so that what one has freed another can use.
        "glibc.malloc.arena_max=1",
        # The heap grows by at least 256 MB; what is not touched takes no memory.
        "glibc.malloc.top_pad=268435456",
    )
)
"""Explained in the manual of glibc, "Memory Allocation Tunables"; unknown ones are ignored."""
COMPUTING = frozenset({"train", "finetune", "evaluate", "predict", "review", "sweep"})
"""Verbs of the `fluxseg` command that train or predict."""


def tuned_environment(environ: Mapping[str, str]) -> dict[str, str] | None:
    """Add the settings to an environment.

    Args:
        environ: environment variables of the process.

    Returns:
        The environment to start again with; None if the process has them already, or its user
        has chosen otherwise.
    """
    tunables = environ.get(TUNABLES, "")
    chosen = SWITCH in environ or "glibc.malloc." in tunables
    if chosen or "malloc" in environ.get("LD_PRELOAD", ""):
        return None
    if any(name.startswith("MALLOC_") for name in environ):
        return None
    joined = f"{tunables}:{SETTINGS}" if tunables else SETTINGS
    return {**environ, TUNABLES: joined, SWITCH: "tuned"}


def plain_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Take the settings out again; the inverse of `tuned_environment`.

    Args:
        environ: environment variables of a process that may have been given the settings.

    Returns:
        The environment that its user had given it.
    """
    plain = dict(environ)
    if plain.get(SWITCH) == "tuned":
        del plain[SWITCH]
        rest = plain.pop(TUNABLES, "").removesuffix(SETTINGS).removesuffix(":")
        if rest:
            plain[TUNABLES] = rest
    return plain


def is_computing(arguments: Sequence[str]) -> bool:
    """Tell whether arguments of the `fluxseg` command train or predict, and are no call for help.

    Args:
        arguments: what follows the command.
    """
    return bool(arguments) and arguments[0] in COMPUTING and not asks_for_help(arguments)


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Tell whether arguments ask for an explanation only."""
    return any(argument in ("-h", "--help") for argument in arguments)


def tune_allocator() -> None:
    """Start this process again with the settings, once, if that can do good.

    To be called first of all by a command: what the process has done so far is lost. Process id,
    standard streams and the arguments of the interpreter stay the same.
    """
    if _marked():
        plain = plain_environment(os.environ)
        # glibc has read them; processes started from here are not meant to have them.
        for name in (SWITCH, TUNABLES):
            if name in plain:
                os.environ[name] = plain[name]
            else:
                os.environ.pop(name, None)
        return
    # A debugger or profiler would be lost.
    if not _has_glibc() or not sys.executable or sys.gettrace() or sys.getprofile():
        return
    environment = tuned_environment(os.environ)
    if environment is None:
        return
    try:
        command = [sys.executable, *sys.orig_argv[1:]]
        os.execve(command[0], command, environment)  # noqa: S606
    except (OSError, ValueError):
        # Then it runs as it is, only slower.
        return


def _marked() -> bool:
    return os.environ.get(SWITCH) == "tuned"


def _has_glibc() -> bool:
    if not sys.platform.startswith("linux"):
        return False
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (ValueError, OSError):
        return False
