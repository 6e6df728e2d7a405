"""The files `NAME_seg.npy` of Cellpose's GUI.

They hold the ROIs as a label image, in which these cannot overlap; `fluxseg.formats.labels` has the
rule by which a pixel goes to one of several ROIs. The dict follows `cellpose.io.masks_flows_to_seg`
of Cellpose 4.2; what it has no place for (ids, group, metadata) is kept under a key of its own,
which Cellpose ignores, and drops when its GUI saves.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fluxseg.data.recording import Recording, annotated_masks, check_image
from fluxseg.errors import RecordingError, WorkdirError
from fluxseg.formats.finite import fill_outside, pack_outside, write_image
from fluxseg.formats.label_names import SEG_ENDING, is_image_name, stem_of
from fluxseg.formats.labels import label_image, masks_from_labels
from fluxseg.formats.metadata import create_recording, describe_origin, read_metadata
from fluxseg.formats.npy import naming_file, read_pickled_dict
from fluxseg.formats.pick import NO_PICK, Pick
from fluxseg.formats.pixels import one_channel, read_pixels
from fluxseg.io.files import atomic_path

EXTRA = "fluxseg"  # key of the dict with what Cellpose has no place for
# What the GUI itself puts in place of flows that are not there.
_NO_FLOWS: list[Any] = [[], [], [], [], [[]]]


def read_cellpose(path: Path, image: Path | None = None, pick: Pick = NO_PICK) -> Recording:
    """Read a recording from a `NAME_seg.npy` of Cellpose.

    Without an `image` file, the file name that it tells is looked for beside it, then `NAME.tif`
    and the other known endings, then the image in older files themselves. ROIs have their labels as
    ids, unless fluxseg wrote the file.
    """
    values = read_pickled_dict(path)
    facts: dict[str, Any] = {}
    with naming_file(path):
        labels = _read_labels(values)
        masks, names = masks_from_labels(labels)
        found = image or find_cellpose_image(path, values)
        if found is None:
            pixels = _read_inner_image(values, pick.channel)
        else:
            pixels, facts = read_pixels(found, pick=pick)
        check_image(pixels)
        if pixels.shape != labels.shape:
            reason = f"are {list(labels.shape)} px, the image is {list(pixels.shape)}"
            raise RecordingError("masks", reason)
    extra = values.get(EXTRA)
    extra = extra if isinstance(extra, dict) else {}
    ids = extra.get("roi_ids")
    if isinstance(ids, list) and len(ids) == len(names) and all(isinstance(i, str) for i in ids):
        names = tuple(ids)
    metadata = read_metadata(extra)
    if "um_per_px" in facts:
        metadata.setdefault("um_per_px", facts["um_per_px"])
    name = path.name.removesuffix(SEG_ENDING) or path.stem
    pixels = fill_outside(pixels, extra.get("outside"))
    return create_recording(extra, name, pixels, masks, names, metadata)


def write_cellpose(path: Path, recording: Recording) -> tuple[str, ...]:
    """Write a recording as `NAME_seg.npy`, with its image as `NAME.tif` beside it.

    Cellpose's GUI opens the file, and needs the image to save its own changes. `WorkdirError` also
    if the file is not named so, or `NAME.tif` holds another image, which is left as it is.
    """
    masks = annotated_masks(recording)
    name = path.name.removesuffix(SEG_ENDING)
    if not path.name.endswith(SEG_ENDING) or not name:
        raise WorkdirError(f"{path}: Cellpose knows these files by names as NAME{SEG_ENDING}")
    labels, remarks = label_image(masks, recording.roi_ids)
    labels, kept = close_gaps(labels)
    changes = write_image(path.with_name(f"{name}.tif"), recording, once=True)
    areas = np.bincount(labels.ravel())[1:]
    values: dict[str, Any] = {
        "outlines": outline_labels(labels),
        "masks": labels,
        "chan_choose": [0, 0],
        "ismanual": np.zeros(len(kept), bool),
        "filename": f"{name}.tif",
        "flows": _NO_FLOWS,
        # That of the disc with as many pixels as the median ROI, as Cellpose measures it.
        "diameter": float(2 * np.median(areas / np.pi) ** 0.5) if len(areas) else float("nan"),
        EXTRA: {
            **describe_origin(recording),
            "roi_ids": [recording.roi_ids[label - 1] for label in kept],
            "outside": pack_outside(recording.image),
        },
    }
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, np.array(values, dtype=object), allow_pickle=True)
    return (*remarks, *changes)


def find_cellpose_image(path: Path, values: Mapping[str, Any]) -> Path | None:
    """Return the image that a `NAME_seg.npy` belongs to, in the same folder; None if not there.

    Of the file name in its content (`values`) only the last part counts.
    """
    told = values.get("filename")
    name = re.split(r"[\\/]", told)[-1] if isinstance(told, str) else ""
    names = [name] if is_image_name(Path(name)) and "\0" not in name else []
    beside = [p for p in sorted(path.parent.iterdir()) if is_image_name(p)]
    beside = [p for p in beside if stem_of(p) == stem_of(path)]
    return next((p for p in (*map(path.with_name, names), *beside) if p.is_file()), None)


def outline_labels(labels: np.ndarray) -> np.ndarray:
    """Keep of each ROI of a label image `[H, W]` the pixels at its outer border, else 0.

    As Cellpose's `masks_to_outlines`: the pixels of which one of the four neighbours is outside of
    the ROI and not in a hole of it, as the outer contours of OpenCV's `findContours` run.
    """
    from scipy import ndimage  # slow to import

    outlines = np.zeros_like(labels)
    for label, box in enumerate(ndimage.find_objects(labels), 1):
        if box is not None:
            mask = labels[box] == label
            inner = ndimage.binary_erosion(ndimage.binary_fill_holes(mask))
            outlines[box][mask & ~inner] = label
    return outlines


def close_gaps(labels: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Close gaps in the labels, as Cellpose would; return the labels that were there too."""
    found, places = np.unique(np.append(labels, 0), return_inverse=True)
    return places[:-1].reshape(labels.shape).astype(labels.dtype), found[1:].tolist()


def _read_labels(values: Mapping[str, Any]) -> np.ndarray:
    labels = values.get("masks")
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "biuf":
        raise RecordingError("masks", "must be a label image [H, W]; is this a Cellpose file?")
    if labels.ndim == 3 and labels.shape[0] == 1:
        labels = labels[0]
    if labels.ndim != 2 or not labels.size:
        raise RecordingError("masks", f"must be one plane [H, W], got {list(labels.shape)}")
    # Old versions counted from -1.
    return labels + 1 if labels.dtype.kind == "i" and labels.min() == -1 else labels


def _read_inner_image(values: Mapping[str, Any], channel: str) -> np.ndarray:
    image = values.get("img")
    if not isinstance(image, np.ndarray) or image.dtype.kind not in "biuf":
        raise RecordingError("image", "is not there; put NAME.tif beside NAME_seg.npy, or name it")
    if image.ndim == 3 and image.size:
        image = one_channel(np.moveaxis(image, np.argmin(image.shape), -1), (), channel)
    return np.ascontiguousarray(image, image.dtype.newbyteorder("="))
