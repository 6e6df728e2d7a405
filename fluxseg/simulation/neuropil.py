"""What surrounds the cell bodies: neuropil, dendrites, axons, and cells out of focus."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fluxseg.simulation import grids
from fluxseg.simulation.tissue import DEEP, Cells

Scale = tuple[float, float]  # pixels per um along rows and columns


def draw_neuropil(
    rng: np.random.Generator, shape: grids.Shape, scale: Scale, values: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the background: uneven expression, and the texture of processes too thin to see.

    Returns the expression over 100 um and more, and the texture, `[H, W]` float32 about 1.
    """
    density = float(np.sqrt(scale[0] * scale[1]))
    uneven = grids.draw_octaves(rng, shape, 50 * density, 200 * density, 0.6)
    level = np.exp(np.float32(values["uneven"]) * uneven)
    grain = grids.draw_octaves(rng, shape, 1.5 * density, 24 * density, values["roughness"])
    texture = np.exp(np.float32(values["grain"]) * grain)
    if values["felt"] > 0.02:
        # The zero crossings of smooth noise are thin curves, as processes in a plane are.
        for spacing in (7.0, 12.0):
            curve = grids.draw_clouds(rng, shape, max(spacing * density, 3.0))
            curve *= curve
            curve *= np.float32(-1 / 0.12**2 if spacing > 10 else -1 / 0.2**2)
            texture += np.float32(0.5 * values["felt"]) * np.exp(curve) * np.maximum(grain + 1, 0)
    return level, texture


def walk(
    rng: np.random.Generator, start: np.ndarray, heading: np.ndarray, steps: int, turn: float
) -> np.ndarray:
    """Walk in steps of 1 from `start` `[N, 2]`, row and column, with a slowly changing heading.

    The headings `[N]`, radians, change at each step with a standard deviation of `turn`. Returns
    `[N, steps, 2]` row and column.
    """
    headings = heading[:, None] + np.cumsum(rng.normal(0, turn, (len(start), steps)), 1)
    moves = np.stack([np.sin(headings), np.cos(headings)], 2)
    return start[:, None] + np.cumsum(moves, 1)


def splat_fibres(canvas: np.ndarray, place: np.ndarray, light: np.ndarray, scale: Scale) -> None:
    """Add points at places `[..., 2]`, um, of light `[...]` to a canvas `[H, W]`."""
    grids.splat_points(canvas, place.reshape(-1, 2) * scale, light.ravel())


def draw_fibres(
    rng: np.random.Generator,
    shape: grids.Shape,
    scale: Scale,
    cells: Cells,
    values: Mapping[str, Any],
) -> np.ndarray:
    """Draw dendrites, those that leave cell bodies too, axons with boutons, and specks.

    Returns `[H, W]` float32, not yet blurred by the lateral resolution; the neuropil has about 1.
    """
    size = np.array(shape) / scale
    area = float(size.prod()) / 1e4
    density = float(np.sqrt(scale[0] * scale[1]))
    lateral = values["lateral"]
    # Light of a point such that the peak behind the blur is 1: of a speck, and of a line.
    spread = np.sqrt(lateral**2 + (0.4 / density) ** 2)
    speck = 2 * np.pi * spread**2 * density**2 * values["speck_light"]
    line = np.sqrt(2 * np.pi) * spread * density
    thin = np.zeros(shape, np.float32)
    # Axons: beaded lines.
    count = rng.poisson(values["axons"] * values["fibres"] * area)
    path = walk(rng, rng.random((count, 2)) * size, rng.uniform(0, 2 * np.pi, count), 70, 0.12)
    light = 0.07 * line * draw_fade(rng, count, 70) * values["speck_light"]
    beads = (rng.random((count, 70)) < 0.16) * rng.gamma(1.2, 0.5, (count, 70))
    splat_fibres(thin, path, light + 0.3 * speck * beads * draw_fade(rng, count, 70), scale)
    # Specks: lone boutons and spines, of very unequal light.
    count = rng.poisson(values["boutons"] * values["fibres"] * area)
    light = 0.6 * speck * np.minimum(np.exp(rng.normal(-0.6, 0.9, count)), 6.0)
    splat_fibres(thin, rng.random((count, 2)) * size, light, scale)
    # Dendrites: thicker, smoother and straighter.
    thick = np.zeros(shape, np.float32)
    line *= np.sqrt(1 + (0.55 / spread) ** 2)
    count = rng.poisson(values["dendrites"] * values["fibres"] * area)
    path = walk(rng, rng.random((count, 2)) * size, rng.uniform(0, 2 * np.pi, count), 80, 0.09)
    light = 0.2 * line * draw_fade(rng, count, 80) ** 2
    light *= np.minimum(np.exp(rng.normal(-1.2, 0.8, (count, 1))), 1)
    splat_fibres(thick, path, light, scale)
    place, light = draw_stubs(rng, cells, values)
    splat_fibres(thick, place, line * light, scale)
    return thin + grids.blur(thick, 0.55 * density)


