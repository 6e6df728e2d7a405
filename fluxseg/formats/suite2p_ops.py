"""The dict `ops` of Suite2p: the images of a plane, and what was set when it was processed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fluxseg.data.recording import Recording, pixel_size
from fluxseg.errors import RecordingError
from fluxseg.formats.finite import fill_outside, finite_image, pack_outside
from fluxseg.formats.metadata import clean_metadata, describe_origin, read_metadata, without_quality
from fluxseg.formats.npy import file_error, read_pickled_dict
from fluxseg.formats.suite2p_stat import usual_diameter
from fluxseg.formats.tiff import MAX_PIXELS

EXTRA = "fluxseg"  # key of `ops` with what Suite2p has no place for
# Suite2p 1.0 can leave ops.npy out, and then has its content in these, later ones first.
OPS_PARTS = ("detect_outputs", "reg_outputs", "settings", "db")
_IMAGES = ("max_proj", "meanImg", "meanImgE")


def read_ops_image(ops: Mapping[str, Any]) -> np.ndarray:
    """Return the maximum projection, or the mean image, `[H, W]` in the frame of the whole field.

    What registration cropped away of the projection is NaN.
    """
    shape = field_shape(ops)
    if shape[0] * shape[1] > MAX_PIXELS:
        raise RecordingError("Ly, Lx", f"are {shape[0]} x {shape[1]}, more than {MAX_PIXELS} px")
    for name in _IMAGES:
        image = ops.get(name)
        if not isinstance(image, np.ndarray) or image.ndim != 2 or image.dtype.kind not in "biuf":
            continue
        image = np.ascontiguousarray(image, image.dtype.newbyteorder("="))
        if image.shape == shape:
            return fill_outside(image, read_extra(ops).get("outside"))
        if name == "max_proj":
            return fill_outside(_place(image, ops, shape), read_extra(ops).get("outside"))
    raise RecordingError(_IMAGES[0], f"there is no image of {shape[0]} x {shape[1]} px")


def field_shape(ops: Mapping[str, Any]) -> tuple[int, int]:
    """Return height and width of the field, px."""
    for name in ("Ly", "Lx"):
        value = ops.get(name)
        if not isinstance(value, int | np.integer) or not 1 <= value <= 2**15:
            raise RecordingError(name, f"must be a number of pixels, got {value!r:.60}")
    return int(ops["Ly"]), int(ops["Lx"])


def _place(image: np.ndarray, ops: Mapping[str, Any], shape: tuple[int, ...]) -> np.ndarray:
    """Put a cropped projection back into the field; NaN is outside."""
    ranges = []
    for name, side, length in zip(("yrange", "xrange"), image.shape, shape, strict=True):
        found = np.asarray(ops.get(name, ())).ravel()
        bounds = [int(v) for v in found] if found.dtype.kind in "iuf" and len(found) == 2 else []
        if not bounds or not 0 <= bounds[0] <= bounds[1] <= length or bounds[1] - bounds[0] != side:
            raise RecordingError(name, f"does not say where the {side} px of max_proj lie")
        ranges.append(slice(*bounds))
    narrow = image.dtype.kind == "b" or image.dtype.itemsize <= 2
    kind = image.dtype if image.dtype.kind == "f" else np.float32 if narrow else np.float64
    field = np.full(shape, np.nan, kind)
    field[tuple(ranges)] = image
    return field


def read_ops(folder: Path) -> dict[str, Any]:
    """Read `ops.npy` of a plane.

    Suite2p 1.0 can leave it out: its content is then in `db.npy`, `settings.npy`, `reg_outputs.npy`
    and `detect_outputs.npy`.
    """
    if (folder / "ops.npy").exists():
        return read_pickled_dict(folder / "ops.npy")
    parts = [folder / f"{name}.npy" for name in reversed(OPS_PARTS)]
    if not any(part.exists() for part in parts):
        reason = "is a Suite2p folder without ops.npy, which holds its image: copy it there"
        raise file_error(folder, reason)
    return {k: v for part in parts if part.exists() for k, v in read_pickled_dict(part).items()}


def read_extra(ops: Mapping[str, Any]) -> dict[str, Any]:
    """Return what fluxseg wrote into `ops`; empty if it did not."""
    found = ops.get(EXTRA)
    return found if isinstance(found, dict) else {}


def read_ops_metadata(ops: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata that fluxseg wrote, and `um_per_px` by either of its names."""
    metadata = read_metadata(read_extra(ops))
    told = (clean_metadata({"um_per_px": ops.get(key)}) for key in ("um_per_px", "umPerPix"))
    if scale := next(filter(None, map(pixel_size, told)), None):
        metadata["um_per_px"] = scale
    return metadata


def create_ops(recording: Recording, frames: int = 1) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Create the dict for a recording, and remarks on what was changed.

    `meanImg` and `max_proj` are both the recording's image, the second cropped to `yrange` and
    `xrange`, the frame of what is finite. `Vcorr`, which only the movie tells, is 0.
    """
    image, changes = finite_image(recording.image)
    finite = np.isfinite(recording.image)
    inside = [np.flatnonzero(finite.any(axis)).tolist() or [0, side - 1]
              for axis, side in zip((1, 0), image.shape, strict=True)]  # fmt: skip
    rows, columns = ([places[0], places[-1] + 1] for places in inside)
    low, high = np.percentile(image, (1, 99))
    cropped = image[slice(*rows), slice(*columns)]
    masks = recording.masks if recording.masks is not None else np.zeros((0, 1, 1), bool)
    diameter = usual_diameter(masks[masks.any(axis=(1, 2))])
    scale = pixel_size(recording.metadata)
    ops = {
        "Ly": image.shape[0],
        "Lx": image.shape[1],
        "yrange": rows,
        "xrange": columns,
        "meanImg": image.astype(np.float32),
        "meanImgE": np.clip((image - low) / max(high - low, 1e-6), 0, 1).astype(np.float32),
        "max_proj": cropped,
        "Vcorr": np.zeros(cropped.shape, np.float32),
        "nframes": frames,
        "nplanes": 1,
        "nchannels": 1,
        "functional_chan": 1,
        "fs": 30.0,
        "tau": 1.0,
        "diameter": [diameter, diameter],
        "aspect": 1.0,
        "badframes": np.zeros(frames, bool),
        "xoff": np.zeros(frames, np.int32),
        "yoff": np.zeros(frames, np.int32),
        "neucoeff": 0.7,
        "save_path": "",
        **({} if scale is None else {"um_per_px": scale}),
        EXTRA: {
            **describe_origin(recording),
            "metadata": without_quality(recording.metadata),
            "outside": pack_outside(recording.image),
        },
    }
    return ops, changes
