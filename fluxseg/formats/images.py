"""Recordings as image files, with the masks in other images, or none.

`fluxseg.formats.pairs` tells which file holds the masks of which image. A mask image is a label
image: 0 is background, k marks ROI k. One with exactly two values, 0 and another, is a mask of all
ROIs, of which each connected component (corners connect) is one ROI; `_labels` and `_label` are
never taken apart like this. A JPEG mask, and one with smooth edges between 0 and 255, is cut at
half of its largest value first.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fluxseg.data.label_checks import equal_neighbours, looks_like_labels
from fluxseg.data.recording import Recording, check_image
from fluxseg.errors import RecordingError
from fluxseg.formats.imagej import read_overlay
from fluxseg.formats.label_names import stem_of
from fluxseg.formats.labels import PICTURE, SMOOTH, NamedMasks, label_components, masks_from_labels
from fluxseg.formats.metadata import create_recording
from fluxseg.formats.npy import naming_file
from fluxseg.formats.pairs import find_labels
from fluxseg.formats.pick import NO_PICK, Pick
from fluxseg.formats.pixels import read_pixels


def read_image(path: Path, labels: Sequence[Path] | None = None, pick: Pick = NO_PICK) -> Recording:
    """Read a recording from an image file and the mask files that belong to it, if there are any.

    `labels` are a label image, or several of one ROI each; None looks for them (`find_labels`).
    Without any, ROIs that ImageJ has saved inside of the image count, else `masks` is None.
    `metadata` holds `um_per_px` if a TIFF file says so.
    """
    with naming_file(path):
        labels = find_labels(path) if labels is None else labels
        image, facts = read_pixels(path, pick=pick)
        check_image(image)
    remarks = list(facts.pop("remarks", ()))
    kind = facts.pop("format")
    if kind == "JPEG":
        remarks.append("the image is a JPEG file: its values are not exact")
    masks: np.ndarray | None = None
    roi_ids: tuple[str, ...] = ()
    if len(labels) == 1:
        masks, roi_ids = _read_masks(labels[0], image, remarks)
    elif labels:
        values = [_read_labels(one, image.shape)[0] for one in labels]
        parts = [one > one.max() / 2 if one.any() else one != 0 for one in values]
        masks, roi_ids = np.stack(parts), tuple(stem_of(one) for one in labels)
        remarks.append(f"{len(labels)} mask files are taken for one ROI each")
    elif kind == "TIFF":
        inside, names = read_overlay(path, image.shape)
        if len(inside):
            masks, roi_ids = inside, names
            remarks.append("the ROIs are those that ImageJ has saved inside of the image")
    return create_recording({}, stem_of(path), image, masks, roi_ids, facts, remarks)


def _read_labels(path: Path, image_shape: tuple[int, int]) -> tuple[np.ndarray, Any]:
    labels, facts = read_pixels(path, labels=True)
    with naming_file(path):
        if labels.shape != image_shape:
            turned = "; they seem to be transposed" if labels.shape == image_shape[::-1] else ""
            size = f"are {list(labels.shape)} px, the image is {list(image_shape)}{turned}"
            raise RecordingError("masks", size)
    return labels, facts["format"]


def _read_masks(path: Path, image: np.ndarray, remarks: list[str]) -> NamedMasks:
    labels, kind = _read_labels(path, image.shape)
    with naming_file(path):
        if labels.dtype.kind == "f" and not np.isfinite(labels).all():
            raise RecordingError("masks", "hold NaN or infinity; 0 must stand for outside")
        if kind == "JPEG" or _is_smooth(labels):
            what = "are a JPEG file" if kind == "JPEG" else "have smooth edges"
            labels = labels > labels.max() / 2
            remarks.append(f"the masks {what}: cut at half of the largest value")
        elif equal_neighbours(labels) < 1 - SMOOTH:
            hint = "each ROI must have one number, and 0 is outside"
            hint = "image and labels seem to be swapped" if looks_like_labels(image) else hint
            raise RecordingError("masks", f"{PICTURE}; {hint}")
        binary = labels.any() and not labels.all() and np.isin(labels, (0, labels.max())).all()
        if binary and not path.stem.lower().endswith(("_labels", "_label")):
            labels = label_components(labels != 0)
        return masks_from_labels(labels)


def _is_smooth(labels: np.ndarray) -> bool:
    """Tell whether labels are a mask whose edges were drawn smoothly, from 0 to the largest."""
    outside = np.count_nonzero(labels == 0)
    inside = np.count_nonzero(labels >= 0.95 * labels.max())
    most = 5 * inside > labels.size - outside and 2 * outside > labels.size
    return bool(most and equal_neighbours(labels) < 1 - SMOOTH)
