"""One run at a time in a workdir: a second one is refused, and told of the first."""

import contextlib
import datetime
import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from fluxseg.errors import WorkdirError
from fluxseg.io.files import TEMPORARY, naming
from fluxseg.processes import wait_until_seen

logger = logging.getLogger(__name__)

LOCK_NAME = ".lock"
UNUSABLE = frozenset("[]\\")  # characters that the path of a workdir must not hold


@contextlib.contextmanager
def claim_workdir(workdir: Path) -> Iterator[None]:
    """Make a workdir, hold it while the block runs, and remove what a killed run left half written.

    The lock is one of the system (`flock`): it ends with its process, however that ends. Its file
    stays, and says who holds or last held it. Raises `WorkdirError` if the workdir cannot be used,
    or is in use; it then names the process.
    """
    _check_name(workdir)
    path = workdir / LOCK_NAME
    with naming(workdir, "cannot be used"):
        workdir.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b", buffering=0)
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = path.read_text(encoding="utf-8", errors="replace").strip()
            raise WorkdirError(
                f"{workdir} is in use by {holder or 'another process'}; wait for it, stop it, or "
                "use another --workdir"
            ) from error
        except OSError as error:
            # Some cluster file systems are mounted without locks.
            text = "%s: this file system has no locks (%s); be sure that no other run uses this one"
            logger.warning(text, path, error.strerror or error)
        since = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        with contextlib.suppress(OSError):
            # A full disk is no reason to stop here: the lock itself takes no space.
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()} since {since}\n".encode())
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
    if found := UNUSABLE & set(path):
        raise WorkdirError(
            f"{path}: the path of a workdir must not hold {' or '.join(sorted(found))}; use "
            "another --workdir"
        )


def check_shared(workdir: Path) -> None:
    """Wait until this process sees the workdir that the first one has claimed.

    Raises `WorkdirError` if it does not.
    """
    if not wait_until_seen(lambda: (workdir / LOCK_NAME).exists() or None):
        raise WorkdirError(
            f"{workdir}: what the first process has written there cannot be seen; --workdir must "
            "be on a file system that all processes share"
        )
