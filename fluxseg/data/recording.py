"""One field of view in memory, and the interface of everything that recordings are read from."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from fluxseg.data.resample import cut_patches
from fluxseg.data.transforms import normalize_image, to_uint8
from fluxseg.errors import RecordingError
from fluxseg.io.markup import picture_address, render_table

GROUP_KEYS = ("experiment_container_id", "specimen_name", "specimen_id", "donor_name", "donor_id")
"""Metadata fields that tell which recordings show the same tissue, the first present one wins.

The Allen Brain Observatory images one field of view in three sessions (an "experiment
container"), and a mouse may give several containers.
"""
NO_GROUP = f"metadata name no group (such as {GROUP_KEYS[0]}): taken as a group of its own"
"""Remark on recordings of which nothing tells which others show the same tissue."""
MAX_SHOWN = 20  # fields of the metadata, and remarks, that a notebook shows
YELLOW = (255, 210, 0)


@dataclasses.dataclass(frozen=True, eq=False)
class Recording:
    """One field of view: a projection of a two-photon movie and, where known, its neurons.

    Attributes:
        id: name of the recording, unique within a data set.
        image: `[H, W]`, any real dtype, the (maximum) projection in the detector's own units.
            NaN and infinite pixels are allowed and count as outside of the valid area.
        masks: `[N, H, W]` bool, one mask per ROI (they may overlap), or None if not annotated.
        roi_ids: `[N]` names of the ROIs, in the order of `masks`.
        group: recordings with the same group show the same tissue and are never split between
            training and evaluation.
        metadata: what else the file said, as plain values.
        remarks: what was odd about the file, in words, though it is usable.

    Raises:
        RecordingError: naming the field, if shapes or dtypes do not fit together.
    """

    id: str
    image: np.ndarray
    masks: np.ndarray | None = None
    roi_ids: tuple[str, ...] = ()
    group: str = ""
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not self.id:
            raise RecordingError("id", f"must be a text that is not empty, got {self.id!r}")
        check_image(self.image)
        if self.masks is None:
            if self.roi_ids:
                raise RecordingError("roi_ids", f"{len(self.roi_ids)} ids without any masks")
        else:
            check_masks(self.masks, self.image.shape)
            if len(self.roi_ids) != len(self.masks):
                reason = f"{len(self.roi_ids)} ids for {len(self.masks)} masks"
                raise RecordingError("roi_ids", reason)
        if not self.group:
            object.__setattr__(self, "group", self.id)

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the image with the ROIs' outlines, and the facts."""
        height, width = self.image.shape
        rows: list[tuple[str, Any]] = [
            ("size", f"{height} x {width} px, {self.image.dtype}"),
            ("ROIs", "not annotated" if self.masks is None else len(self.masks)),
            ("group", self.group),
        ]
        if self.masks is not None:
            rows.append(("neuron pixels", f"{100 * self.masks.any(0).mean():.1f} %"))
        rows += list(self.metadata.items())[:MAX_SHOWN]
        rows += [("remark", remark) for remark in self.remarks[:MAX_SHOWN]]
        picture = picture_address(draw_outlines(self.image, self.masks))
        return render_table(rows, title=self.id, picture=picture, alt=f"image of {self.id}")


def check_image(image: Any, field: str = "image") -> None:
    """Raise `RecordingError` unless `image` is a non-empty real array `[H, W]`."""
    _check_axes(image, "[H, W]", field)
    if image.size == 0:
        raise RecordingError(field, f"has no pixels: shape {list(image.shape)}")
    if image.dtype.kind not in "biuf":
        raise RecordingError(field, f"must hold real numbers, got dtype {image.dtype}")


def list_images(image: Any) -> list[np.ndarray]:
    """Return one image, or a list of images of one field, as a list of arrays.

    Raises `RecordingError` if they differ in shape.
    """
    several = isinstance(image, list | tuple) and bool(image) and np.ndim(image[0]) == 2
    images = [np.asarray(one) for one in (image if several else [image])]
    if len({one.shape for one in images}) > 1:
        shapes = ", ".join(" x ".join(map(str, one.shape)) for one in images)
        raise RecordingError("image", f"images of one field must be of one shape, got {shapes} px")
    return images


def check_masks(masks: Any, image_shape: Sequence[int], field: str = "masks") -> None:
    """Raise `RecordingError` unless `masks` is a bool array `[N, H, W]` that fits the image."""
    _check_axes(masks, "[N, H, W]", field)
    if masks.shape[1:] != tuple(image_shape):
        reason = f"are {list(masks.shape[1:])} pixels, the image is {list(image_shape)}"
        raise RecordingError(field, reason)
    if masks.dtype != np.bool_:
        raise RecordingError(field, f"must be bool, got dtype {masks.dtype}")


def _check_axes(array: Any, axes: str, field: str) -> None:
    count = len(axes.split())
    if not isinstance(array, np.ndarray) or array.ndim != count:
        shape = getattr(array, "shape", None)
        what = f"shape {list(shape)}" if shape is not None else type(array).__name__
        raise RecordingError(field, f"must be a {count}-D array {axes}, got {what}")


def annotated_masks(recording: Recording) -> np.ndarray:
    """Return the masks `[N, H, W]` bool of a recording; raises `RecordingError` if it has none."""
    if recording.masks is None:
        raise RecordingError("masks", f"{recording.id} is not annotated: there are no ROIs")
    return recording.masks


def group_of(metadata: Mapping[str, Any], fallback: str) -> str:
    """Group of a recording: the first of `GROUP_KEYS` that its metadata holds, else `fallback`."""
    for key in GROUP_KEYS:
        value = metadata.get(key)
        if value is not None and str(value).strip():
            return f"{key}={str(value).strip()}"
    return fallback


def pixel_size(metadata: Mapping[str, Any]) -> float | None:
    """Size of the (square) pixels, um: the field `um_per_px`; None if unknown or not plausible."""
    value = metadata.get("um_per_px")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 < value < math.inf else None


def outline_masks(masks: np.ndarray) -> np.ndarray:
    """Mark the border pixels of the masks `[N, H, W]` bool, as `[H, W]` bool.

    One of the four neighbours of such a pixel is outside of its ROI; so is what lies outside of the
    image.
    """
    outlines = np.zeros(masks.shape[1:], bool)
    # Of each ROI where it is alone: whole fields of hundreds of ROIs would take seconds.
    for top, left, mask in cut_patches(masks):
        padded = np.pad(mask, 1)
        inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        outlines[top : top + mask.shape[0], left : left + mask.shape[1]] |= mask & ~inner
    return outlines


def draw_outlines(image: np.ndarray, masks: np.ndarray | None) -> np.ndarray:
    """Draw the outlines of ROIs `[N, H, W]` bool over an image `[H, W]`, as `[H, W, 3]` uint8.

    The image is shown from its 1st to its 99.5th percentile.
    """
    picture = np.repeat(to_uint8(normalize_image(image))[..., None], 3, axis=-1)
    if masks is not None and len(masks):
        picture[outline_masks(masks)] = YELLOW
    return picture


class Source(Protocol):
    """A set of recordings that can be read one at a time, in any process (it is pickled)."""

    def keys(self) -> list[str]:
        """Return the sorted names of all recordings."""

    def read(self, key: str) -> Recording:
        """Read one recording; raises `RecordingError` if it is unusable."""

    def stamp(self, key: str) -> str:
        """Return a text that differs when the content behind `key` may differ."""

    def describe(self) -> dict[str, Any]:
        """Return plain values that identify the source."""
