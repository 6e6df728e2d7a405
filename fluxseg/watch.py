"""Signs of life of the processes of a job: whoever shows none is named, and the others stop.

JAX's runtime notices a dead process too, but then ends the others from C++, with a stack trace
for a message. This is earlier by `LATER` seconds.
"""

import atexit
import contextlib
import os
import threading
import time
from collections.abc import Callable
from typing import Any

LATER = 20
"""Seconds after which JAX's own watch acts where this one has not."""
INTERVAL = 0.5
"""Seconds between two signs of life."""
EXIT_CODE = 2
"""That of every error a user can act on."""
LEFT = "left"
"""What a process that has come to its end says."""


def start_watch(timeout: float) -> bool:
    """Watch the other processes in the background, and let them watch this one.

    Each writes a counter into the key-value store of JAX's runtime, and reads those of the others.
    When one has stood still for `timeout` seconds, or the store, which the first process keeps,
    has not answered for as long, the process ends with an error that names it.

    Args:
        timeout: seconds.

    Returns:
        Whether the store could be used; JAX gives no public way to it. Without it JAX's own watch
        is what remains.
    """
    try:
        from jax._src import distributed

        state = distributed.global_state
        client: Any = state.client
        watch = Watch(
            int(state.process_id or 0),
            int(state.num_processes or 1),
            timeout,
            lambda key, value: client.key_value_set(key, value, allow_overwrite=True),
            client.key_value_try_get,
        )
        watch.beat()
    except (ImportError, AttributeError, TypeError):
        return False
    for function in (watch.beat_for_ever, watch.wait_for_store):
        threading.Thread(target=function, name="fluxseg watch", daemon=True).start()
    # Before the end of JAX's runtime, which was registered earlier.
    atexit.register(watch.leave)
    return True


class Watch:
    """What one process knows of the others.

    Args:
        index: number of this process.
        count: number of processes.
        timeout: seconds without a sign of life.
        write: `write(key, text)` into the store.
        read: `read(key)` -> text; raises if there is none.
        end: called with the number of a process that has failed; by default ends this one.
        clock: seconds.
    """

    def __init__(
        self,
        index: int,
        count: int,
        timeout: float,
        write: Callable[[str, str], None],
        read: Callable[[str], str],
        end: Callable[[int], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._index, self._count, self._timeout = index, count, timeout
        self._write, self._read, self._clock = write, read, clock
        self._end = end or self._end_process
        self._beats = 0
        self._left = threading.Event()
        self._answered = clock()
        self._seen = {other: ("", clock()) for other in range(count) if other != index}

    def beat(self) -> None:
        """Give a sign of life, and look for those of the others."""
        self._beats += 1
        self._write(self._key(self._index), str(self._beats))
        for other, (before, _) in self._seen.items():
            try:
                found = self._read(self._key(other))
            except Exception as error:
                # The store's errors have no type of their own.
                if "NOT_FOUND" not in str(error):
                    raise
                found = ""
            if found not in ("", before):
                self._seen[other] = (found, self._clock())
        self._answered = self._clock()

    def silent(self) -> int | None:
        """Return the number of a process that has given no sign of life for too long, or None."""
        now = self._clock()
        if self._index and now - self._answered > self._timeout:
            return 0
        for other, (said, at) in self._seen.items():
            if said != LEFT and now - at > self._timeout:
                return other
        return None

    def beat_for_ever(self) -> None:
        """Beat until this process leaves; end it when another one is silent."""
        while not self._left.wait(INTERVAL):
            # If the store has gone, that is for the clock to judge: it may come back.
            with contextlib.suppress(Exception):
                self.beat()
            self._judge()

    def wait_for_store(self) -> None:
        """End the process when the store does not answer; `beat` would wait for it for ever."""
        while not self._left.wait(INTERVAL):
            self._judge()

    def leave(self) -> None:
        """Tell the others that this process ends as it should, and stop watching."""
        self._left.set()
        # The first process may have left already, and its store with it.
        with contextlib.suppress(Exception):
            self._write(self._key(self._index), LEFT)

    def _judge(self) -> None:
        failed = self.silent()
        if failed is not None and not self._left.is_set():
            self._left.set()
            self._end(failed)

    def _key(self, index: int) -> str:
        return f"fluxseg/alive/{index}"

    def _end_process(self, failed: int) -> None:
        text = (
            f"error: process {failed} of {self._count} has failed or does not answer: no sign of "
            f"life for {self._timeout:g} s. See what it said; the same command for all processes "
            "goes on from what is saved.\n"
        )
        # The main thread may hold the locks of sys.stderr, and waits for the other process.
        os.write(2, text.encode())
        os._exit(EXIT_CODE)
