"""Recordings as plain image and mask files, the way the reference protocol stores them."""

import functools
import logging
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from fluxseg.config import DataConfig
from fluxseg.data.parallel import map_in_processes
from fluxseg.data.recording import Source
from fluxseg.data.transforms import crop_quarters, merge_masks, normalize_image, to_uint8
from fluxseg.errors import RecordingError
from fluxseg.io.files import atomic_path
from fluxseg.io.names import distinct_name, safe_name

ImageFormat = Literal["png", "jpg"]
JPEG_QUALITY = 95
_KEPT = "kept"  # what becomes of a recording whose files are there

logger = logging.getLogger(__name__)


def write_gray_image(path: Path, image: np.ndarray, image_format: ImageFormat) -> None:
    """Write a `[H, W]` uint8 image as PNG, or as JPEG of quality 95, whole or not at all."""
    from PIL import Image

    form, options = ("PNG", {}) if image_format == "png" else ("JPEG", {"quality": JPEG_QUALITY})
    with atomic_path(path) as temporary:
        Image.fromarray(image).save(temporary, form, **options)


def export_images(
    source: Source,
    output: Path,
    data: DataConfig,
    image_format: ImageFormat = "png",
    mask_format: ImageFormat = "png",
    *,
    quarters: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[int, tuple[tuple[str, str], ...]]:
    """Write every recording as `images/NAME.EXT` and its merged mask as `masks/NAME.EXT`.

    Images are normalised to 8 bits by the percentiles of `data`; masks are 0 and 255. Files that
    exist already are not written again. JPEG blurs the edges of masks and exists only to reproduce
    protocols that did so. `quarters` writes the four quarters of each, as `NAME_0` to `NAME_3`.
    `progress` is called with (recordings done, recordings in all). Returns the number of recordings
    written, and (key, reason) of those left out.
    """
    taken: set[str] = set()
    items = [(key, distinct_name(_flat_name(key), taken)) for key in source.keys()]  # noqa: SIM118
    forms = (image_format, mask_format)
    export = functools.partial(_export_one, source, output, data, forms, quarters)
    left_out, kept = [], 0
    for number, ((key, _), why) in enumerate(map_in_processes(export, items, data.workers), 1):
        kept += why == _KEPT
        if why not in ("", _KEPT):
            left_out.append((key, why))
        if progress:
            progress(number, len(items))
    if kept:
        text = "%d recordings are in %s already: kept as they are; delete them to write them anew"
        logger.warning(text, kept, output)
    return len(items) - len(left_out), tuple(left_out)


def _flat_name(key: str) -> str:
    # The folders of a key become part of the name.
    folder, slash, name = key.rpartition("/")
    return safe_name((folder + slash + PurePosixPath(name).stem).replace("/", "__"))


def _export_one(
    source: Source,
    output: Path,
    data: DataConfig,
    forms: tuple[ImageFormat, ImageFormat],
    quarters: bool,
    item: tuple[str, str],
) -> str:
    """Write one recording; return why it is left out, if it is, or `_KEPT`."""
    key, name = item
    names = [f"{name}_{number}" for number in range(4)] if quarters else [name]
    image_paths = [output / "images" / f"{name}.{forms[0]}" for name in names]
    mask_paths = [output / "masks" / f"{name}.{forms[1]}" for name in names]
    if all(path.exists() for path in (*image_paths, *mask_paths)):
        return _KEPT
    try:
        recording = source.read(key)
    except RecordingError as error:
        return str(error)
    if recording.masks is None:
        return "not annotated: it has no masks"
    image = to_uint8(normalize_image(recording.image, data.low_percentile, data.high_percentile))
    mask = merge_masks(recording.masks).astype(np.uint8) * np.uint8(255)
    if quarters and (image.shape[0] % 2 or image.shape[1] % 2):
        return f"cannot be cut into quarters: {image.shape[0]} x {image.shape[1]} px"
    for whole, paths, form in zip((image, mask), (image_paths, mask_paths), forms, strict=True):
        for path, part in zip(paths, crop_quarters(whole) if quarters else [whole], strict=True):
            write_gray_image(path, part, form)
    return ""
