"""A movie from file to traces: projections, ROIs, sums, outputs; what is done is not done again."""

import contextlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fluxseg import version
from fluxseg.errors import FluxsegError, RecordingError
from fluxseg.formats.formats import TracesFormat
from fluxseg.formats.movie_files import Movie
from fluxseg.formats.movies import read_movie_facts
from fluxseg.formats.npy import read_npy
from fluxseg.formats.pick import NO_PICK, Pick
from fluxseg.io.files import TEMPORARY, read_json, stamp_file, write_json
from fluxseg.io.progress import Progressed
from fluxseg.traces.extract import RATE_HZ, Traces, create_traces
from fluxseg.traces.find import Found, read_rois
from fluxseg.traces.outputs import SUITE2P, check_formats, write_traces
from fluxseg.traces.passes import Projections, project_movie, sum_movie
from fluxseg.traces.sums import create_matrix

RECORD = "extract.json"  # in the folder of a movie: how it was made; written last
_WORK = f"{TEMPORARY}extract"


def extract_movie(
    movie: Movie,
    folder: Path,
    find: Callable[[list[np.ndarray]], Found] | Path,
    *,
    formats: Sequence[TracesFormat],
    write_page: Callable[[Path, str, Projections, Found, Traces, Sequence[str]], Path],
    settings: dict[str, Any],
    pick: Pick = NO_PICK,
    rate: float | None = None,
    tau: float | None = None,
    overwrite: bool = False,
    progress: Sequence[Progressed],
) -> list[str]:
    """Extract the traces of one movie and write them; return the lines that a terminal shows.

    Args:
        movie: its files.
        folder: to write to; it also holds what an interrupted call goes on with.
        find: finds the ROIs in the maximum and the mean `[H, W]`; or the file that holds them.
        formats: what to write.
        write_page: writes the page of a movie.
        settings: plain values that identify what `find` does; with others all is done again.
        pick: channel, plane and so on of the movie.
        rate: frames per second; None: what the movie says, else 30.
        tau: decay time of the indicator, s, for spikes; None: none.
        overwrite: do again what is done.
        progress: for each of both passes a function to call with (frames done, frames in all).

    Raises:
        RecordingError: naming the file at fault, or if the folder holds what must be kept.
        WorkdirError: if the folder cannot be written, or holds results of Suite2p itself.
    """
    facts = read_movie_facts(movie.paths, pick)
    settings = settings | {
        "movie": [_stamp(path) for path in movie.paths], "pick": str(pick), "rate": rate,
        "tau": tau, "formats": list(formats), "version": version.__version__,
    }  # fmt: skip
    earlier = None if overwrite else _read_earlier(folder, settings)
    if earlier is not None:
        return earlier
    check_formats(folder, formats)
    if not overwrite:
        _check_kept(folder, movie.paths[0])
    work = folder / _WORK
    # Before the first pass, as it takes long: a file that cannot be used is told at once.
    given = read_rois(find, facts.shape, pick.plane, work) if isinstance(find, Path) else None
    images = project_movie(movie.paths, pick, facts, work, progress[0])
    found = given or find([images.largest, images.mean])  # type: ignore[operator]
    if not len(found.footprints):
        if given:
            raise RecordingError(str(find), "holds no ROI")
        why = "no neuron is found: lower --min-confidence, or give --rois"
        raise RecordingError(str(movie.paths[0]), why)
    matrix = create_matrix(found.footprints)
    remarks = [*images.remarks, *found.remarks]
    if not (rate or facts.rate):
        remarks.append(f"the frame rate is not known: taken as {RATE_HZ:g} Hz; give --rate")
    used = rate or facts.rate or RATE_HZ
    # The sums are as large as F and Fneu, and held by nobody once these are made.
    traces = create_traces(
        sum_movie(movie.paths, pick, facts, matrix, work, progress[1]), found.footprints, matrix,
        used, tau,
    )  # fmt: skip
    remarks += traces.remarks
    # From here on the folder is not what the record of an earlier call says.
    (folder / RECORD).unlink(missing_ok=True)
    files = write_traces(folder, movie.name, images, found, traces, formats)
    page = write_page(folder, movie.name, images, found, traces, remarks)
    size = f"{facts.frames} frames of {facts.shape[0]} x {facts.shape[1]} px"
    line = f"{movie.paths[0]}: {size}, {used:.4g} Hz: {len(traces)} ROIs"
    record = settings | {"line": line, "remarks": remarks, "files": [*files, page.name]}
    write_json(folder / RECORD, record)
    shutil.rmtree(work, ignore_errors=True)
    return [line, *_indent(remarks)]


def _indent(remarks: Sequence[str]) -> list[str]:
    return [f"  remark: {text}" for text in remarks]


def stamp_of(path: Path) -> str:
    """Return name, size and time of change of a file or of the files in a folder."""
    paths = sorted(path.iterdir()) if path.is_dir() else [path]
    with contextlib.suppress(OSError):
        return " ".join(map(_stamp, paths))
    return str(path)


def _stamp(path: Path) -> str:
    return f"{path} {stamp_file(path)}".encode("utf-8", "replace").decode()


def _check_kept(folder: Path, path: Path) -> None:
    """Raise if a folder holds the traces of another movie, or somebody has chosen cells in it."""
    told, other, cells = "", path, np.ones((0, 2))
    with contextlib.suppress(FluxsegError, LookupError, TypeError, AttributeError, OSError):
        other = Path(read_json(folder / RECORD)["movie"][0].rpartition(" ")[0])
    with contextlib.suppress(FluxsegError):
        cells = read_npy(folder / SUITE2P / "iscell.npy")
    if other.exists() and not other.samefile(path):
        told = f"holds the traces of another movie, {other}"
    elif not cells[..., :1].all():
        told = "holds traces of which somebody has said that some are no cells (iscell.npy)"
    if told:
        raise RecordingError(str(path), f"{folder} {told}: give another --output, or --overwrite")


def _read_earlier(folder: Path, settings: dict[str, Any]) -> list[str] | None:
    """Return the lines of a call with the same settings whose files are all there."""
    try:
        record = read_json(folder / RECORD)
        same = all(record[name] == value for name, value in settings.items())
        if same and all((folder / file).exists() for file in record["files"]):
            return [f"{record['line']} (done before)", *_indent(record["remarks"])]
    except (FluxsegError, KeyError, TypeError):
        pass
    return None
