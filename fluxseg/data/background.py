"""What surrounds the cell bodies of simulated cortex: neuropil, fibres, vessels, illumination."""

import numpy as np


def smooth_noise(rng: np.random.Generator, size: int, scale: float, exponent: float) -> np.ndarray:
    """Draw Gaussian noise whose power falls off above a spatial scale.

    Args:
        rng: source of all randomness.
        size: height and width, px.
        scale: wavelengths above it, px, are equally strong.
        exponent: amplitudes fall as frequency to minus this below it.

    Returns:
        `[size, size]` float32 with mean 0 and standard deviation 1; its borders fit together.
    """
    rows = np.fft.fftfreq(size).astype(np.float32)[:, None]
    squared = rows**2 + np.fft.rfftfreq(size).astype(np.float32)[None] ** 2
    # A last, steep fall keeps single pixels from standing out.
    weight = (1 + squared * np.float32(scale**2)) ** np.float32(-exponent / 2)
    weight *= np.exp(squared * np.float32(-1 / 0.22**2))
    weight[0, 0] = 0
    spectrum = rng.standard_normal((*weight.shape, 2), np.float32).view(np.complex64)[..., 0]
    noise = np.fft.irfft2(spectrum * weight, (size, size))
    return (noise / noise.std()).astype(np.float32)


