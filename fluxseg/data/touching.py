"""Where neurons touch or come close, as a third class beside background and neuron.

A network that has learnt where cells meet keeps those apart that its neuron class would join. The
class is that of TernausNetV2 (Iglovikov et al., CVPR Workshops 2018, arXiv:1806.00844): where
objects touch or are very close to each other. As its authors say, that goes back to the winners of
the Data Science Bowl 2018 on cell nuclei (Buslaev, Seferbekov and Durnov), and mask and touching
pixels together are the input of a watershed, as in `fluxseg.inference.rois`. U-Net (Ronneberger et
al., MICCAI 2015) gave the pixels between cells a larger weight in the loss instead.

The label of a pixel is two bits, so that the merged mask is never lost: `NEURON` says that it
belongs to a ROI, `TOUCHING` that it is near two. Pixels are scored by the first bit alone, as in a
run without the third class; a network of three classes is taught the smaller of label and 2.
"""

import numpy as np

from fluxseg.data.transforms import merge_masks
from fluxseg.errors import RecordingError

NEURON = 1
"""Bit of the pixels that belong to a ROI, just as `merge_masks` says."""
TOUCHING = 2
"""Bit of the pixels that are near at least two ROIs, inside of them or in the gap between."""
RADIUS = 2.0
"""How near is near, px: a line of four pixels where two cells abut, nothing where more than three
lie between them."""


def find_touching(masks: np.ndarray, radius: float = RADIUS) -> np.ndarray:
    """Find the pixels that belong, or are near, to at least two ROIs.

    Args:
        masks: `[N, H, W]` bool, or numbers of which those above 0 belong to the ROI; N may be 0.
        radius: largest distance from the centre of a pixel to that of a pixel of a ROI that is
            near, px; 0 leaves the pixels that ROIs share.

    Returns:
        `[H, W]` bool. It turns and flips with the masks.

    Raises:
        RecordingError: if `masks` is not 3-D.
    """
    if masks.ndim != 3:
        raise RecordingError("masks", f"must be [N, H, W], got shape {list(masks.shape)}")
    height, width = masks.shape[1:]
    reach = int(radius)
    offsets = np.arange(-reach, reach + 1)
    steps = [(r, c) for r in offsets for c in offsets if r * r + c * c <= radius * radius]
    once, twice = np.zeros((height, width), bool), np.zeros((height, width), bool)
    for mask in masks:
        mask = mask if mask.dtype == np.bool_ else mask > 0
        rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
        if not len(rows):
            continue
        top, left = max(rows[0] - reach, 0), max(columns[0] - reach, 0)
        bottom, right = rows[-1] + reach + 1, columns[-1] + reach + 1
        # A frame of twice the reach, so that no shifted part leaves the array.
        part = np.pad(mask[top:bottom, left:right], reach)
        near = np.zeros(mask[top:bottom, left:right].shape, bool)
        for row, column in steps:
            shifted = part[reach + row :, reach + column :]
            near |= shifted[: near.shape[0], : near.shape[1]]
        inside = np.s_[top:bottom, left:right]
        twice[inside] |= once[inside] & near
        once[inside] |= near
    return twice


def touching_label(masks: np.ndarray, radius: float = RADIUS) -> np.ndarray:
    """Label each pixel with the bits `NEURON` and `TOUCHING`.

    Args:
        masks: see `find_touching`.
        radius: see `find_touching`.

    Returns:
        `[H, W]` uint8: 0 background, 1 neuron, 3 neuron and touching, 2 the gap between neurons.

    Raises:
        RecordingError: if `masks` is not 3-D.
    """
    touching = find_touching(masks, radius)
    return merge_masks(masks) * np.uint8(NEURON) + touching * np.uint8(TOUCHING)
