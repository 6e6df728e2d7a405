"""How an image is displayed: transforms of intensities that laboratories apply before they save."""

import numpy as np
from skimage.exposure import equalize_adapthist

from fluxseg.data.transforms import normalize_image
from fluxseg.simulation.grids import blur

KINDS = ("linear", "gamma", "logarithm", "local", "equalised")
SHARES = (0.3, 0.25, 0.15, 0.2, 0.1)  # how often each is drawn
LEAST_SPREAD = 0.02  # local deviation, of the displayed range, that is not amplified further


def draw_display(rng: np.random.Generator, image: np.ndarray, diameter_px: float) -> np.ndarray:
    """Change how an image is displayed at random, so that a network does not depend on it.

    Takes and returns `[H, W]` float32, normalised: 0 and 1 are the ends of the displayed range. The
    cells have a median diameter of `diameter_px`.
    """
    kind = KINDS[int(rng.choice(len(KINDS), p=SHARES))]
    if kind == "linear":
        return image
    shown = np.clip(image, 0, 1.5)
    if kind == "gamma":
        shown = shown ** np.float32(np.exp(rng.uniform(np.log(0.3), np.log(1.5))))
    elif kind == "logarithm":
        shown = np.log1p(shown * np.float32(np.exp(rng.uniform(np.log(3), np.log(200)))))
    elif kind == "local":
        shown = normalise_locally(image, rng.uniform(1, 3) * diameter_px)
    else:
        side = max(int(rng.uniform(2, 6) * diameter_px), 8)
        shown = equalize_adapthist(np.minimum(shown, 1), side, float(rng.uniform(0.003, 0.02)))
    return normalize_image(shown.astype(np.float32))


def normalise_locally(image: np.ndarray, sigma: float) -> np.ndarray:
    """Subtract the local mean, and divide by the local standard deviation.

    The window is a Gaussian of `sigma` px. Returns `[H, W]` float32.
    """
    image = np.clip(image, -0.2, 1.5)
    mean = blur(image, sigma)
    spread = np.sqrt(np.maximum(blur(image * image, sigma) - mean * mean, 0))
    return (image - mean) / (spread + np.float32(LEAST_SPREAD))
