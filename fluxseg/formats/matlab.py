"""MATLAB's `.mat` files, version 5 by scipy and 7.3 by h5py: Suite2p's `Fall.mat`, and arrays."""

import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from fluxseg.data.recording import Recording, check_image
from fluxseg.errors import RecordingError
from fluxseg.formats import hdf5
from fluxseg.formats.labels import masks_from_array
from fluxseg.formats.metadata import create_recording
from fluxseg.formats.npy import explain_damage, naming_file, open_regular
from fluxseg.formats.pick import NO_PICK, Pick, choose
from fluxseg.formats.suite2p import plane_name, recording_from_suite2p

MAGIC = b"MATLAB 5.0 MAT-file"
MAGIC_HDF5 = b"MATLAB 7.3 MAT-file"
MAX_BYTES = 2**31  # bytes that the arrays of a file may take in memory
IMAGES = ("max_projection", "image", "img", "max_proj", "meanimg", "mean_image", "projection", "cn")
"""Names that an array with the image can have, in lower case."""
MASKS = ("roi_mask_array", "masks", "mask", "labels", "label", "rois", "a")
"""Names that an array with the ROIs can have, in lower case."""

Arrays = Mapping[str, tuple[tuple[int, ...], Callable[[], Any]]]


def read_mat(path: Path, pick: Pick = NO_PICK) -> Recording:
    """Read a recording from Suite2p's `Fall.mat`, or a `.mat` file with the image as an array.

    The `key` of `pick` names the array of the image, or also that of the ROIs, as IMAGE:MASKS;
    without it they are known by their usual names. `masks` is None if there is no array of ROIs.
    """
    with naming_file(path):
        with open_regular(path) as (file, _):
            new = file.read(len(MAGIC_HDF5)) == MAGIC_HDF5
        if new:
            with hdf5.open_hdf5(path) as opened:
                return recording_from_arrays(_list_hdf5(opened), path.stem, pick)
        known = _list_variables(path)
        if {"stat", "ops"} <= set(known):
            values = _load(path, "stat", "ops", "iscell")
            stat = np.atleast_1d(np.asarray(values["stat"], object))
            iscell = values.get("iscell")
            iscell = None if iscell is None else np.atleast_2d(np.asarray(iscell))
            # Each session has a file of this name.
            name = plane_name(path.parent) if path.stem == "Fall" else path.stem
            return recording_from_suite2p(values["ops"], stat, iscell, name)
        arrays: dict[str, tuple[tuple[int, ...], Callable[[], Any]]] = {}
        inner = arrays.copy()
        for name, (shape, kind) in known.items():
            if kind == "struct":
                fields = _load(path, name)[name]
                for field, value in fields.items() if isinstance(fields, dict) else ():
                    # Cells are lists here, of values of any shape.
                    numbers = isinstance(value, np.ndarray) and value.dtype.kind in "biuf"
                    if numbers and value.ndim > 1:
                        inner[f"{name}/{field}"] = value.shape, value.view
            elif len(shape) >= 2 and kind not in ("cell", "object", "char", "opaque"):
                arrays[name] = shape, functools.partial(lambda n: _load(path, n)[n], name)
        # Of two arrays of a usual name the one outside of a struct counts.
        return recording_from_arrays({**arrays, **inner}, path.stem, pick)


