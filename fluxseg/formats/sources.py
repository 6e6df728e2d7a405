"""Recordings from files of any known format, told by their content, and folders of them."""

import dataclasses
import os
from pathlib import Path, PurePosixPath
from typing import Any

from fluxseg.config import Config
from fluxseg.data.recording import Recording, Source
from fluxseg.errors import ConfigError, RecordingError
from fluxseg.formats.cellpose import SEG_ENDING
from fluxseg.formats.imagej import find_roi_image
from fluxseg.formats.images import SUFFIXES as IMAGE_SUFFIXES
from fluxseg.formats.images import existing_images, find_image, find_mask, is_mask_name
from fluxseg.formats.neurofinder import REGIONS, is_neurofinder
from fluxseg.formats.npy import naming_file
from fluxseg.formats.pick import NO_PICK, Pick, parse_pick
from fluxseg.formats.suite2p import PLANE_FILES, is_combined, is_suite2p

SUFFIXES = (".npy", ".npz", ".nwb", ".mat", *IMAGE_SUFFIXES)
"""Endings of the files that a folder is searched for, in lower case; upper case counts as well."""
_DATASET_FILES = (*PLANE_FILES, REGIONS, "info.json")
ROI_SUFFIXES = (".zip", ".roi", ".json")
"""Endings of files that hold ROIs of an image beside them; without one they are no recordings."""


def read_recording(
    path: Path | str, image: Path | str | None = None, pick: Pick = NO_PICK
) -> Recording:
    """Read a recording in any known format, which its content tells, not its name.

    Args:
        path: `.npy` (a dict as Allen's, or Cellpose's `_seg.npy`), `.npz`, TIFF, PNG or JPEG file
            (the masks are looked for beside it, see `fluxseg.formats.images`), NWB file, Suite2p
            or Neurofinder folder, ImageJ ROI set, COCO file with an image beside it.
        image: the image of a file that holds ROIs only.
        pick: which channel, plane or array is read, if there are several.

    Returns:
        The recording.

    Raises:
        UnsafeFileError: if the file asks for anything but plain data, naming it.
        RecordingError: whose text begins with the path, if the file cannot be used.
    """
    from fluxseg.formats.convert import read_any

    return read_any(path, image, pick)


@dataclasses.dataclass(frozen=True)
class FolderSource:
    """The recordings in a folder and the folders below it, or in one file.

    Keys are paths relative to the folder, with `/` between their parts. A Suite2p plane or a
    Neurofinder dataset is one recording, named by its folder. Files of other endings, hidden
    files and folders, and mask files are no recordings; a mask file without its image is one
    that cannot be read, so that it is not lost silently. Files of ROIs (ImageJ, COCO,
    Neurofinder, Cellpose) count with the image beside them, which is then no recording of its
    own. Links are followed once.

    Attributes:
        root: path of the folder or file.
        pick: which channel, plane or array is read of files with several.
    """

    root: str
    pick: Pick = NO_PICK

    def keys(self) -> list[str]:
        """Return the sorted keys of all recordings.

        Raises:
            ConfigError: if there is no such folder, or nothing in it.
        """
        root = Path(self.root)
        try:
            if root.is_file() or _is_dataset(root):
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
        return read_recording(self._path(key), pick=self.pick)

    def stamp(self, key: str) -> str:
        """Return sizes and times of change of the file and of the mask file that belongs to it.

        Raises:
            RecordingError: if the file is not there.
        """
        path = self._path(key)
        with naming_file(path):
            if path.is_dir():
                parts = [path / name for name in _DATASET_FILES if (path / name).is_file()]
                return "+".join(f"{part.name}:{_stamp(part)}" for part in parts)
            stamps = [_stamp(path)]
            try:
                beside = find_companion(path)
                stamps += [f"{beside.name}:{_stamp(beside)}"] if beside else []
            except RecordingError as error:
                # Several of them: reading says so; here their names tell when that changes.
                stamps.append(error.reason)
            return "+".join(stamps)

    def describe(self) -> dict[str, Any]:
        """Return plain values that identify the source."""
        values = {"kind": "folder", "root": Path(self.root).resolve().as_posix()}
        return values | {k: v for k, v in dataclasses.asdict(self.pick).items() if v}

    def _path(self, key: str) -> Path:
        root = Path(self.root)
        if key == root.name and (root.is_file() or _is_dataset(root)):
            return root
        if PurePosixPath(key).is_absolute() or ".." in PurePosixPath(key).parts or not key:
            raise RecordingError(key, f"is not a path below {self.root}")
        return root / key


def find_companion(path: Path) -> Path | None:
    """Return the file that belongs to a file: the masks of an image, the image of ROIs.

    Raises:
        RecordingError: if there are several.
    """
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return find_mask(path)
    if path.suffix.lower() in ROI_SUFFIXES:
        return find_roi_image(path)
    if not path.name.endswith(SEG_ENDING):
        return None
    return next(iter(existing_images(path.parent, path.name.removesuffix(SEG_ENDING))), None)


def _is_dataset(folder: Path) -> bool:
    return is_suite2p(folder) or is_neurofinder(folder)


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
        if is_combined(Path(folder)):
            folders.clear()
            continue
        if _is_dataset(Path(folder)):
            folders.clear()
            found.append(Path(folder))
            continue
        found += _in_folder(Path(folder), names)
    return found


def _in_folder(folder: Path, names: list[str]) -> list[Path]:
    paths = [folder / name for name in names if not name.startswith(".")]
    rois = [p for p in paths if p.suffix.lower() in ROI_SUFFIXES or p.name.endswith(SEG_ENDING)]
    kept, images = [], set()
    for path in rois:
        try:
            image = find_companion(path)
        except RecordingError:
            image = None
        if image is not None:
            kept.append(path)
            images.add(image)
    for path in paths:
        if path in rois or path in images or path.suffix.lower() not in SUFFIXES:
            # A segmentation may hold its image itself, and reading it says if not.
            kept += [path] if path.name.endswith(SEG_ENDING) and path not in kept else []
        elif not is_mask_name(path) or find_image(path) is None:
            kept.append(path)
    return kept


def open_source(config: Config) -> Source:
    """Return where the recordings of a config come from.

    Args:
        config: of which `data.source` is a folder, a file, or "simulator".

    Returns:
        A source that reads a folder, or that simulates.
    """
    if config.data.source == "simulator":
        from fluxseg.simulation.sessions import SimulatedSource

        return SimulatedSource(config.simulator)
    return FolderSource(config.data.source, parse_pick(config.data.pick))
