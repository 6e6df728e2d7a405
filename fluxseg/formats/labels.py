"""Label images `[H, W]`: 0 is background, k marks the pixels of one ROI."""

from collections.abc import Sequence

import numpy as np

from fluxseg.errors import RecordingError

MAX_BYTES = 2**31
"""Bytes that the masks of one label image may take, one for each pixel of each ROI."""
MAX_NAMED = 20
"""ROIs that a remark names."""


def label_components(mask: np.ndarray) -> np.ndarray:
    """Number the connected components of a mask; pixels that touch at a corner are connected.

    Runs of neighbouring pixels are joined by union-find, all of them at once: see L. He et al.,
    "The connected-component labeling problem", Pattern Recognition 70 (2017).

    Args:
        mask: `[H, W]` bool.

    Returns:
        `[H, W]` int64, 0 outside, then from 1 in the order in which rows meet the components.
    """
    edges = np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    row, start = np.nonzero(edges == 1)
    stop = np.nonzero(edges == -1)[1]
    # Runs sorted by row and column have one sorted key, so that searching finds the next row's.
    stride = mask.shape[1] + 2
    low = np.searchsorted(row * stride + stop, (row + 1) * stride + start, "left")
    high = np.searchsorted(row * stride + start, (row + 1) * stride + stop, "right")
    touching = np.maximum(high - low, 0)
    upper = np.repeat(np.arange(len(row)), touching)
    ends = np.cumsum(touching)
    lower = np.arange(len(upper)) - np.repeat(ends - touching, touching) + np.repeat(low, touching)
    roots = _join(len(row), upper, lower)
    numbers = np.unique(roots, return_inverse=True)[1] + 1
    steps = np.zeros((mask.shape[0], mask.shape[1] + 1), np.int64)
    steps[row, start] += numbers
    steps[row, stop] -= numbers
    return np.cumsum(steps, axis=1)[:, :-1]


def _join(count: int, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the smallest member of the set of each of `count` elements."""
    root = np.arange(count)
    while len(left):
        np.minimum.at(root, np.maximum(left, right), np.minimum(left, right))
        while (root[root] != root).any():
            root = root[root]
        left, right = root[left], root[right]
        apart = left != right
        left, right = left[apart], right[apart]
    return root


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
