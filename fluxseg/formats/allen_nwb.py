"""NWB files of the Allen Brain Observatory: projection, masks and what tells sessions apart.

Two layouts, at the paths that AllenSDK reads:

- Visual Coding, NWB 1.0 (`allensdk/core/brain_observatory_nwb_data_set.py`): below
  `processing/brain_observatory_pipeline/ImageSegmentation` are `roi_ids` and `imaging_plane_1`
  with `roi_list`, `<name in roi_list>/img_mask` [y, x] and `pix_mask` (x, y), and
  `reference_images/maximum_intensity_projection_image/data` [y, x].
- Visual Behavior, NWB 2 (`allensdk/brain_observatory/nwb/__init__.py`): below `processing/ophys`
  (once `two_photon_imaging`) are `image_segmentation/cell_specimen_table`, whose `image_mask` is
  [roi, y, x], and `images/max_projection` [y, x] with a resolution in cm per pixel.
"""

import dataclasses
import re
from typing import Any

import h5py
import numpy as np

from fluxseg.data.recording import Recording
from fluxseg.errors import RecordingError
from fluxseg.formats import hdf5
from fluxseg.formats.allen import recording_from_mapping
from fluxseg.formats.labels import zero_masks
from fluxseg.formats.plane_masks import read_plane_masks
from fluxseg.formats.tiff import MAX_PIXELS

PIPELINE = "processing/brain_observatory_pipeline/ImageSegmentation"
"""Where the masks of a Visual Coding file are."""
_PROJECTION = "imaging_plane_1/reference_images/maximum_intensity_projection_image/data"
_TABLES = ("processing/ophys", "processing/two_photon_imaging")
_VISUAL_CODING = {
    "ophys_experiment_id": "general/session_id",
    "experiment_container_id": "general/experiment_container_id",
    "specimen_name": "general/specimen_name",
    "session_type": "general/session_type",
    "session_start_time": "session_start_time",
    "targeted_structure": "general/optophysiology/imaging_plane_1/location",
    "imaging_depth": "general/optophysiology/imaging_plane_1/imaging depth",
    "indicator": "general/optophysiology/imaging_plane_1/indicator",
    "excitation_lambda": "general/optophysiology/imaging_plane_1/excitation_lambda",
    "genotype": "general/subject/genotype",
    "sex": "general/subject/sex",
    "age": "general/subject/age",
    "device": "general/devices/2-photon microscope",
    "fov": "general/fov",
}

_VISUAL_BEHAVIOR = {
    "donor_name": "general/subject/subject_id",
    "genotype": "general/subject/genotype",
    "sex": "general/subject/sex",
    "age": "general/subject/age",
    "session_start_time": "session_start_time",
    "session_type": "general/session_description",
}


def kind_of(file: h5py.Group) -> str:
    """Return "nwb" for an NWB 2 file, "allen-1" for an Allen Visual Coding file, else ""."""
    if hdf5.find_group(file, PIPELINE) is not None:
        return "allen-1"
    version = hdf5.read_attribute(file, "nwb_version")
    return "nwb" if str(version).startswith("2") else ""


def find_table(file: h5py.Group) -> h5py.Group | None:
    """Return the `cell_specimen_table` of a Visual Behavior file, None for other files."""
    names = (f"{module}/image_segmentation/cell_specimen_table" for module in _TABLES)
    tables = (hdf5.find_group(file, name) for name in names)
    return next((table for table in tables if table is not None), None)


def read_plane_image(group: h5py.Group, path: str) -> np.ndarray | None:
    """Read an image `[A, B]` of at most `MAX_PIXELS`, None if absent."""
    dataset = hdf5.find_dataset(group, path)
    if dataset is None:
        return None
    if dataset.shape is None or len(dataset.shape) != 2 or dataset.dtype.names:
        raise RecordingError(path, f"must be an image [A, B], got {dataset.shape}")
    return hdf5.read_numbers(dataset, MAX_PIXELS * 8)


def read_visual_coding(file: h5py.Group, name: str) -> Recording:
    """Read a Visual Coding file (NWB 1.0), with the maximum projection as its image.

    The metadata have the names that AllenSDK gives them, and `experiment_container_id` is the
    group. `name` is the id if the file tells none.
    """
    segmentation = hdf5.find_group(file, PIPELINE)
    plane = None if segmentation is None else hdf5.find_group(segmentation, "imaging_plane_1")
    if segmentation is None or plane is None:
        raise RecordingError(f"{PIPELINE}/imaging_plane_1", "is missing")
    image = read_plane_image(segmentation, _PROJECTION)
    if image is None:
        raise RecordingError(_PROJECTION, "is missing")
    listed = hdf5.find_dataset(plane, "roi_list")
    if listed is not None:
        names = hdf5.read_texts(listed)
    else:
        masks = ("img_mask", "pix_mask")
        names = [name for name, roi in hdf5.list_groups(plane) if any(key in roi for key in masks)]
    rois = zero_masks(len(names), image.shape)
    for roi, listed_name in zip(rois, names, strict=True):
        _read_roi(plane, listed_name, roi)
    ids: Any = names
    if (stored := hdf5.find_dataset(segmentation, "roi_ids")) is not None:
        text = hdf5.is_text(stored.dtype)
        ids = hdf5.read_texts(stored) if text else hdf5.read_numbers(stored, 2**26)
    values = {
        "id": hdf5.read_plain(file, "general/session_id"),
        "metadata": _describe_visual_coding(file),
        "max_projection": image,
        "roi_ids": ids,
        "roi_mask_array": rois,
    }
    return recording_from_mapping(values, name)


