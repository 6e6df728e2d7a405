"""Synthetic fields of view for tests that need several sessions of one."""

import dataclasses

import numpy as np

MARGIN = 30


@dataclasses.dataclass(frozen=True)
class Field:
    neuropil: np.ndarray
    centers: np.ndarray
    brightness: np.ndarray
    radii: np.ndarray


def blur(image, sigma):
    frequency = np.hypot(np.fft.fftfreq(image.shape[0])[:, None], np.fft.rfftfreq(image.shape[1]))
    transfer = np.exp(-2 * (np.pi * sigma * frequency) ** 2)
    return np.fft.irfft2(np.fft.rfft2(image) * transfer, s=image.shape)


def create_field(rng, size=256, cells=100):
    side = size + 2 * MARGIN
    neuropil = sum(
        weight * sigma * blur(rng.standard_normal((side, side)), sigma)
        for sigma, weight in ((1.5, 1), (5, 1), (20, 2))
    )
    return Field(
        neuropil / neuropil.std(),
        rng.uniform(0, side, (cells, 2)),
        rng.lognormal(0, 1, cells),
        rng.uniform(2.5, 4, cells),
    )


def create_session(field, rng, shift=(0, 0), noise=1.0, active=0.5):
    """One session: other cells active, another gain, illumination, shift and noise; uint16."""
    image = 2 + 0.15 * field.neuropil
    side = len(image)
    rows, columns = np.mgrid[:side, :side]
    on = rng.random(len(field.radii)) < active
    activity = rng.lognormal(0, 0.7, len(on)) * field.brightness * on
    for (y, x), bright, radius in zip(field.centers, activity, field.radii, strict=True):
        part = np.s_[max(0, int(y) - 6) : int(y) + 7, max(0, int(x) - 6) : int(x) + 7]
        distance = np.hypot(rows[part] - y, columns[part] - x)
        ring = 0.5 + 0.5 * (distance > radius / 2)
        image[part] += bright / 2 * np.clip(radius + 0.5 - distance, 0, 1) * ring
    top, left = MARGIN + shift[0], MARGIN + shift[1]
    size = side - 2 * MARGIN
    image = image[top : top + size, left : left + size]
    rows, columns = np.mgrid[:size, :size] / size - 0.5
    image = image * (1 - rng.uniform(0.3, 1.2) * (rows**2 + columns**2))
    image = image + 0.15 * noise * rng.gumbel(size=image.shape) * np.sqrt(np.maximum(image, 0.1))
    return np.clip(100 + rng.uniform(50, 400) * image, 0, 65535).astype(np.uint16)


def create_sessions(fields, sessions, seed=0):
    """Images of many fields, and the number of the field that each shows."""
    rng = np.random.default_rng(seed)
    images, numbers = [], []
    for number in range(fields):
        field = create_field(rng, cells=int(rng.integers(5, 150)))
        for _ in range(sessions):
            # 15 of 256 px are 30 of 512.
            shift = rng.integers(-15, 16, 2) // 2
            images.append(create_session(field, rng, shift, rng.uniform(0.3, 1.5)))
            numbers.append(number)
    return images, np.array(numbers)


def disc_masks(diameter, side=128, count=12, seed=0):
    """Masks `[N, side, side]` of discs that do not overlap, and their centres `[N, 2]`, px."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side]
    centres = []
    for _ in range(20 * count):
        centre = rng.uniform(diameter / 2, side - 1 - diameter / 2, 2)
        if all(np.hypot(*(centre - other)) > 1.2 * diameter for other in centres):
            centres.append(centre)
        if len(centres) == count:
            break
    masks = [np.hypot(rows - row, columns - column) < diameter / 2 for row, column in centres]
    return np.stack(masks), np.array(centres)
