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
from fluxseg.io.files import stamp_file
from fluxseg.io.names import is_plain_name

MAX_BYTES = 2**28  # bytes of a file; thousands of neurons take a few million


def read_json_file(path: Path) -> Any:
    """Read a JSON file; raises `RecordingError`, naming it, if it is too large, or no JSON."""
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
        return _look_once(path, stamp_file(path))
    except OSError:
        return "", ()


@functools.lru_cache(4096)
def _look_once(path: Path, _stamp: str) -> tuple[str, tuple[str, ...]]:
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
    """Read the image that a file of ROIs belongs to, see `read_pixels`.

    Without an `image` file it is the one of the `name` that the file tells, in the same folder.
    Raises `RecordingError`, naming the file, if there is no image or it cannot be read.
    """
    if image is not None:
        return read_pixels(image, pick=pick)
    told = path.with_name(name) if is_plain_name(name) else None
    if told is not None and told != path and told.is_file():
        return read_pixels(told, pick=pick)
    raise RecordingError(f"{path}: image", "holds ROIs but no image; name it (--image FILE)")
