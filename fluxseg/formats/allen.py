"""Recordings as dicts in `.npy` files, the way the Allen Brain Observatory's are handed on.

The keys are `id`, `metadata`, `max_projection` `[H, W]`, `roi_ids` `[N]` and `roi_mask_array`
`[N, H, W]`, of which every value above 0 belongs to the ROI.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fluxseg.data.recording import Recording, annotated_masks, check_image, check_masks, group_of
from fluxseg.errors import RecordingError
from fluxseg.formats.metadata import clean_metadata, create_recording, plain_text
from fluxseg.formats.npy import naming_file, read_pickled_dict
from fluxseg.io.files import atomic_path

GROUP_FIELD = "fluxseg_group"  # key of a group that does not follow from the metadata


def read_allen_npy(path: Path) -> Recording:
    """Read a recording from a `.npy` file that holds a dict; see `recording_from_mapping`."""
    with naming_file(path):
        return recording_from_mapping(read_pickled_dict(path), path.stem)


def write_allen_npy(path: Path, recording: Recording) -> tuple[str, ...]:
    """Write a recording as `read_allen_npy` reads it, but for its remarks."""
    masks = annotated_masks(recording)
    values: dict[str, Any] = {
        "id": recording.id,
        "metadata": clean_metadata(recording.metadata),
        "max_projection": recording.image,
        "roi_ids": plain_roi_ids(recording.roi_ids),
        "roi_mask_array": masks.view(np.uint8),
        **group_field(recording),
    }
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, np.array(values, dtype=object), allow_pickle=True)
    return ()


def plain_roi_ids(roi_ids: tuple[str, ...]) -> list[int] | list[str]:
    """Return ROI ids as the numbers that they are in Allen's files, if all of them are."""
    usable = all(name.isascii() and name.isdigit() and len(name) < 19 for name in roi_ids)
    numbers = [int(name) for name in roi_ids] if usable else []
    return numbers if [str(number) for number in numbers] == list(roi_ids) else list(roi_ids)


def group_field(recording: Recording) -> dict[str, str]:
    """Return the group as a further field, if reading would not find it in the metadata."""
    found = group_of(clean_metadata(recording.metadata), recording.id)
    return {} if found == recording.group else {GROUP_FIELD: recording.group}


def recording_from_mapping(
    values: Mapping[str, Any], name: str, *, annotated: bool = True
) -> Recording:
    """Build a recording from the fields of a file in Allen's form.

    What is missing but can be done without is replaced and remarked on: an `id` by `name`,
    `metadata` by nothing, `roi_ids` by the numbers from 0, and, unless it should be `annotated`,
    `roi_mask_array` by None. Where the masks are 0 and 1 already, the recording shares their
    memory.
    """
    remarks: list[str] = []
    image = values.get("max_projection")
    if image is None:
        raise RecordingError("max_projection", "is missing; a recording needs an image [H, W]")
    check_image(image, "max_projection")
    # Accelerators know the byte order of the machine only.
    image = np.ascontiguousarray(image, image.dtype.newbyteorder("="))
    masks = None
    if annotated or values.get("roi_mask_array") is not None:
        masks = _read_masks(values.get("roi_mask_array"), image.shape, remarks)
    if plain_text(values.get("id")) is None:
        remarks.append(f"no usable id: the file's name, {name}, is taken")
    metadata = values.get("metadata")
    if not isinstance(metadata, Mapping):
        remarks.append("no metadata" if metadata is None else "metadata is not a dict: ignored")
        metadata = {}
    ids = () if masks is None else _read_roi_ids(values.get("roi_ids"), len(masks), remarks)
    extra = {"id": values.get("id"), "group": values.get(GROUP_FIELD)}
    return create_recording(extra, name, image, masks, ids, clean_metadata(metadata), remarks)


def _read_masks(masks: Any, image_shape: tuple[int, ...], remarks: list[str]) -> np.ndarray:
    field = "roi_mask_array"
    if masks is None:
        raise RecordingError(field, "is missing; a recording needs masks [N, H, W]")
    if not isinstance(masks, np.ndarray) or masks.dtype.kind not in "biuf":
        what = masks.dtype if isinstance(masks, np.ndarray) else type(masks).__name__
        raise RecordingError(field, f"must be an array of numbers [N, H, W], got {what}")
    if masks.shape[:1] == (0,):
        return np.zeros((0, *image_shape), bool)
    if masks.dtype.itemsize == 1 and masks.view(np.uint8).max(initial=0) <= 1:
        result = masks.view(bool)
    else:
        if masks.dtype.kind == "f":
            with np.errstate(invalid="ignore"):
                has_nan = np.isnan(masks.max(initial=0))
            if has_nan:
                raise RecordingError(field, "holds NaN; 0 must stand for outside")
            remarks.append(f"the masks are {masks.dtype}: every value above 0 counts")
        result = masks > 0
    check_masks(result, image_shape, field)
    empty = len(result) - np.count_nonzero(result.any(axis=(1, 2)))
    if empty:
        remarks.append(f"{empty} of {len(result)} ROIs are all-zero")
    return result


def _read_roi_ids(roi_ids: Any, count: int, remarks: list[str]) -> tuple[str, ...]:
    listed = isinstance(roi_ids, list | tuple) or (np.ndim(roi_ids) == 1)
    found = list(roi_ids) if listed else []
    names = [plain_text(value) for value in found] if len(found) == count else []
    usable = tuple(name for name in names if name is not None)
    if len(usable) == count:
        if len(set(usable)) < count:
            remarks.append("roi_ids name several ROIs alike")
        return usable
    what = "are missing" if roi_ids is None else f"do not name the {count} ROIs"
    remarks.append(f"roi_ids {what}: they are numbered from 0")
    return tuple(map(str, range(count)))
