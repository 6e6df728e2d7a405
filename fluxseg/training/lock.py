"""One run at a time in a workdir: a second one is refused, and told of the first."""

import contextlib
import datetime
import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from fluxseg.errors import WorkdirError
from fluxseg.io.files import TEMPORARY
from fluxseg.processes import wait_until_seen

logger = logging.getLogger(__name__)

LOCK_NAME = ".lock"
UNUSABLE = frozenset("[]\\")
"""Characters that the path of a workdir must not hold."""


@contextlib.contextmanager
def claim_workdir(workdir: Path) -> Iterator[None]:
    """Make a workdir, hold it while the block runs, and remove what a killed run left half written.

    Args:
        workdir: folder of a run.

    Raises:
        WorkdirError: if it cannot be used, or is in use.
    """
    _check_name(workdir)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkdirError(f"{workdir}: cannot be used: {error.strerror or error}") from error
    with lock_workdir(workdir):
        for folder in (workdir, workdir / "figures", workdir / "examples"):
            for left in folder.glob(f"{TEMPORARY}*"):
                left.unlink(missing_ok=True)
        yield


def _check_name(workdir: Path) -> None:
    # The checkpoint library takes the path for a pattern, and would not find what it has saved.
    path = str(workdir.resolve())
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise WorkdirError(f"{path!r} is not valid text; use another --workdir") from error
    found = UNUSABLE & set(path)
    if found:
        raise WorkdirError(
            f"{path}: the path of a workdir must not hold {' or '.join(sorted(found))}; use "
            "another --workdir"
        )


def check_shared(workdir: Path) -> None:
    """Wait until this process sees the workdir that the first one has claimed.

    Raises:
        WorkdirError: if it does not.
    """
    if not wait_until_seen(lambda: (workdir / LOCK_NAME).exists() or None):
        raise WorkdirError(
            f"{workdir}: what the first process has written there cannot be seen; --workdir must "
            "be on a file system that all processes share"
        )


@contextlib.contextmanager
def lock_workdir(workdir: str | Path) -> Iterator[None]:
    """Hold a workdir while the block runs.

    The lock is one of the system (`flock`): it ends with its process, however that ends. Its file
    stays, and says who holds or last held it.

    Args:
        workdir: folder of a run; it must exist.

    Raises:
        WorkdirError: naming the process that holds it.
    """
    path = Path(workdir) / LOCK_NAME
    try:
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise WorkdirError(f"{path}: cannot be written: {error.strerror or error}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise WorkdirError(
                f"{workdir} is in use by {_describe_holder(path)}; wait for it, stop it, or use "
                "another --workdir"
            ) from error
        except OSError as error:
            # Some cluster file systems are mounted without locks.
            logger.warning(
                "%s: this file system has no locks (%s); be sure that no other run uses this "
                "workdir",
                path,
                error.strerror or error,
            )
        holder = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        }
        with contextlib.suppress(OSError):
            # A full disk is no reason to stop here: the lock itself takes no space. Nothing is
            # buffered, which closing the file would try to write once more.
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), (json.dumps(holder) + "\n").encode())
        yield


def _describe_holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
