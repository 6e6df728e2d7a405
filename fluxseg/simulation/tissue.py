"""Cell bodies in depth: ellipsoids with dim nuclei, cut by a section of finite thickness.

The light of a cell at a pixel is the convolution of its chord along the axis with the section's
profile. With a logistic profile, which is hard to tell from a Gaussian, that has a closed form, so
that rings, discs and crescents come out of where the section lies (as in NAOMi; Song et al. 2021,
J Neurosci Methods 358:109173, whose somata are meshes) without any volume being filled.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from fluxseg.simulation.grids import Shape, draw_clouds

EDGE = 0.4  # the outline of a cell lies where its chord gives this share of its own largest light
REACH = 1.42  # half the side of a cell's patch, in radii of the largest cell
DEEP = 2.0
"""Cells whose centre is more than their radius and so many standard deviations of the section's
thickness away are out of focus."""
LOGISTIC = 0.85  # tanh(x LOGISTIC) is within 0.02 of a Gaussian section of deviation 1


@dataclasses.dataclass(frozen=True, eq=False)
class Cells:
    """Cell bodies; lengths in um."""

    centre: np.ndarray  # `[N, 3]` depth, row and column; the section is at depth 0
    radius: np.ndarray  # `[N]` in the plane
    half: np.ndarray  # `[N]` half axis along the depth
    wave: np.ndarray  # `[N, 4]` amplitudes of the outline's second and third waves, cosine and sine
    nucleus: np.ndarray  # `[N, 4]` radius, and its centre relative to the cell's
    dim: np.ndarray  # `[N]` share of the light that is missing in the nucleus
    shade: np.ndarray  # `[N, 2]` slope of the light across the cell
    filled: np.ndarray  # `[N]` bool, whether the nucleus holds indicator as the rest does
    light: np.ndarray  # `[N]` light where the cell fills the section; the neuropil has about 1
    active: np.ndarray  # `[N]` bool, whether it fires


@dataclasses.dataclass(frozen=True, eq=False)
class Patches:
    """Cells drawn each into a patch of its own."""

    corner: np.ndarray  # `[N, 2]` int, row and column of the first pixel
    body: np.ndarray  # `[N, P, P]` float32, share of the section's light that the body covers
    light: np.ndarray  # `[N, P, P]` float32, light of a cell of light 1
    # `[N, P, P]` float32, below 1 inside of the outline; 1.1 is a tenth of the radius outside.
    outline: np.ndarray


def place_cells(
    rng: np.random.Generator, extent: tuple[float, float, float], count: int, values: Mapping
) -> np.ndarray:
    """Place at most `count` cells in a block of tissue, none too close to another.

    They lie in patches if so drawn. `extent` is depth, height and width of the block, um. Returns
    `[N, 3]` depth from its middle, row and column, um.
    """
    trials = rng.random((int(1.6 * count) + 8, 3)) * extent
    trials[:, 0] -= extent[0] / 2
    # Knots of 40 um; the largest of random keys are a sample by weight without replacement.
    coarse = draw_clouds(rng, (int(extent[1] / 10) + 1, int(extent[2] / 10) + 1), 6.0)
    row, column = (trials[:, 1:] / 10).astype(int).T
    order = np.argsort(-values["patchy"] * coarse[row, column] - rng.gumbel(size=len(trials)))
    trials = trials[order]
    pairs = cKDTree(trials).query_pairs(values["apart"] * values["radius"], output_type="ndarray")
    kept = np.ones(len(trials), bool)
    kept[pairs.max(1)] = False
    return trials[kept][:count]


def create_cells(
    rng: np.random.Generator,
    size_um: tuple[float, float],
    values: Mapping[str, Any],
    firing: np.random.Generator | None = None,
) -> Cells:
    """Draw the cells with indicator around the section of a field of `size_um` height and width.

    Their centres lie in it or less than a radius outside, and their bodies are within reach of the
    section. `firing` is the source of which cells fire, if these are another session's.
    """
    radius = values["radius"]
    thick = 2 * (radius + DEEP * values["axial"])
    extent = (thick, size_um[0] + 2 * radius, size_um[1] + 2 * radius)
    count = rng.poisson(values["density"] * np.prod(extent) * 1e-9)
    centre = place_cells(rng, extent, count, values) - (0, radius, radius)
    count = len(centre)
    spread = np.clip(rng.normal(0, values["radius_spread"], count), -0.3, 0.3)
    own = radius * np.exp(spread)
    filled = rng.random(count) < values["filled"]
    firing = rng if firing is None else firing
    active = firing.random(count) < values["active"]
    # A crescent comes of a nucleus that is off the middle.
    nucleus = rng.normal(0, 0.09, (count, 4)) * own[:, None]
    nucleus[:, 0] = own * np.clip(values["nucleus"] + rng.normal(0, 0.04, count), 0.5, 0.84)
    amplitude = values["roundness"] * np.array((1, 1, 0.6, 0.6))
    dim = values["nucleus_dim"] + rng.normal(0, 0.1, count)
    return Cells(
        centre=centre,
        radius=own,
        half=own * rng.uniform(0.9, 1.25, count),
        wave=np.clip(rng.normal(0, amplitude, (count, 4)), -0.25, 0.25),
        nucleus=nucleus,
        dim=np.where(filled, rng.uniform(-0.2, 0.1, count), np.clip(dim, 0.3, 1)),
        shade=rng.normal(0, values["shade"], (count, 2)),
        filled=filled,
        light=_draw_light((rng, firing), active, filled, values),
        active=active,
    )


def _draw_light(
    rngs: tuple[np.random.Generator, np.random.Generator],
    active: np.ndarray,
    filled: np.ndarray,
    values: Mapping[str, Any],
) -> np.ndarray:
    rng, firing = rngs
    count = len(active)
    rest = values["brightness"] * np.exp(rng.normal(0, values["spread"], count))
    # What a projection shows of a transient: all of it, or its mean over a long time.
    share = {"maximum": 1.0, "percentile": 0.5, "mean": 0.07}[values["mode"]]
    peak = share * values["transient"] * firing.gamma(2.0, 0.5, count)
    return rest * (1 + active * peak) / (1 + 0.2 * share * values["transient"]) * (1 + 0.8 * filled)


def _section(low: np.ndarray, high: np.ndarray, axial: float) -> np.ndarray:
    """Share of the section's light between two depths."""
    scale = np.float32(LOGISTIC / axial)
    return 0.5 * (np.tanh(high * scale) - np.tanh(low * scale))


