"""A function applied to many items in several processes."""

import collections
import contextlib
import fractions
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from fluxseg.errors import FluxsegError
from fluxseg.processes import current_process, gather_values

Item = TypeVar("Item")
Result = TypeVar("Result")

IN_FLIGHT = 2
"""Items per process that are handed out and not yet fetched; more would fill the memory."""


def worker_count(requested: int) -> int:
    """Return the number of processes to use.

    Args:
        requested: the number asked for; 0 means one for each CPU core open to this process.

    Returns:
        At least 1.

    Raises:
        ValueError: if `requested` is negative.
    """
    if requested < 0:
        raise ValueError(f"need 0 or more workers, got {requested}")
    return requested or max(1, len(_open_cores()))


def worker_count_of_process(requested: int) -> int:
    """Return the number of worker processes for this process of a job, all of which call this.

    Args:
        requested: the number asked for; 0 means one for each CPU core open to this process, shared
            with the other processes of the job on the same host to which it is open too.

    Returns:
        At least 1.

    Raises:
        ValueError: if `requested` is negative.
        ProcessError: see `gather_values`.
    """
    if requested or current_process()[1] == 1:
        return worker_count(requested)
    host, cores = socket.gethostname(), _open_cores()
    everyone = gather_values([host, cores], "counting the cores of the hosts")
    return share_of_cores(cores, [others for name, others in everyone if name == host])


def share_of_cores(cores: Sequence[int], everyone: Sequence[Sequence[int]]) -> int:
    """Count the cores that fall to a process if each is shared equally by those that may use it.

    Args:
        cores: numbers of those open to the process.
        everyone: the same for every process of its host, itself among them.

    Returns:
        At least 1.
    """
    users = collections.Counter(core for others in everyone for core in others)
    return max(1, int(sum(fractions.Fraction(1, users[core]) for core in cores)))


def _open_cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def map_in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int = 1
) -> Iterator[tuple[Item, Result]]:
    """Apply `function` to every item, each in a worker process, and yield in the order of items.

    Only a few results wait at a time. When the iteration is left early, by an exception or by
    Ctrl-C, the items not yet begun are cancelled, and those being worked on are waited for.

    Args:
        function: must be picklable, thus defined at the top of a module.
        items: picklable.
        workers: number of processes, see `worker_count`; with 1, or a single item, all runs in
            this process.

    Yields:
        (item, result).

    Raises:
        FluxsegError: if a worker process has died.
        Exception: what `function` raises.
    """
    workers = min(worker_count(workers), len(items))
    if workers <= 1:
        for item in items:
            yield item, function(item)
        return
    # Spawned: forking a process that runs the threads of JAX or Grain can deadlock.
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_begin_worker
    )
    try:
        waiting: collections.deque[tuple[Item, Future[Result]]] = collections.deque()
        for item in items:
            if len(waiting) >= IN_FLIGHT * workers:
                first, future = waiting.popleft()
                yield first, _fetch(future)
            waiting.append((item, _submit(pool, function, item)))
        for item, future in waiting:
            yield item, _fetch(future)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin_worker() -> None:
    # Ctrl-C reaches every process of the terminal; the parent alone decides what follows.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # Left to itself, the worker of a process that was killed waits for work for ever.
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _submit(
    pool: ProcessPoolExecutor, function: Callable[[Item], Result], item: Item
) -> "Future[Result]":
    with _explained():
        return pool.submit(function, item)


def _fetch(future: "Future[Result]") -> Result:
    with _explained():
        return future.result()


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool as error:
        raise FluxsegError(
            "a worker process died. Most often the memory ran out: use fewer workers. In a script "
            'of your own, the call must stand below `if __name__ == "__main__":`'
        ) from error
