"""Projections of a movie over time, from a stream of blocks of frames and in bounded memory.

Each projection is a value that `add` makes a new one of; `result` gives the image so far. How the
movie is cut into blocks changes nothing but the last digits. Frames are `[T, H, W]` of any real
dtype; NaN and infinite pixels count as missing.
"""

import dataclasses
from typing import Any

import numpy as np

from fluxseg.errors import ConfigError, RecordingError

MAX_BIN = 100  # frames of the moving average: as many are held in memory
# The neighbours to the right and below; each pair of pixels is met once.
_STEPS = ((0, 1), (1, 0), (1, 1), (1, -1))


@dataclasses.dataclass(frozen=True, eq=False)
class MaxProjection:
    """The largest value of each pixel.

    The maximum over many frames of a noisy pixel lies above its true maximum, the more so the
    more frames there are (about 4 standard deviations of the noise over 30,000), and is as large
    in the background as in the cells. A moving average over `bin` frames before the maximum
    divides this bias by about the root of `bin`, and blurs events shorter than that. As in
    Suite2p, whose projections are maxima of a binned movie.
    """

    bin: int = 1  # frames that are averaged; a movie that is shorter is averaged as a whole
    _largest: np.ndarray | None = None
    _tail: np.ndarray | None = None  # the frames that the next window begins with

    def __post_init__(self) -> None:
        if not 1 <= self.bin <= MAX_BIN:
            raise ConfigError(f"bin: must be 1 to {MAX_BIN} frames, got {self.bin}")

    def add(self, frames: np.ndarray) -> "MaxProjection":
        """Return the projection with the frames `[T, H, W]` that follow."""
        frames = _check(frames, self._tail)
        if self.bin > 1 and self._tail is not None:
            frames = np.concatenate([self._tail, frames])
        largest = self._largest
        if len(frames) >= self.bin:
            top = _top(_masked(frames) if self.bin == 1 else _moving_mean(frames, self.bin))
            largest = top if largest is None else _top(np.stack([largest, top]))
        tail = frames[max(len(frames) - self.bin + 1, 0) :].copy()
        return dataclasses.replace(self, _largest=largest, _tail=tail)

    def result(self) -> np.ndarray:
        """Return `[H, W]` of the movie's dtype; averages of integers are rounded."""
        image, tail = self._largest, self._tail
        if image is None and tail is not None and len(tail):
            image = _moving_mean(tail, len(tail))[0]
        if image is None or tail is None:
            raise RecordingError("", "has no frames")
        return (np.rint(image) if tail.dtype.kind in "iu" else image).astype(tail.dtype)


@dataclasses.dataclass(frozen=True, eq=False)
class MeanProjection:
    """The mean of each pixel over the frames in which it is finite; sums are float64."""

    _sum: Any = None
    _count: Any = 0

    def add(self, frames: np.ndarray) -> "MeanProjection":
        """Return the projection with the frames `[T, H, W]` that follow."""
        frames = _check(frames, self._sum)
        finite: Any = np.isfinite(frames) if frames.dtype.kind == "f" else True
        total = np.sum(frames, 0, np.float64, where=finite)
        count = len(frames) if finite is True else finite.sum(0)
        return MeanProjection(total + (0 if self._sum is None else self._sum), self._count + count)

    def result(self) -> np.ndarray:
        """Return `[H, W]` float64, NaN where no frame is finite."""
        if self._sum is None:
            raise RecordingError("", "has no frames")
        return np.where(self._count > 0, self._sum / np.maximum(self._count, 1), np.nan)


