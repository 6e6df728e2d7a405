"""Which dataset of an HDF5 file is a movie, and what is told of it: its axes and its rate."""

import json
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

from fluxseg.errors import RecordingError
from fluxseg.formats import hdf5
from fluxseg.formats.pick import Pick, choose

_MAX_DEPTH = 8
_RATES = ("rate", "fr", "fs", "frame_rate", "framerate")
_AXES = {
    "time": "T", "frame": "T", "frames": "T", "channel": "C", "channels": "C", "plane": "Z",
    "planes": "Z", "depth": "Z", "height": "Y", "rows": "Y", "width": "X", "columns": "X",
}  # fmt: skip


def choose_movie(file: h5py.Group, wanted: str) -> h5py.Dataset:
    """Return the dataset of a name, or the only movie; an error lists what there is."""
    places = (wanted, f"{wanted}/data") if wanted else ()
    found = next(filter(None, (hdf5.find_dataset(file, place) for place in places)), None)
    if found is None:
        movies = list(_movies(file, 0))
        if not movies:
            raise RecordingError("", "holds no movie: no numbers of three to five axes")
        names = [str(movie.name).removeprefix("/") for movie in movies]
        found = movies[choose("key", names, wanted.strip("/"))]
    return found


def axes_of(dataset: h5py.Dataset, pick: Pick) -> str:
    """Return the letters of the axes, or raise `RecordingError` if they are not told."""
    shape = list(dataset.shape)
    axes = pick.axes or _told_axes(dataset)
    if axes:
        if len(axes) != len(shape) or "T" not in axes:
            raise RecordingError(str(dataset.name), f"is {shape}: its axes cannot be {axes}")
        return axes
    if len(shape) == 3 and hdf5.read_attribute(dataset.parent, "neurodata_type") is not None:
        return "TXY"
    if len(shape) != 3 or (shape[0] == shape[1] != shape[2]):
        raise RecordingError(
            str(dataset.name),
            f"is {shape}: say which axis is time (T), as --axes "
            + ("TYX or YXT" if len(shape) == 3 else "TCYX or TZYX"),
        )
    return "TYX"


def read_rate(dataset: h5py.Dataset) -> float | None:
    """Return the frames per second that are told of a movie, or None."""
    start = hdf5.find_dataset(dataset.parent, "starting_time")
    for item in (*([start] if start is not None else []), dataset, dataset.parent, dataset.file):
        for name in _RATES:
            value = hdf5.read_attribute(item, name)
            if isinstance(value, int | float | np.number) and 0 < float(value) < 1e5:
                return float(value)
    return None


def _movies(group: h5py.Group, depth: int) -> Iterator[h5py.Dataset]:
    """Yield the datasets that can be movies; masks and templates of an NWB file are none."""
    if depth > _MAX_DEPTH:
        return
    for name, dataset in hdf5.list_datasets(group):
        numbers = dataset.dtype.kind in "biuf" and name != "image_mask"
        if numbers and dataset.shape is not None and 3 <= len(dataset.shape) <= 5:
            yield dataset
    for name, inner in hdf5.list_groups(group):
        if not (depth == 0 and name in ("stimulus", "specifications")):
            yield from _movies(inner, depth + 1)


def _told_axes(dataset: h5py.Dataset) -> str:
    """Return the letters of the axes that a dataset names itself, "" if it does not."""
    told: Any = [dimension.label for dimension in dataset.dims]
    for name in ("axes", "axis_order", "axistags"):
        found = hdf5.read_attribute(dataset, name)
        if not all(told) and found is not None:
            told = found.decode("utf-8", "replace") if isinstance(found, bytes) else found
            if name == "axistags":
                told = [axis["key"] for axis in json.loads(str(told))["axes"]]
    words = [str(word.decode() if isinstance(word, bytes) else word).lower() for word in told]
    letters = "".join(_AXES.get(word, word.upper() if len(word) == 1 else "?") for word in words)
    good = len(letters) == len(dataset.shape) == len(set(letters)) and {*"TYX"} <= set(letters)
    return letters if good and not set(letters) - set("TZCYX") else ""
