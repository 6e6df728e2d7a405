"""Verbs that turn movies into images, and into the traces of their neurons."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from fluxseg import pretrained
from fluxseg.arguments import PickOptions
from fluxseg.console import joined, open_console, progress_bars
from fluxseg.errors import ConfigError, RecordingError
from fluxseg.formats.formats import TracesFormat
from fluxseg.formats.pick import NO_PICK, Pick
from fluxseg.io.progress import Progressed
from fluxseg.processes import Processes, gather_values, run_in_all, share_of

if TYPE_CHECKING:
    from rich.console import Console

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
        bin: Average over so many frames before the maximum, against noise; 1: none.
    """
    from fluxseg.formats.movie_files import name_movies
    from fluxseg.formats.projections import MaxProjection

    console = open_console()
    if not kind:
        raise ConfigError("project: give at least one kind of image")
    # Settings are at fault for every movie, so they are not reported for each.
    MaxProjection(bin)
    found = name_movies(movies, pick, "project")
    one = functools.partial(_project_one, output=output, kinds=kind, pick=pick, bin=bin)
    failed, images = _for_each(found, one, movies, pick, console, "Projecting")
    done = len(found) - failed - images
    console.print(f"{done} movies projected, {failed} failed")
    return 1 if failed or not done else 0


def _project_one(
    movie: "Movie",
    output: Path,
    kinds: tuple[Kind, ...],
    pick: Pick,
    bin: int,
    progress: Sequence[Progressed],
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
        progress[0](done, facts.frames)
    written = []
    for kind in dict.fromkeys(kinds):
        path = output / f"{movie.name}_{kind}.tif"
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


def extract(
    movies: tyro.conf.Positional[tuple[Path, ...]],
    /,
    output: Path,
    rois: Path | None = None,
    model: tuple[str, ...] = (pretrained.NAME,),
    min_confidence: float | None = None,
    diameter: float | None = None,
    format: tuple[TracesFormat, ...] = ("suite2p", "npz"),
    rate: float | None = None,
    tau: float | None = None,
    pick: PickOptions = NO_PICK,
    overwrite: bool = False,
    processes: Processes = Processes(),  # noqa: B008
) -> int:
    """Extract the traces of neurons from registered movies, as Suite2p does.

    Each MOVIE gets a folder, OUTPUT/NAME; open extract.html in it. The neurons are found by the
    network in the maximum and the mean, or given with --rois. An interrupted command goes on where
    it was. Goes on after a movie that cannot be used; exit code 1 if there was any. Several
    processes share out the movies.

    Args:
        movies: Registered movies: TIFF files (ScanImage, ImageJ, OME and others), HDF5 files, NWB
            files with a TwoPhotonSeries, .npy files, Suite2p folders with data.bin; folders, or
            patterns. See fluxseg project for parts and single frames.
        output: Folder to write to.
        rois: ROIs to take in place of the network's: a label image, ImageJ ROI set, Suite2p folder,
            Cellpose, NWB, COCO or Neurofinder file.
        model: See fluxseg predict.
        min_confidence: See fluxseg predict.
        diameter: See fluxseg predict.
        format: What to write for each movie. suite2p: a folder for Suite2p's GUI (suite2p/plane0);
            npz: traces.npz with F, Fneu, dF/F and spikes; csv: traces.csv, dF/F; nwb: NAME.nwb;
            labels, cellpose, imagej, neurofinder, coco: the ROIs for that tool.
        rate: Frames per second, by default what the movie says, else 30.
        tau: Decay time of the indicator in seconds, for spikes (GCaMP6f 0.7, 6m 1.0, 6s 1.25 to
            1.5); without it there are none.
        overwrite: Extract again what is done.
    """
    from fluxseg.formats.movie_files import name_movies
    from fluxseg.inference.ensemble import load_models
    from fluxseg.report.traces import write_traces_page
    from fluxseg.traces.extract import check_times
    from fluxseg.traces.find import find_in_image
    from fluxseg.traces.job import extract_movie, stamp_of

    with joined(processes) as console:
        check_times(rate, tau)
        if not format:
            raise ConfigError("extract: give at least one format")
        if rois is not None and not rois.exists():
            raise ConfigError(f"--rois: there is no {rois}")
        found = name_movies(movies, pick, "extract")
        find = rois or functools.partial(
            find_in_image, load_models(model), min_confidence=min_confidence, diameter=diameter
        )
        settings = {
            "rois": rois and stamp_of(rois), "model": [stamp_of(Path(one)) for one in model],
            "min_confidence": min_confidence, "diameter": diameter,
        }  # fmt: skip

        def one(movie: "Movie", progress: Sequence[Progressed]) -> list[str]:
            return extract_movie(
                movie, output / movie.name, find, formats=format, write_page=write_traces_page,
                settings=settings, pick=pick, rate=rate, tau=tau, overwrite=overwrite,
                progress=progress,
            )  # fmt: skip

        work = functools.partial(
            _for_each, share_of(found), one, movies, pick, console, "Projecting", "Extracting"
        )
        counts = gather_values(run_in_all(work, "its part of the movies"), "failures")
        failed, images = map(sum, zip(*counts, strict=True))
        done = len(found) - failed - images
        console.print(f"{done} movies extracted to {output}, {failed} failed")
    return 1 if failed or not done else 0


def _for_each(
    found: Sequence["Movie"],
    one: Callable[..., list[str]],
    named: tuple[Path, ...],
    pick: Pick,
    console: "Console",
    *passes: str,
) -> tuple[int, int]:
    """Do something with each movie, and print its lines, or why it cannot be used.

    Returns how many movies cannot be used, and how many are images and left out.
    """
    from fluxseg.formats.movie_files import is_image

    failed = images = 0
    for movie in found:
        try:
            if is_image(movie, named, pick):
                images += 1
                console.print(f"not used: {movie.paths[0]}: one image, no movie")
                continue
            bars = ((f"{name} {movie.name}", "frames") for name in passes)
            with progress_bars(console, *bars) as progress:
                lines = one(movie, progress=progress)
        except RecordingError as error:
            failed += 1
            lines = [f"failed: {error}"]
        for line in lines:
            console.print(line)
    return failed, images
