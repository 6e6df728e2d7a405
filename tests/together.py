"""Several real processes of one job, on loopback."""

import os
import socket
import subprocess
import sys
from pathlib import Path

PREFIX = "--processes."


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def start_together(
    count: int,
    *command: str | Path,
    devices: int = 1,
    timeout: int = 60,
) -> list[subprocess.Popen]:
    """Start `python -m COMMAND` as `count` processes that find each other.

    Each has so many virtual CPU devices, and gives another one up after `timeout` seconds. stdout
    and stderr of each come by one pipe, as text.
    """
    address = f"127.0.0.1:{free_port()}"
    flags = f"--xla_force_host_platform_device_count={devices}"
    variables = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    processes = []
    for index in range(count):
        options = {"coordinator": address, "count": count, "index": index, "timeout": timeout}
        told = [text for name, value in options.items() for text in (PREFIX + name, str(value))]
        line = [sys.executable, "-m", *map(str, command), *told]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        processes.append(subprocess.Popen(line, text=True, env=variables, **pipes))
    return processes


def finish_together(processes: list[subprocess.Popen], seconds: int = 300) -> list[tuple[int, str]]:
    """Wait for processes; return the exit code of each and what it said."""
    try:
        # One after the other: what a pipe holds is enough for the others meanwhile.
        said = [process.communicate(timeout=seconds)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


def run_together(count: int, *command: str | Path, **options) -> list[str]:
    """Run `python -m COMMAND` as several processes; all must succeed. Return what each said."""
    results = finish_together(start_together(count, *command, **options))
    for code, text in results:
        assert code == 0, text
        assert "Traceback" not in text
    return [text for _, text in results]
