"""Files to predict: which ones files, folders and patterns name, and how each is read."""

import dataclasses
import glob
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fluxseg.errors import ConfigError, RecordingError, UnsafeFileError
from fluxseg.formats.images import find_image, is_mask_name
from fluxseg.formats.npy import MAGIC, naming_file, read_npy
from fluxseg.formats.pick import NO_PICK, Pick
from fluxseg.formats.pixels import MAGICS, read_pixels
from fluxseg.formats.sources import FolderSource, read_recording
from fluxseg.io.names import distinct_name, safe_name


@dataclasses.dataclass(frozen=True)
class Job:
    """One image to predict.

    Attributes:
        path: the file.
        name: begin of the names of its outputs, unlike that of any other job.
        error: why it cannot be read, if that is known already.
        pick: which channel, plane or array is read, if there are several.
    """

    path: Path
    name: str
    error: str = ""
    pick: Pick = NO_PICK


def plan_jobs(inputs: Sequence[str], output: Path, pick: Pick = NO_PICK) -> list[Job]:
    """Find the images that files, folders and patterns name, each once.

    Args:
        inputs: paths, or patterns with `*`, `?`, `[...]` or `**`. Of folders, and of what a
            pattern finds, mask files are left out, and files in the output folder.
        output: folder of the predictions.
        pick: which channel, plane or array of each, if there are several.

    Returns:
        The jobs, in the order of the inputs. An input that names nothing gives a job with an
        error.
    """
    found: list[tuple[Path, str]] = []
    for text in inputs:
        found += _find(text, output)
    jobs: list[Job] = []
    seen: set[Path] = set()
    taken: set[str] = set()
    for path, error in found:
        if path.resolve() in seen:
            continue
        seen.add(path.resolve())
        jobs.append(Job(path, distinct_name(safe_name(path.stem), taken), error, pick))
    return jobs


def _find(text: str, output: Path) -> list[tuple[Path, str]]:
    """Return (path, error) of each file that an input names."""
    path = Path(text)
    if path.is_dir():
        return _in_folder(path, output)
    if path.exists():
        inside = _is_below(path, output)
        # Labels beside an image are taken for its annotation by whoever reads it next.
        return [(path, "lies in the output folder; choose another --output" if inside else "")]
    matches = [Path(match) for match in sorted(glob.glob(text, recursive=True))]  # noqa: PTH207
    if not matches:
        return [(path, "there is no such file or folder, and nothing that matches")]
    kept = [p for p in matches if p.is_file() and not _is_below(p, output) and not _is_mask(p)]
    if not kept:
        return [(path, "matches no image")]
    return [(match, "") for match in kept]


def _in_folder(folder: Path, output: Path) -> list[tuple[Path, str]]:
    try:
        keys = FolderSource(str(folder)).keys()
    except ConfigError as error:
        return [(folder, str(error).removeprefix("data.source: "))]
    paths = [folder / key for key in keys]
    kept = [path for path in paths if not _is_below(path, output)]
    if not kept:
        return [(folder, "holds no recording outside of the output folder")]
    return [(path, "") for path in kept]


def _is_below(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _is_mask(path: Path) -> bool:
    return is_mask_name(path) and find_image(path) is not None


def read_input(path: Path, pick: Pick = NO_PICK) -> tuple[np.ndarray, float | None]:
    """Read an image to predict; masks that may belong to it are not looked at.

    Args:
        path: image file, or a recording in any known format, or a `.npy` file of one array.
        pick: channel, plane or array, if there are several.

    Returns:
        Image `[H, W]` of its own dtype, and the size of its pixels, um, or None if unknown.

    Raises:
        RecordingError: naming the file, if it cannot be used.
    """
    start = b""
    if path.is_file():
        with naming_file(path), path.open("rb") as file:
            start = file.read(16)
    if any(start.startswith(magic) for magic in MAGICS):
        image, metadata = read_pixels(path, pick=pick)
    else:
        try:
            recording = read_recording(path, pick=pick)
        except UnsafeFileError:
            raise
        except RecordingError:
            array = read_npy(path) if start.startswith(MAGIC) else None
            if array is None or array.dtype == object or array.ndim != 2:
                raise
            return array, None
        image, metadata = recording.image, dict(recording.metadata)
    scale = metadata.get("um_per_px")
    if isinstance(scale, int | float) and 0 < scale < 1000:
        return image, float(scale)
    return image, None


def without_path(error: Exception, path: Path) -> str:
    """Return the text of an error without the path that it begins with."""
    return str(error).removeprefix(str(path)).lstrip(": ")
