"""Files as layers of napari and back, and a sample: what `napari.yaml` names, without a window.

A layer is what npe2 takes for one: (array `[H, W]`, settings, type).
"""

import csv
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fluxseg.config import SimulatorConfig
from fluxseg.data.recording import Recording, check_image
from fluxseg.errors import FluxsegError, RecordingError, UnsafeFileError
from fluxseg.formats.convert import detect_format, read_recording
from fluxseg.formats.imagej import write_imagej
from fluxseg.formats.label_names import is_label_name, stem_of
from fluxseg.formats.labels import label_components, masks_from_labels, merge_labels
from fluxseg.formats.metadata import roi_quality
from fluxseg.formats.npy import naming_file
from fluxseg.formats.npz import MAX_BYTES
from fluxseg.formats.own import is_prediction
from fluxseg.formats.pixels import read_pixels, write_image_tiff
from fluxseg.inference.inputs import read_input
from fluxseg.inference.outputs import FILES
from fluxseg.io.arrays import read_arrays
from fluxseg.simulation.sessions import simulate_recording

LayerData = tuple[Any, dict[str, Any], str]
KEY = "fluxseg"  # where the metadata of a layer hold what only fluxseg asks for


def get_reader(path: str | list[str]) -> Callable[[str], list[Any]] | None:
    """Return the function that reads a path; None for stacks and what is for others to read."""
    if not isinstance(path, str):
        return None
    file = Path(path)
    if file.is_dir():
        try:
            detect_format(file)
        except RecordingError:
            return None
    # An overlay is a picture in colour to look at.
    picture = file.name.endswith(FILES["overlay"]) and is_prediction(file)
    return None if picture else read


def read(path: str) -> list[Any]:
    """Read a file or folder into layers; if it cannot be used, a notification says why."""
    try:
        return read_layers(Path(path))
    except FluxsegError as error:
        # What names an option of the command line is done with the mouse here.
        more = "; or open it with napari's own reader, and split or project it"
        _show(error, more if "--" in str(error) else "")
        return [(None,)]  # no layer


def read_layers(path: Path) -> list[LayerData]:
    """Read a file or folder that `fluxseg predict` reads or writes.

    Returns the image, if there is one, and the neurons, int32, if they are known, with the
    confidence of each among their features, if that is known. Raises `RecordingError`, naming the
    file, if it cannot be used.
    """
    if path.name.endswith(FILES["npz"]) and is_prediction(path):
        return _read_prediction(path)
    if is_label_name(path):
        return [_read_labels(path)]
    try:
        recording = read_recording(path)
    except UnsafeFileError:
        raise
    except RecordingError:
        # The image may be of use although its labels are not.
        image, scale, _ = read_input(path)
        recording = Recording(
            "image", image, metadata={} if scale is None else {"um_per_px": scale}
        )
    return layers_of_recording(rename(recording, stem_of(path)))


def rename(recording: Recording, name: str) -> Recording:
    """Return a recording under another name; without a group it is a group of its own."""
    group = "" if recording.group == recording.id else recording.group
    return dataclasses.replace(recording, id=name or "image", group=group)


def layers_of_recording(recording: Recording) -> list[LayerData]:
    """Return the image of a recording, and its neurons if it is annotated, as layers."""
    image = recording.image
    known = {"recording": dataclasses.replace(recording, masks=None, roi_ids=())}
    inside = image[np.isfinite(image)].astype(float)
    low, high = np.percentile(inside, (1, 99.5)) if inside.size else (0, 0)
    limits = {"contrast_limits": (float(low), float(high))} if low < high else {}
    settings = {"name": recording.id, "metadata": {KEY: known}, **limits}
    layers: list[LayerData] = [(image, settings, "image")]
    if recording.masks is not None:
        labels, told = merge_labels(recording.masks), roi_quality(recording)
        layers.append(layer_of_neurons(f"{recording.id} neurons", labels, told, known))
    return layers


def layer_of_neurons(
    name: str,
    labels: np.ndarray,
    confidence: Sequence[float] | np.ndarray | None = None,
    known: Mapping[str, Any] | None = None,
) -> LayerData:
    """Return neurons, labels `[H, W]` int, as a layer.

    `confidence` `[N]`, 0 to 1, is that of the labels 1 to N, or None; `known` is what the metadata
    hold under `KEY`, such as the recording that they belong to.
    """
    settings: dict[str, Any] = {"name": name, "metadata": {KEY: dict(known or {})}}
    if confidence is not None:
        values = np.round(np.asarray(confidence, float), 4)
        settings["features"] = {"index": np.arange(1, len(values) + 1), "confidence": values}
    # Signed and wide, as people paint numbers beyond those of 8 bits.
    return labels.astype(np.int32), settings, "labels"


def simulate_layers() -> list[LayerData]:
    """Simulate a field of 256 x 256 px; the layer of its true neurons is hidden at first."""
    recording = simulate_recording(SimulatorConfig(size=256, seed=7), 0)
    image, truth = layers_of_recording(rename(recording, "simulated field"))
    truth[1].update(name="simulated field truth", visible=False)
    return [image, truth]


def write(path: str, labels: Any, _settings: Mapping[str, Any]) -> list[str]:
    """Write a labels layer, `[H, W]` int: an ImageJ ROI set if its name ends with `.zip`, or TIFF.

    Returns the file; nothing if it cannot be written, which a notification says.
    """
    labels, file = np.asarray(labels), Path(path)
    try:
        check_image(labels, path)
        if file.suffix.lower() == ".zip":
            masks, names = masks_from_labels(labels)
            write_imagej(file, Recording(file.stem, labels, masks, names))
        else:
            write_image_tiff(
                file, labels.astype(np.uint16 if labels.max() < 2**16 else np.uint32), compress=True
            )
    except FluxsegError as error:
        _show(error)
        return []
    return [path]


def _show(error: FluxsegError, advice: str = "") -> None:
    from napari.utils.notifications import show_error

    show_error(f"{error}{advice}")


def _read_labels(path: Path) -> LayerData:
    labels, _ = read_pixels(path, labels=True)
    if len(np.unique(labels)) == 2 and not path.stem.lower().endswith(("_labels", "_label")):
        labels = label_components(labels != 0)
    table = path.with_name(path.name.removesuffix(FILES["labels"]) + FILES["table"])
    try:
        with table.open(encoding="utf-8", newline="") as file:
            told = [float(row["confidence"]) for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        told = None
    return layer_of_neurons(path.stem, labels, told)


def _read_prediction(path: Path) -> list[LayerData]:
    name = path.name.removesuffix(FILES["npz"])
    with naming_file(path):
        try:
            names = ("probability", "labels", "confidence")
            probability, labels, confidence = read_arrays(path, names, MAX_BYTES)
        except Exception as error:
            # Damaged files meet the library with exceptions of any kind.
            raise RecordingError("", f"is damaged: {error}") from error
        for array in (probability, labels):
            check_image(array)
    shown = {"name": f"{name} probability", "contrast_limits": (0, 1)}
    return [(probability, shown, "image"), layer_of_neurons(f"{name} neurons", labels, confidence)]
