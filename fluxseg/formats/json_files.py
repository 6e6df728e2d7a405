"""JSON files of other tools, of bounded size, and the image that belongs to one."""

import functools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from fluxseg.errors import RecordingError
from fluxseg.formats.npy import naming_file, open_regular
from fluxseg.formats.pick import NO_PICK, Pick
from fluxseg.formats.pixels import read_pixels
from fluxseg.io.names import is_plain_name

MAX_BYTES = 2**28
"""Bytes of a file; thousands of neurons take a few million."""
MAX_MASK_BYTES = 2**31
"""Bytes that the masks of a file may take in memory."""


def read_json_file(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        RecordingError: naming the file, if it is too large, too deep, or no JSON.
    """
    with naming_file(path), open_regular(path) as (file, size):
        if size > MAX_BYTES:
            raise RecordingError("", f"is {size} bytes large, the limit is {MAX_BYTES}")
        try:
            return json.loads(file.read().decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise RecordingError("", f"is no valid JSON: {str(error)[:200]}") from error


def is_coco(values: Any) -> bool:
    """Tell whether a JSON value is a file of COCO instances."""
    return isinstance(values, dict) and {"images", "annotations"} <= set(values)


def is_regions(values: Any) -> bool:
    """Tell whether a JSON value is a list of Neurofinder's regions."""
    return isinstance(values, list) and all(
        isinstance(region, dict) and "coordinates" in region for region in values[:10]
    )


def kind_of_json(path: Path) -> str:
    """Return "coco", "neurofinder", or "" for any other file."""
    return _look_into(path)[0]


def listed_names(path: Path) -> tuple[str, ...]:
    """Return the names, without folders, of the images that a COCO file lists; else none."""
    return _look_into(path)[1]


def _look_into(path: Path) -> tuple[str, tuple[str, ...]]:
    try:
        status = path.stat()
    except OSError:
        return "", ()
    return _look_once(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(4096)
def _look_once(path: Path, _size: int, _time: int) -> tuple[str, tuple[str, ...]]:
    # A COCO file may be large, and is asked for at each of its images.
    try:
        values = read_json_file(path)
    except RecordingError:
        return "", ()
    if is_coco(values):
        entries = values["images"] if isinstance(values["images"], list) else []
        names = (e.get("file_name") for e in entries if isinstance(e, dict))
        return "coco", tuple(re.split(r"[\\/]", n)[-1] for n in names if isinstance(n, str))
    return "neurofinder" if is_regions(values) and values else "", ()


def read_image_for(
    path: Path, image: Path | str | None, name: str = "", pick: Pick = NO_PICK
) -> tuple[np.ndarray, dict[str, Any]]:
    """Read the image that a file of ROIs belongs to.

    Args:
        path: the file of ROIs.
        image: the image file, if it is known.
        name: name of the image in the same folder that the file tells; folders in it are ignored.
        pick: channel and plane of the image, if there are several.

    Returns:
        See `read_pixels`.

    Raises:
        RecordingError: naming the file, if there is no image or it cannot be read.
    """
    if image is not None:
        return read_pixels(image, pick=pick)
    told = path.with_name(name) if is_plain_name(name) else None
    if told is not None and told != path and told.is_file():
        return read_pixels(told, pick=pick)
    raise RecordingError(f"{path}: image", "holds ROIs but no image; name it (--image FILE)")


def check_mask_count(count: int, shape: tuple[int, ...]) -> None:
    """Raise `RecordingError` if so many masks of this shape would not fit in memory."""
    if count * shape[0] * shape[1] > MAX_MASK_BYTES:
        raise RecordingError("", f"{count} masks of {shape[0]} x {shape[1]} px would not fit")
