"""The two passes over a movie file, each of which goes on where it was stopped, with the same bits.

What is not finished lies in a folder of its own, under names that tell the movie, the ROIs and the
settings: of others, nothing is taken over.
"""

import dataclasses
import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from scipy import sparse

from fluxseg.errors import FluxsegError
from fluxseg.formats.movies import BLOCK_BYTES, MovieFacts, iterate_frames, read_ahead
from fluxseg.formats.npy import naming_file
from fluxseg.formats.pick import Pick
from fluxseg.formats.projections import CorrelationImage, MaxProjection, MeanProjection
from fluxseg.io.files import atomic_path, naming, read_json, stamp_file, write_json
from fluxseg.io.progress import Progressed
from fluxseg.traces.quality import MovieCheck, find_doubts
from fluxseg.traces.sums import sum_blocks

SAVED_EVERY = 10.0  # seconds of work that a killed process loses at most in the second pass


@dataclasses.dataclass(frozen=True, eq=False)
class Projections:
    """What the first pass tells."""

    facts: MovieFacts  # of the movie
    mean: np.ndarray  # `[H, W]` float32
    largest: np.ndarray  # `[H, W]` of the movie's dtype
    correlation: np.ndarray  # `[H, W]` float32
    remarks: tuple[str, ...]  # what is doubtful


def project_movie(
    paths: Sequence[Path], pick: Pick, facts: MovieFacts, folder: Path, progress: Progressed
) -> Projections:
    """Make the projections of a movie, whose parts are `paths`.

    What an earlier call left in `folder` is taken. Raises `RecordingError`, naming the file,
    if it is no movie or damaged; and `WorkdirError` if the folder cannot be written.
    """
    stored = folder / f"projections-{_digest(paths, pick)}.npz"
    if stored.exists():
        with np.load(stored) as found:
            mean, largest, correlation = (found[k] for k in ("mean", "largest", "correlation"))
            remarks = tuple(found["remarks"].tolist())
        return Projections(facts, mean, largest, correlation, remarks)
    means, maxima, correlations = MeanProjection(), MaxProjection(), CorrelationImage()
    check = MovieCheck(facts.frames)
    done = 0
    for frames in read_ahead(iterate_frames(paths, 0, pick)):
        with naming_file(paths[0]):
            means, maxima = means.add(frames), maxima.add(frames)
            correlations = correlations.add(frames)
        check.add(frames)
        done += len(frames)
        progress(done, facts.frames)
    mean, largest = means.result(), maxima.result()
    remarks = (*facts.remarks, *find_doubts(check, mean, largest))
    result = Projections(
        facts, mean.astype("f4"), largest, correlations.result().astype("f4"), remarks
    )
    with atomic_path(stored) as temporary, temporary.open("wb") as file:
        np.savez(
            file, allow_pickle=False, mean=result.mean, largest=largest,
            correlation=result.correlation, remarks=np.array(remarks, dtype=str),
        )  # fmt: skip
    return result


def sum_movie(
    paths: Sequence[Path],
    pick: Pick,
    facts: MovieFacts,
    matrix: sparse.csr_array,
    folder: Path,
    progress: Progressed,
) -> np.ndarray:
    """Sum up the pixels of each frame, `[T, M]` float32, by weights `[M, H W]`; see `sum_blocks`.

    It goes on where an earlier call has stopped; arguments and errors as of `project_movie`.
    """
    count, sums = facts.frames, matrix.shape[0]
    if not sums:
        return np.zeros((count, 0), np.float32)
    name = f"sums-{_digest(paths, pick, matrix)}"
    stored, state = folder / f"{name}.f32", folder / f"{name}.json"
    done = _read_done(state, stored, 4 * sums)
    # Frames of a whole number of blocks, so that blocks begin where they would without a stop.
    block = max(1, BLOCK_BYTES // (facts.shape[0] * facts.shape[1] * facts.dtype.itemsize))
    done -= done % block if done < count else 0
    with naming(stored, "cannot be written"):
        folder.mkdir(parents=True, exist_ok=True)
        with stored.open("r+b" if done else "wb") as file:
            file.truncate(done * 4 * sums)
            file.seek(0, os.SEEK_END)
            saved = time.monotonic()
            try:
                blocks = iterate_frames(paths, block, pick, done) if done < count else ()
                for part in sum_blocks(blocks, matrix):
                    file.write(np.ascontiguousarray(part).tobytes())
                    done += len(part)
                    progress(done, count)
                    if time.monotonic() - saved > SAVED_EVERY:
                        _save_done(state, file, done)
                        saved = time.monotonic()
            finally:
                _save_done(state, file, done)
        return np.fromfile(stored, np.float32).reshape(-1, sums)


def _save_done(state: Path, file: BinaryIO, done: int) -> None:
    file.flush()
    os.fsync(file.fileno())
    write_json(state, {"frames": done})


def _read_done(state: Path, stored: Path, size: int) -> int:
    try:
        done = int(read_json(state)["frames"])
        return done if stored.stat().st_size >= done * size > 0 else 0
    except (FluxsegError, OSError, KeyError, TypeError, ValueError):
        return 0


def _digest(paths: Sequence[Path], pick: Pick, matrix: sparse.csr_array | None = None) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for path in paths:
        with naming_file(path):
            stamp = f"{path.name} {stamp_file(path)}\n"
        digest.update(stamp.encode(errors="replace"))
    digest.update(repr(pick).encode(errors="replace"))
    if matrix is not None:
        for array in (matrix.data, matrix.indices, matrix.indptr):
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
