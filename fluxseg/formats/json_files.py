"""JSON files of other tools, of bounded size, and the image that belongs to one."""

import functools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from fluxseg.errors import RecordingError
from fluxseg.formats.npy import file_error, naming_file, open_regular
from fluxseg.formats.pick import NO_PICK, Pick
from fluxseg.formats.pixels import read_pixels
from fluxseg.io.files import stamp_file
from fluxseg.io.names import is_plain_name

MAX_BYTES = 2**28  # bytes of a file; thousands of neurons take a few million


def read_json_file(path: Path) -> Any:
    """Read a JSON file of at most `MAX_BYTES`."""
    with naming_file(path), open_regular(path) as (file, size):
        if size > MAX_BYTES:
            raise RecordingError("", f"is {size} bytes large, the limit is {MAX_BYTES}")
        try:
            return json.loads(file.read().decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise RecordingError("", f"is no valid JSON: {str(error)[:200]}") from error


def kind_of(values: Any) -> str:
    """Return "coco", "neurofinder", or "" for anything else that a JSON file can hold."""
    if isinstance(values, dict) and {"images", "annotations"} <= set(values):
        return "coco"
    regions = isinstance(values, list) and all(
        isinstance(region, dict) and "coordinates" in region for region in values[:10]
    )
    return "neurofinder" if regions else ""


def look_into(path: Path) -> tuple[str, tuple[str, ...]]:
    """Return the kind of a JSON file, and the names of the images that a file of COCO lists.

    The names are without folders. A file that cannot be read, or holds nothing, is of no kind.
    """
    try:
        return _look_once(path, stamp_file(path))
    except OSError:
        return "", ()


@functools.lru_cache(4096)
def _look_once(path: Path, _stamp: str) -> tuple[str, tuple[str, ...]]:
    # A COCO file may be large, and is asked for at each of its images; so is one that is broken.
    try:
        values = read_json_file(path)
    except RecordingError:
        return "", ()
    kind = kind_of(values) if values else ""
    entries = values["images"] if kind == "coco" else ()
    entries = entries if isinstance(entries, list) else ()
    names = [entry.get("file_name") for entry in entries if isinstance(entry, dict)]
    return kind, tuple(re.split(r"[\\/]", name)[-1] for name in names if isinstance(name, str))


def read_image_for(
    path: Path, image: Path | None, name: str = "", pick: Pick = NO_PICK
) -> tuple[np.ndarray, dict[str, Any]]:
    """Read the image `[H, W]` of a file of ROIs, and its metadata: `um_per_px`, if it is told.

    Without an `image` file it is the one of the `name` that the file tells, in the same folder.
    """
    if image is None and is_plain_name(name):
        image = path.with_name(name)
        image = image if image != path and image.is_file() else None
    if image is None:
        raise file_error(path, "holds ROIs but no image; name it (--image FILE)")
    pixels, facts = read_pixels(image, pick=pick)
    return pixels, {key: value for key, value in facts.items() if key == "um_per_px"}
