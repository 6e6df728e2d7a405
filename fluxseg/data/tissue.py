"""A piece of simulated cortex: where its cells, vessels and fibres lie, whatever the session."""

import dataclasses

import numpy as np

RADIUS_UM = 6.0
"""Median radius of a cell body; at 0.785 um a pixel it covers about 180 px."""
RADIUS_SPREAD = 0.11
"""Standard deviation of the logarithm of the radius."""
CELLS_PER_MM2 = (600.0, 1900.0)
"""Range of the density of labelled cells in the optical section, log-uniform."""
HARMONICS = 3
"""Outlines are ellipses with this many further waves around them."""


@dataclasses.dataclass(frozen=True, eq=False)
class Cells:
    """Cell bodies as ellipses with a nucleus, cut by the optical section.

    Attributes:
        centre: `[N, 2]` float, row and column, px.
        radius: `[N, 2]` float, half axes in the section, px.
        angle: `[N]` float, direction of the first axis, radians.
        wave: `[N, HARMONICS, 2]` float, amplitude and phase of the outline's waves.
        nucleus: `[N]` float, radius of the nucleus relative to the cell's; 0 where the section
            misses it.
        nucleus_shift: `[N, 2]` float, its position relative to the cell's radius.
        brightness: `[N]` float, resting brightness over the background.
    """

    centre: np.ndarray
    radius: np.ndarray
    angle: np.ndarray
    wave: np.ndarray
    nucleus: np.ndarray
    nucleus_shift: np.ndarray
    brightness: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Field:
    """What all sessions of a field of view have in common.

    Attributes:
        size: height and width, px.
        um_per_px: size of a pixel, um.
        cells: the cell bodies in focus.
        neuropil: `[size, size]` float32, texture and level of the background, about 1.
        blobs: `[size, size]` float32, light of cells out of focus.
        fibres: `[size, size]` float32, dendrites and boutons.
        transmission: `[size, size]` float32, 0 to 1: vessels and vignetting.
    """

    size: int
    um_per_px: float
    cells: Cells
    neuropil: np.ndarray
    blobs: np.ndarray
    fibres: np.ndarray
    transmission: np.ndarray


def simulate_field(rng: np.random.Generator, size: int = 512, um_per_px: float = 0.785) -> Field:
    """Draw the tissue of one field of view.

    Cells are flat sections of ellipsoids with dim nuclei, so that rings, discs and crescents
    come out (as in NAOMi; Song et al. 2021, J Neurosci Methods 358:109173); the background is
    scale-free noise, blurred cells, fibres and the shadows of vessels.

    Args:
        rng: source of all randomness.
        size: height and width, px.
        um_per_px: size of a pixel, um.

    Returns:
        The field.
    """
    area_mm2 = (size * um_per_px / 1000) ** 2
    density = np.exp(rng.uniform(*np.log(CELLS_PER_MM2)))
    cells = create_cells(rng, max(2, rng.poisson(density * area_mm2)), size, um_per_px)
    texture = smooth_noise(rng, size, 60, 1.3) * rng.uniform(0.15, 0.35)
    texture += smooth_noise(rng, size, 8, 0.7) * rng.uniform(0.05, 0.14)
    return Field(
        size=size,
        um_per_px=um_per_px,
        cells=cells,
        neuropil=np.maximum(1 + texture, 0.2).astype(np.float32),
        blobs=_draw_blobs(rng, len(cells.centre), size, um_per_px),
        fibres=_draw_fibres(rng, size, um_per_px),
        transmission=_draw_vessels(rng, size, um_per_px) * _draw_vignette(rng, size),
    )


def create_cells(rng: np.random.Generator, count: int, size: int, um_per_px: float) -> Cells:
    """Draw cell bodies that touch at most a little; fewer than `count` if there is no room."""
    scale = RADIUS_UM / um_per_px * rng.uniform(0.9, 1.12)
    centres = np.empty((0, 2))
    for centre in rng.uniform(-2, size + 2, (4 * count, 2)):
        if len(centres) == count:
            break
        near = ((centres - centre) ** 2).sum(1)
        # Some cells press against each other, few overlap.
        if not (near < (scale * rng.choice([1.3, 2.1, 2.4], p=[0.04, 0.5, 0.46])) ** 2).any():
            centres = np.vstack([centres, centre])
    count = len(centres)
    depth = rng.uniform(-0.8, 0.8, count)
    whole = scale * np.exp(rng.normal(0, RADIUS_SPREAD, count))
    section = whole * np.sqrt(1 - 0.55 * depth**2)
    stretch = np.exp(rng.normal(0, 0.1, count))
    nucleus = np.sqrt(np.maximum(rng.uniform(0.5, 0.66, count) ** 2 - depth**2, 0))
    amplitude = rng.normal(0, 0.05, (count, HARMONICS)) / np.arange(1, HARMONICS + 1)
    phase = rng.uniform(0, 2 * np.pi, (count, HARMONICS))
    return Cells(
        centre=centres,
        radius=np.stack([section * stretch, section / stretch], 1),
        angle=rng.uniform(0, np.pi, count),
        wave=np.stack([amplitude, phase], 2),
        nucleus=nucleus,
        nucleus_shift=rng.normal(0, 0.12, (count, 2)),
        brightness=np.exp(rng.normal(-0.1, 0.55, count)),
    )


