"""Masks as polygons along the edges of their pixels, and back without the loss of a pixel.

Pixel (row r, column c) is the square from (c, r) to (c + 1, r + 1) in (x, y); its centre is
(c + 0.5, r + 0.5). Polygons through the centres of the border pixels, which many tools draw, lose
half a pixel on each side; those along the edges lose none.
"""

from collections.abc import Sequence

import numpy as np

from fluxseg.data.resample import cut_patches
from fluxseg.errors import RecordingError

MAX_CROSSINGS = 2**21
"""Crossings of edges with rows of pixels that filling may take; a file can declare any number."""
# Steps along the edges of pixels: right, down, left, up; the mask is on the right of each
# when y points down.
_STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))


def trace_polygons(mask: np.ndarray) -> list[np.ndarray]:
    """Trace the borders of a mask `[H, W]` bool along the edges of its pixels, as rings.

    A ring is `[K, 2]` float64 of (x, y), all whole numbers, without the first point again at the
    end and without points on straight lines. It meets no point twice: where pixels touch at a
    corner only, rings touch in that point. Outer rings and those of holes run in opposite
    directions, so the even-odd and the non-zero rule fill the same.
    """
    rings = []
    for top, left, inner in cut_patches(mask[None]):
        edges = _find_edges(inner)
        while edges:
            rings += [ring + np.array([left, top]) for ring in _walk(edges, next(iter(edges)))]
    return rings


def fill_polygons(rings: Sequence[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Fill rings `[K, 2]` of (x, y), closed by a line, by the even-odd rule: `[H, W]` bool.

    A pixel is inside if its centre is. A centre on an edge counts as inside if the area right of it
    is, or below it for a level edge, so that of two polygons with a common edge one has it. What
    lies outside of the mask is cut off. Raises `RecordingError` if a coordinate is not finite, or
    filling would take more than `MAX_CROSSINGS`.
    """
    height, width = shape
    inside = np.zeros((height, width + 1), bool)
    left = MAX_CROSSINGS
    for ring in rings:
        points = np.asarray(ring, np.float64).reshape(-1, 2)
        if not np.isfinite(points).all():
            raise RecordingError("polygon", "has coordinates that are not finite")
        left -= _toggle(inside, points, left)
    return np.logical_xor.accumulate(inside, axis=1)[:, :-1]


def _find_edges(mask: np.ndarray) -> dict[tuple[int, int, int], None]:
    """Return (x, y, direction) of each edge between inside and outside."""
    inside = np.pad(mask, 1)
    neighbours = (inside[:-2, 1:-1], inside[1:-1, 2:], inside[2:, 1:-1], inside[1:-1, :-2])
    corners = ((0, 0), (1, 0), (1, 1), (0, 1))
    edges: dict[tuple[int, int, int], None] = {}
    for direction, (neighbour, (dx, dy)) in enumerate(zip(neighbours, corners, strict=True)):
        for row, column in np.argwhere(mask & ~neighbour).tolist():
            edges[column + dx, row + dy, direction] = None
    return edges


def _walk(edges: dict[tuple[int, int, int], None], start: tuple[int, int, int]) -> list[np.ndarray]:
    """Take the edges of one closed walk away, and return it as simple rings."""
    rings = []
    path: list[tuple[int, int, int]] = []
    place: dict[tuple[int, int], int] = {}
    edge = start
    while True:
        x, y, direction = edge
        if (x, y) in place:
            # The walk is here again: what it went through since then is a ring of its own.
            first = place[x, y]
            points = np.array(path[first:], float)
            rings.append(points[points[:, 2] != np.roll(points[:, 2], 1), :2])
            for px, py, _ in path[first:]:
                del place[px, py]
            del path[first:]
        if edge not in edges:
            return rings
        del edges[edge]
        place[x, y] = len(path)
        path.append(edge)
        dx, dy = _STEPS[direction]
        x, y = x + dx, y + dy
        # To the right first, which stays with the same pixel where two touch at a corner.
        turns = ((x, y, (direction + turn) % 4) for turn in (1, 0, 3))
        edge = next((turn for turn in turns if turn in edges), start)


def _toggle(inside: np.ndarray, points: np.ndarray, limit: int) -> int:
    """Flip `inside` [H, W + 1] where rows first lie right of an edge; return the crossings."""
    height, width = inside.shape[0], inside.shape[1] - 1
    (x0, y0), (x1, y1) = points.T, np.roll(points, -1, axis=0).T
    # Rows whose centre lies between the ends of the edge; the upper end belongs to it.
    begin = np.ceil(np.clip(np.minimum(y0, y1) - 0.5, 0, height)).astype(np.int64)
    end = np.ceil(np.clip(np.maximum(y0, y1) - 0.5, 0, height)).astype(np.int64)
    counts = end - begin
    total = int(counts.sum())
    if total > limit:
        raise RecordingError("polygon", f"has too many edges to fill: {len(points)}")
    number = np.repeat(np.arange(len(points)), counts)
    row = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts) + begin[number]
    part = (row + 0.5 - y0[number]) / (y1[number] - y0[number])
    x = x0[number] + part * (x1[number] - x0[number])
    column = np.ceil(np.clip(x - 0.5, 0, width)).astype(np.int64)
    np.logical_xor.at(inside, (row, column), True)
    return total
