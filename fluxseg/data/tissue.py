"""A piece of simulated cortex: where its cells, vessels and fibres lie, whatever the session."""

import dataclasses

import numpy as np

from fluxseg.data.background import (
    add_patches,
    draw_blobs,
    draw_fibres,
    draw_illumination,
    draw_neuropil,
    draw_vessels,
    enlarge,
)

RADIUS_UM = 6.0
"""Median radius of a cell body."""
RADIUS_SPREAD = 0.09
"""Standard deviation of the logarithm of the radius."""
CELLS_PER_MM2 = (1000.0, 3300.0)
"""Range of the density of cells with indicator in the optical section, log-uniform."""
BARE = (0.3, 1.0)
"""Range of the number of cells without indicator, which are dark, relative to the others."""
FILLED = 0.08
"""Share of cells whose nucleus holds indicator too: bright all over, as ill cells are."""
Spacing = tuple[tuple[float, float, float], tuple[float, float, float]]
APART: Spacing = ((1.3, 2.1, 2.4), (0.04, 0.5, 0.46))
"""Least distances of neighbours in radii, and their shares: some touch, few press."""
STACKED: Spacing = ((0.8, 1.7, 2.3), (0.2, 0.45, 0.35))
"""The same for an optical section, which is thick enough for cells to lie on each other."""
HARMONICS = 3
"""Outlines are ellipses with this many further waves around them."""
SOFT = 0.11
"""Width of a cell's edge relative to its radius: the resolution of the microscope."""


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
        nucleus_dim: `[N]` float, share of the light that is missing in the nucleus.
        shade: `[N, 2]` float, strength and direction of a slope across the cell; a strong one
            makes a crescent of a ring.
        stub: `[N, 2]` float, strength and direction of the dendrite that leaves the body.
        brightness: `[N]` float, resting brightness over the background.
    """

    centre: np.ndarray
    radius: np.ndarray
    angle: np.ndarray
    wave: np.ndarray
    nucleus: np.ndarray
    nucleus_shift: np.ndarray
    nucleus_dim: np.ndarray
    shade: np.ndarray
    stub: np.ndarray
    brightness: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Field:
    """What all sessions of a field of view have in common.

    Attributes:
        size: height and width, px.
        um_per_px: size of a pixel, um.
        cells: the cell bodies in focus that hold indicator.
        neuropil: `[size, size]` float32, texture and level of the background, about 1.
        blobs: `[size, size]` float32, light of cells out of focus.
        fibres: `[size, size]` float32, dendrites and boutons.
        vessels: `[size, size]` float32, 0 to 1, the light that vessels let pass.
        illumination: `[size, size]` float32, 0 to 1; it does not move with the tissue.
    """

    size: int
    um_per_px: float
    cells: Cells
    neuropil: np.ndarray
    blobs: np.ndarray
    fibres: np.ndarray
    vessels: np.ndarray
    illumination: np.ndarray


def simulate_field(rng: np.random.Generator, size: int = 512, um_per_px: float = 0.785) -> Field:
    """Draw the tissue of one field of view.

    Cells are flat sections of ellipsoids with dim nuclei, so that rings, discs and crescents
    come out (as in NAOMi; Song et al. 2021, J Neurosci Methods 358:109173); the background is
    scale-free noise, blurred cells, dark cells, fibres and the shadows of vessels.

    Args:
        rng: source of all randomness.
        size: height and width, px.
        um_per_px: size of a pixel, um.
    """
    area_mm2 = (size * um_per_px / 1000) ** 2
    density = np.exp(rng.uniform(*np.log(CELLS_PER_MM2)))
    cells = create_cells(rng, max(2, rng.poisson(density * area_mm2)), size, um_per_px, STACKED)
    count = len(cells.centre)
    bare = _draw_bare(rng, int(rng.uniform(*BARE) * count) + 1, size, um_per_px)
    neuropil = draw_neuropil(rng, size, um_per_px)
    neuropil *= 1 - np.float32(rng.uniform(0.06, 0.25)) * bare
    return Field(
        size=size,
        um_per_px=um_per_px,
        cells=cells,
        neuropil=neuropil,
        blobs=draw_blobs(rng, count, size, um_per_px),
        fibres=draw_fibres(rng, size, um_per_px),
        vessels=draw_vessels(rng, size, um_per_px),
        illumination=draw_illumination(rng, size),
    )


def create_cells(
    rng: np.random.Generator, count: int, size: int, um_per_px: float, spacing: Spacing = APART
) -> Cells:
    """Draw cell bodies; fewer than `count` if there is no room.

    Args:
        rng: source of all randomness.
        count: how many, at most.
        size: height and width of the field, px.
        um_per_px: size of a pixel, um.
        spacing: least distances of neighbours, in median radii, and the share of each.

    Returns:
        The cells; some centres lie a little outside of the field.
    """
    scale = RADIUS_UM / um_per_px * rng.uniform(0.94, 1.08)
    centre = _place(rng, count, size, scale, spacing)
    count = len(centre)
    depth = rng.uniform(-0.8, 0.8, count)
    whole = scale * np.exp(rng.normal(0, RADIUS_SPREAD, count))
    section = whole * np.sqrt(1 - 0.5 * depth**2)
    stretch = np.exp(rng.normal(0, 0.1, count))
    nucleus = np.sqrt(np.maximum(rng.uniform(0.55, 0.72, count) ** 2 - depth**2, 0))
    filled = rng.random(count) < FILLED
    amplitude = rng.normal(0, 0.05, (count, HARMONICS)) / np.arange(1, HARMONICS + 1)
    directions = rng.uniform(0, 2 * np.pi, (2, count))
    return Cells(
        centre=centre,
        radius=np.stack([section * stretch, section / stretch], 1),
        angle=rng.uniform(0, np.pi, count),
        wave=np.stack([amplitude, rng.uniform(0, 2 * np.pi, (count, HARMONICS))], 2),
        nucleus=np.where(filled, 0, nucleus),
        nucleus_shift=rng.normal(0, 0.14, (count, 2)),
        nucleus_dim=rng.uniform(0.5, 0.9, count),
        shade=np.stack([rng.beta(1.2, 3.0, count), directions[0]], 1),
        stub=np.stack([np.maximum(rng.uniform(-0.5, 0.6, count), 0), directions[1]], 1),
        brightness=np.exp(rng.normal(-0.15, 0.6, count)) * np.where(filled, 1.8, 1),
    )


def _place(
    rng: np.random.Generator, count: int, size: int, scale: float, spacing: Spacing
) -> np.ndarray:
    centres = np.empty((count, 2))
    placed = 0
    trials = rng.uniform(-2, size + 2, (4 * count, 2))
    apart = (scale * rng.choice(spacing[0], 4 * count, p=spacing[1])) ** 2
    for centre, least in zip(trials, apart, strict=True):
        if placed == count:
            break
        if not (((centres[:placed] - centre) ** 2).sum(1) < least).any():
            centres[placed] = centre
            placed += 1
    return centres[:placed]


def draw_cells(cells: Cells, shift: np.ndarray, soft: float = SOFT) -> tuple[np.ndarray, ...]:
    """Draw every cell into a patch of its own.

    Args:
        cells: N cells.
        shift: `[2]` px, added to all centres.
        soft: width of the edges relative to the radius.

    Returns:
        corner `[N, 2]` int, light `[N, P, P]` float32 of a cell of brightness 1 with the root
        of its dendrite, and body `[N, P, P]` float32, which is 1 inside of the outline, 0.5 on
        it, and 0 outside.
    """
    centre = cells.centre + shift
    reach = int(np.ceil(1.45 * cells.radius.max())) + 1
    corner = np.floor(centre).astype(int) - reach
    steps = np.arange(2 * reach + 1, dtype=np.float32)
    offset = (centre - corner).astype(np.float32)
    rows = (steps - offset[:, :1])[:, :, None]
    columns = (steps - offset[:, 1:])[:, None, :]
    along, across = _turned(rows, columns, cells.angle)
    radius = _wide(cells.radius)
    along, across = along / radius[0], across / radius[1]
    distance = np.sqrt(along * along + across * across)
    # Powers of a number on the unit circle are waves around the cell.
    unit = (along + 1j * across) / np.maximum(distance, 1e-6)
    outline, power = np.ones_like(along), unit
    for number in range(HARMONICS):
        amplitude, phase = _wide(cells.wave[:, number])
        power = power * unit
        outline += (amplitude * np.exp(1j * phase) * power).real
    distance /= outline
    body = soft_step((1 - distance) / soft)
    moved = _wide(cells.nucleus_shift)
    inner = np.sqrt((along - moved[0]) ** 2 + (across - moved[1]) ** 2)
    (size,) = _wide(cells.nucleus[:, None])
    (dim,) = _wide(cells.nucleus_dim[:, None])
    nucleus = np.where(size > 0.1, soft_step((size - inner) / (1.2 * soft)), 0)
    slope, _ = _turned(along, across, cells.shade[:, 1])
    shade = 1 - _wide(cells.shade)[0] * np.clip(0.5 + 0.6 * slope, 0, 1)
    forward, aside = _turned(along, across, cells.stub[:, 1])
    stub = _wide(cells.stub)[0] * np.exp(-((aside / 0.2) ** 2) - 2 * np.abs(forward - 0.9))
    light = body * shade * (1 - dim * nucleus) + np.where(forward > 0.5, stub, 0) * (1 - body)
    return corner, light, body


def _draw_bare(rng: np.random.Generator, count: int, size: int, um_per_px: float) -> np.ndarray:
    # Half as fine: their edges are soft, as there is neuropil above and below them.
    half = max(8, size // 2)
    cells = create_cells(rng, count, half, um_per_px * size / half)
    corner, _, body = draw_cells(cells, np.zeros(2))
    canvas = np.zeros((half, half), np.float32)
    add_patches(canvas, corner, body)
    return enlarge(np.minimum(canvas, 1), size)


def _wide(values: np.ndarray) -> np.ndarray:
    """From `[N, K]` to `[K, N, 1, 1]` float32, to go with patches."""
    return values.astype(np.float32).T[:, :, None, None]


def _turned(rows: np.ndarray, columns: np.ndarray, angle: np.ndarray) -> tuple[np.ndarray, ...]:
    cosine, sine = (_wide(f(angle)[:, None])[0] for f in (np.cos, np.sin))
    return cosine * rows + sine * columns, cosine * columns - sine * rows


def soft_step(value: np.ndarray) -> np.ndarray:
    """Rise from 0 to 1, steepest at 0, over a width of about 1."""
    return 1 / (1 + np.exp(-np.clip(2 * value, -30, 30)))
