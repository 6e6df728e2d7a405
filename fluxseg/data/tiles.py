"""Images of any size as a grid of equal crops in which every pixel is owned by exactly one."""

import itertools

import numpy as np


def tile_starts(length: int, tile: int) -> list[int]:
    """First pixels of the fewest tiles that cover a side, evenly spaced from 0, the last one flush.

    If the side is shorter than a tile, the one tile sticks out.
    """
    count = max(1, -(-length // tile))
    if count == 1:
        return [0]
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def tile_positions(shape: tuple[int, int], tile: int) -> list[tuple[int, int]]:
    """Top left corners (row, column) of all tiles of an image, row-major."""
    return list(itertools.product(tile_starts(shape[0], tile), tile_starts(shape[1], tile)))


def crop_grid(image: np.ndarray, tile: int, pad_mode: str = "reflect") -> np.ndarray:
    """Cut an image of any size into equal tiles: the crops that `prepare` makes of a recording.

    Sides that `tile` does not divide are covered by tiles that overlap evenly; an image smaller
    than a tile is padded at the bottom and right. For sides of twice the tile this is
    `crop_quarters`.

    Args:
        image: `[H, W]`.
        tile: side of a tile, px.
        pad_mode: mode of `numpy.pad`, "reflect" mirrors the image, "constant" adds zeros.

    Returns:
        `[T, tile, tile]`, same dtype, in the order of `tile_positions`.
    """
    height, width = image.shape
    missing = [(0, max(0, tile - height)), (0, max(0, tile - width))]
    if any(after for _, after in missing):
        # Mirroring needs two pixels; a single row or column can only be repeated.
        mode = "edge" if pad_mode == "reflect" and min(height, width) == 1 else pad_mode
        image = np.pad(image, missing, mode=mode)  # type: ignore[call-overload]
    positions = tile_positions((height, width), tile)
    return np.stack([image[r : r + tile, c : c + tile] for r, c in positions])


def grid_ownership(shape: tuple[int, int], tile: int) -> np.ndarray:
    """Tell which pixels of each tile of `crop_grid` are its own: `[T, tile, tile]` bool.

    Where tiles overlap, the border runs through the middle of the overlap, so that each tile owns
    the pixels of which it sees the most surroundings; padding is owned by none, and every pixel of
    the image `(H, W)` by exactly one tile.
    """
    owned = _owned(shape, tile)
    result = np.zeros((len(owned), tile, tile), bool)
    for mask, (rows, columns) in zip(result, owned, strict=True):
        mask[rows, columns] = True
    return result


def _owned(shape: tuple[int, int], tile: int) -> list[tuple[slice, slice]]:
    """Return the rows and columns of each tile, counted from its corner, that it owns."""
    sides = []
    for length in shape:
        starts = tile_starts(length, tile)
        middles = ((left + tile + right) // 2 for left, right in itertools.pairwise(starts))
        borders = itertools.pairwise([0, *middles, length])
        sides.append([slice(a - s, b - s) for s, (a, b) in zip(starts, borders, strict=True)])
    return list(itertools.product(*sides))


def join_grid(tiles: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Put tiles together again, each giving the pixels it owns; the inverse of `crop_grid`.

    Args:
        tiles: `[T, tile, tile]` in the order of `tile_positions`.
        shape: (H, W) of the image.

    Returns:
        `[H, W]`, same dtype.

    Raises:
        ValueError: if the number of tiles does not fit the shape.
    """
    tile = tiles.shape[1]
    positions = tile_positions(shape, tile)
    if len(tiles) != len(positions):
        raise ValueError(f"{shape} needs {len(positions)} tiles of {tile}, got {len(tiles)}")
    image = np.empty(shape, tiles.dtype)
    for (row, column), content, mine in zip(positions, tiles, _owned(shape, tile), strict=True):
        image[row : row + tile, column : column + tile][mine] = content[mine]
    return image
