"""What is written for one predicted image; what is not fluxseg's own is never written over."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fluxseg.formats import own
from fluxseg.formats.finite import finite_image, holds_image
from fluxseg.formats.formats import ENDINGS, PredictFormat
from fluxseg.formats.pixels import write_image_tiff
from fluxseg.inference.objects.rois import Rois
from fluxseg.inference.shown import draw_overlay, tabulate_neurons, write_overlay
from fluxseg.io.files import atomic_path
from fluxseg.io.tables import write_csv

FILES = {
    "labels": "_labels.tif",
    "overlay": "_overlay.png",
    "table": "_neurons.csv",
    "probability": "_probability.tif",
    "mask": "_mask.tif",
    "npz": "_prediction.npz",
}
"""What the name of an image is followed by in the names of the own formats."""
OWN_ENDINGS = FILES | {"std": "_std.tif"}
SIGNED = ("suite2p", "nwb", "neurofinder", "coco")
"""Formats that keep all metadata, by which it is told whether somebody has corrected the masks."""
WITH_IMAGE = ("cellpose", "coco")  # formats with the image beside them, as `NAME.tif`

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """An image and what was predicted for it."""

    name: str  # begin of the names of its files
    image: np.ndarray  # `[H, W]`, any real dtype
    rois: Rois  # the neurons
    # `[H, W]` by name: "probability" float32, "mask" uint8, 255 where a neuron is, and "std"
    # float32, where several models disagree.
    maps: Mapping[str, np.ndarray]
    corrected: bool = False  # by a person: then the files are labels, not predictions


def write_prediction(
    output: Path, found: Prediction, formats: Sequence[PredictFormat], *, numbers: bool = False
) -> tuple[tuple[str, ...], list[str]]:
    """Write the files of one image, and "std" wherever it is known.

    Returns their names, and warnings. Raises `WorkdirError` if a file cannot be written.
    """
    files, warnings = [], []
    for kind in dict.fromkeys([*formats, *(["std"] if "std" in found.maps else [])]):
        file = name_output(found.name, kind)
        path = output / file
        if path.exists() and not own.is_prediction(path):
            warnings.append(f"{file} was corrected, or is not from fluxseg predict: kept as it is")
            continue
        beside = output / f"{found.name}.tif"
        taken = kind in WITH_IMAGE and beside.exists()
        if taken and not holds_image(beside, finite_image(found.image)[0]):
            warnings.append(f"{file} is not written: {beside.name} is there, another image")
            continue
        write_neurons(path, found, kind, numbers=numbers)
        files.append(file)
    return tuple(files), warnings


def name_output(name: str, kind: Any) -> str:
    """Return the name of one output of an image: a file, or a folder for some tools."""
    return name + (OWN_ENDINGS.get(kind) or ENDINGS[kind])


def write_neurons(path: Path, found: Prediction, kind: str, *, numbers: bool = False) -> None:
    """Write the neurons of one image in one of `PredictFormat`, or "std", over what is there.

    `path` is named by `name_output`: a file, or a folder for some tools. Raises `WorkdirError` if
    it cannot be written.
    """
    rois, scale = found.rois, found.rois.um_per_px
    if kind == "labels" and found.corrected:
        write_image_tiff(path, rois.labels, scale, compress=True)
    elif kind == "labels":
        own.write_labels(path, rois.labels, scale)
    elif kind in ("probability", "mask", "std"):
        write_image_tiff(path, found.maps[kind], scale, compress=True, software=own.MARK)
    elif kind == "overlay":
        write_overlay(path, draw_overlay(found.image, rois.labels, numbers))
    elif kind == "table":
        write_csv(path, own.TABLE_COLUMNS, tabulate_neurons(found.image, rois))
    elif kind == "npz":
        arrays: dict[str, Any] = {own.MARK: np.array(1), "mean_probability": rois.probability}
        arrays |= {key: found.maps[key] for key in ("probability", "mask")}
        names = ("labels", "area", "centroid", "quality", "confidence")
        arrays |= {key: getattr(rois, key) for key in names}
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, allow_pickle=False, **arrays)
    else:
        _write_format(path, found, kind)


def _write_format(path: Path, found: Prediction, kind: Any) -> None:
    """Write the neurons in the format of another tool."""
    from fluxseg.formats.convert import write_recording

    recording = found.rois.to_recording(found.image, found.name)
    if not found.corrected:
        mark = own.sign_masks(found.rois.labels) if kind in SIGNED else own.MARK
        metadata = {"made_by": mark, **recording.metadata}
        recording = dataclasses.replace(recording, metadata=metadata)
    for remark in write_recording(path, recording, kind, overwrite=True):
        logger.debug("%s: %s", path.name, remark)
