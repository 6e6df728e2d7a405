"""Blood vessels, which hold no indicator and take light from what lies below them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import ndimage

from fluxseg.simulation.grids import Shape, blur, coarse_shape, enlarge
from fluxseg.simulation.neuropil import Scale, draw_fade, splat_fibres, walk


def draw_vessels(
    rng: np.random.Generator, shape: Shape, scale: Scale, values: Mapping[str, Any]
) -> np.ndarray:
    """Draw what blood vessels let pass: wide ones above, those that dive, and capillaries.

    Returns `[H, W]` float32, 0 to 1.
    """
    density = float(np.sqrt(scale[0] * scale[1]))
    # Drawn coarser, as the tissue above blurs their edges.
    spacing = float(max(2, round(2.5 * density)))
    shadow = np.zeros(coarse_shape(shape, spacing), np.float32)
    size = np.array(shape) / scale
    field = float(size.prod()) / 400**2
    step = np.array(scale) / spacing
    for share, width, soft in (
        (0.4, rng.uniform(8, 25), rng.uniform(0.35, 0.8)),
        (0.4, rng.uniform(3.5, 8), rng.uniform(0.25, 0.6)),
    ):
        path, fade = _draw_tubes(rng, rng.poisson(share * values["vessels"] * field), size)
        dark = _draw_shadow(shadow.shape, path * step + 1, fade, width * density / spacing, soft)
        dark *= rng.uniform(0.4, 1.0) * values["vessel_dark"]
        np.maximum(shadow, dark, out=shadow)
    count = rng.poisson(0.2 * values["vessels"] * field)
    if count:
        dark = _draw_diving(rng, shadow.shape, count, density / spacing)
        np.maximum(shadow, np.float32(values["vessel_dark"]) * dark, out=shadow)
    light = 1 - np.clip(enlarge(blur(shadow, 0.8), shape), 0, 0.97)
    count = rng.poisson(values["capillaries"] * field)
    canvas = np.zeros(shape, np.float32)
    path = walk(rng, rng.random((count, 2)) * size, rng.uniform(0, 2 * np.pi, count), 60, 0.16)
    width = rng.uniform(1.3, 2.5) * density
    dark = np.sqrt(2 * np.pi) * width * rng.uniform(0.1, 0.4) * draw_fade(rng, count, 60)
    splat_fibres(canvas, path, np.minimum(dark, 2 * width), scale)
    return light * np.exp(-blur(canvas, width))


def _draw_tubes(
    rng: np.random.Generator, count: int, size: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Centre lines of vessels with one branch each `[M, 2]`, um, and how near they are `[M]`."""
    steps = int(rng.uniform(150, 450))
    path = walk(rng, rng.random((count, 2)) * size, rng.uniform(0, 2 * np.pi, count), steps, 0.045)
    at = rng.integers(steps // 4, 3 * steps // 4, count)
    forks = path[np.arange(count), at]
    side = walk(rng, forks, rng.uniform(0, 2 * np.pi, count), steps // 2, 0.06)
    fade = np.sin(np.linspace(0, np.pi, steps)) ** 0.5 * np.ones((count, 1))
    lost = np.linspace(0.8, 0, steps // 2) * np.ones((count, 1))
    lines = np.concatenate([path.reshape(-1, 2), side.reshape(-1, 2)])
    return lines, np.concatenate([fade.ravel(), lost.ravel()])


def _draw_shadow(
    shape: Shape, path: np.ndarray, fade: np.ndarray, width: float, soft: float
) -> np.ndarray:
    """Shadow of tubes `[H, W]`, 0 to 1, that narrow and fade with `fade`."""
    low = np.rint(path).astype(np.intp)
    inside = ((low >= 0) & (low < shape)).all(1)
    row, column = low[inside].T
    if not len(row):
        return np.zeros(shape, np.float32)
    near = np.zeros(shape, np.float32)
    near[row, column] = np.maximum(fade[inside], 0.02)
    distance, nearest = ndimage.distance_transform_edt(near == 0, return_indices=True)
    near = near[tuple(nearest)]
    edge = (distance.astype(np.float32) / (width * (0.4 + 0.6 * near)) - 1) / soft
    return near / (1 + np.exp(np.clip(4 * edge, -20, 20)))


def _draw_diving(rng: np.random.Generator, shape: Shape, count: int, per_um: float) -> np.ndarray:
    """Shadow of vessels on their way down `[H, W]`, 0 to 1: round, with a trail to one side."""
    rows, columns = (np.arange(n, dtype=np.float32) for n in shape)
    shadow = np.zeros(shape, np.float32)
    trail = rng.uniform(0, 2 * np.pi)
    for _ in range(count):
        middle, width = rng.random(2) * shape, rng.uniform(6, 16) * per_um
        for number, depth in enumerate(rng.uniform(0.6, 1.1) * np.array((1.0, 0.6, 0.45, 0.3))):
            down, right = (
                ((line - place - move) / (width * (1 + 0.35 * number))) ** 2
                for line, place, move in zip(
                    (rows, columns),
                    middle,
                    1.3 * number * width * np.array((np.sin(trail), np.cos(trail))),
                    strict=True,
                )
            )
            square = down[:, None] + right
            np.maximum(shadow, depth * np.exp(-(square**1.5)), out=shadow)
    return shadow
