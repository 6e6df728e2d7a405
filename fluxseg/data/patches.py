"""Masks of single ROIs cut to where they are, so that hundreds of them take little memory."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np


class Patch(NamedTuple):
    """The mask of one ROI, without the empty rows and columns around it.

    Attributes:
        top: first row in the image, px.
        left: first column in the image, px.
        mask: `[h, w]` bool.
    """

    top: int
    left: int
    mask: np.ndarray


def cut_patches(masks: np.ndarray) -> Iterator[Patch]:
    """Cut the masks of ROIs to where they are; empty ones are passed over.

    Args:
        masks: `[N, H, W]` bool, or numbers of which those above 0 belong to the ROI.
    """
    for mask in masks:
        mask = mask if mask.dtype == np.bool_ else mask > 0
        rows = np.flatnonzero(mask.any(1))
        if len(rows):
            top, bottom = int(rows[0]), int(rows[-1]) + 1
            columns = np.flatnonzero(mask[top:bottom].any(0))
            left, right = int(columns[0]), int(columns[-1]) + 1
            yield Patch(top, left, mask[top:bottom, left:right])


def merge_patches(patches: Iterable[Patch], shape: tuple[int, int]) -> np.ndarray:
    """Merge patches into one mask `[H, W]` bool, as `merge_masks` does with whole masks.

    Args:
        patches: they lie within the image.
        shape: (H, W) of the image, px.
    """
    merged = np.zeros(shape, bool)
    for top, left, mask in patches:
        merged[top : top + mask.shape[0], left : left + mask.shape[1]] |= mask
    return merged
