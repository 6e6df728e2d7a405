"""Resample images and masks so that cells get a certain size; masks of single ROIs as patches."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from fluxseg.errors import ConfigError

TOLERANCE = 1.25  # cells this much larger or smaller than wanted are left as they are
MOST = 4.0  # strongest magnification, and reduction


def resample_image(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resample an image `[H, W]` float32 to another number of pixels, without aliasing.

    The values stay between the least and the largest one of the image.
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
    """Return the magnification that a network needs, which is trained on cells of `trained_px`.

    It is 1 if the median diameter of the cells in an image, px, differs by no more than
    `TOLERANCE`. Raises `ConfigError` if that is not a finite number of at least 1.
    """
    if not 1 <= diameter_px < np.inf:
        raise ConfigError(f"diameter must be at least 1 px, got {diameter_px!r}")
    zoom = trained_px / diameter_px
    if 1 / TOLERANCE <= zoom <= TOLERANCE:
        return 1.0
    return float(np.clip(zoom, 1 / MOST, MOST))


def disc_diameter(area: Any) -> np.ndarray:
    """Return the diameters of discs with these areas, px; float64 of the shape of `area`."""
    return np.asarray(2 * np.sqrt(np.asarray(area, np.float64) / np.pi))


def median_diameter(masks: np.ndarray) -> float | None:
    """Return the median diameter, px, of discs as large as the ROIs `[N, H, W]` bool.

    Empty ROIs do not count; None if there is no other.
    """
    areas = [area for mask in masks if (area := np.count_nonzero(mask))]
    return float(np.median(disc_diameter(areas))) if areas else None


class Patch(NamedTuple):
    """The mask `[h, w]` bool of one ROI, cut to where it is, and its place in the image, px."""

    top: int
    left: int
    mask: np.ndarray


def cut_patches(masks: np.ndarray) -> Iterator[Patch]:
    """Cut masks `[N, H, W]` (bool, or above 0) to where they are; empty ones are passed over."""
    for mask in masks:
        mask = mask if mask.dtype == np.bool_ else mask > 0
        rows = np.flatnonzero(mask.any(1))
        if len(rows):
            top, bottom = int(rows[0]), int(rows[-1]) + 1
            columns = np.flatnonzero(mask[top:bottom].any(0))
            left, right = int(columns[0]), int(columns[-1]) + 1
            yield Patch(top, left, mask[top:bottom, left:right])


def merge_patches(patches: Iterable[Patch], shape: tuple[int, int]) -> np.ndarray:
    """Merge patches within an image into one mask `[H, W]` bool, see `merge_masks`."""
    merged = np.zeros(shape, bool)
    for top, left, mask in patches:
        merged[top : top + mask.shape[0], left : left + mask.shape[1]] |= mask
    return merged


def resample_masks(masks: np.ndarray, shape: tuple[int, int]) -> list[Patch]:
    """Resample the masks of ROIs `[N, H, W]` bool as `resample_image` does images.

    A ROI gets as many pixels as its area is at the new magnification, at least one: those that it
    covers most. Half of a pixel as the limit would let small ROIs vanish, and make those larger
    whose outlines run through the middle of pixels. Empty ones are left out.
    """
    # An identity, resampled, holds the weights: those of rows and of columns are independent.
    down, across = (
        resample_image(np.eye(old, dtype=np.float32), (new, old))
        for old, new in zip(masks.shape[1:], shape, strict=True)
    )
    growth = shape[0] * shape[1] / (masks.shape[1] * masks.shape[2])
    return [_resample_patch(patch, down, across, growth) for patch in cut_patches(masks)]


def _resample_patch(patch: Patch, down: np.ndarray, across: np.ndarray, growth: float) -> Patch:
    height, width = patch.mask.shape
    rows = down[:, patch.top : patch.top + height]
    columns = across[:, patch.left : patch.left + width]
    top, bottom = _extent(rows)
    left, right = _extent(columns)
    covered = rows[top:bottom] @ patch.mask.astype(np.float32) @ columns[left:right].T
    count = max(round(np.count_nonzero(patch.mask) * growth), 1)
    # Rounded, so that what is equal does not depend on the order of the sums.
    order = np.argsort(-covered.round(5), axis=None, kind="stable")
    mask = np.zeros(covered.size, bool)
    mask[order[:count]] = True
    return Patch(top, left, mask.reshape(covered.shape))


def _extent(weights: np.ndarray) -> tuple[int, int]:
    reached = np.flatnonzero(weights.any(1))
    return int(reached[0]), int(reached[-1]) + 1
