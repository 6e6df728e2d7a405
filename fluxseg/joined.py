"""Commands that several processes of one job run together."""

import contextlib
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from fluxseg.console import configure_logging, create_console
from fluxseg.processes import Processes, is_first_process, join_processes, naming_failures

if TYPE_CHECKING:
    from rich.console import Console


@contextlib.contextmanager
def joined(processes: Processes) -> Iterator["Console"]:
    """Join the other processes of the job; the first one speaks for all, but each of its failures.

    Args:
        processes: who they are.

    Yields the console to write to. Raises `ProcessError`, naming a process that has failed.
    """
    console = create_console()
    configure_logging(console)
    join_processes(processes)
    if not is_first_process():
        logging.getLogger("fluxseg").setLevel(logging.WARNING)
        console = create_console()
        console.quiet = True
    with naming_failures():
        yield console
