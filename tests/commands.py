"""The `fluxseg` command in a process of its own."""

import subprocess
import sys


def run(*arguments, code=0, timeout=300):
    """Run a verb; the exit code must be `code`, and no traceback shown. Return what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "fluxseg", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout + done.stderr
