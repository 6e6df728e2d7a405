"""Which files are parts of one movie: single frames, or parts that were numbered when saved."""

import dataclasses
import glob
from collections.abc import Sequence
from pathlib import Path

from fluxseg.errors import ConfigError, RecordingError
from fluxseg.formats.folders import files_in, folders_in
from fluxseg.formats.label_names import stem_of
from fluxseg.formats.microscope_xml import group_recorded, is_accessory
from fluxseg.formats.movies import find_raw, is_suite2p_movie, read_movie_facts
from fluxseg.formats.npy import file_error, naming_file
from fluxseg.formats.pick import NO_PICK, Pick
from fluxseg.formats.series import FRAMES, split_series
from fluxseg.formats.suite2p import is_suite2p, plane_name
from fluxseg.io.names import safe_name

SUFFIXES = (*FRAMES, ".h5", ".hdf5", ".nwb", ".mat")
"""Endings of the files that a folder is searched for."""
_DIGITS = 3  # programs that save a movie in parts number these with leading zeros


@dataclasses.dataclass(frozen=True)
class Movie:
    """The files of one movie, in the order of time, and its name."""

    name: str
    paths: tuple[Path, ...]


def find_movies(inputs: Sequence[Path], pick: Pick = NO_PICK) -> list[Movie]:
    """Find the movies that files, folders and patterns (with `*`, `?` or `[...]`) name.

    Files that differ in the number at the end of their names are one movie if each is a single
    frame; in a folder, or as a pattern, also if the number has three digits or more. Of a folder of
    Suite2p the registered movies are taken (`data.bin`). Without channel and plane of `pick` frames
    cannot be counted. An input that holds no movie is an error.
    """
    movies: list[Movie] = []
    files: list[Path] = []
    for path in inputs:
        # Of Suite2p the movie, the folder of a plane, or a folder with some may be named.
        planes = (path, *sorted(path.glob("plane*")), *sorted(path.glob("suite2p/plane*")))
        bins = [f for f in (path, *(p / "data.bin" for p in planes)) if is_suite2p_movie(f)]
        if bins:
            movies += [Movie(plane_name(file.parent), (file,)) for file in bins]
        elif path.is_dir():
            known = [f for f in files_in(path) if f.suffix.lower() in SUFFIXES or find_raw(f)]
            found = [file for file in known if not is_accessory(file)]
            if not found:
                raise file_error(path, _explain_none(path))
            movies += _group(found, pick, parts=True)
        elif not path.exists() and glob.has_magic(str(path)):
            found = [Path(name) for name in glob.glob(str(path), recursive=True)]  # noqa: PTH207
            found = [file for file in found if file.is_file()]
            if not found:
                raise file_error(path, "matches no file")
            movies += _group(found, pick, parts=True)
        else:
            files.append(path)
    return [*movies, *_group(files, pick, parts=False)]


def _explain_none(folder: Path) -> str:
    if is_suite2p(folder):
        return "is a Suite2p folder without ops.npy, which tells the field's size: copy it there"
    wanted = ", ".join(f"*{suffix}" for suffix in SUFFIXES)
    inner = folders_in(folder)
    below = f"; folders in it, such as {inner[0].name}, must be named" if inner else ""
    return f"is a folder without any of {wanted}{below}"


def is_image(movie: Movie, named: Sequence[Path], pick: Pick) -> bool:
    """Tell whether a movie is one image in a folder, and not named itself."""
    alone = len(movie.paths) == 1 and movie.paths[0] not in named
    return alone and read_movie_facts(movie.paths, pick).frames == 1


def name_movies(inputs: Sequence[Path], pick: Pick, verb: str) -> list[Movie]:
    """Find movies as `find_movies` does, each with a safe name for its outputs.

    Raises `ConfigError` if there is no input, or two movies have one name.
    """
    if not inputs:
        raise ConfigError(f"{verb}: give at least one movie")
    movies = [Movie(safe_name(movie.name), movie.paths) for movie in find_movies(inputs, pick)]
    folded = [movie.name.casefold() for movie in movies]
    twice = sorted({movie.name for movie in movies if folded.count(movie.name.casefold()) > 1})
    if twice:
        how = f"{verb} them apart, each to an --output of its own"
        raise ConfigError(f"{verb}: several movies are named {twice[0]}; {how}")
    return movies


def _group(files: Sequence[Path], pick: Pick, parts: bool) -> list[Movie]:
    movies: list[Movie] = []
    told: set[Path] = set()
    for one, mine in group_recorded(files):
        told |= set(mine)
        with naming_file(mine[0].parent):
            chosen = tuple(one.choose_files(sorted(mine), pick))
        alone = len(mine) == 1 < len(one.files)
        movies.append(Movie(stem_of(mine[0]) if alone else one.name, chosen))
    frames = {path for path in files if path.suffix.lower() in FRAMES} - told
    movies += [Movie(stem_of(path), (path,)) for path in sorted(set(files) - frames - told)]
    for name, paths, digits in split_series(list(frames)):
        numbered = parts and digits >= _DIGITS
        if len(paths) > 1 and (numbered or _are_frames(paths, pick)):
            movies.append(Movie(name or paths[0].parent.resolve().name, tuple(paths)))
        else:
            movies += [Movie(stem_of(path), (path,)) for path in paths]
    order = {path: place for place, path in enumerate(sorted(files) if parts else files)}
    return sorted(movies, key=lambda movie: order[movie.paths[0]])


def _are_frames(paths: Sequence[Path], pick: Pick) -> bool:
    try:
        return all(read_movie_facts(path, pick).frames == 1 for path in (paths[0], paths[-1]))
    except RecordingError:
        return False
