"""Outlines of ROIs, and a picture of an image with them drawn in."""

import numpy as np

from fluxseg.data.transforms import normalize_image

YELLOW = (255, 210, 0)


def outline_masks(masks: np.ndarray) -> np.ndarray:
    """Mark the border pixels of every ROI: one of the four neighbours is outside of it.

    Args:
        masks: `[N, H, W]` bool. The border of the image counts as outside.

    Returns:
        `[H, W]` bool, true where at least one ROI has its border.
    """
    outlines = np.zeros(masks.shape[1:], bool)
    for mask in masks:
        rows, columns = np.nonzero(mask)
        if not len(rows):
            continue
        # A frame of the ROI alone: whole fields of hundreds of ROIs would take seconds.
        box = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        padded = np.pad(mask[box], 1)
        inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        outlines[box] |= mask[box] & ~inner
    return outlines


def draw_outlines(
    image: np.ndarray, masks: np.ndarray | None, color: tuple[int, int, int] = YELLOW
) -> np.ndarray:
    """Draw the outlines of ROIs over an image.

    Args:
        image: `[H, W]`, any real dtype; shown from its 1st to its 99.5th percentile.
        masks: `[N, H, W]` bool, or None.
        color: red, green and blue, 0 to 255.

    Returns:
        `[H, W, 3]` uint8.
    """
    gray = np.rint(np.clip(normalize_image(image), 0, 1) * 255).astype(np.uint8)
    picture = np.repeat(gray[..., None], 3, axis=-1)
    if masks is not None and len(masks):
        picture[outline_masks(masks)] = color
    return picture
