"""Recordings from files of any known format, told by their content, and folders of them."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from fluxseg.config import Config
from fluxseg.data.npy import MAGIC as NPY_MAGIC
from fluxseg.data.npy import naming_file, open_regular
from fluxseg.data.recording import Recording, Source
from fluxseg.errors import ConfigError, RecordingError
from fluxseg.interop.allen import read_allen_npy
from fluxseg.interop.images import SUFFIXES as IMAGE_SUFFIXES
from fluxseg.interop.images import find_image, find_mask, is_mask_name, read_image
from fluxseg.interop.npz import read_npz
from fluxseg.interop.pixels import MAGICS as IMAGE_MAGICS

SUFFIXES = (".npy", ".npz", *IMAGE_SUFFIXES)
"""Endings of the files that a folder is searched for, in lower case; upper case counts as well."""
_READERS: dict[bytes, Callable[[Path], Recording]] = {
    NPY_MAGIC: read_allen_npy,
    b"PK\x03\x04": read_npz,
    **dict.fromkeys(IMAGE_MAGICS, read_image),
}
_HINTS = {
    b"\x89HDF\r\n\x1a\n": "is an HDF5 or NWB file; save its projection and masks as .npz",
    b"PK": "is an empty or split .zip file",
    b"\x80": "looks like a bare pickle; save the dict with numpy.save instead",
}


def read_recording(path: Path | str) -> Recording:
    """Read a recording from a file in any known format, which its content tells, not its name.

    Args:
        path: `.npy` (a dict as Allen's), `.npz`, TIFF, PNG or JPEG file; for an image the masks
            are looked for beside it, see `fluxseg.interop.images`.

    Returns:
        The recording.

    Raises:
        UnsafeFileError: if the file asks for anything but plain data, naming it.
        RecordingError: whose text begins with the path, if the file cannot be used.
    """
    path = Path(path)
    with naming_file(path):
        with open_regular(path) as (file, _):
            start = file.read(16)
        readers = (reader for magic, reader in _READERS.items() if start.startswith(magic))
        reader = next(readers, None)
        if reader is None:
            hints = (hint for magic, hint in _HINTS.items() if start.startswith(magic))
            unknown = "is in no known format; known are .npy, .npz, TIFF, PNG and JPEG"
            raise RecordingError("", next(hints, unknown) if start else "is empty")
    return reader(path)


@dataclasses.dataclass(frozen=True)
class FolderSource:
    """The recordings in a folder and the folders below it, or in one file.

    Keys are paths relative to the folder, with `/` between their parts. Files of other endings,
    hidden files and folders, and mask files are no recordings; a mask file without its image is
    one that cannot be read, so that it is not lost silently. Links are followed once.

    Attributes:
        root: path of the folder or file.
    """

    root: str

    def keys(self) -> list[str]:
        """Return the sorted keys of all recordings.

        Raises:
            ConfigError: if there is no such folder, or nothing in it.
        """
        root = Path(self.root)
        try:
            if root.is_file():
                return [root.name]
            if not root.is_dir():
                raise ConfigError(f"data.source: there is no folder or file {self.root}")
            keys = sorted(path.relative_to(root).as_posix() for path in _recordings(root))
        except OSError as error:
            reason = f"{error.filename} cannot be read: {error.strerror}"
            raise ConfigError(f"data.source: {reason}") from error
        if not keys:
            wanted = ", ".join(f"*{suffix}" for suffix in SUFFIXES)
            raise ConfigError(
                f"data.source: no recordings in {self.root} or the folders below it; "
                f"looked for {wanted}"
            )
        for key in keys:
            if not key.isascii() and key.encode("utf-8", "replace").decode() != key:
                raise ConfigError(f"data.source: the name {key!a} is not valid text; rename it")
        return keys

    def read(self, key: str) -> Recording:
        """Read one recording.

        Raises:
            UnsafeFileError: if the file asks for anything but plain data, naming it.
            RecordingError: whose text begins with the path, if the file cannot be used.
        """
        return read_recording(self._path(key))

    def stamp(self, key: str) -> str:
        """Return sizes and times of change of the file and of the mask file that belongs to it.

        Raises:
            RecordingError: if the file is not there.
        """
        path = self._path(key)
        with naming_file(path):
            stamps = [_stamp(path)]
            if path.suffix.lower() in IMAGE_SUFFIXES:
                try:
                    mask = find_mask(path)
                    stamps += [f"{mask.name}:{_stamp(mask)}"] if mask else []
                except RecordingError as error:
                    # Several masks: reading says so; here their names tell when that changes.
                    stamps.append(error.reason)
            return "+".join(stamps)

    def describe(self) -> dict[str, Any]:
        """Return plain values that identify the source."""
        return {"kind": "folder", "root": Path(self.root).resolve().as_posix()}

    def _path(self, key: str) -> Path:
        root = Path(self.root)
        if root.is_file() and key == root.name:
            return root
        if PurePosixPath(key).is_absolute() or ".." in PurePosixPath(key).parts or not key:
            raise RecordingError(key, f"is not a path below {self.root}")
        return root / key


def _stamp(path: Path) -> str:
    status = path.stat()
    return f"{status.st_size}-{status.st_mtime_ns}"


def _raise(error: OSError) -> None:
    raise error


def _recordings(root: Path) -> list[Path]:
    """Return the paths of all recordings below a folder, each folder entered once."""
    found: list[Path] = []
    entered: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(root, followlinks=True, onerror=_raise):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in entered:
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        # Sorted, so that of two links to one folder always the same is entered.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            path = Path(folder, name)
            if name.startswith(".") or path.suffix.lower() not in SUFFIXES:
                continue
            if not is_mask_name(path) or find_image(path) is None:
                found.append(path)
    return found


def open_source(config: Config) -> Source:
    """Return where the recordings of a config come from.

    Args:
        config: of which `data.source` is a folder, a file, or "simulator".

    Returns:
        A source that reads a folder, or that simulates.
    """
    if config.data.source == "simulator":
        from fluxseg.data.simulator import SimulatedSource

        return SimulatedSource(config.simulator)
    return FolderSource(config.data.source)