@dataclasses.dataclass(frozen=True, eq=False)
class CorrelationImage:
    """The mean correlation over time of each pixel with its (up to) 8 neighbours.

    Active cells stand out, since their pixels change together, whatever their brightness.
    Means, variances and covariances of the blocks are merged in float64 by the formulas of Chan
    et al., which lose no digits where the mean is far above the variance. A pixel that never
    changes correlates with none: 0. One that is not finite in some frame is NaN, and is no
    neighbour.

    Sources: S. L. Smith and M. Häusser, Nature Neuroscience 13 (2010), 1144; as
    `local_correlations` of CaImAn (A. Giovannucci et al., eLife 8 (2019), e38173) with its 8
    neighbours. The `Vcorr` of Suite2p differs: it compares smoothed and unsmoothed variance.
    T. F. Chan, G. H. Golub, R. J. LeVeque, COMPSTAT (1982), 30.
    """

    _count: int = 0
    _mean: Any = 0.0
    _moments: tuple[Any, ...] = (0.0,) * (1 + len(_STEPS))

    def add(self, frames: np.ndarray) -> "CorrelationImage":
        """Return the image with the frames `[T, H, W]` that follow."""
        frames = _check(frames, self._mean if self._count else None)
        if not len(frames):
            return self
        if frames.dtype.kind in "iu" and frames.dtype.itemsize <= 2:
            # Differences of small integers lose nothing that matters, in half of the time.
            mean = frames.mean(0)
            values = np.empty(frames.shape, np.float32)
            np.subtract(frames, mean, out=values, casting="same_kind")
        else:
            values = _masked(frames.astype(np.float64))
            mean = values.mean(0)
            values -= mean
        count, change = self._count + len(frames), mean - self._mean
        weight = self._count * len(frames) / count
        parts = zip(self._moments, _moments(values), _moments(change[None]), strict=True)
        moments = tuple(old + new + weight * shift for old, new, shift in parts)
        return CorrelationImage(count, self._mean + change * (len(frames) / count), moments)

    def result(self) -> np.ndarray:
        """Return `[H, W]` float64, from -1 to 1."""
        if not self._count:
            raise RecordingError("", "has no frames")
        squares, *products = self._moments
        # What rounding leaves of a constant pixel is no variance.
        rounding = self._count * (8 * np.finfo(np.float64).eps * self._mean) ** 2
        scale = np.sqrt(np.where(squares > rounding, squares, 0))
        scale[np.isnan(squares)] = np.nan
        total, neighbours = np.zeros_like(scale), np.zeros(scale.shape, np.int64)
        for step, product in zip(_STEPS, products, strict=True):
            first, second = _pair(step)
            both = scale[first] * scale[second]
            finite = np.isfinite(both)
            value = np.divide(product, both, out=np.zeros_like(both), where=finite & (both > 0))
            for side in (first, second):
                total[side] += value
                neighbours[side] += finite
        image = total / np.maximum(neighbours, 1)
        image[np.isnan(scale)] = np.nan
        return np.clip(image, -1, 1)


Projection = MaxProjection | MeanProjection | CorrelationImage


def _check(frames: np.ndarray, before: np.ndarray | None) -> np.ndarray:
    if frames.ndim != 3 or 0 in frames.shape[1:]:
        raise RecordingError("frames", f"must be [T, H, W], got {list(frames.shape)}")
    if frames.dtype.kind not in "biuf":
        raise RecordingError("frames", f"must hold real numbers, got {frames.dtype}")
    if before is not None and before.shape[-2:] != frames.shape[1:]:
        was, now = list(before.shape[-2:]), list(frames.shape[1:])
        raise RecordingError("frames", f"are {now} px, those before {was}")
    return frames.astype(frames.dtype.newbyteorder("="), copy=False)


def _masked(frames: np.ndarray) -> np.ndarray:
    """Return the frames with NaN in the place of infinity."""
    if frames.dtype.kind != "f" or (finite := np.isfinite(frames)).all():
        return frames
    return np.where(finite, frames, frames.dtype.type(np.nan))


def _top(frames: np.ndarray) -> np.ndarray:
    return np.fmax.reduce(frames) if frames.dtype.kind == "f" else frames.max(0)


def _moving_mean(frames: np.ndarray, count: int) -> np.ndarray:
    """Return the means `[T - count + 1, H, W]` of `count` frames that follow each other."""
    values = frames.astype(np.float64)
    missing = ~np.isfinite(values)
    values[missing] = 0
    sums = np.cumsum(values, 0, out=values)
    windows = sums[count - 1 :].copy()
    windows[1:] -= sums[:-count]
    windows /= count
    if missing.any():
        gaps = np.cumsum(missing, 0)
        gone = gaps[count - 1 :].copy()
        gone[1:] -= gaps[:-count]
        windows[gone > 0] = np.nan
    return windows


def _pair(step: tuple[int, int]) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return the places of all pixels that have a neighbour in a direction, and of those."""
    down, right = step
    rows = (slice(None, -down or None), slice(down, None))
    if right < 0:
        return (rows[0], slice(-right, None)), (rows[1], slice(None, right))
    return (rows[0], slice(None, -right or None)), (rows[1], slice(right, None))


def _moments(values: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the sums over time `[H, W]` of the squares, and of the products with neighbours."""
    products = [np.einsum("tij,tij->ij", values, values)]
    for first, second in map(_pair, _STEPS):
        products.append(np.einsum("tij,tij->ij", values[:, *first], values[:, *second]))
    return tuple(products)
