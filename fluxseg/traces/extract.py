"""From the frames of a movie to the traces of its ROIs, block by block and in bounded memory."""

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from fluxseg.errors import ConfigError, RecordingError
from fluxseg.formats.movies import BLOCK_BYTES, iterate_frames, read_movie_facts
from fluxseg.io.markup import render_table
from fluxseg.io.progress import Progressed
from fluxseg.traces import signals
from fluxseg.traces.masks import Footprints, create_footprints
from fluxseg.traces.sums import create_matrix, sum_blocks

NEUROPIL_SHARE = 0.7  # share of the neuropil's fluorescence that is taken off a cell's
RATE_HZ = 30.0  # frames per second where nothing tells
_ROWS = 64


@dataclasses.dataclass(frozen=True, eq=False)
class Traces:
    """What N ROIs did in T frames; entry i of each array is the i-th ROI.

    Attributes:
        f: `[N, T]` float32, weighted mean fluorescence of the pixels that are the ROI's alone, in
            the units of the movie.
        neuropil: `[N, T]` float32, mean fluorescence around the ROI (see
            `fluxseg.traces.masks.create_neuropil_matrix`).
        rate: frames per second.
        footprints: the ROIs.
        tau: decay time of the indicator, s; None: no spikes.
        remarks: what was odd, in words.
    """

    f: np.ndarray
    neuropil: np.ndarray
    rate: float
    footprints: Footprints
    tau: float | None = None
    remarks: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return the number of ROIs."""
        return len(self.f)

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        seconds = self.f.shape[1] / self.rate
        rows = [("frames", self.f.shape[1]), ("rate", f"{self.rate:.4g} Hz, {seconds:.0f} s")]
        rows += [("remark", remark) for remark in self.remarks]
        return render_table(rows, title=f"Traces of {len(self)} ROIs")

    @property
    def corrected(self) -> np.ndarray:
        """`[N, T]` float32, `f` less 0.7 times `neuropil`."""
        return self._corrected(slice(None))

    @functools.cached_property
    def dff(self) -> np.ndarray:
        """`[N, T]` float32, dF/F of `corrected` against its baseline."""
        result = np.zeros_like(self.f)
        for rows in self._rows():
            corrected = self._corrected(rows)
            baseline = signals.find_baseline(corrected, self.rate)
            result[rows] = signals.relative_change(corrected, baseline, self.f[rows].mean(1))
        return result

    @functools.cached_property
    def spikes(self) -> np.ndarray:
        """`[N, T]` float32, deconvolved; zeros without `tau`."""
        result = np.zeros_like(self.f)
        for rows in self._rows() if self.tau else ():
            corrected = self._corrected(rows)
            changes = corrected - signals.find_baseline(corrected, self.rate)
            result[rows] = signals.deconvolve(changes, self.rate, self.tau or 1.0)
        return result

    @functools.cached_property
    def measures(self) -> dict[str, np.ndarray]:
        """`[N]` float64 each: `skew`, `std` and `snr` of `corrected`, `noise` of `dff`."""
        found = {name: np.zeros(len(self)) for name in ("skew", "std", "snr", "noise")}
        for rows in self._rows():
            for name, values in signals.describe_traces(self._corrected(rows)).items():
                found[name][rows] = values
            found["noise"][rows] = signals.measure_noise(self.dff[rows], self.rate)
        return found

    def _rows(self) -> list[slice]:
        # All at once, several arrays of float64 would be needed.
        return [slice(start, start + _ROWS) for start in range(0, len(self), _ROWS)]

    def _corrected(self, rows: slice) -> np.ndarray:
        return self.f[rows] - np.float32(NEUROPIL_SHARE) * self.neuropil[rows]


def extract(
    movie: Any,
    rois: Any,
    *,
    rate: float | None = None,
    tau: float | None = None,
    progress: Progressed | None = None,
) -> Traces:
    """Extract the traces of ROIs from a registered movie, as Suite2p does.

    Args:
        movie: `[T, H, W]` of any real dtype, or anything of that shape that slices give frames of
            (h5py, zarr, dask, a memory map); or the path of a movie file. Frames are read in
            blocks. Pixels that are not finite count as missing.
        rois: `Rois`; a `Recording` with masks; labels `[H, W]` of whole numbers; masks
            `[N, H, W]` bool; or weights `[N, H, W]` float. They may overlap.
        rate: frames per second; by default what the file says, else 30.
        tau: decay time of the indicator, s, for spikes (GCaMP6f 0.7, 6m 1.0, 6s 1.25 to 1.5).
        progress: called with (frames done, frames in all).

    Returns:
        The traces, `[N, T]`.

    Raises:
        RecordingError: if the movie is not `[T, H, W]`, or the ROIs do not fit it.
        ConfigError: if `rate` or `tau` is not above 0.
    """
    if isinstance(movie, str | Path):
        facts = read_movie_facts(movie)
        shape, count, told = facts.shape, facts.frames, facts.rate
        blocks = iterate_frames(movie)
    else:
        count, shape = _check_movie(movie)
        told, blocks = None, _slice_blocks(movie, count)
    rate = check_times(rate, tau) or told or RATE_HZ
    footprints = create_footprints(rois, shape)
    matrix = create_matrix(footprints)
    sums = np.zeros((count, 2 * len(footprints)), np.float32)
    done = 0
    for part in sum_blocks(blocks, matrix):
        sums[done : done + len(part)] = part
        done += len(part)
        if progress:
            progress(done, count)
    return create_traces(sums, footprints, matrix, rate, tau)


def check_times(rate: float | None, tau: float | None) -> float | None:
    """Raise `ConfigError` unless frame rate and decay time are above 0; return the rate."""
    for name, value in (("rate", rate), ("tau", tau)):
        if value is not None and not 0 < value < 1e6:
            raise ConfigError(f"{name} must be above 0, got {value}")
    return rate


def create_traces(
    sums: np.ndarray,
    footprints: Footprints,
    matrix: sparse.csr_array,
    rate: float,
    tau: float | None = None,
) -> Traces:
    """Create the traces of N ROIs from the sums of all frames, by the matrix, `[T, 2 N]` float32.

    They are those of the cells, then of their neuropil; what is NaN is filled in along time.
    """
    count = len(footprints)
    f, neuropil = (np.ascontiguousarray(part.T) for part in (sums[:, :count], sums[:, count:]))
    remarks = []
    lost = int(np.isnan(f).any(0).sum())
    if lost:
        remarks.append(
            f"{lost} frames ({lost / f.shape[1]:.1%}) have ROIs without a finite pixel: filled in "
            "from the frames beside them"
        )
    _fill_gaps(f)
    _fill_gaps(neuropil)
    own, around = np.split(np.diff(matrix.indptr), 2)
    for what, found in (
        ("no pixel of their own, as other ROIs cover them: their F is 0", own),
        ("no neuropil around them: their Fneu is 0", around),
    ):
        empty = np.flatnonzero(found == 0)
        if len(empty):
            listed = ", ".join(str(k) for k in empty[:20]) + ", ..." * (len(empty) > 20)
            remarks.append(f"{len(empty)} ROIs have {what} (number {listed}, from 0)")
    if not count:
        remarks.append("there are no ROIs: no traces")
    return Traces(f, neuropil, rate, footprints, tau, tuple(remarks))


def _fill_gaps(traces: np.ndarray) -> None:
    """Interpolate NaN along time; a trace without any number becomes 0."""
    for row in np.flatnonzero(np.isnan(traces).any(1)):
        gaps = np.isnan(traces[row])
        times = np.arange(len(gaps))
        known = traces[row, ~gaps]
        traces[row, gaps] = np.interp(times[gaps], times[~gaps], known) if len(known) else 0


def _check_movie(movie: Any) -> tuple[int, tuple[int, int]]:
    shape = getattr(movie, "shape", None)
    if shape is None or len(shape) != 3 or 0 in shape:
        got = type(movie).__name__ if shape is None else list(shape)
        raise RecordingError("movie", f"must be [T, H, W], got {got}: choose a channel and plane")
    if np.dtype(movie.dtype).kind not in "biuf":
        raise RecordingError("movie", f"must hold real numbers, got {movie.dtype}")
    return int(shape[0]), (int(shape[1]), int(shape[2]))


def _slice_blocks(movie: Any, count: int) -> Iterator[np.ndarray]:
    size = int(np.prod(movie.shape[1:])) * np.dtype(movie.dtype).itemsize
    step = max(1, BLOCK_BYTES // size)
    for start in range(0, count, step):
        yield np.asarray(movie[start : start + step])
