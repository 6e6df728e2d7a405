"""Recordings as image files, with the masks in a second image beside them, or none.

The masks of `NAME.EXT` are in `NAME_masks`, `NAME_mask`, `NAME_labels` or `NAME_label` in the
same folder, or in `masks/NAME` beside a folder `images`; any of the endings may differ from EXT.
A mask image is a label image: 0 is background, k marks ROI k. One with exactly two values, 0 and
another, is a mask of all ROIs, of which each connected component (corners connect) is one ROI;
`_labels` and `_label` are never taken apart like this. A JPEG mask is cut at half of its largest
value first, since JPEG blurs.
"""

from pathlib import Path
from typing import Any

import numpy as np

from fluxseg.data.recording import NO_GROUP, Recording, check_image
from fluxseg.errors import RecordingError
from fluxseg.formats.labels import label_components, masks_from_labels
from fluxseg.formats.npy import naming_file
from fluxseg.formats.pick import NO_PICK, Pick
from fluxseg.formats.pixels import read_pixels

SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp", ".gif", ".lsm", ".btf")
"""Endings of image files, in lower case; upper case is known as well."""
MASK_ENDINGS = ("_masks", "_mask", "_labels", "_label")
"""What follows the name of an image in the name of its masks."""


def read_image(path: Path | str, pick: Pick = NO_PICK) -> Recording:
    """Read a recording from an image file and the mask file that belongs to it, if there is one.

    Args:
        path: image file; see the docstring of this module for the masks.
        pick: which channel and plane of the image, if there are several.

    Returns:
        The recording; `masks` is None without a mask file, and `metadata` holds `um_per_px` if
        a TIFF file says so.

    Raises:
        RecordingError: naming the file, if one of the two cannot be used, there are several mask
            files, or the path is a mask file itself.
    """
    path = Path(path)
    if is_mask_name(path) and find_image(path) is None:
        raise RecordingError(str(path), "is named as a mask, but its image is not there")
    image, facts = read_pixels(path, pick=pick)
    remarks = [NO_GROUP, *facts.pop("remarks", ())]
    if facts.pop("format") == "JPEG":
        remarks.append("the image is a JPEG file: its values are not exact")
    masks: np.ndarray | None = None
    roi_ids: tuple[str, ...] = ()
    with naming_file(path):
        check_image(image)
        mask_path = find_mask(path)
    if mask_path is not None:
        masks, roi_ids = _read_masks(mask_path, image.shape, remarks)
    return Recording(
        id=path.stem,
        image=image,
        masks=masks,
        roi_ids=roi_ids,
        metadata=facts,
        remarks=tuple(remarks),
    )


def is_mask_name(path: Path) -> bool:
    """Tell whether a file is named as the masks of an image: by its ending or by its folder."""
    named = path.suffix.lower() in SUFFIXES and path.stem.endswith(MASK_ENDINGS)
    return named or (path.parent.name == "masks" and path.parent.with_name("images").is_dir())


def find_image(path: Path) -> Path | None:
    """Return the image that a file named as masks belongs to, or None if it is not there."""
    stems = [path.stem.removesuffix(e) for e in MASK_ENDINGS if path.stem.endswith(e)]
    found = [other for stem in stems for other in existing_images(path.parent, stem)]
    if path.parent.name == "masks":
        found += existing_images(path.parent.with_name("images"), path.stem)
    return found[0] if found else None


def find_mask(path: Path) -> Path | None:
    """Return the mask file of an image, or None if there is none.

    Raises:
        RecordingError: if there are several, naming them.
    """
    found = [m for ending in MASK_ENDINGS for m in existing_images(path.parent, path.stem + ending)]
    if path.parent.name == "images":
        found += existing_images(path.parent.with_name("masks"), path.stem)
    if len(found) > 1:
        names = ", ".join(mask.name for mask in found)
        raise RecordingError("masks", f"several mask files are beside it: {names}; keep one")
    return found[0] if found else None


def existing_images(folder: Path, stem: str) -> list[Path]:
    """Return the image files of a name in a folder, whatever their ending, each once."""
    endings = [case for suffix in SUFFIXES for case in (suffix, suffix.upper())]
    found = [path for ending in endings if (path := folder / f"{stem}{ending}").is_file()]
    # Where file names do not know upper case, both spellings are the same file.
    return [
        path
        for index, path in enumerate(found)
        if not any(path.samefile(other) for other in found[:index])
    ]


def _read_masks(
    path: Path, image_shape: tuple[int, ...], remarks: list[str]
) -> tuple[np.ndarray, tuple[str, ...]]:
    labels, facts = read_pixels(path, labels=True)
    with naming_file(path):
        if labels.shape != image_shape:
            raise RecordingError(
                "masks", f"are {list(labels.shape)} px, the image is {list(image_shape)}"
            )
        if facts["format"] == "JPEG":
            labels = labels > labels.max() / 2
            remarks.append("the masks are a JPEG file: cut at half of the largest value")
        if _is_binary(labels) and not path.stem.endswith(("_labels", "_label")):
            labels = label_components(labels != 0)
        return masks_from_labels(labels)


def _is_binary(labels: np.ndarray) -> Any:
    top = labels.max()
    return top != 0 and ((labels == 0) | (labels == top)).all() and (labels == 0).any()
