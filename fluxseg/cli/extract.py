"""Verb that turns movies into the traces of their neurons."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from fluxseg import pretrained
from fluxseg.arguments import PickOptions
from fluxseg.console import progress_bars
from fluxseg.errors import ConfigError, RecordingError
from fluxseg.formats.formats import TracesFormat
from fluxseg.formats.pick import NO_PICK
from fluxseg.joined import joined
from fluxseg.processes import Processes, gather_values, run_in_all, share_of

if TYPE_CHECKING:
    from rich.console import Console

    from fluxseg.formats.movie_files import Movie


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
    network in the maximum projection, or given with --rois. An interrupted command goes on where
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
        pick: What is read of files that hold several channels, planes or arrays.
        overwrite: Extract again what is done.
        processes: The processes of the job, if it has several.
    """
    from fluxseg.formats.movie_files import is_image, name_movies
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
        one = functools.partial(
            extract_movie, find=find, formats=format, write_page=write_traces_page,
            settings=settings, pick=pick, rate=rate, tau=tau, overwrite=overwrite,
        )  # fmt: skip
        left_out = functools.partial(is_image, named=movies, pick=pick)
        work = functools.partial(_extract_all, share_of(found), output, one, left_out, console)
        counts = gather_values(run_in_all(work, "its part of the movies"), "failures")
        failed, images = map(sum, zip(*counts, strict=True))
        done = len(found) - failed - images
        console.print(f"{done} movies extracted to {output}, {failed} failed")
    return 1 if failed or not done else 0


def _extract_all(
    movies: Sequence["Movie"],
    output: Path,
    extract_one: Callable[..., list[str]],
    is_left_out: Callable[["Movie"], bool],
    console: "Console",
) -> tuple[int, int]:
    """Return how many movies cannot be used, and how many are images and left out."""
    failed = images = 0
    for movie in movies:
        bars = (f"Projecting {movie.name}", "frames"), (f"Extracting {movie.name}", "frames")
        try:
            if is_left_out(movie):
                images += 1
                console.print(f"not used: {movie.paths[0]}: one image, no movie")
                continue
            with progress_bars(console, *bars) as progress:
                lines = extract_one(movie, output / movie.name, progress=progress)
        except RecordingError as error:
            failed += 1
            lines = [f"failed: {error}"]
        for line in lines:
            console.print(line)
    return failed, images
