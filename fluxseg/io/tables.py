"""Tables that no spreadsheet computes, whoever wrote what is in them."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fluxseg.io.files import write_text

_FORMULA = tuple("=+-@|＝＋－＠")
_INNER_FORMULA = re.compile(r'([;,\t\r\n"]\s*)(?=[=+\-@|＝＋－＠])')


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
