"""Overlapping tiles of one shape, and how their predictions become one without a seam."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from fluxseg.errors import ConfigError

MARGIN = 0.25
"""Share of an overlap, at either end, in which the tile that ends there counts nothing: its
network sees the least surroundings there."""


@dataclasses.dataclass(frozen=True)
class TilePlan:
    """How an image is cut up."""

    shape: tuple[int, int]  # (H, W) of the image, px
    padded: tuple[int, int]  # (H, W) after mirroring at the bottom and at the right, px
    tile: tuple[int, int]  # (height, width) of every tile, px
    rows: tuple[int, ...]  # first rows of the tiles, increasing, px
    columns: tuple[int, ...]  # first columns of the tiles, increasing, px

    @property
    def positions(self) -> list[tuple[int, int]]:
        """Top left corners (row, column) of all tiles, row-major."""
        return list(itertools.product(self.rows, self.columns))


def plan_tiles(shape: tuple[int, int], tile: int, overlap: int, multiple: int) -> TilePlan:
    """Plan the fewest tiles that cover an image (H, W) and overlap by at least `overlap`.

    Sides are rounded up to `multiple`, so that images of similar sizes need one compiled program,
    and tiles start at multiples of it, so that they meet the same grid of poolings as the whole
    image does. A side that fits in a tile is not divided. All are px; `tile` is the largest side of
    a tile, rounded up to `multiple`, and to twice the overlap. Raises `ConfigError` if the overlap
    is negative or takes more than half of a tile.
    """
    if tile < 1 or not 0 <= overlap <= tile / 2:
        raise ConfigError(
            f"overlap must be 0 to half of the tile, got overlap {overlap} and tile {tile} px"
        )
    least = -(-overlap // multiple)
    # Rounding may turn half of a small tile into all of it.
    largest = max(-(-tile // multiple), 2 * least)
    axes = [_plan_axis(-(-length // multiple), largest, least) for length in shape]
    (height, rows), (width, columns) = axes
    return TilePlan(
        shape=shape,
        padded=(-(-shape[0] // multiple) * multiple, -(-shape[1] // multiple) * multiple),
        tile=(height * multiple, width * multiple),
        rows=tuple(start * multiple for start in rows),
        columns=tuple(start * multiple for start in columns),
    )


def _plan_axis(length: int, tile: int, overlap: int) -> tuple[int, list[int]]:
    if length <= tile:
        return length, [0]
    count = -(-(length - overlap) // (tile - overlap))
    return tile, [i * (length - tile) // (count - 1) for i in range(count)]


def pad_image(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Mirror an image `[H, W]` at the bottom and at the right until it has a larger shape."""
    missing = [(0, wanted - side) for side, wanted in zip(image.shape, shape, strict=True)]
    return np.pad(image, missing, mode="reflect")


def blend_weights(starts: tuple[int, ...], tile: int) -> np.ndarray:
    """Weight of each tile along one side: raised cosines where tiles overlap, 1 elsewhere.

    Tiles begin at `starts`, increasing, and have `tile` pixels. Returns `[tiles, tile]` float32; at
    each pixel the weights of all tiles add up to 1.
    """
    weights = np.ones((len(starts), tile))
    for index, (left, right) in enumerate(itertools.pairwise(starts)):
        overlap = left + tile - right
        if overlap > 0:
            centres = (np.arange(overlap) + 0.5) / overlap
            rise = np.clip((centres - MARGIN) / (1 - 2 * MARGIN), 0, 1)
            rise = (1 - np.cos(np.pi * rise)) / 2
            weights[index, tile - overlap :] *= rise[::-1]
            weights[index + 1, :overlap] *= rise
    # Where only two tiles meet, the sum is 1 already.
    total = np.zeros(starts[-1] + tile)
    for start, row in zip(starts, weights, strict=True):
        total[start : start + tile] += row
    for start, row in zip(starts, weights, strict=True):
        row /= total[start : start + tile]
    return weights.astype(np.float32)


def cut_tiles(padded: np.ndarray, plan: TilePlan) -> Iterator[np.ndarray]:
    """Give the tiles of a padded image, row-major, as views."""
    height, width = plan.tile
    for row, column in plan.positions:
        yield padded[row : row + height, column : column + width]


def blend_tiles(tiles: Iterable[np.ndarray], plan: TilePlan) -> np.ndarray:
    """Add up weighted tiles `[*plan.tile]` in the order of `plan.positions`, one after the other.

    Returns `[*plan.shape]` float32.
    """
    height, width = plan.tile
    vertical = dict(zip(plan.rows, blend_weights(plan.rows, height), strict=True))
    horizontal = dict(zip(plan.columns, blend_weights(plan.columns, width), strict=True))
    blended = np.zeros(plan.shape, np.float32)
    for (row, column), tile in zip(plan.positions, tiles, strict=True):
        target = blended[row : row + height, column : column + width]
        inside = tile * vertical[row][:, None] * horizontal[column]
        target += inside[: target.shape[0], : target.shape[1]]
    return blended
