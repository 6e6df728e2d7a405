"""The ROIs of a `PlaneSegmentation`, the table in which NWB 2 files keep the masks of a plane.

The NWB schema gives every array of an image plane its x axis first: `image_mask` [roi, x, y],
`pixel_mask` (x, y, weight), `GrayscaleImage` [x, y] (nwb-schema 2.9, nwb.ophys and nwb.image).
Suite2p, the Allen Institute and others write y first, so here the first stored axis is first.
"""

import itertools
import math

import h5py
import numpy as np

from fluxseg.errors import RecordingError
from fluxseg.formats import hdf5
from fluxseg.formats.labels import NamedMasks, check_total, zero_masks
from fluxseg.formats.pick import choose

_BLOCK = 2**25
# Columns that tell neurons from other ROIs: Suite2p's, the Allen Institute's and NeuroConv's.
_JUDGEMENTS = ("iscell", "valid_roi", "accepted", "Accepted")


def read_plane_masks(
    plane: h5py.Group, shape: tuple[int, int], remarks: list[str], level: str = ""
) -> NamedMasks:
    """Read the ROIs of a `PlaneSegmentation`, but those that the file itself judges no neurons.

    The masks are `[N, A, B]`, with the first stored axis first, A and B the sides of the image,
    whose `shape` is given, or crossed if they fit so only. Members of a ROI are the pixels whose
    value or weight is finite and not 0. Of voxels in several planes those of one are read, whose
    third coordinate is `level`.
    """
    kinds = ("pixel_mask", "image_mask", "voxel_mask")
    stored = {kind: hdf5.find_dataset(plane, kind) for kind in kinds}
    kind = next((kind for kind in kinds if stored[kind] is not None), "")
    masks, pixels, count = np.zeros((0, *shape), bool), None, 0
    if kind == "image_mask":
        masks = _read_images(stored[kind])
        count = len(masks)
    elif kind:
        index = hdf5.find_dataset(plane, f"{kind}_index")
        used = level if kind == "voxel_mask" else None
        pixels, count = _read_pixels(stored[kind], index, remarks, used)
    elif (ids := hdf5.find_dataset(plane, "id")) is not None and ids.size:
        raise RecordingError("plane", f"{ids.size} ROIs without pixel_mask or image_mask")
    names = _read_names(plane, count, remarks)
    judged = [(f"are no neurons ({name})", _read_judgement(plane, name, count))
              for name in _JUDGEMENTS]  # fmt: skip
    if kind == "voxel_mask" and pixels is not None:
        judged.insert(0, ("lie in other planes", np.isin(np.arange(count), pixels[:, 0])))
    kept = np.ones(count, bool)
    for why, good in judged:
        if good is not None and not good[kept].all():
            lost, before = np.count_nonzero(kept & ~good), np.count_nonzero(kept)
            remarks.append(f"{lost} of {before} ROIs {why}: left out")
            kept &= good
    crossed = (shape[1], shape[0])
    if pixels is not None:
        pixels = pixels[kept[pixels[:, 0]]]
        pixels[:, 0] = (np.cumsum(kept) - 1)[pixels[:, 0]]
        sides = shape if (pixels[:, 1:] < shape).all() else crossed
        if (pixels[:, 1:] < sides).all():
            masks = zero_masks(int(np.count_nonzero(kept)), sides)
            masks[tuple(pixels.T)] = True
    elif not kept.all():
        masks = masks[kept]
    if masks.shape[1:] not in (shape, crossed) or len(masks) != np.count_nonzero(kept):
        raise RecordingError("masks", f"do not fit the image of {list(shape)} px in any order")
    return masks, tuple(itertools.compress(names, kept))


