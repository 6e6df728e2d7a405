"""What a reader is given, as one text of bytes: a few files with their names."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

Files = dict[str, bytes]
"""Name, with `/` between its parts, and content of each file of a folder."""


def pack(files: Mapping[str, bytes]) -> bytes:
    """Join files to one text of bytes: of each the name and the content with their lengths."""
    parts = []
    for name, content in files.items():
        text = name.encode("utf-8", "replace")[:255]
        parts += [bytes([len(text)]), text, len(content).to_bytes(4, "little"), content]
    return b"".join(parts)


def unpack(blob: bytes) -> Files:
    """Take apart what `pack` joined; whatever the bytes are, they stand for some files."""
    files: Files = {}
    place = 0
    while place < len(blob):
        length = blob[place]
        name = blob[place + 1 : place + 1 + length].decode("utf-8", "replace")
        place += 1 + length
        size = int.from_bytes(blob[place : place + 4], "little")
        files[name] = blob[place + 4 : place + 4 + size]
        place += 4 + size
    return files


def read_folder(folder: Path) -> Files:
    """Read all files below a folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Make a folder anew with these files; names that lead out of it, or clash, are left out."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, content in files.items():
        parts = PurePosixPath(name).parts
        if not parts or ".." in parts or parts[0] == "/" or "\0" in name:
            continue
        path = folder.joinpath(*parts)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        except (OSError, UnicodeError):
            continue


def is_below(path: str, folder: str) -> bool:
    """Tell whether a path is a folder or lies in it, links followed."""
    return (os.path.realpath(path) + os.sep).startswith(os.path.realpath(folder) + os.sep)
