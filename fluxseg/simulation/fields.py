"""Simulated fields: the tissue, seen by the optics, collapsed and digitised, with every cell."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from fluxseg.simulation.detector import collapse, digitise, spoil_borders
from fluxseg.simulation.grids import Shape, draw_clouds, patch_index, splat_patches
from fluxseg.simulation.neuropil import draw_fibres, draw_haze, draw_neuropil
from fluxseg.simulation.optics import Drift, Window, draw_illumination, resolve, scan
from fluxseg.simulation.ranges import DEFAULT, Ranges, draw_parameters
from fluxseg.simulation.tissue import bare_bodies, create_cells, draw_cells, outline_distance
from fluxseg.simulation.vessels import draw_vessels
from fluxseg.simulation.visibility import measure_visibility

DIM = 0.7  # exponent with which a cell's light follows the local expression


@dataclasses.dataclass(frozen=True, eq=False)
class Field:
    """A simulated field of view and what is known of each cell whose body the section cuts."""

    image: np.ndarray  # `[H, W]` uint8 or uint16
    metadata: Mapping[str, Any]  # what was drawn, by the names of `Ranges`
    cell: np.ndarray  # `[N]` int, numbers of the cells, the same in all sessions
    # `[N, 2]` int, row and column of the first pixel of each cell's patch; it may lie outside of
    # the image.
    corner: np.ndarray
    # `[N, P, P]` float32, below 1 inside of the cell's outline, dim nucleus included; 1.1 is a
    # tenth of the radius outside.
    outline: np.ndarray
    radius: np.ndarray  # `[N]` float, um
    radius_px: np.ndarray  # `[N]` float, px
    # `[N]` float, radius of the outline relative to the cell's: small where the section cuts the
    # cell's top or bottom.
    section: np.ndarray
    border: np.ndarray  # `[N]` float, distance of the centre from the field's border, um
    light: np.ndarray  # `[N]` float, where the cell fills the section; the neuropil has about 1
    active: np.ndarray  # `[N]` bool, whether the cell fires
    visibility: np.ndarray  # `[N]` float32, see `fluxseg.simulation.visibility.measure_visibility`
    contrast: np.ndarray  # `[N]` float32, see there


def simulate_field(
    rng: np.random.Generator,
    ranges: Ranges | Mapping[str, Any] = DEFAULT,
    shape: Shape = (512, 512),
    window: Window | None = None,
    drift: Drift = Drift(),  # noqa: B008
    imaging: np.random.Generator | None = None,
) -> Field:
    """Simulate a field of view, or a part of one.

    The parameters are drawn from `ranges`, or given (see `draw_parameters`). `window` is the part
    of a larger field to render, by default all of it, and `drift` where in the tissue the field
    lies. `imaging` is the source of what differs between two sessions of the same tissue: which
    cells fire, the noise and the borders; by default `rng`.

    Labels come from `fluxseg.simulation.labels.create_labels`.
    """
    values = draw_parameters(rng, ranges) if isinstance(ranges, Ranges) else dict(ranges)
    window = Window(shape, shape) if window is None else window
    shape = drift.tissue_shape(window.shape)
    um_per_px = values["um_per_px"]
    scale = (values["stretch"] / um_per_px, 1 / um_per_px)
    cells = create_cells(rng, (shape[0] / scale[0], shape[1] / scale[1]), values, imaging)
    patches = draw_cells(cells, scale, values["axial"])
    side = patches.body.shape[1]
    index = patch_index(shape, patches.corner, side)
    bodies = splat_patches(shape, index, patches.body)
    level, texture = draw_neuropil(rng, shape, scale, values)
    corner, round_bodies = bare_bodies(rng, shape, scale, values)
    empty = patch_index(shape, corner, round_bodies.shape[1])
    bare = splat_patches(shape, empty, round_bodies)
    covered = np.minimum(bodies + bare, 1) * np.float32(values["displaced"])
    light = texture * (1 - covered) + draw_haze(rng, shape, scale, values)
    place = np.clip((cells.centre[:, 1:] * scale).astype(int), 0, np.array(shape) - 1)
    local = level[place[:, 0], place[:, 1]]
    strength = cells.light * local ** (DIM - 1)
    own = patches.light * strength.astype(np.float32)[:, None, None]
    mottle = draw_clouds(rng, shape, max(2.0 * scale[1], 1.5)) * np.float32(values["mottle"])
    light += splat_patches(shape, index, own) * np.maximum(1 + mottle, 0.2)
    light += draw_fibres(rng, shape, scale, cells, values)
    light = resolve(light, um_per_px, values)
    light *= level * draw_vessels(rng, shape, scale, values)
    light = drift.show(light) * draw_illumination(rng, window, values)
    imaging = rng if imaging is None else imaging
    projection = collapse(imaging, scan(imaging, light, um_per_px, values), values)
    projection = spoil_borders(imaging, projection, window.edges(), values)
    image = digitise(imaging, projection, values)
    moved = drift.move(cells.centre[:, 1:] * scale, window.shape)
    corner = patches.corner + np.rint(moved - cells.centre[:, 1:] * scale).astype(np.intp)
    kept = np.flatnonzero(((corner > -side) & (corner < window.shape)).all(1))
    index = patch_index(window.shape, corner[kept], side)
    outline, radius = patches.outline[kept], cells.radius[kept]
    visibility, contrast = measure_visibility(
        image,
        index,
        patches.light[kept],
        outline,
        splat_patches(window.shape, index, patches.body[kept]),
        float(values["radius"]) * scale[1],
    )
    first = (moved[kept] + window.corner) / scale
    away = np.minimum(first, np.array(window.field) / scale - first).min(1, initial=np.inf)
    return Field(
        image=image,
        metadata=values,
        cell=kept,
        corner=corner[kept],
        outline=outline,
        radius=radius,
        radius_px=radius * float(np.sqrt(scale[0] * scale[1])),
        section=outline_distance(cells, values["axial"])[kept],
        border=away,
        light=strength[kept],
        active=cells.active[kept],
        visibility=visibility,
        contrast=contrast,
    )
