"""Recordings as plain image and mask files, the way the reference protocol stores them."""

import dataclasses
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from fluxseg.config import DataConfig
from fluxseg.data.parallel import map_in_processes
from fluxseg.data.recording import Source
from fluxseg.data.transforms import crop_quarters, merge_masks, normalize_image
from fluxseg.errors import RecordingError
from fluxseg.io.files import atomic_path
from fluxseg.io.names import distinct_name, safe_name

ImageFormat = Literal["png", "jpg"]
JPEG_QUALITY = 95


@dataclasses.dataclass(frozen=True)
class _ExportTask:
    source: Source
    key: str
    name: str
    output: str
    data: DataConfig
    image_format: ImageFormat
    mask_format: ImageFormat
    quarters: bool


def to_uint8(normalized: np.ndarray) -> np.ndarray:
    """Map a normalised image to 8 bits: 0 to 0, 1 to 255, clipped (nothing wraps around)."""
    return np.rint(np.clip(normalized, 0, 1) * 255).astype(np.uint8)


def write_gray_image(path: Path, image: np.ndarray, image_format: ImageFormat) -> None:
    """Write a `[H, W]` uint8 image as PNG, or as JPEG of quality 95, whole or not at all."""
    from PIL import Image

    with atomic_path(path) as temporary:
        if image_format == "png":
            Image.fromarray(image).save(temporary, format="PNG")
        else:
            Image.fromarray(image).save(temporary, format="JPEG", quality=JPEG_QUALITY)


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
    exist already are not written again.

    Args:
        source: where the recordings come from.
        output: folder to write to.
        data: percentiles and number of processes.
        image_format: format of the images.
        mask_format: format of the masks; JPEG blurs their edges and exists only to reproduce
            protocols that did so.
        quarters: write the four quarters of each, as `NAME_0` to `NAME_3`.
        progress: called with (recordings done, recordings in all).

    Returns:
        Number of recordings written, and (key, reason) of those left out.

    Raises:
        WorkdirError: if the folder cannot be written.
    """
    keys = source.keys()
    taken: set[str] = set()
    tasks = [
        _ExportTask(source, key, name, str(output), data, image_format, mask_format, quarters)
        for key in keys
        for name in [distinct_name(_flat_name(key), taken)]
    ]
    left_out = []
    for number, (task, reason) in enumerate(map_in_processes(_export_one, tasks, data.workers), 1):
        if reason:
            left_out.append((task.key, reason))
        if progress:
            progress(number, len(keys))
    return len(keys) - len(left_out), tuple(left_out)


def _flat_name(key: str) -> str:
    # The folders of a key become part of the name.
    folder, slash, name = key.rpartition("/")
    return safe_name((folder + slash + PurePosixPath(name).stem).replace("/", "__"))


def _export_one(task: _ExportTask) -> str:
    name = task.name
    count = 4 if task.quarters else 1
    suffixes = [f"_{i}" for i in range(4)] if task.quarters else [""]
    targets = [
        (
            Path(task.output, "images", f"{name}{suffix}.{task.image_format}"),
            Path(task.output, "masks", f"{name}{suffix}.{task.mask_format}"),
        )
        for suffix in suffixes
    ]
    if all(path.exists() for pair in targets for path in pair):
        return ""
    try:
        recording = task.source.read(task.key)
    except RecordingError as error:
        return str(error)
    if recording.masks is None:
        return "not annotated: it has no masks"
    low, high = task.data.low_percentile, task.data.high_percentile
    image = to_uint8(normalize_image(recording.image, low, high))
    mask = merge_masks(recording.masks).astype(np.uint8) * np.uint8(255)
    if task.quarters and (image.shape[0] % 2 or image.shape[1] % 2):
        return f"cannot be cut into quarters: {image.shape[0]} x {image.shape[1]} px"
    images = crop_quarters(image) if count == 4 else image[None]
    masks = crop_quarters(mask) if count == 4 else mask[None]
    for (image_path, mask_path), image_part, mask_part in zip(targets, images, masks, strict=True):
        write_gray_image(image_path, image_part, task.image_format)
        write_gray_image(mask_path, mask_part, task.mask_format)
    return ""
