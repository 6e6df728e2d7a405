"""Neurofinder's regions, as bare JSON or as a dataset folder with images and `info.json`.

A region is `{"coordinates": [[row, column], ...]}`, a pixel each, as the example code of the
challenge takes them, though its README calls them x and y.
"""

from pathlib import Path
from typing import Any

import numpy as np

from fluxseg.data.recording import Recording, annotated_masks, pixel_size
from fluxseg.errors import RecordingError
from fluxseg.formats.finite import write_image
from fluxseg.formats.json_files import read_image_for, read_json_file
from fluxseg.formats.label_names import is_image_name
from fluxseg.formats.labels import NamedMasks, zero_masks
from fluxseg.formats.metadata import clean_metadata, create_recording, plain_text
from fluxseg.formats.npy import file_error, naming_file
from fluxseg.formats.pick import NO_PICK, Pick
from fluxseg.formats.pixels import read_pixels
from fluxseg.io.files import write_json

REGIONS = "regions/regions.json"
SCALE = "pixels-per-micron"


def is_neurofinder(path: Path) -> bool:
    """Tell whether a folder is a dataset of Neurofinder with regions."""
    return (path / REGIONS).is_file()


def read_neurofinder(path: Path, image: Path | None = None, pick: Pick = NO_PICK) -> Recording:
    """Read a dataset folder, or a JSON file of regions with its image.

    Without an `image` file it is the maximum over the frames in `images` of the folder, or the
    image named like the JSON file. Regions have their `id`, else their number from 0, as ids.
    """
    info: dict[str, Any] = {}
    if path.is_dir():
        regions_path = path / REGIONS
        if (path / "info.json").is_file():
            found = read_json_file(path / "info.json")
            info = found if isinstance(found, dict) else {}
        pixels = read_pixels(image, pick=pick)[0] if image else _project(path / "images")
    else:
        regions_path = path
        pixels, info = read_image_for(path, image, pick=pick)
    regions = read_json_file(regions_path)
    with naming_file(regions_path):
        masks, names = _read_regions(regions, pixels.shape)
    metadata = clean_metadata(info)
    per_um = info.get(SCALE)
    if isinstance(per_um, int | float) and not isinstance(per_um, bool) and 0 < per_um < 1e6:
        metadata["um_per_px"] = pixel_size(metadata) or 1 / per_um
    return create_recording(info, path.stem, pixels, masks, names, metadata)


def write_neurofinder(path: Path, recording: Recording) -> tuple[str, ...]:
    """Write a dataset folder, or `NAME.json` and `NAME.tif` beside it; masks may overlap."""
    masks = annotated_masks(recording)
    regions = [
        {"id": name, "coordinates": np.argwhere(mask).tolist()}
        for name, mask in zip(recording.roi_ids, masks, strict=True)
    ]
    if path.suffix == ".json":
        write_json(path, regions)
        remarks = write_image(path.with_suffix(".tif"), recording)
        return (*remarks, "group and metadata have no place in a list of regions")
    write_json(path / REGIONS, regions)
    info = {**clean_metadata(recording.metadata), "id": recording.id, "group": recording.group}
    if (scale := pixel_size(recording.metadata)) is not None:
        info[SCALE] = 1 / scale
    write_json(path / "info.json", info)
    remarks = write_image(path / "images" / "image00000.tiff", recording)
    return (*remarks, "images holds the projection as its only frame")


def _read_regions(values: Any, shape: tuple[int, ...]) -> NamedMasks:
    if not isinstance(values, list):
        raise RecordingError("", 'must be a list of regions [{"coordinates": [[a, b], ...]}, ...]')
    masks = zero_masks(len(values), shape)
    names = []
    for number, (mask, region) in enumerate(zip(masks, values, strict=True)):
        where = f"region {number}"
        found = region.get("coordinates") if isinstance(region, dict) else None
        try:
            points = np.array(found, np.float64).reshape(-1, 2)
        except (TypeError, ValueError) as error:
            raise RecordingError(where, "its coordinates must be [[a, b], ...]") from error
        if not np.isfinite(points).all() or (points != np.rint(points)).any():
            raise RecordingError(where, "its coordinates must be whole numbers")
        if len(points) and ((points < 0).any() or (points >= shape).any()):
            reason = f"lies outside of {shape[0]} x {shape[1]} px; must be (row, column)"
            raise RecordingError(where, reason)
        rows, columns = points.astype(np.int64).T
        mask[rows, columns] = True
        names.append(plain_text(region.get("id")) or str(number))
    return masks, tuple(names)


def _project(folder: Path) -> np.ndarray:
    """Return the maximum over the frames of a folder, one in memory at a time."""
    frames = sorted(filter(is_image_name, folder.glob("*")))
    if not frames:
        raise file_error(folder, "holds no frames; name an image (--image FILE)")
    result = read_pixels(frames[0])[0]
    for frame in frames[1:]:
        pixels = read_pixels(frame)[0]
        if pixels.shape != result.shape:
            raise file_error(frame, f"is not {list(result.shape)} px as the first frame")
        result = np.maximum(result, pixels)
    return result
