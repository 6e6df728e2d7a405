"""Several real processes of one job, on loopback."""

import os
import socket
import subprocess
import sys
from pathlib import Path


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def start_together(
    count: int,
    *command: str | Path,
    devices: int = 1,
    prefix: str = "--processes.",
    environment: dict[str, str] | None = None,
    timeout: int = 60,
) -> list[subprocess.Popen]:
    """Start `python -m COMMAND` as `count` processes that find each other.

    Args:
        count: number of processes.
        command: a module and its arguments, the same for all.
        devices: virtual CPU devices of each process.
        prefix: of the options that tell a process who it is.
        environment: added to that of this process.
        timeout: seconds after which the processes give one of them up.

    Returns:
        The processes; stdout and stderr of each come by one pipe, as text.
    """
    address = f"127.0.0.1:{free_port()}"
    flags = f"--xla_force_host_platform_device_count={devices}"
    processes = []
    for index in range(count):
        options = {"coordinator": address, "count": count, "index": index, "timeout": timeout}
        arguments = [text for name, value in options.items() for text in (prefix + name, value)]
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", *map(str, command), *map(str, arguments)],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env={
                    **os.environ,
                    "JAX_PLATFORMS": "cpu",
                    "XLA_FLAGS": flags,
                    **(environment or {}),
                },
            )
        )
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
