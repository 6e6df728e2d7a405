"""Ctrl-C and SIGTERM as a flag that the training loop looks at."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class StopFlag:
    """Tells whether, and by which signal, the process was asked to stop."""

    def __init__(self) -> None:
        self.signal_number = 0

    def __call__(self) -> bool:
        """Return True once a signal has come."""
        return self.signal_number != 0


@contextlib.contextmanager
def catch_signals() -> Iterator[StopFlag]:
    """Turn SIGINT and SIGTERM into a flag while the block runs.

    A second signal acts at once, as it would have without this. Outside the main thread, where
    Python cannot handle signals, the flag is never set.
    """
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in signals}

    def ask(number: int, _frame: FrameType | None) -> None:
        flag.signal_number = number
        for known in signals:
            signal.signal(known, before[known])

    for number in signals:
        signal.signal(number, ask)
    try:
        yield flag
    finally:
        for number in signals:
            signal.signal(number, before[number])
