"""The `fluxseg` command, in this process: Python and its libraries start once for all of them."""

import contextlib
import io
import logging
import subprocess
import sys
import threading
import warnings

from fluxseg.cli.app import main


def run(*arguments, code=0):
    """Run a verb; the exit code must be `code`, and no traceback shown. Return what it said."""
    said = _Said()
    with _restored(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            found = main(list(map(str, arguments)))
        except SystemExit as left:
            found = left.code or 0
    assert found == code, said.getvalue()
    assert "Traceback" not in said.getvalue()
    return said.getvalue()


def run_python(*arguments, timeout=600, **options):
    """Run Python in a process of its own, which must succeed. Return what it printed."""
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class _Said(io.StringIO):
    encoding = "utf-8"  # else help has no frames


@contextlib.contextmanager
def _restored():
    """Take back what a command changes in its process: logging, hooks, and filters of warnings."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    levels = {
        name: logging.getLogger(name).level
        for name in ("fluxseg", "grain", "jax", "absl", "orbax", "asyncio")
    }
    hooks = sys.unraisablehook, threading.excepthook
    try:
        with warnings.catch_warnings():
            yield
    finally:
        sys.unraisablehook, threading.excepthook = hooks
        for name, value in levels.items():
            logging.getLogger(name).setLevel(value)
        root.handlers[:] = handlers
        root.setLevel(level)
