"""Metadata of any origin as plain values that JSON can hold."""

import datetime
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fluxseg.data.recording import NO_GROUP, Recording, group_of

MAX_DEPTH = 8  # containers nested deeper are told in words
MAX_ITEMS = 10_000  # values that are kept in all
MAX_TEXT = 10_000  # characters that are kept of a text
QUALITY = "roi_quality"
"""Key of the metadata: how sure the one who made the ROIs is of each, 0 to 1."""
_MAX_BITS = 1024


def clean_metadata(metadata: Mapping[Any, Any]) -> dict[str, Any]:
    """Return metadata as None, booleans, numbers, texts, lists and dicts with texts as keys.

    Dates and times become ISO 8601 texts, numpy scalars Python ones, arrays, tuples and sets lists,
    bytes and what else there is texts; numbers that are not finite become the texts "nan", "inf"
    and "-inf". What is deeper or longer than the limits of this module is cut, and "..." stands in
    its place. No value makes this fail, and a second call changes nothing.
    """
    cleaned: dict[str, Any] = _Cleaner().clean(metadata, 0)
    return cleaned


def plain_text(value: Any) -> str | None:
    """Return a name - a text, bytes, or a whole number of any type - as text, None if it is none.

    Arrays of one element are looked into; a blank text is none.
    """
    if isinstance(value, np.ndarray) and value.size == 1 and value.dtype != object:
        value = value.reshape(-1)[0]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | bytes | int):
        return None
    text = _clean_text(str(_clean_int(value)) if isinstance(value, int) else value)
    return text if text.strip() else None


def roi_quality(recording: Recording) -> list[float] | None:
    """Return how sure it is of each ROI that it is a cell, 0 to 1; None if it is not told."""
    values = recording.metadata.get(QUALITY)
    if not isinstance(values, list | tuple) or len(values) != len(recording.roi_ids):
        return None
    # NaN is unlike itself.
    known = [v if isinstance(v, int | float) and v == v else 1 for v in values]
    return [float(min(max(value, 0), 1)) for value in known]


def without_quality(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return clean metadata without the quality of the ROIs, which has a place of its own."""
    return clean_metadata({key: value for key, value in metadata.items() if key != QUALITY})


def describe_origin(recording: Recording) -> dict[str, Any]:
    """Return id, group and metadata of a recording, for formats with room for more of their own."""
    return {
        "id": recording.id,
        "group": recording.group,
        "metadata": clean_metadata(recording.metadata),
    }


def read_metadata(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata that `describe_origin` gave, of a file that may hold anything instead."""
    found = extra.get("metadata")
    return clean_metadata(found if isinstance(found, Mapping) else {})


def create_recording(
    extra: Mapping[str, Any],
    name: str,
    image: np.ndarray,
    masks: np.ndarray | None,
    roi_ids: Sequence[str],
    metadata: Mapping[str, Any],
    remarks: Iterable[str] = (),
) -> Recording:
    """Create a recording with the id and group that `describe_origin` gave, where a file has them.

    Else the id is `name`, and the group follows from the metadata, or there is none, with a remark.
    """
    group = plain_text(extra.get("group")) or group_of(metadata, "")
    remarks = (*(() if group else (NO_GROUP,)), *remarks)
    identity = plain_text(extra.get("id")) or plain_text(name) or "recording"
    return Recording(identity, image, masks, tuple(roi_ids), group, metadata, remarks)


class _Cleaner:
    def __init__(self) -> None:
        self.left = MAX_ITEMS

    def clean(self, value: Any, depth: int) -> Any:
        if isinstance(value, np.ndarray):
            deep = depth + value.ndim > MAX_DEPTH or (value.ndim == 0 and value.dtype == object)
            if deep or value.size > 1000:
                return f"array {list(value.shape)} of {value.dtype}"
            value = list(value) if value.ndim else value[()]
        if isinstance(value, np.generic) and value.dtype.kind not in "mM":
            value = float(value) if value.dtype.kind == "f" else value.item()
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str | bytes | bytearray):
            return _clean_text(value)
        if isinstance(value, int):
            return _clean_int(value)
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else str(float(value))
        if isinstance(value, datetime.date | datetime.time):
            return value.isoformat()
        if not isinstance(value, Mapping | list | tuple | set | frozenset):
            try:
                return _clean_text(str(value))
            except Exception:
                # The text of an object of another library; it is told, not used.
                return type(value).__name__
        if depth > MAX_DEPTH:
            return "..."
        if isinstance(value, Mapping):
            return self._clean_items(value.items(), depth)
        items = list(self._clean_items(enumerate(value), depth).values())
        return sorted(items, key=str) if isinstance(value, set | frozenset) else items

    def _clean_items(self, items: Iterable[tuple[Any, Any]], depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in items:
            if self.left <= 0:
                found["..."] = "..."
                break
            self.left -= 1
            name = key if isinstance(key, str) else plain_text(key) or str(self.clean(key, 1))
            found[_clean_text(name)] = self.clean(value, depth + 1)
        return found


def _clean_text(value: str | bytes | bytearray) -> str:
    text = value if isinstance(value, str) else bytes(value[:MAX_TEXT]).decode("utf-8", "replace")
    if len(text) > MAX_TEXT:
        text = text[: MAX_TEXT - 3] + "..."
    # Half of a surrogate pair cannot be written to any file.
    return text.encode("utf-8", "replace").decode("utf-8")


def _clean_int(value: int) -> Any:
    bits = value.bit_length()
    return int(value) if bits <= _MAX_BITS else f"a number of {bits} bits"
