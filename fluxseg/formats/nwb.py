"""Recordings in NWB 2 files, read with h5py alone.

Of the arrays of an image plane the schema has the x axis first; see `fluxseg.formats.plane_masks`
for those who do not. Where sizes and coordinates rule this out, the image is taken the other way
round, with a remark. Files of Suite2p are known by their descriptions and read with y first.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from fluxseg.data.recording import Recording
from fluxseg.errors import RecordingError
from fluxseg.formats import allen_nwb, hdf5
from fluxseg.formats.allen import recording_from_mapping
from fluxseg.formats.metadata import QUALITY
from fluxseg.formats.nwb_write import CONFIDENCE, NOTES
from fluxseg.formats.pick import choose
from fluxseg.formats.plane_masks import read_plane_masks
from fluxseg.formats.tiff import square_pixels, unit_length

_MASKS = ("pixel_mask", "image_mask", "voxel_mask")
_KINDS = (("max",), ("mean", "average", "avg"))
_METADATA = {
    "session_id": "general/session_id",
    "session_start_time": "session_start_time",
    "session_description": "session_description",
    "identifier": "identifier",
    "institution": "general/institution",
    "lab": "general/lab",
    "donor_name": "general/subject/subject_id",
    "species": "general/subject/species",
    "genotype": "general/subject/genotype",
    "sex": "general/subject/sex",
    "age": "general/subject/age",
}


def read_nwb(path: Path, *, plane: str = "", image: str = "") -> Recording:
    """Read a recording from an NWB file, of the Allen Institute too (`fluxseg.formats.allen_nwb`).

    `plane` is the name, or end of the path, of the `PlaneSegmentation`, needed if there are
    several; `image` that of the projection, otherwise the only one with "max" in its name, or else
    "mean" or "average", or else the only one. `masks` is None without any `PlaneSegmentation`. The
    group is the subject, as `donor_name`; `um_per_px` is the `grid_spacing`. What `write_nwb` wrote
    comes back with its own metadata.
    """
    with hdf5.open_hdf5(path) as file:
        kind = allen_nwb.kind_of(file)
        if not kind:
            raise RecordingError("", "is an HDF5 file, but not in the NWB 2 format")
        if kind == "allen-1":
            return allen_nwb.read_visual_coding(file, path.stem)
        table = allen_nwb.find_table(file)
        if table is not None and not plane and not image:
            return allen_nwb.read_visual_behavior(file, table, path.stem)
        return _read(file, path.stem, plane, image)


def _read(file: h5py.Group, name: str, plane: str, image_name: str) -> Recording:
    remarks: list[str] = []
    planes = _list_planes(file)
    names, level = list(planes), ""
    if len(names) == 1 and hdf5.find_dataset(planes[names[0]], "voxel_mask") is not None:
        # Of a table alone, the planes can be those that its voxels lie in.
        plane, level = ("", "") if names[0].endswith(plane) else ("", plane)
    chosen = names[choose("plane", names, plane)] if names else ""
    found = planes.get(chosen)
    told = "" if found is None else hdf5.read_text_attribute(found, "description")
    suite2p = "suite2p" in told.lower()
    if suite2p:
        remarks.append("written by Suite2p: its axes are taken as (y, x)")
    # Words that the images of a plane have in their names; Suite2p numbers them: Backgrounds_1.
    imaging = None if found is None else hdf5.find_group(found, "imaging_plane")
    words = [chosen, f"backgrounds_{level}" if level else "", str(imaging.name) if imaging else ""]
    image = allen_nwb.read_plane_image(file, _choose_image(file, image_name, words, remarks))
    if image is None:
        raise RecordingError("image", "is missing")
    masks: np.ndarray | None = None
    ids: tuple[str, ...] | None = None
    alike = True
    if found is not None:
        masks, ids = read_plane_masks(found, image.shape, remarks, level)
        alike = masks.shape[1:] == image.shape
        if not alike:
            remarks.append("image and masks differ in the order of their axes, as their sizes show")
        masks = masks if suite2p else np.ascontiguousarray(masks.transpose(0, 2, 1))
    image = image if suite2p == alike else image.T
    values = _describe(file, found, suite2p, remarks)
    _add_quality(values, found, masks)
    if masks is None and values.get("annotated") is True:
        masks = np.zeros((0, *image.shape), bool)
    values |= {"max_projection": image, "roi_mask_array": masks, "roi_ids": ids}
    recording = recording_from_mapping(values, name, annotated=False)
    return dataclasses.replace(recording, remarks=(*recording.remarks, *remarks))


def _walk(group: h5py.Group | None, depth: int, path: str = "") -> Iterator[tuple[str, h5py.Group]]:
    """Yield the groups in a group with their paths, down to a depth."""
    for name, inner in hdf5.list_groups(group):
        yield f"{path}{name}", inner
        if depth > 1:
            yield from _walk(inner, depth - 1, f"{path}{name}/")


def _list_planes(file: h5py.Group) -> dict[str, h5py.Group]:
    groups = _walk(hdf5.find_group(file, "processing"), 3)
    return {
        path: group
        for path, group in groups
        if "/" in path
        and (_type_of(group) == "PlaneSegmentation" or any(m in group for m in _MASKS))
    }


def _choose_image(file: h5py.Group, wanted: str, words: list[str], remarks: list[str]) -> str:
    images: list[str] = []
    for place, depth in (("acquisition", 1), ("processing", 2)):
        for name, group in _walk(hdf5.find_group(file, place), depth):
            if _type_of(group) == "Images":
                flat = [k for k, data in hdf5.list_datasets(group) if len(data.shape or ()) == 2]
                images += [f"{place}/{name}/{key}" for key in flat]
    if not images:
        reason = "is missing: no projection in Images; make one with fluxseg project"
        raise RecordingError("image", reason)
    if wanted:
        return images[choose("key", images, wanted)]
    if len(images) == 1:
        if not any(word in images[0].rsplit("/")[-1].lower() for kind in _KINDS for word in kind):
            remarks.append(f"the only image, {images[0]}, is taken for the projection")
        return images[0]
    words = [word.rsplit("/", 1)[-1].lower() for word in words if word]
    near = [p for p in images if any(p.lower().endswith(w) or f"{w}/" in p.lower() for w in words)]
    for kind in _KINDS:
        found = [p for p in near or images if any(w in p.rsplit("/")[-1].lower() for w in kind)]
        if found:
            return found[choose("key", found, "")]
    return (near or images)[choose("key", near or images, "")]


def _type_of(group: h5py.Group) -> str:
    return hdf5.read_text_attribute(group, "neurodata_type")


def _describe(
    file: h5py.Group, plane: h5py.Group | None, suite2p: bool, remarks: list[str]
) -> dict[str, Any]:
    """Return id and metadata."""
    notes = hdf5.read_plain(file, "general/notes")
    if isinstance(notes, str) and notes.startswith(f'{{"{NOTES}":'):
        with contextlib.suppress(ValueError, RecursionError):
            stored = json.loads(notes)[NOTES]
            if isinstance(stored, dict):
                return stored
    metadata = hdf5.read_places(file, _METADATA)
    imaging = None if plane is None else hdf5.find_group(plane, "imaging_plane")
    if imaging is None:
        others = hdf5.list_groups(hdf5.find_group(file, "general/optophysiology"))
        imaging = others[0][1] if len(others) == 1 else None
    if imaging is not None:
        names = ("indicator", "excitation_lambda", "imaging_rate")
        places = {"targeted_structure": "location", **{name: name for name in names}}
        metadata |= hdf5.read_places(imaging, places)
        if suite2p:
            remarks.append("Suite2p writes a pixel size that was not measured: not used")
        else:
            metadata["um_per_px"] = read_spacing(imaging, remarks)
    metadata = {key: value for key, value in metadata.items() if value not in (None, "")}
    # Suite2p's identifier is a folder; the session or the file's name tells more.
    return {"id": metadata.get("session_id"), "metadata": metadata}


def _add_quality(
    values: dict[str, Any], plane: h5py.Group | None, masks: np.ndarray | None
) -> None:
    """Add the confidence that a table tells of its ROIs to the metadata."""
    column = None if plane is None else hdf5.find_dataset(plane, CONFIDENCE)
    if column is None or column.dtype.kind != "f" or masks is None or column.shape != (len(masks),):
        return
    if isinstance(values.get("metadata"), dict):
        values["metadata"][QUALITY] = hdf5.read_numbers(column, len(masks) * 8).tolist()


def read_spacing(imaging: h5py.Group, remarks: list[str]) -> float | None:
    """Return the size of the square pixels of an `ImagingPlane` in um, None if it is not told.

    What is odd is added to `remarks`.
    """
    dataset = hdf5.find_dataset(imaging, "grid_spacing")
    if dataset is None or dataset.dtype.kind not in "iuf":
        return None
    spacing = hdf5.read_numbers(dataset, 1024).reshape(-1).astype(float)
    unit = hdf5.read_text_attribute(dataset, "unit") or "meters"
    scale = unit_length(unit)
    if len(spacing) < 2 or scale is None or not np.isfinite(spacing).all():
        remarks.append(f"grid_spacing is not understood (unit {unit[:40]!a}): not used")
        return None
    x, y = (spacing[:2] * scale).tolist()
    side = square_pixels(x, y)
    if side is None:
        remarks.append(f"grid_spacing, {x:g} x {y:g} um, is not that of square pixels: not used")
    return side
