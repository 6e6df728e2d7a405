"""Recordings in NWB 2 files: read with h5py alone, written with pynwb.

Of the arrays of an image plane the schema has the x axis first; see `fluxseg.formats.plane_masks`
for those who do not. Where sizes and coordinates rule the order out that is asked for, the other
one is taken and remarked on; those of a square image rule nothing out. Files that Suite2p wrote
are known by their descriptions and read with y first.
"""

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from fluxseg.data.recording import Recording
from fluxseg.errors import RecordingError
from fluxseg.formats import hdf5
from fluxseg.formats.allen import recording_from_mapping
from fluxseg.formats.allen_nwb import find_table, kind_of, read_allen_nwb, read_plane_image
from fluxseg.formats.metadata import QUALITY
from fluxseg.formats.nwb_write import CONFIDENCE, NOTES, write_nwb
from fluxseg.formats.pick import choose
from fluxseg.formats.plane_masks import Order, PlaneMasks, read_plane_masks
from fluxseg.formats.tiff import square_pixels, unit_length

__all__ = ["read_nwb", "write_nwb"]
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


def read_nwb(
    path: Path | str,
    *,
    plane: str | None = None,
    image: str | None = None,
    order: Order | None = None,
    image_order: Order | None = None,
) -> Recording:
    """Read a recording from an NWB file; those of the Allen Institute as `read_allen_nwb` does.

    `plane` is the name, or end of the path, of the `PlaneSegmentation`, needed if there are
    several; `image` that of the projection, otherwise the only one with "max" in its name, or else
    "mean" or "average", or else the only one. `order` is that of the axes of the masks; None: (x,
    y) as the schema says, but (y, x) where Suite2p wrote the file. `image_order` is that of the
    image; None: as the masks, if they fit so.

    `masks` is None without any `PlaneSegmentation`. The group is the subject, as `donor_name`;
    `um_per_px` is the `grid_spacing`. What `write_nwb` wrote comes back with its own metadata.
    Raises `RecordingError`, naming file and field, or listing what there is to choose from.
    """
    path = Path(path)
    with hdf5.open_hdf5(path) as file:
        kind = kind_of(file)
        if not kind:
            raise RecordingError("", "is an HDF5 file, but not in the NWB 2 format")
        allen = kind == "allen-1" or find_table(file) is not None
        if not allen or plane or image or order or image_order:
            return _read(file, path.stem, plane, image, order, image_order)
    return read_allen_nwb(path)


def _read(
    file: h5py.Group,
    name: str,
    plane: str | None,
    image_name: str | None,
    order: Order | None,
    image_order: Order | None,
) -> Recording:
    remarks: list[str] = []
    planes = _list_planes(file)
    names, level = list(planes), ""
    if len(names) == 1 and hdf5.find_dataset(planes[names[0]], "voxel_mask") is not None:
        # Of a table alone, the planes can be those that its voxels lie in.
        plane, level = ("", "") if names[0].endswith(plane or "") else ("", plane or "")
    chosen = names[choose("plane", names, plane or "")] if names else ""
    found = planes.get(chosen)
    masks = None if found is None else read_plane_masks(found, level)
    told = "" if found is None else hdf5.read_text_attribute(found, "description")
    suite2p = "suite2p" in told.lower()
    if suite2p and order is None:
        order = "yx"
        remarks.append("written by Suite2p: its axes are taken as (y, x)")
    words = _words(chosen, found, level)
    image = read_plane_image(file, _choose_image(file, image_name, words, remarks))
    if image is None:
        raise RecordingError("image", "is missing")
    transposed, drawn = _orient(image.shape, masks, order, image_order, remarks)
    image = image.T if transposed else image
    values, plane_remarks = _describe(file, found, suite2p)
    _add_quality(values, found, drawn)
    if drawn is None and values.get("annotated") is True:
        drawn = np.zeros((0, *image.shape), bool)
    recording = recording_from_mapping(
        values
        | {
            "max_projection": image,
            "roi_mask_array": drawn,
            "roi_ids": None if masks is None else list(masks.names),
        },
        name,
        annotated=False,
    )
    remarks += plane_remarks + list(() if masks is None else masks.remarks)
    return dataclasses.replace(recording, remarks=(*recording.remarks, *remarks))


def _list_planes(file: h5py.Group) -> dict[str, h5py.Group]:
    planes: dict[str, h5py.Group] = {}
    for module_name, module in hdf5.list_groups(hdf5.find_group(file, "processing")):
        for name, group in hdf5.list_groups(module):
            inner = [(f"{name}/{key}", value) for key, value in hdf5.list_groups(group)]
            for key, value in [(name, group), *inner]:
                if _type_of(value) == "PlaneSegmentation" or any(m in value for m in _MASKS):
                    planes[f"{module_name}/{key}"] = value
    return planes