def draw_cells(cells: Cells, shift: np.ndarray, soft: float = 0.11) -> tuple[np.ndarray, ...]:
    """Draw every cell into a patch of its own.

    Args:
        cells: N cells.
        shift: `[2]` px, added to all centres.
        soft: width of the edges relative to the radius.

    Returns:
        corner `[N, 2]` int, light `[N, P, P]` float32 of a cell of brightness 1, and body
        `[N, P, P]` float32, which is 1 inside of the outline, 0.5 on it, and 0 outside.
    """
    centre = cells.centre + shift
    reach = int(np.ceil(1.5 * cells.radius.max())) + 1
    corner = np.floor(centre).astype(int) - reach
    steps = np.arange(2 * reach + 1, dtype=np.float32)
    offset = (centre - corner).astype(np.float32)
    rows = (steps - offset[:, :1])[:, :, None]
    columns = (steps - offset[:, 1:])[:, None, :]
    cosine, sine = (f(cells.angle).astype(np.float32)[:, None, None] for f in (np.cos, np.sin))
    radius = cells.radius.astype(np.float32)[:, :, None, None]
    along = (cosine * rows + sine * columns) / radius[:, 0]
    across = (cosine * columns - sine * rows) / radius[:, 1]
    direction = np.arctan2(across, along)
    outline = np.ones_like(along)
    for number in range(HARMONICS):
        amplitude, phase = cells.wave[:, number].astype(np.float32).T[:, :, None, None]
        outline += amplitude * np.cos((number + 2) * direction + phase)
    distance = np.hypot(along, across) / outline
    body = _edge((1 - distance) / soft)
    moved = cells.nucleus_shift.astype(np.float32)[:, :, None, None]
    inner = np.hypot(along - moved[:, 0], across - moved[:, 1])
    size = cells.nucleus.astype(np.float32)[:, None, None]
    nucleus = np.where(size > 0.1, _edge((size - inner) / (1.2 * soft)), 0)
    return corner, body * (1 - np.float32(0.5) * nucleus), body


def _edge(value: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(2 * value, -30, 30)))


def smooth_noise(rng: np.random.Generator, size: int, scale: float, exponent: float) -> np.ndarray:
    """Draw Gaussian noise whose power falls off above a spatial scale.

    Args:
        rng: source of all randomness.
        size: height and width, px.
        scale: wavelengths above it, px, are equally strong.
        exponent: amplitudes fall as frequency to minus this below it.

    Returns:
        `[size, size]` float32 with mean 0 and standard deviation 1.
    """
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    weight = (1 + (frequency * scale) ** 2) ** (-exponent / 2)
    # A last, steep fall keeps single pixels from standing out.
    weight *= np.exp(-((frequency / 0.22) ** 2))
    weight[0, 0] = 0
    spectrum = rng.standard_normal((2, *weight.shape), np.float32)
    noise = np.fft.irfft2(
        (spectrum[0] + 1j * spectrum[1]) * weight.astype(np.float32), (size, size)
    )
    return (noise / noise.std()).astype(np.float32)


def add_patches(canvas: np.ndarray, corner: np.ndarray, patches: np.ndarray) -> None:
    """Add patches `[N, P, P]` to a canvas `[H, W]`, each at its corner `[N, 2]`, cut at borders."""
    for (row, column), patch in zip(corner, patches, strict=True):
        target, part = overlap(canvas.shape, row, column, patch.shape)
        canvas[target] += patch[part]


