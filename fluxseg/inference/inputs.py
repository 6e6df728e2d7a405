"""Files to predict: which ones files, folders and patterns name, and how each is read."""

import collections
import contextlib
import dataclasses
import glob
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np

from fluxseg.formats.npy import naming_file
from fluxseg.formats.own import is_prediction
from fluxseg.formats.pairs import sort_folder
from fluxseg.formats.pick import NO_PICK, Pick
from fluxseg.formats.pixels import MAGICS, read_pixels
from fluxseg.formats.series import FEWEST, set_aside
from fluxseg.formats.sources import survey
from fluxseg.io.names import distinct_name, safe_name


@dataclasses.dataclass(frozen=True)
class Job:
    """One image to predict."""

    path: Path  # the file
    name: str  # begin of the names of its outputs, unlike that of any other job
    error: str = ""  # why it cannot be read, if that is known already
    pick: Pick = NO_PICK  # which channel, plane or array is read, if there are several
    more: tuple[Path, ...] = ()  # other images of the same field


def plan_jobs(
    inputs: Sequence[str],
    pick: Pick = NO_PICK,
    names: Mapping[Path, str] = MappingProxyType({}),
    *,
    one_field: bool = False,
) -> tuple[list[Job], dict[Path, str]]:
    """Find the images that files, folders and patterns (`*`, `?`, `[...]`, `**`) name, each once.

    Of folders, and of what a pattern finds, labels and other files that are no images are left out,
    as `fluxseg.formats.pairs` tells. Images (whole paths) keep their `names`, which no other image
    gets: their results are there already. Returns the jobs, in the order of the inputs, and the
    files that are not used, with the reason. An input that names nothing gives a job with an error,
    and so do labels without an image. With `one_field` all images show one field: they make one
    job.
    """
    found: list[tuple[Path, str]] = []
    unused: dict[Path, str] = {}
    for text in inputs:
        found += _find(text, unused, pick)
    frames: dict[Path, str] = {}
    folders = collections.Counter(p.parent for p, error in found if not error and p.is_file())
    for folder, count in folders.items():
        # Fewer files are no movie, and a large folder takes long to look through.
        if count >= FEWEST:
            with contextlib.suppress(OSError):
                frames |= sort_folder(folder).frames
    images = [path for path, error in found if not error]
    movies: dict[Path, str] = {}
    others: dict[Path, str] = {}
    if len(images) > 1:
        movies, others = set_aside(dict.fromkeys(images), frames, pick)
    found = [(path, movies.get(path, error)) for path, error in found if path not in others]
    unused |= others
    jobs: list[Job] = []
    seen: set[Path] = set()
    taken = {name.casefold() for name in names.values()}
    for path, error in found:
        whole = path.resolve()
        if whole in seen:
            continue
        seen.add(whole)
        name = names.get(whole) or distinct_name(safe_name(path.stem), taken)
        jobs.append(Job(path, name, error, pick))
    if one_field and jobs:
        wrong = [dataclasses.replace(job, name=jobs[0].name) for job in jobs if job.error]
        more = tuple(job.path for job in jobs[1:])
        jobs = wrong[:1] or [dataclasses.replace(jobs[0], more=more)]
    return jobs, unused


def _find(text: str, unused: dict[Path, str], pick: Pick) -> list[tuple[Path, str]]:
    """Return (path, error) of each file that an input names; add those that are not used."""
    path = Path(text)
    if path.is_dir():
        return _in_folder(path, unused, pick)
    if path.exists():
        return [(path, "is an output of fluxseg predict" if is_prediction(path) else "")]
    matches = [Path(match) for match in sorted(glob.glob(text, recursive=True))]  # noqa: PTH207
    if not matches:
        return [(path, "there is no such file or folder, and nothing that matches")]
    kept: list[tuple[Path, str]] = []
    for match in filter(Path.is_file, matches):
        found = sort_folder(match.parent)
        if match in found.labels or match in found.others:
            kept.append((match, ""))
        elif match in found.wrong:
            kept.append((match, found.wrong[match]))
        elif match in found.unused:
            unused[match] = found.unused[match]
    return kept or [(path, "matches no image")]


def _in_folder(folder: Path, unused: dict[Path, str], pick: Pick) -> list[tuple[Path, str]]:
    try:
        found = survey(folder, pick)
    except OSError as error:
        return [(folder, f"{error.filename} cannot be read: {error.strerror}")]
    unused |= found.unused
    paths = [(path, "") for path in found.recordings] + list(found.wrong.items())
    # Those of the folder itself first: if it is the output too, labels beside them must be theirs.
    paths.sort(key=lambda one: (len(one[0].parts), one))
    return paths or [(folder, "holds no image or recording")]


def read_input(
    path: Path, pick: Pick = NO_PICK
) -> tuple[np.ndarray, float | None, tuple[str, ...]]:
    """Read an image to predict, a file of any known format; masks are not looked at.

    Returns the image `[H, W]` of its own dtype; the size of its pixels, um, or None; and what was
    odd. Raises `RecordingError`, naming the file, if it cannot be used.
    """
    start = b""
    remarks: tuple[str, ...] = ()
    if path.is_file():
        with naming_file(path), path.open("rb") as file:
            start = file.read(16)
    if any(start.startswith(magic) for magic in MAGICS):
        image, metadata = read_pixels(path, pick=pick)
        remarks = tuple(metadata.get("remarks", ()))
    else:
        # Imported only here: images need neither HDF5 nor the formats of other tools.
        from fluxseg.formats.convert import read_recording

        recording = read_recording(path, pick=pick)
        image, metadata = recording.image, dict(recording.metadata)
    scale = metadata.get("um_per_px")
    if isinstance(scale, int | float) and 0 < scale < 1000:
        return image, float(scale), remarks
    return image, None, remarks