def _read_roi(plane: h5py.Group, name: str, mask: np.ndarray) -> None:
    """Draw one ROI into its mask `[H, W]`."""
    drawn = hdf5.find_dataset(plane, f"{name}/img_mask")
    if drawn is not None:
        if drawn.shape != mask.shape or drawn.dtype.names:
            reason = f"is {drawn.shape} px, the image is {list(mask.shape)}"
            raise RecordingError(f"{name}/img_mask", reason)
        values = hdf5.read_numbers(drawn, MAX_PIXELS * 8)
        mask[:] = np.isfinite(values) & (values != 0)
        return
    listed = hdf5.find_dataset(plane, f"{name}/pix_mask")
    if listed is None:
        raise RecordingError(name, "has neither img_mask nor pix_mask")
    pixels = hdf5.read_numbers(listed, mask.size * 16)
    if pixels.ndim != 2 or pixels.shape[1] != 2 or pixels.dtype.kind not in "iu":
        raise RecordingError(f"{name}/pix_mask", f"must be [P, 2], got {list(pixels.shape)}")
    x, y = pixels.T
    if pixels.size and (pixels.min() < 0 or x.max() >= mask.shape[1] or y.max() >= mask.shape[0]):
        raise RecordingError(f"{name}/pix_mask", f"lies outside of the {list(mask.shape)} px")
    mask[y, x] = True


def _describe_visual_coding(file: h5py.Group) -> dict[str, Any]:
    metadata = hdf5.read_places(file, _VISUAL_CODING)
    for name in ("ophys_experiment_id", "experiment_container_id"):
        text = str(metadata.get(name, "")).strip()
        if text.isascii() and text.isdigit() and len(text) < 19:
            metadata[name] = int(text)
    if "genotype" in metadata:
        metadata["cre_line"] = str(metadata["genotype"]).split(";")[0]
    for old, new in (("imaging_depth", "imaging_depth_um"), ("age", "age_days")):
        number = re.match(r"\s*(\d{1,6})\b", str(metadata.get(old, "")))
        if number:
            del metadata[old]
            metadata[new] = int(number[1])
    sides = re.match(r"\D*(\d+)\s*x\s*(\d+)\D+(\d+)\s*x\s*(\d+)", str(metadata.get("fov", "")))
    if sides:
        width, height, columns, rows = map(int, sides.groups())
        if width and columns and width * rows == height * columns:
            metadata["um_per_px"] = width / columns
    return metadata


def read_visual_behavior(file: h5py.Group, table: h5py.Group, name: str) -> Recording:
    """Read a Visual Behavior file (NWB 2), of which `find_table` gave the table of ROIs.

    ROIs that are not `valid_roi` are left out, with a remark; else as `read_visual_coding`.
    """
    module = table.parent.parent
    image = read_plane_image(module, "images/max_projection")
    if image is None:
        raise RecordingError(f"{module.name}/images/max_projection", "is missing")
    remarks: list[str] = []
    masks, names = read_plane_masks(table, image.shape, remarks)
    metadata = _describe_visual_behavior(file, table)
    resolution = hdf5.read_attribute(module["images/max_projection"], "resolution")
    # AllenSDK writes cm per pixel where the schema asks for pixels per cm.
    if isinstance(resolution, float | int | np.number) and 1e-6 <= resolution <= 5e-3:
        metadata["um_per_px"] = round(float(resolution) * 1e4, 9)
    identity = metadata.get("ophys_experiment_id") or hdf5.read_plain(file, "general/session_id")
    values = {
        "id": identity,
        "metadata": metadata,
        "max_projection": image,
        "roi_ids": names,
        "roi_mask_array": masks,
    }
    recording = recording_from_mapping(values, name)
    return dataclasses.replace(recording, remarks=(*recording.remarks, *remarks))


def _describe_visual_behavior(file: h5py.Group, table: h5py.Group) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    extension = hdf5.find_group(file, "general/metadata")
    if extension is not None:
        names = list(extension.attrs)[:200]
        metadata |= {name: hdf5.read_attribute(extension, name) for name in names}
        datasets = [name for name, _ in hdf5.list_datasets(extension)[:200]]
        metadata |= hdf5.read_places(extension, {name: name for name in datasets})
    metadata |= hdf5.read_places(file, _VISUAL_BEHAVIOR)
    plane = ("location", "indicator", "excitation_lambda")
    metadata |= hdf5.read_places(table, {name: f"imaging_plane/{name}" for name in plane})
    if metadata.get("ophys_container_id") is not None:
        metadata.setdefault("experiment_container_id", metadata["ophys_container_id"])
    hidden = ("namespace", "neurodata_type", "object_id")
    return {k: v for k, v in metadata.items() if v is not None and k not in hidden}
