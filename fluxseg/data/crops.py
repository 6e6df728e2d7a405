"""Crops of recordings as arrays and as bytes."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fluxseg.config import DataConfig
from fluxseg.data.tiles import crop_grid, grid_ownership
from fluxseg.data.touching import NEURON, TOUCHING
from fluxseg.data.transforms import dequantize, normalize_image, quantize

CROP_VERSION = 1
"""Raised whenever the same recording gives other crops, so that caches are made again."""
TOUCHING_VERSION = 1
"""The same for the third class."""


def crop_settings(config: DataConfig) -> dict[str, Any]:
    """Return everything in the config that the content of the crops depends on."""
    settings: dict[str, Any] = {
        "version": CROP_VERSION,
        "tile": config.tile,
        "low_percentile": config.low_percentile,
        "high_percentile": config.high_percentile,
    }
    # Only where it is on, so that crops of two classes need not be made again.
    return settings | {"touching": TOUCHING_VERSION} if config.touching else settings


def create_crops(
    image: np.ndarray, label: np.ndarray, settings: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut an image and its semantic mask into normalised crops.

    Args:
        image: `[H, W]`, any real dtype.
        label: `[H, W]` bool, see `merge_masks`, or uint8, see `touching_label`.
        settings: from `crop_settings`.

    Returns:
        image `[T, t, t]` uint16 (see `quantize`), label `[T, t, t]` of the dtype it had, valid
        `[T, t, t]` bool: the pixels that this crop owns (see `grid_ownership`) and that are finite.
    """
    tile = settings["tile"]
    valid = grid_ownership((image.shape[0], image.shape[1]), tile)
    if image.dtype.kind == "f":
        valid &= crop_grid(np.isfinite(image), tile, "constant")
    normalized = normalize_image(image, settings["low_percentile"], settings["high_percentile"])
    return (
        crop_grid(quantize(normalized), tile),
        crop_grid(label, tile, "constant"),
        valid,
    )


def encode_crop(image: np.ndarray, label: np.ndarray, valid: np.ndarray) -> bytes:
    """Pack one crop `[t, t]` (uint16, bool, bool) into 2.25 bytes a pixel.

    A label of uint8 (see `touching_label`) takes an eighth of a byte more.
    """
    planes = [label, valid]
    if label.dtype != np.bool_:
        planes = [label & NEURON, valid, label & TOUCHING]
    little = image.astype("<u2", copy=False)
    return little.tobytes() + b"".join(np.packbits(plane).tobytes() for plane in planes)


def decode_crop(record: bytes, tile: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unpack what `encode_crop` packed.

    Returns:
        image `[t, t]` float32 (normalised), label `[t, t]` uint8 (0 and 1, or the bits of
        `touching_label`), valid `[t, t]` uint8.
    """
    pixels = tile * tile
    packed = -(-pixels // 8)
    image = np.frombuffer(record, "<u2", pixels).reshape(tile, tile)
    bits = np.frombuffer(record, np.uint8, offset=2 * pixels).reshape(-1, packed)
    planes = np.unpackbits(bits, axis=1, count=pixels).reshape(-1, tile, tile)
    label, valid = planes[:2]
    if len(planes) > 2:
        label = label * np.uint8(NEURON) + planes[2] * np.uint8(TOUCHING)
    return dequantize(image), label, valid
