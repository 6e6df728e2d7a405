"""Verb that turns movies into the images that everything else works on."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from fluxseg.arguments import PickOptions
from fluxseg.console import configure_logging, create_console, progress_bars
from fluxseg.errors import ConfigError, RecordingError
from fluxseg.formats.pick import NO_PICK, Pick

if TYPE_CHECKING:
    from fluxseg.formats.movie_files import Movie
    from fluxseg.formats.projections import Projection

Kind = Literal["max", "mean", "correlation"]


def project(
    movies: tyro.conf.Positional[tuple[Path, ...]],
    /,
    output: Path,
    kind: tuple[Kind, ...] = ("max",),
    pick: PickOptions = NO_PICK,
    bin: int = 1,
) -> int:
    """Project movies over time: each MOVIE becomes NAME_max.tif and so on.

    Goes on after a movie that cannot be used; exit code 1 if there was any.

    Args:
        movies: TIFF files (ScanImage, ImageJ, OME and others), HDF5 files, or NWB files with a
            TwoPhotonSeries; folders of them, or patterns. A folder or pattern of single frames,
            or of the numbered parts of a movie, is one movie. Of a Suite2p folder it is data.bin.
        output: Folder to write to.
        kind: Which images. max: the largest value; mean; correlation: the mean correlation of
            each pixel with its 8 neighbours.
        pick: What is read of files that hold several channels, planes or arrays.
        bin: Average over so many frames before the maximum, against noise; 1: none.
    """
    from fluxseg.formats.movie_files import is_image, name_movies
    from fluxseg.formats.projections import MaxProjection

    console = create_console()
    configure_logging(console)
    if not kind:
        raise ConfigError("project: give at least one kind of image")
    # Settings are at fault for every movie, so they are not reported for each.
    MaxProjection(bin)
    found = name_movies(movies, pick, "project")
    failed = images = 0
    for movie in found:
        try:
            if is_image(movie, movies, pick):
                images += 1
                console.print(f"not used: {movie.paths[0]}: one image, no movie")
                continue
            with progress_bars(console, (f"Projecting {movie.name}", "frames")) as (progress,):
                lines = _project_one(movie, output / movie.name, kind, pick, bin, progress)
        except RecordingError as error:
            failed += 1
            console.print(f"failed: {error}")
        else:
            for line in lines:
                console.print(line)
    done = len(found) - failed - images
    console.print(f"{done} movies projected, {failed} failed")
    return 1 if failed or not done else 0


def _project_one(
    movie: "Movie",
    stem: Path,
    kinds: tuple[Kind, ...],
    pick: Pick,
    bin: int,
    progress: Callable[[int, int], None],
) -> list[str]:
    """Write the projections of a movie; return the lines that tell of it."""
    from fluxseg.formats.movies import iterate_frames, read_ahead, read_movie_facts
    from fluxseg.formats.npy import naming_file
    from fluxseg.formats.pixels import write_image_tiff
    from fluxseg.formats.projections import CorrelationImage, MaxProjection, MeanProjection

    facts = read_movie_facts(movie.paths, pick)
    starts: dict[str, Projection] = {
        "max": MaxProjection(bin), "mean": MeanProjection(), "correlation": CorrelationImage()
    }  # fmt: skip
    images = {kind: starts[kind] for kind in kinds}
    done = 0
    for frames in read_ahead(iterate_frames(movie.paths, 0, pick)):
        with naming_file(movie.paths[0]):
            for kind in images:
                images[kind] = images[kind].add(frames)
        done += len(frames)
        progress(done, facts.frames)
    written = []
    for kind in dict.fromkeys(kinds):
        path = stem.with_name(f"{stem.name}_{kind}.tif")
        image = images[kind].result()
        image = image if kind == "max" else image.astype("f4")
        write_image_tiff(path, image, facts.um_per_px, compress=True)
        written.append(path.name)
    first, files = movie.paths[0], len(movie.paths)
    source = f"{first}" if files == 1 else f"{first} and {files - 1} more files, one movie"
    height, width = facts.shape
    rate = "" if facts.rate is None else f", {facts.rate:.4g} Hz"
    size = f"{facts.frames} frames of {height} x {width} px ({facts.dtype}){rate}"
    remarks = [*facts.remarks, *(["one frame only"] if facts.frames == 1 else [])]
    return [f"{source}: {size}: {', '.join(written)}", *(f"  remark: {text}" for text in remarks)]
