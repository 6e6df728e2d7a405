"""JSON files of other tools, of bounded size, and the image that belongs to one."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from fluxseg.errors import RecordingError
from fluxseg.formats.imagej import find_roi_image
from fluxseg.formats.npy import naming_file, open_regular
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


def read_image_for(
    path: Path, image: Path | str | None, name: str = ""
) -> tuple[np.ndarray, dict[str, Any]]:
    """Read the image that a file of ROIs belongs to.

    Args:
        path: the file of ROIs.
        image: the image file, if it is known.
        name: name of the image in the same folder that the file tells; folders in it are ignored.

    Returns:
        See `read_pixels`.

    Raises:
        RecordingError: naming the file, if there is no image or it cannot be read.
    """
    if image is not None:
        return read_pixels(image)
    told = path.with_name(name) if is_plain_name(name) else None
    if told is not None and told != path and told.is_file():
        return read_pixels(told)
    with naming_file(path):
        found = find_roi_image(path)
        if found is None:
            raise RecordingError("image", "holds ROIs but no image; name it (--image FILE)")
    return read_pixels(found)


def check_mask_count(count: int, shape: tuple[int, ...]) -> None:
    """Raise `RecordingError` if so many masks of this shape would not fit in memory."""
    if count * shape[0] * shape[1] > MAX_MASK_BYTES:
        raise RecordingError("", f"{count} masks of {shape[0]} x {shape[1]} px would not fit")
