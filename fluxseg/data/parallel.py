"""A function applied to many items in several processes."""

import collections
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from fluxseg.allocator import tune_allocator
from fluxseg.errors import FluxsegError

Item = TypeVar("Item")
Result = TypeVar("Result")

IN_FLIGHT = 2  # items per process that are not yet fetched; more would fill the memory


def worker_count(requested: int) -> int:
    """Return the number of processes to use, one for each CPU core open to us if 0 are requested.

    Raises `ValueError` if the number is negative.
    """
    if requested < 0:
        raise ValueError(f"need 0 or more workers, got {requested}")
    if hasattr(os, "sched_getaffinity"):
        return requested or len(os.sched_getaffinity(0))
    return requested or os.cpu_count() or 1


def map_in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int = 1
) -> Iterator[tuple[Item, Result]]:
    """Apply `function` to every item in worker processes; yield (item, result) in their order.

    Function and items must be picklable; with one worker, or a single item, all runs in this
    process. Only a few results wait at a time. When the iteration is left early, by an exception or
    by Ctrl-C, the items not yet begun are cancelled, and those being worked on are waited for.
    Raises `FluxsegError` if a worker process has died, and what `function` raises.
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
    waiting: collections.deque[tuple[Item, Future[Result]]] = collections.deque()

    def take() -> tuple[Item, Result]:
        item, future = waiting.popleft()
        with _explaining_death():
            return item, future.result()

    try:
        for item in items:
            if len(waiting) >= IN_FLIGHT * workers:
                yield take()
            with _explaining_death(), _blocking_ctrl_c():
                waiting.append((item, pool.submit(function, item)))
        while waiting:
            yield take()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _blocking_ctrl_c() -> Iterator[None]:
    # A process that is started here inherits the mask: it does not print a traceback if Ctrl-C
    # comes before `_begin_worker`. This one gets the signal afterwards.
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_worker() -> None:
    # What a recording leaves is used for the next one: half of the time of reading it.
    tune_allocator()
    # Ctrl-C reaches every process of the terminal; the parent alone decides what follows.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # Left to itself, the worker of a process that was killed waits for work for ever.
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


@contextlib.contextmanager
def _explaining_death() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool as error:
        raise FluxsegError(
            "a worker process died. Most often the memory ran out: use fewer workers. In a script "
            'of your own, the call must stand below `if __name__ == "__main__":`'
        ) from error
