"""Files that differ in one number of their names: the frames or the parts of one movie."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fluxseg.data.duplicates import near_duplicates
from fluxseg.data.fingerprint import fingerprint
from fluxseg.errors import RecordingError
from fluxseg.formats.label_names import stem_of
from fluxseg.formats.pick import NO_PICK
from fluxseg.formats.pixels import read_pixels
from fluxseg.formats.stacks import read_stack
from fluxseg.formats.tiff import open_tiff

TIFFS = (".tif", ".tiff", ".btf", ".tf8", ".lsm", ".stk")
FRAMES = (*TIFFS, ".png")  # endings of files that may be single frames of a movie
FEWEST = 10  # so many images of one field of view are taken for the frames of a movie
_LOOKED_AT = 16
_NUMBER = re.compile(r"(\d+)")
# Channels, planes and places are numbered as well, and are never mixed.
_OTHER = re.compile(
    r"(?<![a-z])(?:c|ch|chan|channel|z|plane|slice|pos|position)[ _.-]?$", re.IGNORECASE
)


def split_series(paths: Sequence[Path]) -> list[tuple[str, list[Path], int]]:
    """Divide files into series whose names differ in one number, the last one that changes.

    Returns of each its name without the number, its files in the order of the number, and the least
    digits of it; 0 of a file that is alone.
    """
    alike: dict[tuple[Path, str, str], list[Path]] = {}
    for path in sorted(paths):
        name = _NUMBER.sub("0", stem_of(path))
        alike.setdefault((path.parent, path.suffix.lower(), name), []).append(path)
    found: list[tuple[str, list[Path], int]] = []
    for files in alike.values():
        names = {path: _NUMBER.split(stem_of(path)) for path in files}
        columns = list(zip(*names.values(), strict=True))
        places = [
            place
            for place in range(1, len(columns), 2)
            if len(set(columns[place])) > 1 and not _OTHER.search(columns[place - 1][0])
        ]
        place = places[-1] if places else 0
        series: dict[str, list[Path]] = {}
        for path, parts in names.items():
            name = "".join(parts[:place]).rstrip(" _.-") + "".join(parts[place + 1 :])
            series.setdefault(name if places else stem_of(path), []).append(path)
        for name, members in series.items():
            members.sort(key=lambda path: (int(names[path][place] or 0) if places else 0, path))
            digits = min(len(names[path][place]) for path in members)
            found.append((name, members, digits if len(members) > 1 else 0))
    return found


def find_frames(images: Sequence[Path]) -> dict[Path, str]:
    """Return which images without labels are frames or parts of a movie, and what to do."""
    found: dict[Path, str] = {}
    for _, paths, _ in split_series([p for p in images if p.suffix.lower() in FRAMES]):
        if len(paths) >= FEWEST and (what := _inspect(paths)):
            told = (
                f"{len(paths)} files, {paths[0].name} to {paths[-1].name}, are {what}: make an "
                "image of it with `fluxseg project FOLDER --output IMAGES`, or say with --axes YX "
                "that each is an image of its own"
            )
            found |= dict.fromkeys(paths, told)
    return found


def collapse_frames(
    paths: Sequence[Path], frames: Mapping[Path, str]
) -> tuple[dict[Path, str], dict[Path, str]]:
    """Return what is wrong with the first file of each movie, and why the others are not used."""
    series: dict[tuple[Path, str], list[Path]] = {}
    for path in paths:
        if path in frames:
            series.setdefault((path.parent, frames[path]), []).append(path)
    wrong: dict[Path, str] = {}
    unused: dict[Path, str] = {}
    for (_, told), members in series.items():
        if len(members) >= FEWEST:
            wrong[members[0]] = told
            unused |= dict.fromkeys(members[1:], "frames or parts of a movie, see above")
    return wrong, unused


def _inspect(paths: Sequence[Path]) -> str:
    """Say what files are to each other: "" if they are images of different fields."""
    places = np.unique(np.linspace(0, len(paths) - 1, _LOOKED_AT).astype(int))
    try:
        if paths[0].suffix.lower() in TIFFS:
            with open_tiff(paths[0]) as tiff:
                if len(read_stack(paths[0], tiff, NO_PICK).select(NO_PICK)) > 1:
                    return "parts of one movie, or movies"
        frames = [read_pixels(paths[place])[0] for place in places]
    except (RecordingError, OSError):
        return ""
    if any(frame.shape != frames[0].shape for frame in frames):
        return ""
    # Noise hides what a single frame shows.
    halves = [np.stack(frames[begin::2]).mean(0, np.float64) for begin in (0, 1)]
    same = near_duplicates([fingerprint(half) for half in halves])
    return "frames of one movie" if same else ""
