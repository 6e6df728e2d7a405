"""Recordings in `.npz` files: the fields of `fluxseg.formats.allen`, one array each.

`image` can stand for `max_projection`, `masks` for `roi_mask_array`, and see `_NAMES`; instead
of the masks there may be `masks_packed`, the bits of `numpy.packbits` over all of them, and
`masks_shape` `[3]`. `metadata` is text: JSON, or a dict as Python writes it.
"""

import ast
import contextlib
import dataclasses
import itertools
import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fluxseg.data.recording import Recording
from fluxseg.errors import RecordingError
from fluxseg.formats.allen import GROUP_FIELD, group_field, plain_roi_ids, recording_from_mapping
from fluxseg.formats.labels import masks_from_array
from fluxseg.formats.metadata import clean_metadata
from fluxseg.formats.npy import explain_damage, naming_file, open_regular, read_npy_stream
from fluxseg.formats.pick import NO_PICK, Pick, choose, list_names
from fluxseg.io.arrays import check_shape
from fluxseg.io.files import atomic_path

MAX_BYTES = 2**31
"""Bytes that the fields of a file may take in memory; a few compressed ones can declare any."""
MAX_JSON = 2**24  # characters of metadata as JSON
MAX_LITERAL = 100_000
"""Characters of metadata as Python writes them, whose parser takes much more memory."""
_NAMES = dict.fromkeys(("image", "img", "max_proj", "meanImg", "mean_image"), "max_projection")
_NAMES |= dict.fromkeys(("masks", "labels", "label", "rois", "mask"), "roi_mask_array")
_FIELDS = (
    "id", "metadata", "max_projection", "roi_ids", "roi_mask_array", "masks_packed", "masks_shape",
    GROUP_FIELD, *_NAMES,
)  # fmt: skip


def read_npz(path: Path, pick: Pick = NO_PICK) -> Recording:
    """Read a recording from a `.npz` file.

    The `key` of `pick` names the array of the image if it has another name, or also that of the
    masks, as IMAGE:MASKS. Without any masks in the file it is not annotated. No more memory is
    taken than `MAX_BYTES`.
    """
    with naming_file(path):
        image_key, _, masks_key = pick.key.partition(":")
        wanted = {"max_projection": image_key, "roi_mask_array": masks_key}
        values = _read_fields(path, {usual: key for usual, key in wanted.items() if key})
        known = [name for name, usual in _NAMES.items() if usual == "roi_mask_array"]
        masks_key = masks_key or next((name for name in known if name in values), "roi_mask_array")
        for name, usual in _NAMES.items():
            if name in values:
                values.setdefault(usual, values.pop(name))
        if "roi_mask_array" not in values and "masks_packed" in values:
            values["roi_mask_array"] = _unpack(values["masks_packed"], values.get("masks_shape"))
        image, rois = values.get("max_projection"), values.get("roi_mask_array")
        remarks: list[str] = []
        if isinstance(image, np.ndarray) and isinstance(rois, np.ndarray) and image.ndim == 2:
            usual_form = rois.ndim == 3 and rois.shape[1:] == image.shape
            if not usual_form and rois.shape[:1] != (0,):
                rois, names = masks_from_array(rois, image.shape, masks_key, remarks)
                values = {"roi_ids": names, **values, "roi_mask_array": rois}
        found = recording_from_mapping(values, path.stem, annotated=False)
        return dataclasses.replace(found, remarks=(*found.remarks, *remarks))


def write_npz(path: Path, recording: Recording) -> tuple[str, ...]:
    """Write a recording, annotated or not, as `read_npz` reads it, compressed."""
    values: dict[str, Any] = {
        "id": recording.id,
        "metadata": json.dumps(clean_metadata(recording.metadata)),
        "image": recording.image,
        **group_field(recording),
    }
    if recording.masks is not None:
        values["masks_packed"] = np.packbits(recording.masks)
        values["masks_shape"] = np.array(recording.masks.shape, np.int64)
        values["roi_ids"] = np.array(plain_roi_ids(recording.roi_ids))
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **values)
    return ()


def _read_fields(path: Path, other: Mapping[str, str]) -> dict[str, Any]:
    """Return the known fields; member names are compared, never used as paths."""
    damage = explain_damage("is a damaged or unusual .npz file")
    with open_regular(path) as (file, _), damage, zipfile.ZipFile(file) as archive:
        members = {i.filename.removesuffix(".npy"): i for i in archive.infolist()}
        wanted = {name: members[name] for name in _FIELDS if name in members}
        names = list(members)
        for usual, key in other.items():
            wanted[usual] = members[names[choose("key", names, key)]]
        if not wanted:
            found = list_names("key", names)
            raise RecordingError("", f"{found}, none of a known name; name it with --key")
        _check_bytes(sum(info.file_size for info in wanted.values()))
        return {name: _read_field(archive, info) for name, info in wanted.items()}


def _check_bytes(size: int) -> None:
    if size > MAX_BYTES:
        limit = f"{MAX_BYTES / 2**30:.0f} GiB"
        raise RecordingError("", f"would take {size / 2**30:.1f} GiB, the limit is {limit}")


def _read_field(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Any:
    name = info.filename.removesuffix(".npy")
    with naming_file(name), archive.open(info) as member:
        array = read_npy_stream(member, info.file_size)  # type: ignore[arg-type]
    if name != "metadata" or array.size != 1:
        return array
    value = array.reshape(-1)[0]
    return _parse_metadata(str(value)) if isinstance(value, str) else value


def _parse_metadata(text: str) -> Mapping[Any, Any] | str:
    """Return the dict that a text stands for, or the text."""
    if len(text) > MAX_JSON or _depth(text) > 64:
        return text
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(text)
        return value if isinstance(value, dict) else text
    # A chain of operators nests without brackets; no number needs more signs than these.
    if (
        len(text) > MAX_LITERAL
        or any(sign * 3 in text.replace(" ", "") for sign in "+-~")
        or text.count("+") > 100
    ):
        return text
    with contextlib.suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        value = ast.literal_eval(text)
        return value if isinstance(value, dict) else text
    return text


def _depth(text: str) -> int:
    """Return the largest depth of brackets, which the parsers would follow by recursion."""
    steps = ((character in "([{") - (character in ")]}") for character in text)
    return max(itertools.accumulate(steps), default=0)


def _unpack(packed: np.ndarray, shape: Any) -> np.ndarray:
    """Return the masks `[N, H, W]` bool."""
    if not isinstance(shape, np.ndarray) or shape.dtype.kind not in "iu" or shape.shape != (3,):
        raise RecordingError("masks_shape", "must be the three whole numbers N, H, W")
    sides = check_shape(tuple(int(side) for side in shape))
    count = math.prod(sides)
    if packed.dtype != np.uint8 or packed.ndim != 1 or packed.size != -(-count // 8):
        raise RecordingError("masks_packed", f"must be {-(-count // 8)} bytes, one bit a pixel")
    _check_bytes(count)
    return np.unpackbits(packed, count=count).reshape(sides).view(bool)
