"""Several processes of one job, on one host or many: how they find and wait for each other.

JAX's distributed runtime is the engine. Every process runs the same command; with one process
nothing here does anything, and JAX is not even imported.
"""

import contextlib
import dataclasses
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from fluxseg.errors import ConfigError, FluxsegError, ProcessError

T = TypeVar("T")

PATIENCE = 7 * 24 * 3600  # s, for slower processes; a dead one is known by its heartbeat
VISIBLE = 60  # seconds in which a file that one process has written must be seen by the others
DIAGNOSIS = 3  # seconds in which the processes that are left say so, when one has failed

SIGNALLED = 128  # exit codes from here on mean that a signal has stopped the job

_lost: list[str] = []  # what was being waited for when another process was found to have failed
_agreed: list[str] = []  # failures that every process knows of


@dataclasses.dataclass(frozen=True)
class Processes:
    """The processes of a job; under SLURM's srun, Open MPI and on Cloud TPUs say nothing."""

    coordinator: str = ""
    """HOST:PORT of the first process, which listens there; the same for every process."""
    count: int = 0
    """Number of processes."""
    index: int = -1
    """Number of this process, from 0."""
    cluster: str = ""
    """Name of JAX's detection method to use, such as k8s or mpi4py; "deactivate": a single process
    even where a cluster is found."""
    timeout: int = 60
    """Seconds without a sign of life after which a process is given up and the others stop."""

    def __post_init__(self) -> None:
        given = (bool(self.coordinator), self.count > 0, self.index >= 0)
        if any(given) and not all(given):
            raise ConfigError(
                "processes.coordinator, processes.count and processes.index belong together: give "
                "all three or none"
            )
        if all(given) and not self.index < self.count:
            raise ConfigError(
                f"processes.index must be less than processes.count, got {self.index} of "
                f"{self.count}"
            )
        if self.coordinator and not re.fullmatch(r".+:\d+", self.coordinator):
            raise ConfigError(f"processes.coordinator must be HOST:PORT, got {self.coordinator!r}")
        if self.timeout < 1:
            raise ConfigError(f"processes.timeout must be >= 1 s, got {self.timeout}")


