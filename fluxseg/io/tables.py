"""CSV files protected against formula injection."""

import csv
import io
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fluxseg.io.files import write_text

_FORMULA = tuple("=+-@|＝＋－＠")
_INNER_FORMULA = re.compile(r'([;,\t\r\n"]\s*)(?=[=+\-@|＝＋－＠])')


def neutralize_cell(value: Any) -> Any:
    """Return a cell that no spreadsheet runs as a formula.

    A `'` is put in front of texts that begin as formulas do, after blanks and control characters,
    as OWASP advises ("CSV injection"), and in front of such parts after what may separate cells.
    Numbers stay numbers; the items of a list are joined by blanks.
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
    """Write rows of values by column as a CSV file; every cell goes through `neutralize_cell`.

    None and what is missing become empty cells. Raises `WorkdirError` if it cannot be written.
    """
    buffer = io.StringIO(newline="")
    # Texts are quoted, as a carriage return in one would begin a new row.
    writer = csv.writer(buffer, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    writer.writerow(map(neutralize_cell, columns))
    writer.writerows([neutralize_cell(row.get(name)) for name in columns] for row in rows)
    # Half of a surrogate pair cannot be written to any file.
    write_text(path, buffer.getvalue().encode("utf-8", "replace").decode())