def _read_images(dataset: h5py.Dataset) -> np.ndarray:
    hdf5.check_dataset(dataset)
    shape = dataset.shape
    if len(shape) == 4 and shape[3] == 1:
        shape = shape[:3]
    if len(shape) != 3 or dataset.dtype.names:
        reason = f"must be [roi, x, y] of one plane, got {list(dataset.shape)}"
        raise RecordingError("image_mask", reason)
    check_total(shape[0], shape[1:])
    masks = np.empty(shape, bool)
    step = max(1, _BLOCK // max(1, math.prod(shape[1:]) * dataset.dtype.itemsize))
    for start in range(0, shape[0], step):
        values = dataset[start : start + step].reshape(-1, *shape[1:])
        masks[start : start + step] = np.isfinite(values) & (values != 0)
    return masks


def _read_pixels(
    dataset: h5py.Dataset, index: h5py.Dataset | None, remarks: list[str], level: str | None = None
) -> tuple[np.ndarray, int]:
    """Return the pixels `[P, 3]` (ROI, first, second coordinate) and the number of ROIs."""
    size = 3 if level is None else 4
    field = "pixel_mask" if level is None else "voxel_mask"
    if index is None:
        raise RecordingError(f"{field}_index", "is missing, so the pixels belong to no ROI")
    rows = hdf5.read_numbers(dataset, hdf5.MAX_BYTES // 2)
    ends = hdf5.read_numbers(index, 2**26)
    if rows.dtype.names and len(rows.dtype.names) >= size:
        columns = [rows[name].reshape(-1) for name in rows.dtype.names[:size]]
    elif not rows.dtype.names and rows.ndim == 2 and rows.shape[1] == size:
        columns = list(rows.T)
    elif rows.size == 0:
        columns = [np.zeros(0)] * size
    else:
        wanted = "x, y and weight" if level is None else "x, y, z and weight"
        raise RecordingError(field, f"must hold {wanted}, got {list(rows.shape)} {rows.dtype}")
    first, second, *deep, weight = columns
    if ends.ndim != 1 or ends.dtype.kind not in "iu":
        raise RecordingError(f"{field}_index", "must be a list of whole numbers")
    ends = ends.astype(np.int64)
    lengths = np.diff(ends, prepend=0)
    if (lengths < 0).any() or lengths.sum() != len(first):
        reason = f"does not divide the {len(first)} pixels among the ROIs"
        raise RecordingError(f"{field}_index", reason)
    for values in (first, second, *deep):
        if not ((values >= 0) & (values < 2**31) & (values == np.floor(values))).all():
            raise RecordingError(field, "holds coordinates that are no whole numbers")
    owner = np.repeat(np.arange(len(ends)), lengths)
    pixels = np.stack([owner, first.astype(np.int64), second.astype(np.int64)], axis=1)
    used = np.isfinite(weight) & (weight != 0)
    lost = len(weight) - np.count_nonzero(used)
    if lost and lost == len(weight):
        remarks.append("no pixel has a weight: every listed one counts")
        used[:] = True
    elif lost:
        remarks.append(f"{lost} of {len(weight)} pixels have no weight: left out")
    if deep and len(deep[0]):
        levels = np.unique(deep[0].astype(np.int64))
        chosen = levels[choose("plane", [str(value) for value in levels], level or "")]
        used &= deep[0] == chosen
    return pixels[used], len(ends)


def _read_names(plane: h5py.Group, count: int, remarks: list[str]) -> tuple[str, ...]:
    named = hdf5.find_dataset(plane, "roi_name")
    if named is not None and named.shape == (count,) and hdf5.is_text(named.dtype):
        names = hdf5.read_texts(named)
        if all(name.strip() for name in names):
            return tuple(names)
    ids = hdf5.find_dataset(plane, "id")
    if ids is not None and ids.shape == (count,) and ids.dtype.kind in "iu":
        return tuple(str(number) for number in hdf5.read_numbers(ids).tolist())
    if count:
        remarks.append("the ROIs have no ids: they are numbered from 0")
    return tuple(map(str, range(count)))


def _read_judgement(plane: h5py.Group, column: str, count: int) -> np.ndarray | None:
    dataset = hdf5.find_dataset(plane, column)
    if dataset is None or dataset.dtype.kind not in "biuf":
        return None
    if not count or (dataset.shape or ())[:1] != (count,) or not dataset.size:
        return None
    return hdf5.read_numbers(dataset, 2**26).reshape(count, -1)[:, 0] > 0
