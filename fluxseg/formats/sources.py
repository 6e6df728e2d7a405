"""Recordings from files of any known format, told by their content, and folders of them."""

import dataclasses
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from fluxseg.config import Config
from fluxseg.data.recording import Recording, Source
from fluxseg.errors import ConfigError, RecordingError
from fluxseg.formats.folders import RECORDING_SUFFIXES
from fluxseg.formats.label_names import IMAGE_SUFFIXES
from fluxseg.formats.microscope_xml import recorded_in
from fluxseg.formats.neurofinder import REGIONS, is_neurofinder
from fluxseg.formats.npy import naming_file
from fluxseg.formats.own import OWN, is_prediction
from fluxseg.formats.pairs import find_image, find_labels, sort_folder
from fluxseg.formats.pick import NO_PICK, Pick, parse_pick
from fluxseg.formats.series import set_aside
from fluxseg.formats.suite2p import PLANE_FILES, is_combined, is_suite2p
from fluxseg.io.files import stamp_file

SUFFIXES = (*RECORDING_SUFFIXES, *IMAGE_SUFFIXES)
"""Endings of the files that a folder is searched for, in lower case; upper case counts as well."""
NO_TEXT = "its name is not valid text; rename it"
_MOST_NAMED = 10
_DATASET_FILES = (*PLANE_FILES, REGIONS, "info.json")


@dataclasses.dataclass(frozen=True)
class Survey:
    """What is in a folder and the folders below it; `docs/data.md` has the table."""

    # files and folders of recordings, sorted; with their labels, if there are any
    recordings: tuple[Path, ...]
    wrong: dict[Path, str]  # labels without an image, and what was looked for
    # other files, and why they are not used; none that are hidden or the system's
    unused: dict[Path, str]


def format_unused(unused: Mapping[Path, str]) -> list[str]:
    """Count files that are not used by reason and ending, one line for each reason.

    Names that are no text are shown with the bytes that are wrong.
    """
    reasons: dict[str, Counter[str]] = {}
    for path, reason in unused.items():
        reasons.setdefault(reason, Counter())[path.suffix.lower() or "no ending"] += 1
    lines = []
    for reason, endings in sorted(reasons.items()):
        counts = ", ".join(f"{ending} {count}" for ending, count in sorted(endings.items()))
        lines.append(f"not used: {endings.total()} ({counts}): {reason}")
    names = [os.fsencode(path) for path, reason in unused.items() if reason == NO_TEXT]
    lines += [f"  {name.decode('ascii', 'backslashreplace')}" for name in names[:_MOST_NAMED]]
    return lines


def unused_files(source: Source) -> dict[Path, str]:
    """Return the files that a source does not use, and why; none of a simulator."""
    return source.survey().unused if isinstance(source, FolderSource) else {}


def survey(root: Path, pick: Pick = NO_PICK) -> Survey:
    """Look through a folder and the folders below it; raises `OSError` if one cannot be read.

    A Suite2p plane or a Neurofinder dataset is one recording, which is its folder. Links are
    followed once. With the axes "YX" of `pick` no files are taken for the frames of a movie.
    """
    recordings: list[Path] = []
    wrong: dict[Path, str] = {}
    unused: dict[Path, str] = {}
    for folder in _folders(root):
        if is_combined(folder):
            unused[folder] = "shows the planes of Suite2p once more, side by side"
        elif _is_dataset(folder) and is_prediction(folder):
            unused[folder] = OWN
        elif _is_dataset(folder):
            recordings.append(folder)
        else:
            found = sort_folder(folder)
            movies, parts = set_aside(found.labels, found.frames, pick)
            images = [path for path in found.labels if path not in movies and path not in parts]
            recordings += [*images, *found.others]
            wrong |= {**found.wrong, **movies}
            unused |= {**found.unused, **parts}
    return Survey(tuple(sorted(recordings)), wrong, unused)


