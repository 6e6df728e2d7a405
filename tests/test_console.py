import io
import logging
import os
import signal
import subprocess
import sys
import time

import pytest
from rich.console import Console

from fluxseg.console import configure_logging, progress_bars, run_guarded
from fluxseg.errors import ConfigError, InterruptedRunError
from fluxseg.training.stopping import catch_signals


def console(*, terminal):
    return Console(file=io.StringIO(), force_terminal=terminal, width=60)


@pytest.fixture
def restored_logging():
    root, own = logging.getLogger(), logging.getLogger("fluxseg")
    before = (list(root.handlers), root.level, own.level)
    yield
    root.handlers[:], root.level, own.level = before


@pytest.fixture
def default_signals():
    """A process started in the background may ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("raised", "code", "text"),
    [
        (ConfigError("train.epochs must be >= 1"), 2, "error: train.epochs must be >= 1"),
        (InterruptedRunError(signal.SIGTERM, "Stopped."), 143, "Stopped."),
        (KeyboardInterrupt(), 130, "Interrupted."),
    ],
)
def test_an_error_of_the_user_becomes_a_message_and_a_code(raised, code, text, capsys):
    def command():
        raise raised

    assert run_guarded(command) == code
    assert capsys.readouterr().err.strip() == text


def test_a_fault_of_the_program_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run_guarded(lambda: 1 // 0)
    assert run_guarded(lambda: None) == 0
    assert run_guarded(lambda: 1) == 1


def test_ctrl_c_elsewhere_is_left_to_the_code_that_runs():
    cleaned = []

    def command():
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        finally:
            cleaned.append(True)

    before = signal.getsignal(signal.SIGINT)
    assert run_guarded(command) == 130
    assert cleaned
    assert signal.getsignal(signal.SIGINT) is before


def test_log_lines_are_never_wrapped_and_never_taken_for_markup(restored_logging):
    shown = console(terminal=False)
    configure_logging(shown)
    logging.getLogger("fluxseg.test").info("[bold]%s[/bold] :smile:", "x" * 200)
    logging.getLogger("fluxseg.test").warning("careful")
    logging.getLogger("absl").warning("machinery")
    lines = shown.file.getvalue().splitlines()
    assert lines == [f"[bold]{'x' * 200}[/bold] :smile:", "WARNING: careful"]


def test_bars_appear_with_the_first_progress_on_a_terminal_only():
    for terminal in (True, False):
        shown = console(terminal=terminal)
        with progress_bars(shown, ("Preparing", "files"), ("Training", "steps")) as bars:
            for done in range(1, 4):
                bars[1](done, 5)
        text = shown.file.getvalue()
        assert ("Training" in text) == terminal
        assert "Preparing" not in text


def test_the_second_signal_acts_as_ever(default_signals):
    with catch_signals() as stop:
        assert not stop()
        signal.raise_signal(signal.SIGTERM)
        assert stop()
        assert stop.signal_number == signal.SIGTERM
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


STUCK = """
import ctypes
from fluxseg.training.stopping import catch_signals
library, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
with catch_signals():
    print("ready", flush=True)
    # Locked twice: a wait without end, of which Python is not told of any signal.
    library.pthread_mutex_lock(mutex)
    library.pthread_mutex_lock(mutex)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a mutex of zeros is one of Linux")
def test_a_second_signal_ends_a_process_that_hangs():
    with subprocess.Popen([sys.executable, "-c", STUCK], stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"ready\n"
        child.send_signal(signal.SIGTERM)
        time.sleep(1)
        assert child.poll() is None
        child.send_signal(signal.SIGTERM)
        # By its own handler, or by the default one: a shell shows 143 for both.
        assert child.wait(timeout=300) in (128 + signal.SIGTERM, -signal.SIGTERM)
