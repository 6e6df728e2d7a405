"""Recordings as NWB 2 files, through pynwb."""

import datetime
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fluxseg.data.recording import Recording, pixel_size
from fluxseg.errors import ConfigError
from fluxseg.formats.allen import GROUP_FIELD, plain_roi_ids
from fluxseg.formats.metadata import clean_metadata, roi_quality, without_quality
from fluxseg.io.files import atomic_path

UNKNOWN_TIME = datetime.datetime(1900, 1, 1, tzinfo=datetime.UTC)
"""Stands for a start of the session that is not known, which an NWB file must have."""
CONFIDENCE = "confidence"  # column of the table of ROIs that holds `roi_quality` of the metadata
NOTES = "fluxseg_recording"
"""Key of the JSON object in the notes of a file that holds id, group and metadata."""


def write_nwb(
    path: Path,
    recording: Recording,
    *,
    traces: Mapping[str, np.ndarray] | None = None,
    rate: float = 30.0,
) -> tuple[str, ...]:
    """Write a recording, annotated or not, as an NWB 2 file, x axis first as the schema says.

    The projection is a `GrayscaleImage`, the ROIs a `PlaneSegmentation` of lists of pixels; id,
    group and metadata are also in the notes, as JSON, so that `read_nwb` gives the recording back
    unchanged. `traces` are `F`, `Fneu` and `dff`, `[N, T]` float32 each, with `rate` frames per
    second. Raises `ConfigError` if pynwb is not installed.
    """
    try:
        from pynwb import NWBHDF5IO
    except ImportError as error:
        raise ConfigError("writing NWB files needs the package pynwb: pip install pynwb") from error
    remarks: list[str] = []
    content = _create_file(recording, remarks)
    if traces is not None and len(traces["F"]):
        _add_traces(content.processing["ophys"], traces, rate)
    with atomic_path(path) as temporary, NWBHDF5IO(str(temporary), "w") as file:
        file.write(content)
    return tuple(remarks)


def _create_file(recording: Recording, remarks: list[str]) -> Any:
    import pynwb

    metadata = clean_metadata(recording.metadata)
    quality = roi_quality(recording) if recording.masks is not None else None
    if quality:
        metadata = without_quality(metadata)
    notes: dict[str, Any] = {"id": recording.id, "metadata": metadata, GROUP_FIELD: recording.group}
    notes["annotated"] = recording.masks is not None
    digest = hashlib.sha256(json.dumps(notes).encode() + recording.image.tobytes()).hexdigest()
    file = pynwb.NWBFile(
        session_description=_text(metadata.get("session_type") or "Two-photon calcium imaging"),
        identifier=f"fluxseg-{digest[:32]}",
        session_start_time=_start_time(metadata, remarks),
        session_id=_text(recording.id).replace("/", "-"),
        notes=json.dumps({NOTES: notes}),
        keywords=["two-photon", "calcium imaging", "segmentation"],
        subject=_create_subject(recording, metadata, remarks),
    )
    imaging_plane = _create_imaging_plane(file, metadata, remarks)
    module = file.create_processing_module("ophys", "Projection and ROIs of one field of view")
    image = recording.image
    if image.dtype == bool:
        image = image.astype(np.uint8)
        remarks.append("the image is boolean: written as 0 and 1")
    projection = pynwb.image.GrayscaleImage(
        name="max_projection",
        data=np.ascontiguousarray(image.T),
        description="(Maximum) projection of the movie over time",
    )
    text = "Projections over time"
    module.add(pynwb.base.Images(name="projections", images=[projection], description=text))
    if recording.masks is not None and not len(recording.masks):
        remarks.append("there are no ROIs: written without a PlaneSegmentation, which needs some")
    elif recording.masks is not None:
        table = _add_rois(module, imaging_plane, recording, recording.masks)
        if quality:
            sure = "How sure it is that the ROI is a cell, 0 to 1"
            table.add_column(CONFIDENCE, sure, data=quality)
    return file


def _text(value: Any) -> str:
    """Return text without NUL, which HDF5 cannot hold; the notes keep it, escaped."""
    return str(value).replace("\0", "\ufffd")


def _start_time(metadata: dict[str, Any], remarks: list[str]) -> datetime.datetime:
    text = str(metadata.get("session_start_time") or "")
    try:
        time = datetime.datetime.fromisoformat(text)
    except ValueError:
        remarks.append(
            f"no start of the session is known: {UNKNOWN_TIME.date()} stands in its place"
        )
        return UNKNOWN_TIME
    if time.tzinfo is None:
        remarks.append("the start of the session has no time zone: taken as UTC")
        time = time.replace(tzinfo=datetime.UTC)
    return time


