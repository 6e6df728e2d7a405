"""Atomic files: each is either whole or absent, whatever happens while it is written."""

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fluxseg.errors import WorkdirError

CHECKSUM = "checksum"  # name under which plain values hold the checksum of the others
TEMPORARY = ".part-"  # begin of the names of unfinished files, which can be deleted


@contextlib.contextmanager
def naming(path: str | os.PathLike[str], what: str) -> Iterator[None]:
    """Turn an `OSError` into a `WorkdirError` that names a path and says `what` went wrong."""
    try:
        yield
    except OSError as error:
        raise WorkdirError(f"{path}: {what}: {error.strerror or error}") from error


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path in the same folder that becomes `path` when the block succeeds.

    The content is flushed to the disk before it is renamed, so that a file under its final name is
    complete even after a power cut. Raises `WorkdirError` if it cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(4)}-{path.name}")
    try:
        with naming(path, "cannot be written"):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a UTF-8 text file atomically; raises `WorkdirError` if that cannot be done."""
    try:
        content = text.encode()
    except UnicodeEncodeError as error:
        name = text[error.start - 40 : error.end + 40] if error.start > 40 else text[: error.end]
        raise WorkdirError(
            f"{path}: a name in it is not valid text: {name!r}; rename it"
        ) from error
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write a JSON file atomically, indented so that people can read it."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file; raises `WorkdirError`, naming it, if it is absent or not JSON."""
    try:
        with naming(path, "cannot be read"):
            return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise WorkdirError(f"{path}: is not valid JSON: {error}") from error


def stamp_file(path: Path) -> str:
    """Return size and time of change of a file, by which it is known again, or raise `OSError`."""
    status = path.stat()
    return f"{status.st_size}-{status.st_mtime_ns}"


def add_checksum(values: Mapping[str, Any]) -> dict[str, Any]:
    """Add to plain values, as `CHECKSUM`, what `has_checksum` compares."""
    return {**values, CHECKSUM: _checksum(values)}


def has_checksum(values: Mapping[str, Any]) -> bool:
    """Tell whether plain values are as they were; also if they come from an earlier version."""
    return bool(values.get(CHECKSUM, _checksum(values)) == _checksum(values))


def _checksum(values: Mapping[str, Any]) -> str:
    plain = {name: value for name, value in values.items() if name != CHECKSUM}
    return hashlib.blake2b(json.dumps(plain, sort_keys=True).encode(), digest_size=16).hexdigest()
