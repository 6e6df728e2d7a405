"""Safe file names from untrusted text."""

import os
import re
import unicodedata
from pathlib import Path
from typing import Any

MAX_NAME = 180  # bytes; endings and numbers follow, and 255 are the limit of most systems
_DEVICES = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])\s*(\.|$)", re.IGNORECASE
)


def safe_name(text: str) -> str:
    """Return a text of any origin as a file name that every system takes and that leads nowhere.

    Separators, control characters, what Windows forbids and what cannot be seen become `_`; there
    is no dot or blank at the begin or end, no name of a device (`CON`, `COM1`), and at most
    `MAX_NAME` bytes. A safe name stays as it is; an empty one becomes `image`. Names that are
    alike but for the case are told apart by `distinct_name`.
    """
    shown = (c if c.isprintable() else "_" for c in unicodedata.normalize("NFC", text))
    name = re.sub(r'[<>:"/\\|?*]', "_", "".join(shown))
    name = name.encode("utf-8", "replace")[:MAX_NAME].decode(errors="ignore").strip(". ")
    if _DEVICES.match(name):
        name = f"_{name}"[: MAX_NAME // 4].rstrip(". ")
    return name or "image"


def is_plain_name(name: Any) -> bool:
    """Tell whether a value is the name of a file in some folder, and leads nowhere else."""
    if not isinstance(name, str) or name in ("", ".", "..") or "\0" in name:
        return False
    try:
        # Half a surrogate pair is text for JSON, and no name for a file system.
        return bool(os.fsencode(name)) and Path(name).name == name
    except UnicodeEncodeError:
        return False


def distinct_name(name: str, taken: set[str]) -> str:
    """Return the name, or with a number if it is taken; some systems ignore upper case.

    `taken` are the names given so far, in lower case; the new one is added.
    """
    number, candidate = 1, name
    while candidate.casefold() in taken:
        number += 1
        candidate = f"{name}_{number}"
    taken.add(candidate.casefold())
    return candidate