def _words(name: str, plane: h5py.Group | None, level: str) -> set[str]:
    """Return words that the images of a plane have in their names."""
    imaging = None if plane is None else hdf5.find_group(plane, "imaging_plane")
    names = [name, *([str(imaging.name)] if imaging is not None else [])]
    words = {found.rsplit("/", 1)[-1].lower() for found in names}
    # Suite2p numbers them: Backgrounds_1 has the images of plane 1.
    return words | ({f"backgrounds_{level}"} if level else set())


def _choose_image(file: h5py.Group, wanted: str | None, words: set[str], remarks: list[str]) -> str:
    images: list[str] = []
    places = [("acquisition", hdf5.find_group(file, "acquisition"))]
    modules = hdf5.list_groups(hdf5.find_group(file, "processing"))
    places += [(f"processing/{name}", module) for name, module in modules]
    for place, module in places:
        for name, group in hdf5.list_groups(module):
            if _type_of(group) == "Images":
                images += [
                    f"{place}/{name}/{key}"
                    for key, dataset in hdf5.list_datasets(group)
                    if dataset.shape is not None and len(dataset.shape) == 2
                ]
    if not images:
        reason = "is missing: no projection in Images; make one with fluxseg project"
        raise RecordingError("image", reason)
    if wanted is not None:
        return images[choose("key", images, wanted)]
    if len(images) == 1:
        if not any(word in images[0].rsplit("/")[-1].lower() for kind in _KINDS for word in kind):
            remarks.append(f"the only image, {images[0]}, is taken for the projection")
        return images[0]
    near = [p for p in images if any(p.lower().endswith(w) or f"{w}/" in p.lower() for w in words)]
    for kind in _KINDS:
        found = [p for p in near or images if any(w in p.rsplit("/")[-1].lower() for w in kind)]
        if found:
            return found[choose("key", found, "")]
    return (near or images)[choose("key", near or images, "")]


def _type_of(group: h5py.Group) -> str:
    return hdf5.read_text_attribute(group, "neurodata_type")


def _orient(
    shape: tuple[int, int],
    masks: PlaneMasks | None,
    order: Order | None,
    image_order: Order | None,
    remarks: list[str],
) -> tuple[bool, np.ndarray | None]:
    """Return whether the image must be transposed, and the masks `[N, H, W]`."""
    if masks is None:
        return (image_order or order or "xy") == "xy", None
    alike, crossed = masks.fits(shape), masks.fits(shape[::-1])
    if not alike and not crossed:
        raise RecordingError("masks", f"do not fit the image of {list(shape)} px in either order")
    if order is not None and image_order is not None:
        wanted = order == image_order
        if not (alike if wanted else crossed):
            reason = f"masks as {order} do not fit the image {list(shape)} as {image_order}"
            raise RecordingError("order", reason)
    else:
        wanted = alike
        if not alike:
            remarks.append("image and masks differ in the order of their axes, as their sizes show")
    if order is None:
        order = image_order if wanted and image_order else "xy"
        if image_order is not None and not wanted:
            order = "xy" if image_order == "yx" else "yx"
    drawn = masks.draw(shape if wanted else (shape[1], shape[0]))
    if order == "xy":
        drawn = np.ascontiguousarray(drawn.transpose(0, 2, 1))
    return (order == "xy") == wanted, drawn


def _describe(
    file: h5py.Group, plane: h5py.Group | None, suite2p: bool
) -> tuple[dict[str, Any], list[str]]:
    """Return id and metadata, and remarks on them."""
    stored = _read_notes(hdf5.read_plain(file, "general/notes"))
    if stored is not None:
        return stored, []
    metadata = hdf5.read_places(file, _METADATA)
    remarks: list[str] = []
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
    return {"id": metadata.get("session_id"), "metadata": metadata}, remarks


def _add_quality(
    values: dict[str, Any], plane: h5py.Group | None, masks: np.ndarray | None
) -> None:
    """Add the confidence that a table tells of its ROIs to the metadata."""
    column = None if plane is None else hdf5.find_dataset(plane, CONFIDENCE)
    if column is None or column.dtype.kind != "f" or masks is None or column.shape != (len(masks),):
        return
    quality = hdf5.read_numbers(column, len(masks) * 8).tolist()
    if isinstance(values.get("metadata"), dict):
        values["metadata"] = {**values["metadata"], QUALITY: quality}


def _read_notes(notes: Any) -> dict[str, Any] | None:
    if isinstance(notes, str) and notes.startswith(f'{{"{NOTES}":'):
        with contextlib.suppress(ValueError, RecursionError):
            stored = json.loads(notes)[NOTES]
            if isinstance(stored, dict):
                return stored
    return None


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
