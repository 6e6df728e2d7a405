"""Label images `[H, W]`: 0 is background, k marks the pixels of one ROI."""

from collections.abc import Sequence

import numpy as np

from fluxseg.errors import RecordingError

MAX_BYTES = 2**31
"""Bytes that the masks of one label image may take, one for each pixel of each ROI."""
SMOOTH = 0.2
"""Least share of unlike neighbours in a mask with smooth edges or a picture; labels only touch."""
PICTURE = "are a picture, no label image"
"""What is wrong with masks that have more unlike neighbours, and are not smooth."""
MAX_NAMED = 20
"""ROIs that a remark names."""


def label_components(mask: np.ndarray) -> np.ndarray:
    """Number the connected components of a mask; pixels that touch at a corner are connected.

    Args:
        mask: `[H, W]` bool.

    Returns:
        `[H, W]` int64, 0 outside, then from 1 in the order in which rows meet the components.
    """
    from scipy import ndimage  # slow to import

    labels = np.zeros(mask.shape, np.int64)
    ndimage.label(mask, np.ones((3, 3), bool), output=labels)
    return labels


def masks_from_labels(labels: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Take the ROIs of a label image apart.

    Args:
        labels: `[H, W]` whole numbers of any real dtype, 0 outside.

    Returns:
        masks `[N, H, W]` bool, and the labels as texts, in ascending order.

    Raises:
        RecordingError: if a label is negative or not a whole number, or the masks would take
            more than `MAX_BYTES`.
    """
    if labels.dtype.kind == "f" and not (np.isfinite(labels) & (labels == np.rint(labels))).all():
        raise RecordingError("masks", "labels must be whole numbers, found others")
    found = np.unique(labels)
    if found.size and found[0] < 0:
        raise RecordingError("masks", f"labels must be 0 or more, found {found[0]}")
    found = found[found != 0]
    needed = len(found) * labels.size
    if needed > MAX_BYTES:
        raise RecordingError(
            "masks",
            f"{len(found)} different labels would take {needed / 2**30:.1f} GiB, the limit is "
            f"{MAX_BYTES / 2**30:.0f} GiB; is this an image instead?",
        )
    masks = np.zeros((len(found), *labels.shape), bool)
    for mask, label in zip(masks, found, strict=True):
        np.equal(labels, label, out=mask)
    return masks, tuple(str(int(label)) for label in found)


def merge_labels(masks: np.ndarray) -> np.ndarray:
    """Draw masks into a label image: the k-th ROI from 1 gets the label k.

    Where ROIs overlap, which a label image cannot hold, the pixel goes to the smallest of them,
    the first of equals, so that large ones do not hide small ones.

    Args:
        masks: `[N, H, W]` bool.

    Returns:
        `[H, W]` uint16, or uint32 from 65535 ROIs on, as Cellpose has it.
    """
    labels = np.zeros(masks.shape[1:], np.uint16 if len(masks) < 2**16 - 1 else np.uint32)
    areas = masks.sum(axis=(1, 2))
    for index in sorted(range(len(masks)), key=lambda i: (-areas[i], -i)):
        labels[masks[index]] = index + 1
    return labels


def label_image(masks: np.ndarray) -> tuple[np.ndarray, int]:
    """Draw masks into a label image, see `merge_labels`, and count what it cannot hold.

    Args:
        masks: `[N, H, W]` bool.

    Returns:
        `[H, W]` uint16 or uint32, and the number of pixels that ROIs lost to smaller ones; a pixel
        that two ROIs lose counts twice.
    """
    labels = merge_labels(masks)
    return labels, int(np.count_nonzero(masks)) - int(np.count_nonzero(labels))


def label_remarks(labels: np.ndarray, pixels_lost: int, roi_ids: Sequence[str]) -> tuple[str, ...]:
    """Say in words what a label image could not hold.

    Args:
        labels: `[H, W]` from `label_image`.
        pixels_lost: from `label_image`.
        roi_ids: `[N]` names of the ROIs.

    Returns:
        Remarks: the rule by which overlaps were decided, and which ROIs have no pixel left.
    """
    remarks = []
    if pixels_lost:
        remarks.append(
            f"{pixels_lost} pixels in several ROIs were given to the smallest of them (the first "
            "of equals): labels cannot overlap"
        )
    present = set(np.unique(labels).tolist())
    gone = [name for k, name in enumerate(roi_ids, 1) if k not in present]
    if gone:
        names = ", ".join(gone[:MAX_NAMED]) + (", ..." if len(gone) > MAX_NAMED else "")
        remarks.append(f"{len(gone)} ROIs have no pixel of their own and are left out: {names}")
    return tuple(remarks)