def draw_fade(rng: np.random.Generator, count: int, steps: int) -> np.ndarray:
    """Light along a fibre `[N, steps]` that comes into the section and leaves it."""
    phase = rng.uniform(0, np.pi, (count, 1)) + np.linspace(0, np.pi, steps)
    return np.abs(np.sin(phase)) * np.exp(rng.normal(0, 0.4, (count, 1)))


def draw_stubs(
    rng: np.random.Generator, cells: Cells, values: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Draw dendrites that leave cell bodies: places `[M, S, 2]`, um, and their light `[M, S]`."""
    steps, count = 24, len(cells.radius)
    near = np.abs(cells.centre[:, 0]) < 0.7 * cells.radius
    owner = np.repeat(np.arange(count), 3)
    owner = owner[near[owner] & (rng.random(3 * count) < 0.6 * values["stubs"])]
    heading = rng.uniform(0, 2 * np.pi, len(owner))
    outward = np.stack([np.sin(heading), np.cos(heading)], 1)
    start = cells.centre[owner, 1:] + 0.8 * cells.radius[owner, None] * outward
    path = walk(rng, start, heading, steps, 0.06)
    # They taper, and leave the section sooner or later.
    length = rng.gamma(2.0, 4.0, (len(owner), 1)) + 2
    away = np.arange(steps)
    taper = np.exp(-away / length) * rng.uniform(0.2, 0.8, (len(owner), 1)) + np.exp(-away / 2.5)
    return path, 0.45 * taper * cells.light[owner, None]


def draw_haze(
    rng: np.random.Generator, shape: grids.Shape, scale: Scale, values: Mapping[str, Any]
) -> np.ndarray:
    """Draw the light of cells above and below the section, `[H, W]` float32."""
    radius, spacing = values["radius"], 3.0
    near = radius + DEEP * values["axial"]
    total = np.zeros(grids.coarse_shape(shape, spacing), np.float32)
    size = np.array(shape) / scale
    density = np.sqrt(scale[0] * scale[1]) / spacing
    for middle, half in ((near - 1.0, 2.5), (near + 7.5, 6.0)):
        count = rng.poisson(values["density"] * float(size.prod()) * 4 * half * 1e-9)
        light = values["brightness"] * np.exp(rng.normal(0, 0.6 * values["spread"], count))
        # The excitation falls with the square of the cone's width.
        light *= values["haze"] * (near / middle) ** 2
        # A cell is spread over its own size and the cone's width.
        sigma = 0.5 * radius + 0.22 * (middle - near + half)
        canvas = np.zeros_like(total)
        place = rng.random((count, 2)) * size * scale / spacing + 1
        grids.splat_points(canvas, place, light * np.pi * (radius * density) ** 2)
        total += grids.blur(canvas, float(sigma * density))
    return grids.enlarge(total, shape)
