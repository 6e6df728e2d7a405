"""ROIs in one array: masks `[N, H, W]` or `[H, W, N]`, labels `[H, W]`, or pixels `[H * W, N]`."""

from typing import Any

import numpy as np

from fluxseg.data.label_checks import equal_neighbours
from fluxseg.errors import RecordingError
from fluxseg.formats.labels import PICTURE, SMOOTH, label_components, masks_from_labels, zero_masks

SOFT = 0.2  # pixels of a soft footprint count from this share of its maximum on


def masks_from_array(
    array: Any, shape: tuple[int, int], field: str, remarks: list[str]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return masks `[N, H, W]` bool and their names, of an array in a form of this module.

    It may also be a sparse matrix `[H * W, N]` whose pixels run down the columns of the image, as
    CaImAn and MATLAB have them. What was done is added to `remarks`. Raises `RecordingError`,
    naming the field, if the array has another form, or is too large.
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
        soft = masks.dtype.kind == "f" and not np.isin(masks, (0, 1)).all()
        inside = _above(masks, field, remarks) if soft else masks > 0
        return np.ascontiguousarray(inside), tuple(map(str, range(len(masks))))
    if array.ndim == 2 and array.shape[0] == height * width:
        from scipy import sparse  # slow to import

        return _from_footprints(sparse.csc_matrix(array), shape, field, remarks)
    raise RecordingError(
        field, f"is {list(array.shape)}, the image is {list(shape)}: must be labels [H, W], masks "
        "[N, H, W] or [H, W, N], or pixels [H * W, N]",
    )  # fmt: skip


def _above(masks: np.ndarray, field: str, remarks: list[str]) -> np.ndarray:
    remarks.append(f"{field} is soft: pixels above {SOFT:.0%} of the maximum of their ROI count")
    return masks > SOFT * masks.max(axis=(1, 2), keepdims=True, initial=0)


def _from_footprints(
    matrix: Any, shape: tuple[int, int], field: str, remarks: list[str]
) -> tuple[np.ndarray, tuple[str, ...]]:
    height, width = shape
    pixels, count = matrix.shape
    if pixels != height * width:
        raise RecordingError(field, f"has {pixels} pixels, the image {height} x {width}")
    masks = zero_masks(count, (width, height))
    for number, mask in enumerate(masks.reshape(count, -1)):
        part = slice(*matrix.indptr[number : number + 2])
        values = np.nan_to_num(np.asarray(matrix.data[part], np.float64))
        mask[matrix.indices[part][values > SOFT * values.max(initial=0)]] = True
    remarks.append(f"{field}: pixels above {SOFT:.0%} of the maximum of their ROI count")
    return np.ascontiguousarray(masks.transpose(0, 2, 1)), tuple(map(str, range(count)))