def recording_from_arrays(arrays: Arrays, name: str, pick: Pick) -> Recording:
    """Build a recording of an image, and perhaps ROIs, among the arrays of a file.

    Of each array there is its shape, and what reads it.
    """
    remarks: list[str] = []
    image_key, _, masks_key = pick.key.partition(":")
    names = list(arrays)
    flat = [key for key in names if len(arrays[key][0]) == 2 and min(arrays[key][0]) > 1]
    usual = [key for word in IMAGES for key in flat if key.rsplit("/")[-1].lower() == word]
    if image_key:
        chosen = names[choose("key", names, image_key)]
    elif usual:
        chosen = usual[0]
    else:
        # ROIs are no image, though they may be an array of the same size.
        flat = [key for key in flat if not _holds_rois(key, arrays)]
        if not flat:
            held = ", ".join(f"{key} {list(shape)}" for key, (shape, _) in arrays.items())
            raise RecordingError("", f"holds no image [H, W]: {held[:500] or 'no array'}")
        if len(flat) > 1:
            choose("key", names, "")
        chosen = flat[0]
        remarks.append(f"the array {chosen} is taken for the image")
    image = np.asarray(arrays[chosen][1]())
    check_image(image, chosen)
    image = np.ascontiguousarray(image, image.dtype.newbyteorder("="))
    rois = [key for word in MASKS for key in names if key.rsplit("/")[-1].lower() == word]
    rois = [key for key in rois if key != chosen and _holds_rois(key, arrays)]
    if masks_key:
        rois = [names[choose("key", names, masks_key)]]
    masks: np.ndarray | None = None
    ids: tuple[str, ...] = ()
    if rois:
        masks, ids = masks_from_array(arrays[rois[0]][1](), image.shape, rois[0], remarks)
    return create_recording({}, name, image, masks, ids, {}, remarks)


def _holds_rois(key: str, arrays: Arrays) -> bool:
    """Tell by its name whether an array is of ROIs; `A` only if its rows are the pixels."""
    name = key.rsplit("/")[-1].lower()
    sizes = [math.prod(shape) for shape, _ in arrays.values() if len(shape) == 2]
    return name in MASKS and (name != "a" or arrays[key][0][0] in sizes)


def _list_variables(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    from scipy import io  # slow to import

    with explain_damage():
        found = {name: (tuple(shape), kind) for name, shape, kind in io.whosmat(path)}
    for name, (shape, _) in found.items():
        if 8 * math.prod(shape) > 4 * MAX_BYTES:
            raise RecordingError(name, f"is {list(shape)}: too large")
    return found


def _load(path: Path, *names: str) -> dict[str, Any]:
    from scipy import io  # slow to import

    with explain_damage():
        values: dict[str, Any] = io.loadmat(path, variable_names=names, simplify_cells=True)
    return values


def _list_hdf5(file: h5py.File) -> dict[str, tuple[tuple[int, ...], Callable[[], Any]]]:
    """List the arrays of a file of version 7.3, whose axes are stored in the reverse order."""
    found: dict[str, tuple[tuple[int, ...], Callable[[], Any]]] = {}
    for folder, inner in [("", file), *hdf5.list_groups(file)]:
        if folder.startswith("#"):
            continue
        prefix = f"{folder}/" if folder else ""
        rows = hdf5.read_attribute(inner, "MATLAB_sparse")
        if rows is not None:
            names = ("data", "ir", "jc")
            read = functools.partial(read_csc, inner, names, int(rows))
            found[folder] = ((int(rows), 0), read)
            continue
        for name, data in hdf5.list_datasets(inner):
            if data.dtype.kind in "biuf" and data.shape is not None and len(data.shape) >= 2:
                read = functools.partial(lambda data: hdf5.read_numbers(data).T, data)
                found[prefix + name] = (data.shape[::-1], read)
    return found


def read_csc(group: h5py.Group, names: tuple[str, str, str], rows: int) -> Any:
    """Read a sparse matrix: its values, their rows, and where each column begins."""
    from scipy import sparse  # slow to import

    parts = [hdf5.find_dataset(group, name) for name in names]
    if parts[2] is None:
        raise RecordingError(str(group.name), "is no sparse matrix: a part is missing")
    data, row, begins = (
        np.zeros(0) if part is None else hdf5.read_numbers(part).ravel() for part in parts
    )
    columns = max(len(begins) - 1, 0)
    good = len(begins) and begins.dtype.kind in "iu" and (row.dtype.kind in "iu" or not len(row))
    if not good or len(data) != len(row) or begins[0] != 0 or begins[-1] != len(data):
        raise RecordingError(str(group.name), "is no sparse matrix: its parts do not fit")
    if (np.diff(begins.astype(np.int64)) < 0).any() or (len(row) and int(row.max()) >= rows):
        raise RecordingError(str(group.name), "is no sparse matrix: it points outside of itself")
    return sparse.csc_matrix(
        (data, row.astype(np.int64), begins.astype(np.int64)), shape=(rows, columns)
    )
