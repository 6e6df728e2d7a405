"""Simulated movies of a field whose cells' activity is known: spikes, decay, neuropil, noise."""

import dataclasses

import numpy as np
from scipy import ndimage

from fluxseg.simulation.fields import Field
from fluxseg.simulation.grids import draw_clouds, patch_index

LEAST_VISIBILITY = 1.2  # cells below are part of the background (see `Field`)
NEUROPIL = 0.6  # light over the cells, relative to that between them
DRIFT_PX = 0.5  # standard deviation of the field's shift along each axis, px


@dataclasses.dataclass(frozen=True, eq=False)
class Activity:
    """A movie and its truth."""

    movie: np.ndarray  # `[T, H, W]` uint16
    masks: np.ndarray  # `[N, H, W]` bool, the cells; they may overlap
    change: np.ndarray  # `[N, T]` float32, true dF/F of each cell
    spikes: np.ndarray  # `[N, T]` int, spikes in each frame
    rate: float  # frames per second
    cells: np.ndarray  # `[N]` int, their numbers in the tissue, the same in all of its sessions


def simulate_movie(
    rng: np.random.Generator,
    field: Field,
    frames: int = 1000,
    rate: float = 10.0,
    *,
    tau: float = 1.0,
    photons: float = 30.0,
) -> Activity:
    """Simulate a movie of a field, of which the cells and their light are used, not the image.

    Cells fire at random, at 0.02 to 0.4 spikes a second and at least once; each spike adds half of
    the resting light, which decays exponentially. The light between the cells, which also lies over
    them, changes slowly, together and apart. The field wanders smoothly. Photons are counted (shot
    noise): so many `photons` in a pixel of the neuropil in a frame. `rate` is in frames per second,
    `tau` the decay time of the indicator, s.
    """
    height, width = field.image.shape
    shown = np.flatnonzero((field.visibility >= LEAST_VISIBILITY) & (field.section >= 0.5))
    side = field.outline.shape[1]
    index = patch_index((height, width), field.corner[shown], side)
    framed = np.zeros((len(shown), (height + 2 * side) * (width + 2 * side)), np.float32)
    for canvas, places, outline in zip(framed, index, field.outline[shown], strict=True):
        # Soft borders, as the optics make them.
        canvas[places.reshape(-1)] = np.clip((1.25 - outline) / 0.5, 0, 1).reshape(-1)
    framed = framed.reshape(-1, height + 2 * side, width + 2 * side)
    shapes = framed[:, side:-side, side:-side]
    spikes = rng.poisson(rng.uniform(0.02, 0.4, (len(shown), 1)) / rate, (len(shown), frames))
    spikes[np.arange(len(shown)), rng.integers(0, frames // 2 + 1, len(shown))] += 1
    change = np.zeros((len(shown), frames), np.float32)
    decay, level = np.exp(-1 / (tau * rate)), np.zeros(len(shown), np.float32)
    for frame in range(frames):
        level = level * decay + 0.5 * spikes[:, frame]
        change[:, frame] = level
    light = np.clip(field.light[shown], 0.5, 3.0)[:, None] * (1 + change)
    common = 1 + 0.15 * _wander(rng, frames, 2 * rate)
    spread = np.exp(0.3 * draw_clouds(rng, (height, width), 30.0))
    waves = [(_wander(rng, frames, rate), draw_clouds(rng, (height, width), 60.0)) for _ in "abc"]
    covered = 1 - (1 - NEUROPIL) * shapes.max(0, initial=0)
    shifts = DRIFT_PX * np.stack([_wander(rng, frames, 5 * rate) for _ in "yx"], 1)
    movie = np.empty((frames, height, width), np.uint16)
    for frame in range(frames):
        glow = common[frame] + sum(0.1 * wave[frame] * place for wave, place in waves)
        image = spread * np.maximum(glow, 0.2) * covered
        image += np.tensordot(light[:, frame].astype(np.float32), shapes, 1)
        image = ndimage.shift(image, shifts[frame], order=1, mode="nearest")
        movie[frame] = rng.poisson(photons * np.maximum(image, 0)) * 8 + 20
    return Activity(movie, shapes > 0.5, change, spikes, rate, field.cell[shown])


def _wander(rng: np.random.Generator, frames: int, smooth: float) -> np.ndarray:
    """Draw a smooth random walk about 0 with a standard deviation of 1, `[T]`."""
    values = ndimage.gaussian_filter1d(rng.standard_normal(frames + 8 * int(smooth)), smooth)
    values = values[4 * int(smooth) :][:frames]
    return (values - values.mean()) / max(float(values.std()), 1e-9)
