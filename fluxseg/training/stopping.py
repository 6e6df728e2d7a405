"""Ctrl-C, SIGTERM and SIGUSR1 as a flag that the training loop looks at."""

import contextlib
import dataclasses
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import jax

from fluxseg.errors import InterruptedRunError

GRACE = 5.0  # seconds that a process has to end after the second signal


@dataclasses.dataclass
class StopFlag:
    """Tells whether, and by which signal, the process was asked to stop.

    In a job of several processes SIGTERM is caught by JAX's preemption service, which agrees with
    the other processes on the call at which to stop. All of them must ask equally often.
    """

    shared: bool  # whether there are several processes
    signal_number: int = 0  # the signal; 0 if none has come
    calls: int = 0  # how often it was asked

    def __call__(self) -> bool:
        """Return True once a signal has come to one of the processes."""
        if self.shared and not self.signal_number:
            from jax.experimental import multihost_utils

            self.calls += 1
            if multihost_utils.reached_preemption_sync_point(self.calls):
                self.signal_number = signal.SIGTERM
        return self.signal_number != 0


@contextlib.contextmanager
def catch_signals() -> Iterator[StopFlag]:
    """Turn SIGINT, SIGTERM and SIGUSR1 into a flag while the block runs.

    SIGUSR1 is what SLURM can be asked to send some time before it ends a job.

    A second signal acts at once, as it would have without this; if the process does not end within
    `GRACE` seconds, as it waits for something that never comes, it is ended. Outside the main
    thread, where Python cannot handle signals, the flag is never set. In a job of several processes
    a signal to one of them stops them all.
    """
    flag = StopFlag(shared=jax.process_count() > 1)
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    signals = [signal.SIGINT, signal.SIGUSR1, *([] if flag.shared else [signal.SIGTERM])]
    before = {number: signal.getsignal(number) for number in signals}

    def ask(number: int, _frame: FrameType | None) -> None:
        for known in signals:
            signal.signal(known, before[known])
        if flag.shared:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            flag.signal_number = number

    for number in signals:
        signal.signal(number, ask)
    with _ending_at_the_second():
        try:
            yield flag
        finally:
            for number in signals:
                signal.signal(number, before[number])


@contextlib.contextmanager
def _ending_at_the_second() -> Iterator[None]:
    """End the process some time after a second signal, even if Python never gets to handle it."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    done = threading.Event()

    def watch() -> None:
        with os.fdopen(reader, "rb", buffering=0) as numbers:
            numbers.read(1)
            second = numbers.read(1)
        if second and not done.wait(GRACE):
            os._exit(128 + second[0])

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        done.set()
        signal.set_wakeup_fd(before)
        os.close(writer)


def interrupted(stop: StopFlag, step: int, epoch: int) -> InterruptedRunError:
    """Create the error that says where a run stopped and how to go on."""
    return InterruptedRunError(
        stop.signal_number,
        f"Stopped and saved at step {step} (epoch {epoch}). Run the same command again to go on.",
    )
