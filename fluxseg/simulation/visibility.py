"""How well simulated cells can be seen in the final image."""

import numpy as np

from fluxseg.simulation.grids import blur, take_patches

FLOOR = (0.004, 0.04)
"""Contrast that adds to the background's own variation: a share of the displayed range, and of how
far the background lies above its black. An eye, and a change of the display, finds a dim ring in
dark surroundings however bright other cells are."""
DISPLAYED = (1.0, 99.5)  # percentiles of an image between which it is displayed
HOLE = 0.6
"""A dim nucleus has less than this share of the cell's largest light, and lies within this share
of its outline."""


def measure_visibility(
    image: np.ndarray,
    index: np.ndarray,
    light: np.ndarray,
    outline: np.ndarray,
    bodies: np.ndarray,
    radius_px: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Measure how well each cell can be seen in the final image, its noise included.

    A cell's brightness is the mean weighted by its own light, so that a ring with a dim nucleus
    counts by its ring. The background is what surrounds it within about two diameters and is no
    cell; its variation is taken after a blur over a quarter of a radius, as an eye does. A ring is
    also seen by its hole: half of the difference between the two counts, by the hole's share of
    the cell's middle.

    Args:
        image: `[H, W]`, final image.
        index: `[N, P, P]` from `patch_index`.
        light: `[N, P, P]` float32, the cells' own light.
        outline: `[N, P, P]` float32, below 1 inside of the outline.
        bodies: `[H, W]` float32, above 0 where cells are.
        radius_px: median radius of the cells, px.

    Returns visibility `[N]` float32, the cell's difference from the background, and from its own
    dim nucleus, over the background's variation, and contrast `[N]` float32, the first difference
    over the displayed range; both are -1 for cells with too little light, or of which too little is
    in the image.
    """
    count = len(index)
    low, high = np.percentile(image[::3, ::3], DISPLAYED)
    shown = np.clip((image - np.float32(low)) / np.float32(max(high - low, 1e-6)), -0.5, 1.5)
    shown = shown.astype(np.float32)
    step = max(1, int(radius_px / 2))
    # Means over squares of pixels are the first part of the blur.
    size = 2 if radius_px >= 6 else 1
    height, width = (length // size * size for length in shown.shape)
    squares = shown[:height, :width].reshape(height // size, size, width // size, size)
    squares = blur(squares.mean((1, 3)), 0.25 * radius_px / size).repeat(size, 0).repeat(size, 1)
    smooth = np.pad(squares, ((0, shown.shape[0] - height), (0, shown.shape[1] - width)), "edge")
    smooth = smooth[::step, ::step]
    free = (bodies[::step, ::step] < 0.1).astype(np.float32) + np.float32(1e-3)
    reach = 2.2 * radius_px / step
    share = blur(free, reach)
    mean = blur(smooth * free, reach) / share
    square = blur(smooth * smooth * free, reach) / share
    spread = np.sqrt(np.maximum(square - mean * mean, 0))
    weight = np.where(outline < 1, light, 0)
    values = take_patches(shown, index)
    inside = np.isfinite(values)
    seen = (weight * inside).sum((1, 2))
    total = weight.sum((1, 2))
    bright = (weight * np.where(inside, values, 0)).sum((1, 2)) / np.maximum(seen, 1e-6)
    side = index.shape[1]
    middle = index[:, side // 2, side // 2] if count else np.zeros(0, np.intp)
    row, column = np.divmod(middle, image.shape[1] + 2 * side)
    row = np.clip((row - side) // step, 0, mean.shape[0] - 1)
    column = np.clip((column - side) // step, 0, mean.shape[1] - 1)
    contrast = bright - mean[row, column]
    visibility = contrast + _hole_contrast(values, light, outline, bright)
    above = np.maximum(mean[row, column], 0)
    visibility /= spread[row, column] + np.float32(FLOOR[0]) + np.float32(FLOOR[1]) * above
    poor = (seen < 0.2 * total) | (total < 1e-3)
    return (
        np.where(poor, -1, visibility).astype(np.float32),
        np.where(poor, -1, contrast).astype(np.float32),
    )


def _hole_contrast(
    values: np.ndarray, light: np.ndarray, outline: np.ndarray, bright: np.ndarray
) -> np.ndarray:
    """Return `[N]` what a dim nucleus adds to the contrast of cells of brightness `bright`."""
    middle = outline < HOLE
    dim = middle & (light < HOLE * light.max((1, 2), initial=0.0, keepdims=True))
    seen = dim & np.isfinite(values)
    dark = np.where(seen, values, 0).sum((1, 2)) / np.maximum(seen.sum((1, 2)), 1)
    share = seen.sum((1, 2)) / np.maximum(middle.sum((1, 2)), 1)
    return 0.5 * share * np.maximum(bright - dark, 0)