def overlap(
    shape: tuple[int, ...], row: int, column: int, patch: tuple[int, ...]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Slices of a canvas and of a patch placed on it where both exist."""
    top, left = max(row, 0), max(column, 0)
    bottom, right = min(row + patch[0], shape[0]), min(column + patch[1], shape[1])
    bottom, right = max(bottom, top), max(right, left)
    inside = (slice(top - row, bottom - row), slice(left - column, right - column))
    return (slice(top, bottom), slice(left, right)), inside


def add_patches(canvas: np.ndarray, corner: np.ndarray, patches: np.ndarray) -> None:
    """Add patches `[N, P, P]` to a canvas `[H, W]`, each at its corner `[N, 2]`, cut at borders."""
    for (row, column), patch in zip(corner.tolist(), patches, strict=True):
        target, part = overlap(canvas.shape, row, column, patch.shape)
        canvas[target] += patch[part]


def draw_neuropil(rng: np.random.Generator, size: int, um_per_px: float) -> np.ndarray:
    """Draw the background: uneven expression, fine grain, and a felt of thin processes.

    Args:
        rng: source of all randomness.
        size: height and width, px.
        um_per_px: size of a pixel, um.

    Returns:
        `[size, size]` float32, positive, about 1.
    """
    patchy = smooth_noise(rng, size, 120 / um_per_px, 1.6)
    grain = smooth_noise(rng, size, 10 / um_per_px, 1.3)
    # The zero crossings of smooth noise are thin curves, as processes that the plane meets.
    curves = np.exp(-((smooth_noise(rng, size, 40 / um_per_px, 1.9) / np.float32(0.06)) ** 2))
    felt = np.float32(rng.uniform(0.05, 0.3)) * curves * np.maximum(patchy + 1, 0)
    level = np.exp(patchy * np.float32(rng.uniform(0.04, 0.16)))
    return level * np.maximum(1 + grain * np.float32(rng.uniform(0.02, 0.08)), 0.2) + felt


def draw_blobs(rng: np.random.Generator, count: int, size: int, um_per_px: float) -> np.ndarray:
    """Draw the light of `count` cells above and below the plane, `[size, size]` float32."""
    canvas = np.zeros((size, size), np.float32)
    for sigma_um in (4.0, 6.0, 10.0):
        sigma = sigma_um / um_per_px
        reach = int(np.ceil(2.5 * sigma))
        square = np.arange(-reach, reach + 1, dtype=np.float32) ** 2
        disc = np.exp(-(square[:, None] + square) / np.float32(2 * sigma**2))
        strength = np.exp(rng.normal(-1.9, 0.6, count // 3 + 1)).astype(np.float32)
        corner = rng.integers(0, size, (len(strength), 2)) - reach
        add_patches(canvas, corner, strength[:, None, None] * disc)
    return canvas


def draw_fibres(rng: np.random.Generator, size: int, um_per_px: float) -> np.ndarray:
    """Draw boutons, and dendrites that run in the plane.

    Args:
        rng: source of all randomness.
        size: height and width, px.
        um_per_px: size of a pixel, um.

    Returns:
        `[size, size]` float32, not blurred by optics yet.
    """
    canvas = np.zeros((size, size), np.float32)
    area_um2 = (size * um_per_px) ** 2
    # Boutons and cross-sections: specks of a micrometre or two.
    specks = int(rng.uniform(0.2, 1.0) * area_um2 / 150)
    row, column = rng.integers(0, size, (2, specks))
    light = rng.gamma(0.8, 1.1, specks).astype(np.float32)
    np.add.at(canvas, (row, column), light)
    beside = np.minimum(column + rng.integers(0, 2, specks), size - 1)
    np.add.at(canvas, (np.minimum(row + rng.integers(0, 2, specks), size - 1), beside), light)
    # Dendrites: walks whose direction changes slowly and which leave the plane at their ends.
    count = rng.poisson(rng.uniform(0.4, 2.0) * area_um2 / 4000)
    length = max(2, int(60 / um_per_px))
    heading = rng.uniform(0, 2 * np.pi, (count, 1))
    heading = heading + np.cumsum(rng.normal(0, 0.06, (count, length)), 1)
    start = rng.uniform(0, size, (2, count, 1))
    path = start + 0.9 * np.cumsum(np.stack([np.sin(heading), np.cos(heading)]), 2)
    inside = ((path >= 0) & (path < size)).all(0)
    row, column = path.astype(int)[:, inside]
    fade = np.sin(np.linspace(0, np.pi, length)) * np.exp(rng.normal(-0.7, 0.6, (count, 1)))
    np.add.at(canvas, (row, column), fade[inside].astype(np.float32))
    return canvas


def draw_vessels(rng: np.random.Generator, size: int, um_per_px: float) -> np.ndarray:
    """Draw what blood vessels let pass: branching tubes, and round ones that dive.

    Args:
        rng: source of all randomness.
        size: height and width, px.
        um_per_px: size of a pixel, um.

    Returns:
        `[size, size]` float32, 0 to 1.
    """
    # Drawn four times coarser: their edges are blurred by the tissue above them.
    coarse = max(8, size // 4)
    shadow = np.zeros((coarse, coarse), np.float32)
    field = (size * um_per_px / 400) ** 2
    unit = um_per_px * size / coarse
    waiting = [
        (rng.uniform(0, coarse, 2), rng.uniform(0, 2 * np.pi), rng.lognormal(1.9, 0.5) / unit, 3)
        for _ in range(rng.poisson(2.5 * field))
    ]
    while waiting:
        start, heading, width, branches = waiting.pop()
        length = int(rng.uniform(0.3, 1.2) * coarse)
        turns = heading + np.cumsum(rng.normal(0, 0.09, length))
        path = start + np.cumsum(np.stack([np.sin(turns), np.cos(turns)], 1), 0)
        # What is thinner than the coarse pixels is drawn wider and fainter, not as beads.
        radius = max(width / 2, 1.2)
        _darken(shadow, path, radius, rng.uniform(0.25, 0.8) * width / 2 / radius)
        if length and branches and rng.random() < 0.6:
            fork = int(rng.integers(length))
            side = turns[fork] + rng.choice([-1, 1]) * rng.uniform(0.5, 1.1)
            waiting.append((path[fork], side, 0.7 * width, branches - 1))
    for _ in range(rng.poisson(0.8 * field)):
        step = rng.normal(0, 0.8, (8, 2)).cumsum(0)
        _darken(shadow, rng.uniform(0, coarse, 2) + step, rng.uniform(7, 18) / unit, 0.6)
    return 1 - enlarge(shadow, size)


def _darken(shadow: np.ndarray, path: np.ndarray, radius: float, depth: float) -> None:
    reach = int(np.ceil(1.7 * radius)) + 1
    steps = np.arange(2 * reach + 1, dtype=np.float32)
    for point in path:
        row, column = np.floor(point).astype(int) - reach
        target, part = overlap(shadow.shape, row, column, (2 * reach + 1,) * 2)
        rows = (steps[part[0]] - np.float32(point[0] - row)) ** 2
        columns = (steps[part[1]] - np.float32(point[1] - column)) ** 2
        relative = (rows[:, None] + columns) / np.float32(radius**2)
        np.maximum(
            shadow[target], np.float32(depth) * np.exp(-relative * relative), out=shadow[target]
        )


def enlarge(image: np.ndarray, size: int) -> np.ndarray:
    """Enlarge a square image `[S, S]` to `[size, size]` by bilinear interpolation."""
    index = np.linspace(0, len(image) - 1, size)
    low = np.minimum(index.astype(int), len(image) - 2)
    part = (index - low).astype(np.float32)
    rows = image[low] * (1 - part)[:, None] + image[low + 1] * part[:, None]
    return rows[:, low] * (1 - part) + rows[:, low + 1] * part


def draw_illumination(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw how the microscope lights the field: a vignette, a slope, dark ends of the lines.

    Args:
        rng: source of all randomness.
        size: height and width, px.

    Returns:
        `[size, size]` float32, 1 at the brightest pixel.
    """
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    row, column = (axis - np.float32(c) for c in rng.uniform(-0.4, 0.4, 2))
    fall = np.float32(rng.uniform(0.0, 0.6))
    slope = rng.normal(0, 0.22, 2).astype(np.float32)
    light = np.exp((slope[0] * axis)[:, None] + slope[1] * axis)
    light /= 1 + fall * (row[:, None] ** 2 + column**2)
    # A resonant mirror turns at the ends of a line: less light comes from there.
    ends = np.float32(rng.uniform(0, 0.5)) * np.exp((np.abs(axis) - 1) / np.float32(0.06))
    light *= 1 - ends
    return light / light.max()
