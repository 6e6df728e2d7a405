"""Files that are either whole or absent, and names and cells that do no harm in them."""

import contextlib
import hashlib
import json
import os
import re
import secrets
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fluxseg.errors import WorkdirError

CHECKSUM = "checksum"
"""Name under which plain values hold the checksum of the others."""
TEMPORARY = ".part-"
"""Names of unfinished files begin with this; they can be deleted when nothing is running."""
MAX_NAME = 180
"""Bytes of a safe name; endings and numbers follow, and 255 are the limit of most systems."""
_DEVICES = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])\s*(\.|$)", re.IGNORECASE
)
_FORMULA = tuple("=+-@|＝＋－＠")
_INNER_FORMULA = re.compile(r'([;,\t\r\n"]\s*)(?=[=+\-@|＝＋－＠])')


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path in the same folder that becomes `path` when the block succeeds.

    The content is flushed to the disk before it is renamed, so that a file under its final name
    is complete even after a power cut. If the block fails, the temporary file is removed.

    Raises:
        WorkdirError: if the folder cannot be written or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(4)}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise WorkdirError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a UTF-8 text file atomically.

    Raises:
        WorkdirError: if the text holds a name that is no text, or the file cannot be written.
    """
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
    """Read a JSON file.

    Raises:
        WorkdirError: naming the file, if it is absent or not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise WorkdirError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise WorkdirError(f"{path}: is not valid JSON: {error}") from error


def add_checksum(values: Mapping[str, Any]) -> dict[str, Any]:
    """Add to plain values, as `CHECKSUM`, what `has_checksum` compares."""
    return {**values, CHECKSUM: _checksum(values)}


def has_checksum(values: Mapping[str, Any]) -> bool:
    """Tell whether plain values are as they were; also if they come from an earlier version."""
    return bool(values.get(CHECKSUM, _checksum(values)) == _checksum(values))


def _checksum(values: Mapping[str, Any]) -> str:
    plain = {name: value for name, value in values.items() if name != CHECKSUM}
    return hashlib.blake2b(json.dumps(plain, sort_keys=True).encode(), digest_size=16).hexdigest()


def safe_name(text: str, default: str = "image") -> str:
    """Return a text of any origin as a file name that every system takes and that leads nowhere.

    Separators, control characters, what Windows forbids and what cannot be seen become `_`;
    there is no dot or blank at the begin or end, no name of a device (`CON`, `COM1`), and there
    are at most `MAX_NAME` bytes. A safe name stays as it is. Names that are alike but for the
    case are told apart by `distinct_name`.

    Args:
        text: such as the id of a recording, or the name of a file without its ending.
        default: what an empty name becomes.
    """
    shown = (c if c.isprintable() else "_" for c in unicodedata.normalize("NFC", text))
    name = re.sub(r'[<>:"/\\|?*]', "_", "".join(shown))
    name = name.encode("utf-8", "replace")[:MAX_NAME].decode(errors="ignore").strip(". ")
    if _DEVICES.match(name):
        name = f"_{name}"[: MAX_NAME // 4].rstrip(". ")
    return name or default


def is_plain_name(name: Any) -> bool:
    """Tell whether a value is the name of a file in some folder, and leads nowhere else."""
    return (
        isinstance(name, str)
        and name not in ("", ".", "..")
        and Path(name).name == name
        and ("\0" not in name)
    )


def distinct_name(name: str, taken: set[str]) -> str:
    """Return the name, or with a number if it is taken; some systems ignore upper case.

    Args:
        name: a safe name.
        taken: the names given so far, in lower case; the new one is added.
    """
    number, candidate = 1, name
    while candidate.casefold() in taken:
        number += 1
        candidate = f"{name}_{number}"
    taken.add(candidate.casefold())
    return candidate


def neutralize_cell(value: Any) -> Any:
    """Return what a cell of a table shows, so that no spreadsheet computes it.

    Texts that begin, after blanks and control characters, as formulas do get a `'` in front, as
    OWASP advises ("CSV injection"), and so do parts of them after what may divide cells; numbers
    stay numbers, items of lists are joined by blanks.
    """
    if isinstance(value, list | tuple):
        value = " ".join(map(str, value))
    if not isinstance(value, str):
        return value
    starts = value.startswith(("\t", "\r", "\n")) or value.lstrip().startswith(_FORMULA)
    # Where the comma is the decimal sign, spreadsheets divide at semicolons, whatever is quoted.
    value = _INNER_FORMULA.sub(r"\1'", value)
    return f"'{value}" if starts else value


def write_csv(
    path: str | os.PathLike[str], columns: Sequence[str], rows: Iterable[Mapping[str, Any]]
) -> None:
    """Write a table of any origin as CSV, atomically; every text goes through `neutralize_cell`.

    Args:
        path: file to write.
        columns: names of the columns, in their order.
        rows: values by column; None and what is missing become empty cells.

    Raises:
        WorkdirError: if the file cannot be written.
    """
    lines = [columns, *([row.get(name) for name in columns] for row in rows)]
    text = "".join(",".join(map(_csv_cell, line)) + "\n" for line in lines)
    # Half of a surrogate pair cannot be written to any file.
    write_text(path, text.encode("utf-8", "replace").decode())


def _csv_cell(value: Any) -> str:
    if value is None:
        return ""
    text = str(neutralize_cell(value))
    # A carriage return would begin a row of its own.
    if re.search(r'[",;\s]', text):
        text = '"' + text.replace('"', '""') + '"'
    return text