def _create_subject(recording: Recording, metadata: dict[str, Any], remarks: list[str]) -> Any:
    from pynwb.file import Subject

    keys = ("donor_name", "donor_id", "specimen_name", "specimen_id", "subject_id")
    named = (str(metadata[key]) for key in keys if metadata.get(key) not in (None, ""))
    facts = {
        "subject_id": next(named, recording.group).replace("/", "-"),
        "genotype": metadata.get("genotype") or metadata.get("cre_line"),
        "sex": str(metadata.get("sex") or "U")[:1].upper(),
        "species": metadata.get("species"),
    }
    if facts["sex"] not in ("F", "M", "O"):
        facts["sex"] = "U"
    days = metadata.get("age_days")
    if isinstance(days, int) and not isinstance(days, bool) and days > 0:
        facts["age"] = f"P{days}D"
    else:
        # An open range is how NWB files say that an age is not known; they must say something.
        facts["age"] = "P0D/"
        remarks.append("the age of the subject is not known: at least 0 days")
    return Subject(**{key: _text(value) for key, value in facts.items() if value})


def _create_imaging_plane(file: Any, metadata: dict[str, Any], remarks: list[str]) -> Any:
    from pynwb.ophys import OpticalChannel

    size = pixel_size(metadata)
    if size is None:
        remarks.append("the size of the pixels is not known: no grid_spacing")
        spacing = {}
    else:
        spacing = {"grid_spacing": [size, size], "grid_spacing_unit": "micrometers"}
    channel = OpticalChannel(
        name="OpticalChannel", description="Channel of the indicator", emission_lambda=np.nan
    )
    excitation = metadata.get("excitation_lambda")
    number = isinstance(excitation, int | float) and not isinstance(excitation, bool)
    device = _text(metadata.get("device") or "Two-photon microscope")
    return file.create_imaging_plane(
        name="ImagingPlane",
        description="Field of view",
        optical_channel=channel,
        device=file.create_device(name="Microscope", description=device),
        excitation_lambda=float(excitation) if number and excitation else np.nan,
        indicator=_text(metadata.get("indicator") or "unknown"),
        location=_text(metadata.get("targeted_structure") or "unknown"),
        **spacing,
    )


def _add_rois(module: Any, imaging_plane: Any, recording: Recording, masks: np.ndarray) -> Any:
    from pynwb.ophys import ImageSegmentation

    segmentation = ImageSegmentation()
    module.add(segmentation)
    table = segmentation.create_plane_segmentation(
        name="PlaneSegmentation",
        description="ROIs of the field of view, overlapping ones included",
        imaging_plane=imaging_plane,
    )
    ids = plain_roi_ids(recording.roi_ids)
    numbered = all(isinstance(value, int) for value in ids) and len(set(ids)) == len(ids)
    for number, mask in enumerate(masks):
        roi: dict[str, Any] = {"id": ids[number] if numbered else number}
        if not masks.any():
            # Lists cannot all be empty.
            roi["image_mask"] = np.ascontiguousarray(mask.T).astype(np.uint8)
        else:
            y, x = np.nonzero(mask)
            roi["pixel_mask"] = np.stack([x, y, np.ones(len(x))], axis=1)
        table.add_roi(**roi)
    if not numbered:
        table.add_column(
            "roi_name", "Name of the ROI", data=[_text(name) for name in recording.roi_ids]
        )
    return table


def _add_traces(module: Any, traces: Mapping[str, np.ndarray], rate: float) -> None:
    """Add what the ROIs did: `Fluorescence` of them and of their neuropil, and `DfOverF`."""
    from pynwb.ophys import DfOverF, Fluorescence, RoiResponseSeries

    table = module["ImageSegmentation"]["PlaneSegmentation"]
    fluorescence, change = Fluorescence(name="Fluorescence"), DfOverF(name="DfOverF")
    module.add(fluorescence)
    module.add(change)
    for group, name, key, unit, text in (
        (fluorescence, "Fluorescence", "F", "a.u.", "Weighted mean of the pixels of each ROI"),
        (fluorescence, "Neuropil", "Fneu", "a.u.", "Mean of the pixels around each ROI"),
        (change, "DfOverF", "dff", "n.a.", "F - 0.7 Fneu against its baseline (maximin, 60 s)"),
    ):
        region = table.create_roi_table_region(
            region=list(range(len(table))), description="All ROIs, in their order"
        )
        series = RoiResponseSeries(
            name=name, data=np.ascontiguousarray(traces[key].T), rois=region, unit=unit, rate=rate,
            starting_time=0.0, description=text,
        )  # fmt: skip
        group.add_roi_response_series(series)
