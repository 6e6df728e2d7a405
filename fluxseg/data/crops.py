"""From a recording to its crops: label, resample, normalise, cut, and pack into bytes.

`create_crops` is what `prepare_cache` and so every training run calls. It cuts by
`fluxseg.data.tiles.crop_grid`; a recording of 512 x 512 px and a tile of 256 px give the four
quarters of `crop_quarters`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fluxseg.config import DataConfig
from fluxseg.data import resample
from fluxseg.data.tiles import crop_grid, grid_ownership
from fluxseg.data.transforms import dequantize, normalize_image, quantize

CROP_VERSION = 1  # raised whenever a recording gives other crops, so that caches are made again


def crop_settings(config: DataConfig) -> dict[str, Any]:
    """Return everything in the config that the content of the crops depends on."""
    settings: dict[str, Any] = {
        "version": CROP_VERSION,
        "tile": config.tile,
        "low_percentile": config.low_percentile,
        "high_percentile": config.high_percentile,
    }
    # Only where it is on, so that crops of recordings as they are stay valid.
    if config.diameter_px:
        settings["diameter_px"] = config.diameter_px
    return settings


def create_label(
    masks: np.ndarray, merged: np.ndarray, settings: Mapping[str, Any]
) -> tuple[np.ndarray, float, tuple[str, ...]]:
    """Label the pixels of a recording at the magnification of its crops.

    The magnification is the one that `fluxseg.inference.predict` chooses for cells as large as
    these, so that a network is trained on what it will be given. From masks `[N, H, W]` bool and
    the merged mask `[H, W]` bool it returns the label `[h, w]` bool, the magnification (1 where
    recordings are taken as they are), and remarks on why cells are not as large as wanted.
    """
    wanted: float = settings.get("diameter_px", 0.0)
    found = resample.median_diameter(masks) if wanted else None
    zoom = resample.choose_zoom(found, wanted) if found else 1.0
    remarks = _remark_zoom(found, wanted, zoom) if wanted else ()
    native = (merged.shape[0], merged.shape[1])
    shape = resample.zoomed_shape(native, zoom)
    if shape == native:
        return merged, zoom, remarks
    return resample.merge_patches(resample.resample_masks(masks, shape), shape), zoom, remarks


def _remark_zoom(found: float | None, wanted: float, zoom: float) -> tuple[str, ...]:
    if found is None:
        return ("not resampled, as no ROI tells the size of its cells",)
    if zoom not in (resample.MOST, 1 / resample.MOST):
        return ()
    text = f"its ROIs of {found:.3g} px become {zoom * found:.3g} px large, {wanted:g} are wanted"
    return (f"{text}: nothing is resampled more than {resample.MOST:g} times",)


def create_crops(
    image: np.ndarray, label: np.ndarray, settings: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut an image `[H, W]` of any real dtype and its label `[h, w]` bool into normalised crops.

    The image, once normalised, is resampled to the shape of the label, as in prediction. Returns
    image `[T, t, t]` uint16 (see `quantize`), label `[T, t, t]` bool, and valid `[T, t, t]` bool:
    the pixels that this crop owns (see `grid_ownership`) and that are finite.
    """
    tile, shape = settings["tile"], (label.shape[0], label.shape[1])
    valid = grid_ownership(shape, tile)
    if image.dtype.kind == "f":
        finite = np.isfinite(image)
        if image.shape != shape:
            finite = resample.resample_image(finite.astype(np.float32), shape) >= 0.5
        valid &= crop_grid(finite, tile, "constant")
    normalized = normalize_image(image, settings["low_percentile"], settings["high_percentile"])
    return (
        crop_grid(quantize(resample.resample_image(normalized, shape)), tile),
        crop_grid(label, tile, "constant"),
        valid,
    )


def encode_crop(image: np.ndarray, label: np.ndarray, valid: np.ndarray) -> bytes:
    """Pack one crop `[t, t]` (uint16, bool, bool) into 2.25 bytes a pixel."""
    little = image.astype("<u2", copy=False)
    return little.tobytes() + np.packbits(label).tobytes() + np.packbits(valid).tobytes()


def decode_crop(record: bytes, tile: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unpack what `encode_crop` packed.

    Returns image `[t, t]` float32 (normalised), label `[t, t]` uint8, valid `[t, t]` uint8.
    """
    pixels = tile * tile
    packed = -(-pixels // 8)
    image = np.frombuffer(record, "<u2", pixels).reshape(tile, tile)
    bits = np.frombuffer(record, np.uint8, offset=2 * pixels).reshape(-1, packed)
    label, valid = np.unpackbits(bits, axis=1, count=pixels).reshape(2, tile, tile)
    return dequantize(image), label, valid
