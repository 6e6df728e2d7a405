"""From light to a projection's numbers: noise, the statistics of a collapsed movie, digits.

No frame is ever drawn. What the maximum, the mean or a percentile of N noisy frames looks like is
known: the maximum of N values follows an extreme-value distribution (Gumbel's for Gaussian noise;
photomultipliers have heavier tails) around a bias of several standard deviations, a percentile is
close to Gaussian around the noise's own percentile, and a mean has little noise left (David &
Nagaraja 2003, Order Statistics, chapters 10.5 and 10.2).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import ndtri

from fluxseg.simulation.grids import blur


def collapse(rng: np.random.Generator, light: np.ndarray, values: Mapping[str, Any]) -> np.ndarray:
    """Draw the projection of a noisy movie of constant light `[H, W]` float32.

    Returns `[H, W]` float32, photons; the mode `maximum` and high percentiles lie above the light.
    """
    photons = np.maximum(light, 0) * np.float32(values["photons"])
    spread = np.sqrt(photons + np.float32(values["read_noise"] ** 2))
    frames = values["frames"]
    if values["mode"] == "maximum":
        location = float(ndtri(1 - 1 / frames))
        exponential = np.maximum(rng.standard_exponential(light.shape, np.float32), 1e-7)
        shape = np.float32(values["tail_shape"])
        noise: np.ndarray = (np.exp(np.log(exponential) * -shape) - 1) / shape
        width = values["tail_scale"] * location
    else:
        noise = rng.standard_normal(light.shape, np.float32)
        location, width = 0.0, 1 / np.sqrt(frames)
        if values["mode"] == "percentile":
            share = values["percentile"] / 100
            location = float(ndtri(share))
            height = np.exp(-(location**2) / 2) / np.sqrt(2 * np.pi)
            width = np.sqrt(share * (1 - share) / frames) / height
    # Correction of motion by parts of a pixel interpolates the noise too.
    noise = blur(noise, values["resampled"])
    return photons + spread * (np.float32(location) + np.float32(width) * noise)


def spoil_borders(
    rng: np.random.Generator,
    image: np.ndarray,
    edges: tuple[bool, bool, bool, bool],
    values: Mapping[str, Any],
) -> np.ndarray:
    """Spoil the rows and columns of an image `[H, W]` float32 that motion brings in or out of view.

    Where a frame has nothing to show, programs put zeros, so that a mean fades to black, or repeat
    the last line, so that a maximum shows bright streaks. `edges` tells whether top, bottom, left
    and right are borders of the field. Returns a copy.
    """
    kind = rng.choice(("fade", "black") if values["mode"] == "mean" else ("streak", "black"))
    share = {"fade": 0.85, "streak": 0.6, "black": 0.25}[str(kind)]
    widths = rng.uniform(0.2, 1.3, 4) * values["border"] * (rng.random(4) < share)
    boost = rng.uniform(0.0, 0.9)
    image = image.copy()
    for edge, (spoiled, width) in enumerate(zip(edges, widths.tolist(), strict=True)):
        if not spoiled or width < 1:
            continue
        # Seen so that the border is at the top.
        view = image.T if edge >= 2 else image
        view = view[::-1] if edge % 2 else view
        reach = min(int(np.ceil(width)), len(view) // 4)
        inward = ((np.arange(reach) + 0.5) / width).astype(np.float32)[:, None]
        if kind == "fade":
            view[:reach] *= np.minimum(inward, 1)
        elif kind == "black":
            view[:reach] = 0
        else:
            view[:reach] = view[reach] * (1 + np.float32(boost) * np.maximum(1 - inward, 0))
            view[:reach] *= rng.normal(1, 0.05, (reach, 1)).astype(np.float32)
    return image


def digitise(rng: np.random.Generator, image: np.ndarray, values: Mapping[str, Any]) -> np.ndarray:
    """Turn photons `[H, W]` float32 into digital levels, with an offset and saturated pixels.

    Returns `[H, W]` uint8 if there are at most 255 levels, else uint16.
    """
    share = 1 - 10 ** values["saturated"]
    rank = min(int(share * image.size), image.size - 1)
    top = np.partition(image, rank, None)[rank]
    relative = np.clip(image / max(float(top), 1e-6), 0, 1)
    offset = np.float32(values["offset"])
    relative = relative * (1 - offset) + offset
    levels = values["levels"]
    if levels > 255:
        return np.rint(relative * np.float32(levels)).astype(np.uint16)
    if rng.random() < 0.3:
        relative = relative ** np.float32(values["gamma"])
    # An export may leave levels unused, or scale the range to all 255.
    if rng.random() < 0.5:
        return np.rint(relative * np.float32(levels)).astype(np.uint8)
    return np.rint(relative * 255).astype(np.uint8)
