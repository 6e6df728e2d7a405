"""Files that differ in one number of their names: the frames or the parts of one movie."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fluxseg.data.duplicates import near_duplicates
from fluxseg.data.fingerprint import fingerprint
from fluxseg.errors import RecordingError
from fluxseg.formats.label_names import stem_of
from fluxseg.formats.microscope_xml import group_recorded
from fluxseg.formats.pick import IMAGE_AXES, NO_PICK, Pick
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


def set_aside(
    labels: Mapping[Path, object], frames: Mapping[Path, str], pick: Pick
) -> tuple[dict[Path, str], dict[Path, str]]:
    """Tell which images are not to be read, as they are frames, channels or planes of others.

    Of `labels`, images and the labels of each, and what `find_frames` found among them, it returns
    what is wrong with the first file of each movie, and of each recording of which nothing is
    picked; and those that are not used, and why. Nothing with the axes YX: each is an image then.
    """
    wrong: dict[Path, str] = {}
    unused: dict[Path, str] = {}
    if pick.axes == IMAGE_AXES:
        return wrong, unused
    series: dict[tuple[Path, str], list[Path]] = {}
    for path, told in frames.items():
        if path in labels:
            series.setdefault((path.parent, told), []).append(path)
    for (_, told), members in series.items():
        if len(members) >= FEWEST:
            wrong[members[0]] = told
            unused |= dict.fromkeys(members[1:], "frames or parts of a movie, see above")
    for one, mine in group_recorded(labels):
        kept = [path for path in mine if labels[path]]
        if not kept:
            try:
                kept = one.choose_files(mine, pick)
            except RecordingError as error:
                kept, wrong[mine[0]] = mine[:1], f"the recording {one.name} {error.reason}"
        if len(kept) > 1 and not any(labels[path] for path in kept):
            what = f"{len(kept)} files, {kept[0].name} to {kept[-1].name}, are one movie"
            wrong[kept[0]] = f"{what}: project it with `fluxseg project FOLDER --output IMAGES`"
            kept = kept[:1]
        other = "another channel, plane or time of a recording, see above"
        unused |= {path: other for path in mine if path not in kept}
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
