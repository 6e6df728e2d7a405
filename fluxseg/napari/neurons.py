"""What the widget "Find neurons" does, without a window: arrays in, arrays or files out."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from fluxseg.data.recording import Recording, check_image, pixel_size
from fluxseg.errors import FluxsegError, RecordingError, WorkdirError
from fluxseg.formats.finite import holds_image
from fluxseg.formats.formats import PredictFormat
from fluxseg.formats.labels import masks_from_labels
from fluxseg.formats.npz import read_npz, write_npz
from fluxseg.inference.objects.levels import UNSURE
from fluxseg.inference.objects.rois import measure_rois
from fluxseg.inference.outputs import WITH_IMAGE, Prediction, name_output, write_neurons
from fluxseg.inference.run_model import load_model
from fluxseg.inference.shown import find_doubts
from fluxseg.io.names import safe_name
from fluxseg.io.progress import Progressed
from fluxseg.napari.layers import LayerData, layer_of_neurons

RECORDING = "labelled recording"  # what `fluxseg finetune` learns from: `NAME.npz`
FORMATS = (RECORDING, *get_args(PredictFormat))  # what `save` writes


def take_image(name: str, data: Any, rgb: bool = False) -> np.ndarray:
    """Return the pixels `[H, W]` of an image layer.

    Raises `RecordingError` if it is in colour or a stack, saying what to do.
    """
    if rgb:
        raise RecordingError(
            name, "is in colour: right-click it, choose Split RGB, and take the neurons' channel"
        )
    if len(data.shape) > 2 and max(data.shape[:-2]) > 1:
        shape = " x ".join(map(str, data.shape))
        raise RecordingError(
            name,
            f"is a stack of {shape}, not an image: right-click it and choose Projections, Max "
            "projection (or use `fluxseg project`)",
        )
    image = np.asarray(data).reshape(data.shape[-2:])
    check_image(image, name)
    return image


def find(
    model: str, recording: Recording, diameter: float | None = None
) -> tuple[LayerData, float, str]:
    """Find neurons, as `fluxseg predict` does; `diameter`, px, is None to estimate it.

    Returns all neurons, of whatever confidence, as a layer; the least confidence of those that the
    model would keep; how many these are, and what makes the result doubtful. Raises `FluxsegError`
    if the model cannot be read, or the diameter is of no use.
    """
    network = load_model(model)
    image, cut = recording.image, network.min_confidence
    scale = pixel_size(recording.metadata)
    found = network.find_neurons(
        image, min_confidence=min(cut, UNSURE), um_per_px=scale, diameter=diameter
    )
    rois = found.rois
    told = f"{(rois.confidence >= cut).sum()} neurons"
    if found.diameter:
        told = f"{told}, diameter {found.diameter:.1f} px"
    doubts = find_doubts(image, rois, diameter, network.diameter_px)
    known = {"recording": recording, "probability": found.probability}
    layer = layer_of_neurons(f"{recording.id} neurons", rois.labels, rois.confidence, known)
    return layer, cut, ". ".join([told, *(text.replace("--", "") for text in doubts)])


def confidence_of(features: Mapping[str, Any], labels: np.ndarray) -> np.ndarray:
    """Return the confidence of labels `[N]` by the features of their layer, `[N]` float64.

    It is 1 for those that are not in the features: a person has drawn them.
    """
    known = {}
    if "index" in features and "confidence" in features:
        known = dict(zip(features["index"], features["confidence"], strict=True))
    return np.array([known.get(int(label), 1.0) for label in labels], float)


def move_cut(
    shown: np.ndarray, hidden: np.ndarray, features: Mapping[str, Any], cut: float
) -> tuple[np.ndarray, np.ndarray]:
    """Hide the neurons below a confidence, and show those that were hidden and are not below it.

    `shown` and `hidden` `[H, W]` int are the labels that are seen and those that are not; for
    `features` see `confidence_of`. What was removed stays away, and what was drawn over hidden
    neurons stays. Returns both anew, `[H, W]` of the dtype of `shown`.
    """
    merged = np.where(shown > 0, shown, hidden).astype(shown.dtype)
    fresh = 1 + max(int(shown.max(initial=0)), int(hidden.max(initial=0)))
    # Somebody may have drawn a cell with the number of a hidden one.
    for number, label in enumerate(np.intersect1d(shown[shown > 0], hidden)):
        merged[shown == label] = fresh + number
    labels, where = np.unique(merged, return_inverse=True)
    below = (confidence_of(features, labels) < cut)[where].reshape(merged.shape)
    return np.where(below, 0, merged), np.where(below, merged, 0)


def save(
    folder: Path,
    recording: Recording,
    labels: np.ndarray,
    kind: str,
    *,
    features: Mapping[str, Any] | None = None,
    probability: np.ndarray | None = None,
    replace: bool = False,
) -> Path:
    """Write corrected neurons in one of `FORMATS` to a folder; return the file or folder written.

    `labels` are `[H, W]` int, the id of the recording becomes the name of the file, and for
    `features` see `confidence_of`; `probability` is `[H, W]` float32, of "neuron", or None.
    `replace` writes over what is there. Raises `RecordingError` if there is nothing to write, and
    `WorkdirError` if something is there already, or it cannot be written.
    """
    image, name = recording.image, safe_name(recording.id)
    if labels.shape != image.shape:
        shapes = f"are {list(labels.shape)} px, the image {recording.id} is {list(image.shape)}"
        raise RecordingError("neurons", f"{shapes}: choose those of this image")
    if not labels.any():
        raise RecordingError("neurons", "there are none to save: press Find, or paint some")
    if probability is None and kind in ("probability", "npz"):
        raise RecordingError("probability", "is not known of these neurons: press Find first")
    known = (labels > 0).astype(np.float32) if probability is None else probability
    scale = pixel_size(recording.metadata)
    path = folder / (f"{name}.npz" if kind == RECORDING else name_output(name, kind))
    beside = folder / f"{name}.tif"
    if path.exists() and not replace:
        raise WorkdirError(f"{path}: is there already; choose another folder, or tick Replace")
    if kind in WITH_IMAGE and beside.exists() and not holds_image(beside, image):
        raise WorkdirError(f"{beside}: is there, another image; choose another folder")
    if kind == RECORDING:
        _write_labelled(path, recording, labels)
        return path
    numbers = np.unique(labels[labels > 0])
    compact = np.where(labels > 0, np.searchsorted(numbers, labels) + 1, 0)
    rois = measure_rois(compact, known, um_per_px=scale)
    rois = dataclasses.replace(rois, confidence=confidence_of(features or {}, numbers))
    maps = {"probability": known, "mask": np.where(labels > 0, np.uint8(255), np.uint8(0))}
    write_neurons(path, Prediction(name, image, rois, maps, corrected=True), kind)
    return path


def add_labelled(folder: Path, recording: Recording, labels: np.ndarray) -> Path:
    """Add an image and its neurons `[H, W]` int to a folder that `fluxseg finetune` reads.

    It goes to the file of the same image, if there is one, else to a new one, which is returned.
    Raises `WorkdirError` if it cannot be written.
    """
    name, number = safe_name(recording.id), 1
    path = folder / f"{name}.npz"
    while path.exists() and not np.array_equal(read_npz(path).image, recording.image):
        number += 1
        path = folder / f"{name}_{number}.npz"
    _write_labelled(path, recording, labels)
    return path


def _write_labelled(path: Path, recording: Recording, labels: np.ndarray) -> None:
    masks, names = masks_from_labels(labels)
    told = {k: v for k, v in recording.metadata.items() if k not in ("roi_quality", "made_by")}
    write_npz(path, dataclasses.replace(recording, masks=masks, roi_ids=names, metadata=told))


def tune(
    model: str, fields: Sequence[tuple[Recording, np.ndarray]], folder: Path, progress: Progressed
) -> tuple[Path, str]:
    """Add labelled fields to a folder, and tune a model to all that are there.

    `fields` are images with labels `[H, W]`. The folder gets `labelled` with the recordings, and
    the run in `tuned_1`, `tuned_2`, ... `progress` is called with (steps taken, steps in all); what
    it raises ends the run. Returns the folder of the run, which is a model, and what it says of its
    scores. Raises `FluxsegError` if there is nothing to learn from, or as `finetune` does.
    """
    from fluxseg.adapt.few_shot import FewShot, finetune
    from fluxseg.adapt.verdict import format_scores
    from fluxseg.report.html import write_report
    from fluxseg.training.progress import Callbacks

    if not any(labels.any() for _, labels in fields):
        raise FluxsegError("there are no neurons to learn from: press Find and correct them first")
    network, data = load_model(model), folder / "labelled"
    for recording, labels in fields:
        add_labelled(data, recording, labels)
    number = 1
    while (output := folder / f"tuned_{number}").exists():
        number += 1
    callbacks = Callbacks(on_step=progress)
    _, entry = finetune(network, Path(model).name, str(data), output, FewShot(), callbacks)
    write_report(output)
    return output, "\n".join(format_scores(entry))
