"""Smooth random fields, splatting and blurring: what the simulator is drawn with.

Everything is separable or a scatter, so that a field takes a few milliseconds.
"""

import functools

import numpy as np
from scipy import ndimage

Shape = tuple[int, int]


@functools.lru_cache(maxsize=192)
def _spline(length: int, spacing: float, phase: float) -> np.ndarray:
    """Cubic B-splines `[length, knots]` whose knots are `spacing` px apart."""
    position = np.arange(length) / spacing + phase
    knots = np.arange(int(position[-1]) + 4) - 1
    away = np.abs(position[:, None] - knots)
    near = 2 / 3 - away**2 + away**3 / 2
    far = np.maximum(2 - away, 0) ** 3 / 6
    return np.where(away < 1, near, far).astype(np.float32)


def enlarge(image: np.ndarray, shape: Shape) -> np.ndarray:
    """Enlarge an image by cubic B-splines, which smooth it a little, to `[H, W]` float32.

    The image `[h, w]` float32 has at least the `coarse_shape`; what is left over is cut off.
    """
    scale = max(shape[0] / (image.shape[0] - 4), shape[1] / (image.shape[1] - 4))
    rows, columns = (_spline(length, scale, 0.0) for length in shape)
    return rows @ image[: rows.shape[1], : columns.shape[1]] @ columns.T


def coarse_shape(shape: Shape, spacing: float) -> Shape:
    """Return the shape of an image whose pixels are `spacing` px wide, with a margin."""
    return int(np.ceil(shape[0] / spacing)) + 4, int(np.ceil(shape[1] / spacing)) + 4


def draw_clouds(rng: np.random.Generator, shape: Shape, spacing: float) -> np.ndarray:
    """Draw Gaussian noise that is smooth over `spacing` px, to within a tenth.

    Returns `[H, W]` float32 with mean 0 and standard deviation of about 1.
    """
    # A few spacings and phases, so that most splines are known from before.
    spacing = float(2 ** (np.rint(4 * np.log2(max(spacing, 1.0))) / 4))
    rows, columns = (
        _spline(n, spacing, float(p) / 2) for n, p in zip(shape, rng.integers(0, 2, 2), strict=True)
    )
    knots = rng.standard_normal((rows.shape[1], columns.shape[1]), np.float32)
    # The variance of a sum of splines with independent weights is 0.4794 along each axis.
    return rows @ knots @ columns.T * np.float32(1 / 0.4794)


def draw_octaves(
    rng: np.random.Generator, shape: Shape, finest: float, coarsest: float, roughness: float
) -> np.ndarray:
    """Draw noise over several scales, each half as wide as the last.

    Knots are `coarsest` to `finest` px apart; `roughness` is the amplitude of each scale relative
    to the next coarser one. Returns `[H, W]` float32 with mean 0 and standard deviation of about 1.
    """
    total = np.zeros(shape, np.float32)
    spacing, weight, power = max(coarsest, 1.0), 1.0, 0.0
    while spacing >= max(finest, 2.0) or not power:
        total += draw_clouds(rng, shape, spacing) * np.float32(weight)
        power += weight**2
        spacing, weight = spacing / 2, weight * roughness
    return total / np.float32(np.sqrt(power))


def splat_points(canvas: np.ndarray, place: np.ndarray, light: np.ndarray) -> None:
    """Add the light `[N]` of points to a canvas `[H, W]` float32, each shared among four pixels.

    `place` `[N, 2]` is row and column, px; points outside are left out.
    """
    height, width = canvas.shape
    low = np.floor(place).astype(np.intp)
    inside = ((low >= 0) & (low < (height - 1, width - 1))).all(1)
    low, light = low[inside], light[inside]
    part = place[inside] - low
    down, right = part.T
    first = low[:, 0] * width + low[:, 1]
    index = np.concatenate([first, first + 1, first + width, first + width + 1])
    weight = np.concatenate(
        [(1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right]
    )
    added = np.bincount(index, weight * np.tile(light, 4), canvas.size)
    canvas += added.reshape(canvas.shape).astype(np.float32)


def patch_index(shape: Shape, corner: np.ndarray, side: int) -> np.ndarray:
    """Return the flat index `[N, side, side]` of each pixel of patches in a canvas with a frame.

    The frame is `side` px wide, as the patches; `shape` is that of the canvas without it, and
    `corner` `[N, 2]` int the first row and column of each patch, at least -`side`.
    """
    width = shape[1] + 2 * side
    steps = np.arange(side)
    square = steps[:, None] * width + steps
    return ((corner[:, 0] + side) * width + corner[:, 1] + side)[:, None, None] + square


def splat_patches(shape: Shape, index: np.ndarray, patches: np.ndarray) -> np.ndarray:
    """Add up patches `[N, P, P]` at their `patch_index` to an image `[H, W]` float32."""
    side = patches.shape[1]
    framed = (shape[0] + 2 * side, shape[1] + 2 * side)
    total = np.bincount(index.ravel(), patches.ravel(), framed[0] * framed[1])
    return total.reshape(framed)[side:-side, side:-side].astype(np.float32)


def take_patches(image: np.ndarray, index: np.ndarray, fill: float = np.nan) -> np.ndarray:
    """Cut patches `[N, P, P]` at their `patch_index` out of an image, `fill` outside of it."""
    return np.pad(image, index.shape[1], constant_values=fill).take(index)


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Blur an image `[H, W]` float32 by a Gaussian of `sigma` px; its borders are mirrored."""
    if sigma < 0.15:
        return image
    return ndimage.gaussian_filter(image, sigma, truncate=3.0)
