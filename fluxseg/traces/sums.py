"""Weighted sums of the pixels of each frame: what the traces of cells and neuropil are made of."""

from collections.abc import Iterable, Iterator

import numpy as np
from scipy import sparse

from fluxseg.formats.movies import read_ahead
from fluxseg.traces.masks import Footprints, create_cell_matrix, create_neuropil_matrix

_TILE, _LINE = 16384, 16
_FRAMES = 32


def create_matrix(footprints: Footprints) -> sparse.csr_array:
    """Return the weights `[2 N, H W]` float32 of the cells and, below, of their neuropil."""
    parts = [create_cell_matrix(footprints), create_neuropil_matrix(footprints)]
    return sparse.csr_array(sparse.vstack(parts))


def sum_blocks(blocks: Iterable[np.ndarray], matrix: sparse.csr_array) -> Iterator[np.ndarray]:
    """Yield weighted sums, by `matrix` `[M, H W]`, of the pixels of each frame: `[T, M]` float32.

    The sparse product runs along the frames of a block `[T, H, W]`, tile by tile, so that all stays
    in the cache. That is faster than one frame after another, and than gathering pixels in JAX
    (`python -m experiments.benchmarks.extract`). Pixels that are not finite count as missing: the
    other weights of a sum stand for them; it is NaN where all are missing.
    """
    count, pixels = matrix.shape
    weighted = np.diff(matrix.indptr) > 0
    tiles = _cut(matrix)
    frame_major = np.empty((_FRAMES, _TILE + _LINE), np.float32)
    pixel_major = np.empty((_TILE, _FRAMES), np.float32)

    def multiply(frames: np.ndarray) -> np.ndarray:
        length = len(frames)
        sums = np.zeros((count, length), np.float32)
        for start, rows, part in tiles:
            # Contiguous, and its rows not a power of two apart: a transposed copy of the frames
            # themselves would miss the cache with each pixel.
            tile = frame_major[:length, : part.shape[1]]
            tile[:] = frames[:, start : start + part.shape[1]]
            turned = pixel_major[: part.shape[1], :length]
            turned[:] = tile.T
            sums[rows] += part @ turned
        return sums.T

    for block in read_ahead(blocks):
        flat = block.reshape(len(block), pixels)
        parts = []
        for start in range(0, len(flat), _FRAMES):
            frames = flat[start : start + _FRAMES]
            finite = np.isfinite(frames) if frames.dtype.kind == "f" else None
            if finite is None or finite.all():
                parts.append(multiply(frames))
                continue
            sums, seen = multiply(np.where(finite, frames, 0)), multiply(finite)
            lost = (seen <= 1e-6) & weighted
            parts.append(np.where(lost, np.nan, sums / np.maximum(seen, 1e-6)))
        yield np.concatenate(parts).astype(np.float32, copy=False)


def _cut(matrix: sparse.csr_array) -> list[tuple[int, np.ndarray, sparse.csr_array]]:
    """Cut a matrix into tiles of pixels: the first pixel, the rows with weights, and these."""
    columns = sparse.csc_array(matrix)
    tiles = []
    for start in range(0, matrix.shape[1], _TILE):
        part = sparse.csr_array(columns[:, start : start + _TILE])
        rows = np.flatnonzero(np.diff(part.indptr))
        if len(rows):
            part = part[rows]
            # Half the memory of the indices that slicing gives.
            part.indices, part.indptr = (a.astype("i4") for a in (part.indices, part.indptr))
            tiles.append((start, rows, part))
    return tiles