def overlap(
    shape: tuple[int, ...], row: int, column: int, patch: tuple[int, ...]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Slices of a canvas and of a patch placed on it where both exist."""
    top, left = max(row, 0), max(column, 0)
    bottom, right = min(row + patch[0], shape[0]), min(column + patch[1], shape[1])
    bottom, right = max(bottom, top), max(right, left)
    inside = (slice(top - row, bottom - row), slice(left - column, right - column))
    return (slice(top, bottom), slice(left, right)), inside


def _discs(rng: np.random.Generator, count: int, sigma: float) -> np.ndarray:
    reach = int(np.ceil(2.5 * sigma))
    square = np.arange(-reach, reach + 1, dtype=np.float32) ** 2
    disc = np.exp(-(square[:, None] + square) / np.float32(2 * sigma**2))
    strength = np.exp(rng.normal(-1.4, 0.6, count)).astype(np.float32)
    return strength[:, None, None] * disc


def _draw_blobs(rng: np.random.Generator, count: int, size: int, um_per_px: float) -> np.ndarray:
    canvas = np.zeros((size, size), np.float32)
    for sigma_um in (5.0, 9.0):
        patches = _discs(rng, int(0.7 * count) + 1, sigma_um / um_per_px)
        corner = rng.integers(0, size, (len(patches), 2)) - patches.shape[1] // 2
        add_patches(canvas, corner, patches)
    return canvas


def _draw_fibres(rng: np.random.Generator, size: int, um_per_px: float) -> np.ndarray:
    canvas = np.zeros((size, size), np.float32)
    count = int(rng.uniform(0.4, 1.4) * (size * um_per_px) ** 2 / 900)
    # Boutons and cross-sections: specks of about a micrometre.
    spots = rng.integers(0, size, (2, 6 * count))
    np.add.at(canvas, tuple(spots), rng.gamma(1.2, 1.1, 6 * count).astype(np.float32))
    # Dendrites: short walks whose direction changes slowly.
    length = int(40 / um_per_px)
    heading = rng.uniform(0, 2 * np.pi, (count // 4 + 1, 1))
    heading = heading + np.cumsum(rng.normal(0, 0.07, (len(heading), length)), 1)
    start = rng.uniform(0, size, (2, len(heading), 1))
    path = start + 0.9 * np.cumsum(np.stack([np.sin(heading), np.cos(heading)]), 2)
    row, column = np.clip(path, 0, size - 1).astype(int)
    fade = np.exp(rng.normal(-0.9, 0.5, (len(heading), 1))) * np.ones(length)
    np.add.at(canvas, (row, column), fade.astype(np.float32))
    return canvas


def _draw_vessels(rng: np.random.Generator, size: int, um_per_px: float) -> np.ndarray:
    # Drawn four times coarser: their edges are blurred by the tissue above them.
    coarse = max(8, size // 4)
    depth = np.zeros((coarse, coarse), np.float32)
    grid = np.arange(coarse, dtype=np.float32)
    for _ in range(rng.poisson(4 * (size * um_per_px / 400) ** 2)):
        width = np.exp(rng.normal(np.log(6.0), 0.45)) / um_per_px / 8
        position, heading = rng.uniform(0, coarse, 2), rng.uniform(0, 2 * np.pi)
        strength = rng.uniform(0.3, 0.85)
        for _ in range(int(rng.uniform(0.2, 1.1) * coarse / max(width, 1))):
            heading += rng.normal(0, 0.25)
            position = position + max(width, 1) * np.array([np.sin(heading), np.cos(heading)])
            near = slice(
                *np.clip([position[0] - 3 * width, position[0] + 3 * width + 1], 0, coarse).astype(
                    int
                )
            )
            beside = slice(
                *np.clip([position[1] - 3 * width, position[1] + 3 * width + 1], 0, coarse).astype(
                    int
                )
            )
            square = (grid[near, None] - position[0]) ** 2 + (grid[None, beside] - position[1]) ** 2
            shadow = np.float32(strength) * np.exp(-((square / width**2) ** 1.5).astype(np.float32))
            depth[near, beside] = np.maximum(depth[near, beside], shadow)
    index = np.linspace(0, coarse - 1, size)
    low = np.minimum(index.astype(int), coarse - 2)
    part = (index - low).astype(np.float32)
    rows = depth[low] * (1 - part)[:, None] + depth[low + 1] * part[:, None]
    return 1 - (rows[:, low] * (1 - part) + rows[:, low + 1] * part)


def _draw_vignette(rng: np.random.Generator, size: int) -> np.ndarray:
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    row, column = (axis - np.float32(c) for c in rng.uniform(-0.3, 0.3, 2))
    fall = np.float32(rng.uniform(0.0, 0.35))
    return 1 / (1 + fall * (row[:, None] ** 2 + column**2))