def outline_distance(cells: Cells, axial: float) -> np.ndarray:
    """Return `[N]` where the outline lies, relative to the largest radius, at most 1."""
    depth = cells.centre[:, 0]
    low, high = np.zeros_like(depth), cells.half.copy()
    level = EDGE * _section(depth - high, depth + high, axial)
    for _ in range(14):
        middle = (low + high) / 2
        above = _section(depth - middle, depth + middle, axial) > level
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return np.sqrt(1 - (high / cells.half) ** 2)


def draw_cells(cells: Cells, scale: tuple[float, float], axial: float) -> Patches:
    """Draw every cell into a patch of its own; `axial` is the section's standard deviation, um."""
    half_side = REACH * cells.radius.max(initial=1.0)
    corner, rows, columns = _patch_grid(cells.centre, half_side, scale)
    squared = rows * rows + columns * columns
    distance = np.sqrt(squared)
    inverse = 1 / np.maximum(distance, np.float32(1e-3))
    sine, cosine = rows * inverse, columns * inverse
    # Waves around the cell from the sine and cosine of the angle.
    double_sine, double_cosine = 2 * sine * cosine, cosine * cosine - sine * sine
    wave = _wide(cells.wave)
    outline = 1 + wave[0] * double_cosine + wave[1] * double_sine
    outline += wave[2] * (double_cosine * cosine - double_sine * sine)
    outline += wave[3] * (double_sine * cosine + double_cosine * sine)
    distance /= outline * _wide(cells.radius[:, None])[0]
    half, depth = _wide(np.stack([cells.half, cells.centre[:, 0]], 1))
    chord = half * np.sqrt(np.maximum(1 - distance * distance, 0))
    body = _section(depth - chord, depth + chord, axial)
    size, below, down, right = _wide(cells.nucleus)
    inner = np.sqrt(np.maximum(size**2 - (rows - down) ** 2 - (columns - right) ** 2, 0))
    # Never out of the body's own chord.
    inner = np.minimum(inner, 0.93 * chord)
    depth = depth + np.float32(0.5) * below
    dark = _wide(cells.dim[:, None])[0] * _section(depth - inner, depth + inner, axial)
    slope = _wide(cells.shade / cells.radius[:, None])
    shade = np.clip(1 + slope[0] * rows + slope[1] * columns, 0.25, 1.75)
    edge = _wide(outline_distance(cells, axial)[:, None])[0]
    light = np.maximum(body - dark, 0) * shade
    return Patches(corner, body, light, distance / np.maximum(edge, np.float32(0.2)))


def _patch_grid(
    centre: np.ndarray, half_side: float, scale: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Corners `[N, 2]` of square patches, px; how far rows and columns lie from centres, um."""
    density = np.array(scale)
    reach = int(np.ceil(half_side * density.max())) + 1
    place = centre[:, 1:] * density
    corner = np.floor(place).astype(np.intp) - reach
    offset = (np.arange(2 * reach + 1) - (place - corner)[:, :, None]) / density[:, None]
    offset = offset.astype(np.float32)
    return corner, offset[:, 0, :, None], offset[:, 1, None, :]


def _wide(values: np.ndarray) -> np.ndarray:
    """From `[N, K]` to `[K, N, 1, 1]` float32, to go with patches."""
    return values.astype(np.float32).T[:, :, None, None]


def bare_bodies(
    rng: np.random.Generator, shape: Shape, scale: tuple[float, float], values: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the bodies of cells without indicator, as spheres.

    Returns corner `[N, 2]` int and body `[N, P, P]` float32, as in `Patches`.
    """
    radius = values["radius"] * 0.95
    extent = (3 * radius, *(np.array(shape) / scale))
    count = rng.poisson(values["bare"] * np.prod(extent) * 1e-9)
    centre = place_cells(rng, extent, count, values)
    # Where it is crowded, fewer cells have found a place.
    own = radius * rng.uniform(0.7, 1.0, len(centre))
    corner, rows, columns = _patch_grid(centre, 1.2 * radius, scale)
    squared = rows * rows + columns * columns
    (radius,), (depth,) = _wide(own[:, None]), _wide(centre[:, :1])
    chord = np.sqrt(np.maximum(radius * radius - squared, 0))
    return corner, _section(depth - chord, depth + chord, values["axial"])
