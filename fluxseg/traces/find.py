"""The ROIs of a movie: found by a network in its projection, or given in a file of any format."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fluxseg.data.recording import Recording
from fluxseg.errors import RecordingError
from fluxseg.formats.convert import NEED_IMAGE, detect_format, read_recording
from fluxseg.formats.labels import masks_from_labels
from fluxseg.formats.metadata import roi_quality
from fluxseg.formats.npy import naming_file
from fluxseg.formats.pick import NO_PICK, Pick
from fluxseg.formats.pixels import read_pixels, write_image_tiff
from fluxseg.formats.suite2p import read_suite2p_weights
from fluxseg.traces.masks import Footprints, create_footprints

if TYPE_CHECKING:
    from fluxseg.inference.predict import Predictor


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """The ROIs of a movie, none of them empty."""

    footprints: Footprints  # N ROIs
    names: tuple[str, ...]  # `[N]` names
    confidence: np.ndarray  # `[N]` float64, 0 to 1; 1 if nothing is known
    remarks: tuple[str, ...] = ()  # what is odd


def find_in_image(
    model: "Predictor",
    image: np.ndarray | list[np.ndarray],
    *,
    min_confidence: float | None = None,
    diameter: float | None = None,
) -> Found:
    """Find neurons in projections `[H, W]` of any real dtype, as `fluxseg predict` does.

    None is the model's own least confidence, and a diameter (px) that is estimated. `ConfigError`
    if a setting is out of its range.
    """
    rois = model.find_neurons(image, min_confidence=min_confidence, diameter=diameter).rois
    names = tuple(str(number) for number in range(1, len(rois) + 1))
    height, width = rois.labels.shape
    return Found(create_footprints(rois, (height, width)), names, rois.confidence)


def read_rois(path: Path, shape: tuple[int, int], plane: str, folder: Path) -> Found:
    """Read ROIs of a movie of so many px from a file of any format, or a label image.

    A folder is one of Suite2p, of which the cells are taken with their weights, or of Neurofinder.
    `plane` is one of several, "" the only one; in `folder` an empty image may be written for
    formats that need one. Raises `RecordingError`, naming the file, if it holds no ROIs or those of
    another field.
    """
    with naming_file(path):
        recording, weights = _read(path, shape, plane, folder)
        if recording.masks is None:
            raise RecordingError("", "holds no ROIs")
        footprints = create_footprints(recording, shape)
    quality = roi_quality(recording)
    confidence = np.ones(len(footprints)) if quality is None else np.array(quality, np.float64)
    kept = np.flatnonzero([len(pixels) > 0 for pixels in footprints.pixels])
    lost = len(footprints) - len(kept)
    parts = footprints.weights if weights is None else weights
    pixels, chosen = (tuple(each[k] for k in kept) for each in (footprints.pixels, parts))
    return Found(
        Footprints(pixels, chosen, shape),
        tuple(recording.roi_ids[k] for k in kept),
        confidence[kept],
        (f"{lost} ROIs lie outside of the field: left out",) if lost else (),
    )


def _read(
    path: Path, shape: tuple[int, int], plane: str, folder: Path
) -> tuple[Recording, list[np.ndarray] | None]:
    """Return the ROIs, and what their pixels weigh, if a file tells."""
    kind = detect_format(path)
    if kind == "image":
        labels = read_pixels(path, labels=True)[0]
        return Recording(path.stem, labels, *masks_from_labels(labels)), None
    if kind == "suite2p":
        return read_suite2p_weights(path, plane=plane)
    if kind in NEED_IMAGE and not path.is_dir():
        field = folder / "field.tif"
        write_image_tiff(field, np.zeros(shape, np.uint8))
        return read_recording(path, field), None
    return read_recording(path, pick=Pick(plane=plane) if kind == "nwb" else NO_PICK), None