@dataclasses.dataclass(frozen=True)
class FolderSource:
    """The recordings in a folder and the folders below it, or in one file.

    Keys are paths relative to the folder, with `/` between their parts. An image with labels is one
    recording, named by the image. Labels without an image are keys that cannot be read, so that
    they are not lost silently.

    Attributes:
        root: path of the folder or file.
        pick: which channel, plane or array is read of files with several.
    """

    root: str
    pick: Pick = NO_PICK

    def keys(self) -> list[str]:
        """Return the sorted keys of all recordings; raises `ConfigError` if there is none."""
        root = Path(self.root)
        if self._is_one():
            return [root.name]
        found = self.survey()
        paths = [path.relative_to(root).as_posix() for path in (*found.recordings, *found.wrong)]
        keys = sorted(filter(_is_text, paths))
        if not keys:
            wanted = ", ".join(f"*{suffix}" for suffix in SUFFIXES)
            counted = "; ".join(["", *format_unused(found.unused)])
            where = f"no recordings in {self.root} or the folders below it"
            raise ConfigError(f"data.source: {where}; looked for {wanted}{counted}")
        return keys

    def survey(self) -> Survey:
        """Look through the folder; of a single file, nothing is unused.

        Raises `ConfigError` if there is no such folder, or it cannot be read.
        """
        root = Path(self.root)
        if self._is_one():
            return Survey((root,), {}, {})
        if not root.is_dir():
            raise ConfigError(f"data.source: there is no folder or file {self.root}")
        try:
            found = survey(root, self.pick)
        except OSError as error:
            reason = f"{error.filename} cannot be read: {error.strerror}"
            raise ConfigError(f"data.source: {reason}") from error
        named = [p for p in (*found.recordings, *found.wrong) if not _is_text(p.as_posix())]
        return dataclasses.replace(found, unused=found.unused | dict.fromkeys(named, NO_TEXT))

    def read(self, key: str) -> Recording:
        """Read one recording.

        Raises `UnsafeFileError` if the file asks for anything but plain data, and `RecordingError`,
        whose text begins with the path, if it cannot be used.
        """
        from fluxseg.formats.convert import read_recording  # slow to import

        path = self._path(key)
        with naming_file(path):
            if not path.is_dir():
                found = sort_folder(path.parent)
                reasons: dict[Path, str] = {**found.wrong}
                if not self._is_one() and (found.frames or recorded_in(path.parent)):
                    movies, parts = set_aside(found.labels, found.frames, self.pick)
                    # There is no line above here that tells of the movie.
                    parts = {one: text.removesuffix(", see above") for one, text in parts.items()}
                    reasons |= movies | parts
                if path in reasons:
                    raise RecordingError("", reasons[path])
        return read_recording(path, pick=self.pick)

    def stamp(self, key: str) -> str:
        """Return sizes and times of change of the file and of the labels that belong to it.

        Raises `RecordingError` if the file is not there.
        """
        path = self._path(key)
        with naming_file(path):
            if path.is_dir():
                parts = [path / name for name in _DATASET_FILES if (path / name).is_file()]
                return "+".join(f"{part.name}:{stamp_file(part)}" for part in parts)
            if path.is_symlink() and not path.exists():
                return "a link to nothing"  # Reading says so, of this file alone.
            stamps = [stamp_file(path)]
            try:
                image = find_image(path) if path.suffix.lower() not in IMAGE_SUFFIXES else None
                beside = (image,) if image else find_labels(path)
                stamps += [f"{one.name}:{stamp_file(one)}" for one in beside]
            except RecordingError as error:
                # Reading says so; here their names tell when that changes.
                stamps.append(error.reason)
            return "+".join(stamps)

    def describe(self) -> dict[str, Any]:
        """Return plain values that identify the source."""
        values = {"kind": "folder", "root": Path(self.root).resolve().as_posix()}
        return values | {k: v for k, v in dataclasses.asdict(self.pick).items() if v}

    def _is_one(self) -> bool:
        root = Path(self.root)
        return root.is_file() or _is_dataset(root)

    def _path(self, key: str) -> Path:
        root = Path(self.root)
        if key == root.name and self._is_one():
            return root
        if PurePosixPath(key).is_absolute() or ".." in PurePosixPath(key).parts or not key:
            raise RecordingError(key, f"is not a path below {self.root}")
        return root / key


def _is_dataset(folder: Path) -> bool:
    return is_suite2p(folder) or is_neurofinder(folder)


def _is_text(key: str) -> bool:
    return key.isascii() or key.encode("utf-8", "replace").decode() == key


def _raise(error: OSError) -> None:
    raise error


def _folders(root: Path) -> Iterator[Path]:
    """Yield a folder and all below it, each once; datasets are not looked into."""
    entered: set[tuple[int, int]] = set()
    for folder, folders, _ in os.walk(root, followlinks=True, onerror=_raise):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in entered:
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        # Sorted, so that of two links to one folder always the same is entered.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if _is_dataset(Path(folder)):
            folders.clear()
        yield Path(folder)


def open_source(config: Config) -> Source:
    """Return what reads the recordings of a config, from a folder or file, or simulates them.

    Args:
        config: of which `data.source` is a folder, a file, or "simulator".
    """
    if config.data.source == "simulator":
        from fluxseg.simulation.sessions import SimulatedSource

        return SimulatedSource(config.simulator)
    return FolderSource(config.data.source, parse_pick(config.data.pick))
