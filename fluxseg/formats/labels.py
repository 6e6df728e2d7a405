"""ROIs in arrays: masks `[N, H, W]`, or label images `[H, W]`, in which k marks one ROI, 0 none."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fluxseg.data.label_checks import equal_neighbours
from fluxseg.errors import RecordingError

NamedMasks = tuple[np.ndarray, tuple[str, ...]]  # masks `[N, H, W]` bool, and names of the ROIs
MAX_BYTES = 2**31  # bytes that the masks of a recording may take, one for each pixel of each ROI
SMOOTH = 0.2
"""Least share of unlike neighbours in a mask with smooth edges or a picture; labels only touch."""
PICTURE = "are a picture, no label image"
"""What is wrong with masks that have more unlike neighbours, and are not smooth."""
SOFT = 0.2  # pixels of a soft footprint count from this share of its maximum on
_SHARE = f"pixels above {SOFT:.0%} of the maximum of their ROI count"
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


def masks_from_labels(labels: np.ndarray) -> NamedMasks:
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

    The pixels that ROIs lost to smaller ones are counted: of two that lose one each counts it.
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


def masks_from_array(
    array: Any, shape: tuple[int, int], field: str, remarks: list[str]
) -> NamedMasks:
    """Return masks `[N, H, W]` bool and their names, of an array of any usual form.

    It may also be a sparse matrix `[H * W, N]` whose pixels run down the columns of the image, as
    CaImAn and MATLAB have them. What was done is added to `remarks`.
    """
    height, width = shape
    if hasattr(array, "tocsc"):
        return _from_footprints(array.tocsc(), shape, field, remarks)
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        raise RecordingError(field, "must be an array of numbers")
    if array.shape == shape:
        if equal_neighbours(array) < 1 - SMOOTH:
            raise RecordingError(field, PICTURE)
        if "label" not in field.lower() and len(np.unique(array)) == 2 and not array.min():
            remarks.append(f"{field} has two values: its connected parts are the ROIs")
            array = label_components(array != 0)
        try:
            return masks_from_labels(array)
        except RecordingError as error:
            raise RecordingError(field, error.reason) from error
    if array.ndim == 3 and shape in (array.shape[1:], array.shape[:2]):
        first = array.shape[1:] == shape
        if not first:
            remarks.append(f"{field} is [H, W, N]: its last axis counts the ROIs")
        masks = array if first else np.moveaxis(array, -1, 0)
        if masks.dtype.kind == "f" and not np.isfinite(masks).all():
            raise RecordingError(field, "holds NaN or infinity; 0 must stand for outside")
        least: Any = 0
        if masks.dtype.kind == "f" and not np.isin(masks, (0, 1)).all():
            remarks.append(f"{field} is soft: {_SHARE}")
            least = SOFT * masks.max(axis=(1, 2), keepdims=True, initial=0)
        inside = masks > least
        return np.ascontiguousarray(inside), tuple(map(str, range(len(masks))))
    if array.ndim == 2 and array.shape[0] == height * width:
        from scipy import sparse  # slow to import

        return _from_footprints(sparse.csc_matrix(array), shape, field, remarks)
    raise RecordingError(
        field, f"is {list(array.shape)}, the image is {list(shape)}: must be labels [H, W], masks "
        "[N, H, W] or [H, W, N], or pixels [H * W, N]",
    )  # fmt: skip


def _from_footprints(
    matrix: Any, shape: tuple[int, int], field: str, remarks: list[str]
) -> NamedMasks:
    height, width = shape
    pixels, count = matrix.shape
    if pixels != height * width:
        raise RecordingError(field, f"has {pixels} pixels, the image {height} x {width}")
    masks = zero_masks(count, (width, height))
    for number, mask in enumerate(masks.reshape(count, -1)):
        part = slice(*matrix.indptr[number : number + 2])
        values = np.nan_to_num(np.asarray(matrix.data[part], np.float64))
        mask[matrix.indices[part][values > SOFT * values.max(initial=0)]] = True
    remarks.append(f"{field}: {_SHARE}")
    return np.ascontiguousarray(masks.transpose(0, 2, 1)), tuple(map(str, range(count)))
