"""Images brought to the magnification that a network was trained on."""

import numpy as np

from fluxseg.errors import ConfigError

TOLERANCE = 1.25
"""Cells this much larger or smaller than those of the training are left as they are."""
MOST = 4.0
"""Strongest magnification, and reduction."""


def resample_image(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resample an image to another number of pixels, without aliasing.

    Args:
        image: `[H, W]` float32.
        shape: sides of the result, px.

    Returns:
        `[*shape]` float32, between the least and the largest value of the image.
    """
    if image.shape == shape:
        return image
    from PIL import Image

    # A kernel as wide as a pixel of the result: Pillow widens it when it reduces.
    picture = Image.fromarray(np.ascontiguousarray(image, np.float32))
    return np.asarray(picture.resize((shape[1], shape[0]), Image.Resampling.BILINEAR))


def zoomed_shape(shape: tuple[int, int], zoom: float) -> tuple[int, int]:
    """Return the sides of an image after magnification by `zoom`, at least 1 px."""
    height, width = (max(round(side * zoom), 1) for side in shape)
    return height, width


def choose_zoom(diameter_px: float, trained_px: float) -> float:
    """Return the magnification that a network needs for cells of a size.

    Args:
        diameter_px: median diameter of the cells in an image, px.
        trained_px: that of the cells that the network was trained on, px.

    Returns:
        Magnification; 1 if the sizes differ by no more than `TOLERANCE`.

    Raises:
        ConfigError: if the diameter is not a finite number of at least 1.
    """
    if not 1 <= diameter_px < np.inf:
        raise ConfigError(f"diameter must be at least 1 px, got {diameter_px!r}")
    zoom = trained_px / diameter_px
    if 1 / TOLERANCE <= zoom <= TOLERANCE:
        return 1.0
    return float(np.clip(zoom, 1 / MOST, MOST))
