"""Fields of view for tests: sessions of the same tissue, and discs."""

import numpy as np

from fluxseg.simulation.sessions import simulate_session

SIDE, REACH = 256, 16


def create_session(tissue, session, shift=(0, 0)):
    """An image of a session of a tissue, shifted by up to `REACH` px."""
    image = simulate_session((tissue,), session, (SIDE + 2 * REACH,) * 2)[0].image
    top, left = REACH + shift[0], REACH + shift[1]
    return image[top : top + SIDE, left : left + SIDE]


def create_sessions(tissues, sessions):
    """Images of many tissues, and the number of the tissue that each shows."""
    numbers = np.repeat(np.arange(tissues), sessions)
    return [create_session(int(n), i % sessions) for i, n in enumerate(numbers)], numbers


def disc(shape, centre, radius):
    """A mask of this shape `(H, W)`, px."""
    rows, columns = np.indices(shape)
    return (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2


def disc_masks(diameter, side=128, count=12, seed=0, apart=1.2):
    """Masks `[N, H, W]` of discs `apart` diameters from each other, and their centres `[N, 2]`."""
    rng = np.random.default_rng(seed)
    centres = []
    for _ in range(20 * count):
        centre = rng.uniform(diameter / 2, side - 1 - diameter / 2, 2)
        if all(np.hypot(*(centre - other)) > apart * diameter for other in centres):
            centres.append(centre)
        if len(centres) == count:
            break
    masks = [disc((side, side), centre, diameter / 2) for centre in centres]
    return np.stack(masks), np.array(centres)
