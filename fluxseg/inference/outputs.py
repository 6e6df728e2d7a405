"""What is written for one predicted image; what is not fluxseg's own is never written over."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fluxseg.data.recording import Recording
from fluxseg.formats.finite import finite_image, holds_image
from fluxseg.formats.formats import ENDINGS
from fluxseg.formats.labels import masks_from_labels
from fluxseg.formats.own import MARK, is_prediction, sign_masks, write_labels, write_map
from fluxseg.formats.pixels import write_image_tiff
from fluxseg.inference.objects.rois import Rois, find_rois
from fluxseg.inference.shown import (
    draw_overlay,
    find_doubts,
    tabulate_neurons,
    write_overlay,
    write_table,
)
from fluxseg.io.files import atomic_path

OutputFormat = Literal[
    "labels", "overlay", "table", "probability", "mask", "npz", "suite2p", "cellpose", "imagej",
    "nwb", "neurofinder", "coco",
]  # fmt: skip
"""labels: `NAME_labels.tif`, one number a neuron, 0 is background. overlay: `NAME_overlay.png`, the
outlines on the image. table: `NAME_neurons.csv`, one row a neuron. probability:
`NAME_probability.tif`, float32. mask: `NAME_mask.tif`, 255 where a neuron is. npz:
`NAME_prediction.npz`, the maps and the measures of each neuron. The others: the neurons in the
format of that tool, see `fluxseg.formats.formats`."""
DEFAULT_FORMATS: tuple[OutputFormat, ...] = ("labels", "overlay", "table", "probability")
FILES = {
    "labels": "_labels.tif",
    "overlay": "_overlay.png",
    "table": "_neurons.csv",
    "probability": "_probability.tif",
    "mask": "_mask.tif",
    "npz": "_prediction.npz",
}
"""What the name of an image is followed by in the names of the own formats."""
SIGNED = ("suite2p", "nwb", "neurofinder", "coco")
"""Formats that keep all metadata, by which it is told whether somebody has corrected the masks."""

WITH_IMAGE = ("cellpose", "coco")
"""Formats with the image beside them, as `NAME.tif`."""

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """An image and what was predicted for it.

    Attributes:
        name: begin of the names of its files.
        image: `[H, W]`, any real dtype.
        probability: `[H, W]` float32, of "neuron".
        maps: further maps `[H, W]` float32 by name, where several models disagree.
        limits: least probability of a neuron pixel, and least confidence of a neuron.
        um_per_px: size of a pixel, um, if it is known.
        diameter: typical diameter of the cells, px, that was used; None if none was.
        given: whether the user has given it.
        trained_px: diameter of the cells that the model was trained on, px, if it knows it.
        corrected: whether a person has corrected the neurons. Then their files are labels like any
            others, which `predict` keeps and `finetune` reads.
    """

    name: str
    image: np.ndarray
    probability: np.ndarray
    maps: Mapping[str, np.ndarray]
    limits: tuple[float, float]
    um_per_px: float | None = None
    diameter: float | None = None
    given: bool = False
    trained_px: float | None = None
    corrected: bool = False


def write_prediction(
    output: Path, found: Prediction, formats: Sequence[OutputFormat], *, numbers: bool = False
) -> tuple[tuple[str, ...], int, tuple[str, ...]]:
    """Write the files of one image.

    Args:
        output: folder to write to.
        found: what to write.
        formats: which files.
        numbers: whether the overlay shows the number of each neuron.

    Returns:
        Names of the files, the number of neurons, and warnings.

    Raises:
        WorkdirError: if a file cannot be written.
    """
    rois = find_rois(
        found.probability,
        threshold=found.limits[0],
        min_confidence=found.limits[1],
        um_per_px=found.um_per_px,
        diameter=found.diameter,
    )
    given = found.diameter if found.given else None
    warnings = find_doubts(found.image, rois, given, found.trained_px)
    files = []
    kinds: dict[Any, None] = dict.fromkeys([*formats, *found.maps])
    for kind in kinds:
        file = name_output(found, kind)
        path = output / file
        if path.exists() and not is_prediction(path):
            warnings.append(f"{file} was corrected, or is not from fluxseg predict: kept as it is")
            continue
        beside = output / f"{found.name}.tif"
        taken = kind in WITH_IMAGE and beside.exists()
        if taken and not holds_image(beside, finite_image(found.image)[0]):
            warnings.append(f"{file} is not written: {beside.name} is there, another image")
            continue
        write_neurons(path, found, rois, kind, numbers=numbers)
        files.append(file)
    return tuple(files), len(rois), tuple(warnings)


def name_output(found: Prediction, kind: Any) -> str:
    """Return the name of one output: a file, or a folder for some tools."""
    endings = {kind: f"_{kind}.tif" for kind in found.maps} | FILES
    return found.name + (endings.get(kind) or ENDINGS[kind])


def write_neurons(
    path: Path, found: Prediction, rois: Rois, kind: str, *, numbers: bool = False
) -> None:
    """Write the neurons of one image in one format, over what is there.

    Args:
        path: file or folder to write, see `name_output`.
        found: the image, and what was predicted for it.
        rois: the neurons.
        kind: one of `OutputFormat`, or one of the maps.
        numbers: whether the overlay shows the number of each neuron.

    Raises:
        WorkdirError: if it cannot be written.
    """
    inside = rois.labels > 0 if found.corrected else found.probability >= found.limits[0]
    mask = np.where(inside, np.uint8(255), np.uint8(0))
    if kind == "labels" and found.corrected:
        write_image_tiff(path, rois.labels, found.um_per_px, compress=True)
    elif kind == "labels":
        write_labels(path, rois.labels, found.um_per_px)
    elif kind in ("probability", "mask", *found.maps):
        maps = {"probability": found.probability, "mask": mask, **found.maps}
        write_map(path, maps[kind], found.um_per_px)
    elif kind == "overlay":
        write_overlay(path, draw_overlay(found.image, rois.labels, numbers))
    elif kind == "table":
        write_table(path, tabulate_neurons(found.image, rois))
    elif kind == "npz":
        arrays: dict[str, Any] = {MARK: np.array(1), "probability": found.probability, "mask": mask}
        arrays |= {
            key: getattr(rois, key)
            for key in ("labels", "area", "centroid", "quality", "confidence")
        }
        arrays["mean_probability"] = rois.probability
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, allow_pickle=False, **arrays)
    else:
        _write_format(path, found, rois, kind)


def _write_format(path: Path, found: Prediction, rois: Rois, kind: Any) -> None:
    """Write the neurons in the format of another tool."""
    from fluxseg.formats.convert import write_recording

    masks, names = masks_from_labels(rois.labels)
    mark = sign_masks(rois.labels) if kind in SIGNED else MARK
    metadata: dict[str, Any] = {} if found.corrected else {"made_by": mark}
    metadata["roi_quality"] = np.round(rois.confidence, 4).tolist()
    if found.um_per_px is not None:
        metadata["um_per_px"] = found.um_per_px
    recording = Recording(found.name, found.image, masks, names, metadata=metadata)
    for remark in write_recording(path, recording, kind, overwrite=True):
        logger.debug("%s: %s", path.name, remark)