def is_cluster(environ: Mapping[str, str]) -> bool:
    """Tell whether a launcher has started this process as one of several.

    A batch script of SLURM that does not use `srun` is one process, whatever its allocation.
    """
    counts = (environ.get(name, "") for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"))
    several = any(count.isdecimal() and int(count) > 1 for count in counts)
    return several or "," in environ.get("TPU_WORKER_HOSTNAMES", "")


def join_processes(settings: Processes) -> None:
    """Join the other processes of the job; to be called before JAX computes anything.

    By default they are found from the environment. `ProcessError` if they do not come together in
    five minutes.
    """
    explicit = bool(settings.coordinator)
    wanted = explicit or settings.cluster or is_cluster(os.environ)
    if not wanted or settings.cluster == "deactivate" or settings.count == 1:
        return
    import jax

    if jax.distributed.is_initialized():
        return
    try:
        jax.distributed.initialize(
            settings.coordinator or None,
            settings.count if explicit else None,
            settings.index if explicit else None,
            cluster_detection_method=settings.cluster or None,
            heartbeat_timeout_seconds=settings.timeout,
            shutdown_timeout_seconds=settings.timeout,
        )
    except (RuntimeError, ValueError) as error:
        raise ProcessError(f"the processes of this job cannot find each other: {error}") from error


def current_process() -> tuple[int, int]:
    """Return the number of this process and how many there are; (0, 1) if it is alone."""
    jax = sys.modules.get("jax")
    if jax is None or not jax.distributed.is_initialized():
        return 0, 1
    return jax.process_index(), jax.process_count()


def is_first_process() -> bool:
    """Tell whether this process is the one that writes what there is one of."""
    return current_process()[0] == 0


def share_of(items: Sequence[T]) -> list[T]:
    """Return the items that are this process's part of the work: every count-th."""
    index, count = current_process()
    return list(items[index::count])


def gather_values(value: Any, name: str) -> list[Any]:
    """Give every process the plain values of each, in the order of the processes.

    `ProcessError` names the processes that did not come, and by `name` what was waited for.
    """
    if current_process()[1] == 1:
        return [value]
    import numpy as np
    from jax.experimental import multihost_utils

    # The slow ones are waited for here: a collective of the devices would give up.
    _barrier(name, PATIENCE)
    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    lengths = np.asarray(multihost_utils.process_allgather(np.int32(len(data)))).reshape(-1)
    padded = np.zeros(int(lengths.max()), np.uint8)
    padded[: len(data)] = data
    rows = np.asarray(multihost_utils.process_allgather(padded))
    pairs = zip(rows, lengths, strict=True)
    return [json.loads(row[:length].tobytes()) for row, length in pairs]


def wait_until_seen(read: Callable[[], T | None]) -> T | None:
    """Return what a function reads as soon as it is not None: network disks show files late.

    None after `VISIBLE` seconds, or at once in a job of one process.
    """
    deadline = time.monotonic() + (VISIBLE if current_process()[1] > 1 else 0)
    while (found := read()) is None and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def run_in_all(function: Callable[[], T], name: str) -> T:
    """Call a function in every process, and return its own result; if one fails, all do.

    The error is a `FluxsegError` as the function raised it, and `ProcessError` where it succeeded
    itself; by `name` it says what the function does.
    """
    if current_process()[1] == 1:
        return function()
    result: Any = None
    failure: FluxsegError | None = None
    try:
        result = function()
    except FluxsegError as error:
        failure = error
    messages = gather_values("" if failure is None else str(failure) or "failed", name)
    _agreed.extend(message for message in messages if message)
    if failure is not None:
        raise failure
    for number, message in enumerate(messages):
        if message:
            raise ProcessError(f"process {number} of {len(messages)}: {message}")
    return result


def run_in_first(function: Callable[[], T], name: str) -> T | None:
    """Do as `run_in_all` does, in the first process alone; the others wait, and return None."""
    return run_in_all(lambda: function() if is_first_process() else None, name)


@contextlib.contextmanager
def naming_failures() -> Iterator[None]:
    """Turn what a failure of another process leads to in the block into an error that names it."""
    if current_process()[1] == 1:
        yield
        return
    import jax

    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        _name_failure(error)


def check_lost(error: BaseException) -> None:
    """Raise `ProcessError`, naming it, if an error means that another process has failed."""
    signs = r"Gloo|[Bb]arrier|[Cc]oordination|heartbeat|Connection (reset|closed)"
    if current_process()[1] > 1 and re.search(signs, str(error)):
        _name_failure(error)


def _name_failure(error: BaseException) -> NoReturn:
    # A connection that broke does not say whose it was; the coordinator knows.
    _barrier("its part of the work", DIAGNOSIS)
    raise ProcessError(f"the processes lost each other: {error}") from error


def leave(code: int) -> None:
    """End the process now if it fails alone, or another one has: an ordinary end would wait."""
    several = current_process()[1] > 1
    # Stopped by a signal, all of them are. A thread of a failed save would be waited for for ever.
    waits = not several or bool(_lost) or not _agreed
    if code and code < SIGNALLED and waits and "jax" in sys.modules:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _barrier(name: str, seconds: int) -> None:
    import jax
    import orbax.checkpoint as ocp

    try:
        ocp.multihost.get_barrier_sync_fn()(key=name, timeout_ms=seconds * 1000)
    except jax.errors.JaxRuntimeError as error:
        _lost.append(name)
        raise ProcessError(
            f"{_who(str(error))} (waiting for: {name}). See what it said; the same command for all "
            "processes goes on from what is saved."
        ) from error


def _who(message: str) -> str:
    # The coordinator lists them one to a line.
    forms = r"task:(\d+)|^(\d+)$|\bTask (\d+) heartbeat timeout"
    found = re.findall(forms, message, re.MULTILINE)
    tasks = sorted({int(number) for pair in found for number in pair if number})
    count = current_process()[1]
    if not tasks:
        return f"process 0 of {count}, or the network to it, has failed"
    named = " and ".join(str(number) for number in tasks)
    return f"process {named} of {count} has failed or does not answer"
