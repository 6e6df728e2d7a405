"""Where neurons touch or come close, as a third class beside background and neuron.

A network that has learnt where cells meet keeps those apart that its neuron class would join. The
class is that of TernausNetV2 (Iglovikov et al., CVPR Workshops 2018, arXiv:1806.00844): where
objects touch or are very close to each other. As its authors say, that goes back to the winners of
the Data Science Bowl 2018 on cell nuclei (Buslaev, Seferbekov and Durnov), and mask and touching
pixels together are the input of a watershed, as in `fluxseg.inference.objects.rois`. U-Net
(Ronneberger et al., MICCAI 2015) gave the pixels between cells a larger weight in the loss instead.

The label of a pixel is two bits, so that the merged mask is never lost: `NEURON` says that it
belongs to a ROI, `TOUCHING` that it is near two. Pixels are scored by the first bit alone, as in a
run without the third class; a network of three classes is taught the smaller of label and 2.
"""

from collections.abc import Iterable

import numpy as np

from fluxseg.data.patches import Patch, cut_patches
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
    return touching_patches(cut_patches(masks), (masks.shape[1], masks.shape[2]), radius)


def touching_patches(
    patches: Iterable[Patch], shape: tuple[int, int], radius: float = RADIUS
) -> np.ndarray:
    """Do as `find_touching` does, with the masks cut to where they are.

    Args:
        patches: they lie within the image.
        shape: (H, W) of the image, px.
        radius: see `find_touching`.
    """
    reach = int(radius)
    offsets = range(-reach, reach + 1)
    steps = [(r, c) for r in offsets for c in offsets if r * r + c * c <= radius * radius]
    once, twice = np.zeros(shape, bool), np.zeros(shape, bool)
    for first_row, first_column, mask in patches:
        top, left = max(first_row - reach, 0), max(first_column - reach, 0)
        near = np.zeros([side + 2 * reach for side in mask.shape], bool)
        # A frame of twice the reach, so that no shifted part leaves the array.
        part = np.pad(mask, 2 * reach)
        for row, column in steps:
            shifted = part[reach + row :, reach + column :]
            near |= shifted[: near.shape[0], : near.shape[1]]
        near = near[top - first_row + reach :, left - first_column + reach :]
        inside = np.s_[top : top + near.shape[0], left : left + near.shape[1]]
        near = near[: shape[0] - top, : shape[1] - left]
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
