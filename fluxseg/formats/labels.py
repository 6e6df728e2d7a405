"""Label images `[H, W]`: 0 is background, k marks the pixels of one ROI."""

import math
from collections.abc import Sequence

import numpy as np

from fluxseg.errors import RecordingError

MAX_BYTES = 2**31  # bytes that the masks of a recording may take, one for each pixel of each ROI
SMOOTH = 0.2
"""Least share of unlike neighbours in a mask with smooth edges or a picture; labels only touch."""
PICTURE = "are a picture, no label image"
"""What is wrong with masks that have more unlike neighbours, and are not smooth."""
MAX_NAMED = 20  # ROIs that a remark names


def check_total(count: int, shape: Sequence[int], what: str = "ROIs", hint: str = "") -> None:
    """Raise `RecordingError` if so many masks `[H, W]` would take more than `MAX_BYTES`."""
    size = count * math.prod(shape) / 2**30
    if size > MAX_BYTES / 2**30:
        text = f"{count} {what} would take {size:.1f} GiB, the limit is 2 GiB{hint}"
        raise RecordingError("masks", text)


def zero_masks(count: int, shape: Sequence[int]) -> np.ndarray:
    """Return masks `[N, H, W]` bool to draw into; raises as `check_total` does."""
    check_total(count, shape)
    return np.zeros((count, *shape), bool)


def label_components(mask: np.ndarray) -> np.ndarray:
    """Number the connected components of a mask `[H, W]` bool; corners connect.

    Returns `[H, W]` int64, 0 outside, then from 1 in the order in which rows meet the components.
    """
    from scipy import ndimage  # slow to import

    labels = np.zeros(mask.shape, np.int64)
    ndimage.label(mask, np.ones((3, 3), bool), output=labels)
    return labels


def masks_from_labels(labels: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Take the ROIs of a label image `[H, W]` of whole numbers of any real dtype apart.

    Returns masks `[N, H, W]` bool, and the labels as texts, in ascending order. Raises
    `RecordingError` if a label is negative or not a whole number, or the masks take more than
    `MAX_BYTES`.
    """
    if labels.dtype.kind == "f" and not (np.isfinite(labels) & (labels == np.rint(labels))).all():
        raise RecordingError("masks", "labels must be whole numbers, found others")
    found = np.unique(labels)
    if found.size and found[0] < 0:
        raise RecordingError("masks", f"labels must be 0 or more, found {found[0]}")
    found = found[found != 0]
    check_total(len(found), labels.shape, "different labels", "; is this an image instead?")
    masks = zero_masks(len(found), labels.shape)
    for mask, label in zip(masks, found, strict=True):
        np.equal(labels, label, out=mask)
    return masks, tuple(str(int(label)) for label in found)


def merge_labels(masks: np.ndarray) -> np.ndarray:
    """Draw masks `[N, H, W]` bool into a label image: the k-th ROI from 1 gets the label k.

    Where ROIs overlap, which a label image cannot hold, the pixel goes to the smallest of them, the
    first of equals, so that large ones do not hide small ones. It is uint16, or uint32 from 65535
    ROIs on, as Cellpose has it.
    """
    labels = np.zeros(masks.shape[1:], np.uint16 if len(masks) < 2**16 - 1 else np.uint32)
    areas = masks.sum(axis=(1, 2))
    for index in sorted(range(len(masks)), key=lambda i: (-areas[i], -i)):
        labels[masks[index]] = index + 1
    return labels


def label_image(masks: np.ndarray, roi_ids: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Draw masks into a label image, see `merge_labels`, and say in words what it cannot hold.

    The remarks tell the rule by which overlaps were decided, with the number of pixels that ROIs
    lost to smaller ones (of two that lose one each counts it), and which ROIs have no pixel left.
    """
    labels = merge_labels(masks)
    lost = int(np.count_nonzero(masks)) - int(np.count_nonzero(labels))
    remarks = []
    if lost:
        remarks.append(
            f"{lost} pixels in several ROIs were given to the smallest of them (the first of "
            "equals): labels cannot overlap"
        )
    present = set(np.unique(labels).tolist())
    gone = [name for k, name in enumerate(roi_ids, 1) if k not in present]
    if gone:
        what = f"{len(gone)} ROIs have no pixel of their own and are left out"
        remarks.append(f"{what}: {list_some(gone)}")
    return labels, tuple(remarks)


def list_some(names: Sequence[str]) -> str:
    """Return names with commas between them, of many the first ones."""
    return ", ".join(names[:MAX_NAMED]) + ", ..." * (len(names) > MAX_NAMED)
