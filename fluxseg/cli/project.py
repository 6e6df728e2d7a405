"""Verb that turns movies into the images that everything else works on."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from fluxseg.console import configure_logging, create_console, progress_bars
from fluxseg.errors import ConfigError, RecordingError
from fluxseg.io.names import safe_name

if TYPE_CHECKING:
    from fluxseg.formats.projections import Projection

Kind = Literal["max", "mean", "correlation"]


def project(
    movies: tyro.conf.Positional[tuple[Path, ...]],
    /,
    output: Path,
    kind: tuple[Kind, ...] = ("max",),
    dataset: str = "",
    bin: int = 1,
    order: Literal["auto", "xy", "yx"] = "auto",
) -> int:
    """Project movies over time: each MOVIE becomes NAME_max.tif and so on.

    Goes on after a movie that cannot be used; exit code 1 if there was any.

    Args:
        movies: TIFF files (a page for each frame, or ImageJ stacks), HDF5 files, or NWB files
            with a TwoPhotonSeries; of one channel and one plane.
        output: Folder to write to.
        kind: Which images. max: the largest value; mean; correlation: the mean correlation of
            each pixel with its 8 neighbours.
        dataset: Path of the dataset (frames, height, width) in HDF5 files that hold several.
        bin: Average over so many frames before the maximum, against noise; 1: none.
        order: Order of the axes of a frame in HDF5 files. auto: (x, y) in NWB files as their
            schema says, else (y, x).
    """
    from fluxseg.formats.projections import MaxProjection

    console = create_console()
    configure_logging(console)
    if not movies or not kind:
        raise ConfigError("project: give at least one movie and one kind of image")
    # Settings are at fault for every movie, so they are not reported for each.
    MaxProjection(bin)
    stems = [movie.name.split(".ome.")[0].removesuffix(movie.suffix) for movie in movies]
    names = [safe_name(stem) for stem in stems]
    folded = [name.casefold() for name in names]
    twice = sorted({name for name in names if folded.count(name.casefold()) > 1})
    if twice:
        raise ConfigError(f"project: several movies are named {twice[0]}; project them apart")
    failed = 0
    for movie, name in zip(movies, names, strict=True):
        try:
            with progress_bars(console, (f"Projecting {name}", "frames")) as (progress,):
                written = _project_one(movie, output / name, kind, dataset, bin, order, progress)
        except RecordingError as error:
            failed += 1
            console.print(f"failed: {error}", markup=False)
        else:
            console.print(f"{movie}: {', '.join(written)}", markup=False)
    console.print(f"{len(movies) - failed} movies projected, {failed} failed", markup=False)
    return 1 if failed else 0


def _project_one(
    movie: Path,
    stem: Path,
    kinds: tuple[Kind, ...],
    dataset: str,
    bin: int,
    order: Literal["auto", "xy", "yx"],
    progress: Callable[[int, int], None],
) -> list[str]:
    from fluxseg.formats.movies import iterate_frames, read_movie_facts, write_projection
    from fluxseg.formats.npy import naming_file
    from fluxseg.formats.projections import CorrelationImage, MaxProjection, MeanProjection

    axes = None if order == "auto" else order
    facts = read_movie_facts(movie, dataset, axes)
    starts: dict[str, Projection] = {
        "max": MaxProjection(bin), "mean": MeanProjection(), "correlation": CorrelationImage()
    }  # fmt: skip
    images = {kind: starts[kind] for kind in kinds}
    done = 0
    for frames in iterate_frames(movie, 0, dataset, axes):
        with naming_file(movie):
            for kind in images:
                images[kind] = images[kind].add(frames)
        done += len(frames)
        progress(done, facts.frames)
    written = []
    for kind in dict.fromkeys(kinds):
        path = stem.with_name(f"{stem.name}_{kind}.tif")
        result = images[kind].result()
        write_projection(path, result if kind == "max" else result.astype("f4"), facts.um_per_px)
        written.append(path.name)
    return written
