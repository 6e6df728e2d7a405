"""The widget "Find neurons" of napari; what it does is in `fluxseg.napari.neurons`."""

import dataclasses
import functools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
import numpy as np
from magicgui import widgets
from napari.layers import Image, Labels
from napari.qt.threading import create_worker
from napari.utils.colormaps import CyclicLabelColormap
from napari.utils.notifications import show_error
from qtpy.QtCore import QObject, Signal

from fluxseg import pretrained
from fluxseg.data.recording import Recording
from fluxseg.errors import FluxsegError, InterruptedRunError, RecordingError
from fluxseg.formats.own import palette
from fluxseg.napari import neurons
from fluxseg.napari.layers import KEY, LayerData, rename

HELP = "Remove: click on neurons. Add: paint, and M for the next one. Undo: Ctrl+Z."


class _Steps(QObject):
    """Carries the progress of a training from its thread to the window."""

    taken = Signal(int, int)


def _shown(method: Callable[["FindNeurons"], None]) -> Callable[..., None]:
    """Let a method tell its errors that a user can act on in a notification."""

    @functools.wraps(method)
    def guarded(self: "FindNeurons", *_: Any) -> None:
        try:
            method(self)
        except FluxsegError as error:
            show_error(str(error))

    return guarded


class FindNeurons(widgets.Container):
    """Finds neurons in an image layer, lets a person correct them, saves and learns them.

    Args:
        viewer: the window.
    """

    def __init__(self, viewer: napari.Viewer) -> None:
        self._viewer, self._steps, self._stop = viewer, _Steps(), threading.Event()
        self.image = widgets.ComboBox(label="image", choices=self._layers(Image))
        tip = "pretrained, a model.safetensors, or the folder of a run"
        self.model = widgets.FileEdit(label="model", value=pretrained.NAME, tooltip=tip)
        self.diameter = widgets.FloatSpinBox(label="diameter, px", tooltip="0: estimated")
        self.find = widgets.PushButton(text="Find")
        self.neurons = widgets.ComboBox(label="neurons", choices=self._layers(Labels))
        self.cut = widgets.FloatSlider(label="least confidence", max=1, step=0.01)
        self.erase, self.draw = widgets.PushButton(text="Remove"), widgets.PushButton(text="Add")
        tools = widgets.Container(
            widgets=[self.erase, self.draw], layout="horizontal", labels=False
        )
        how = widgets.Label(value=HELP)
        self.kind = widgets.ComboBox(label="save as", choices=neurons.FORMATS)
        self.folder = widgets.FileEdit(label="folder", mode="d", value="neurons")
        self.replace = widgets.CheckBox(text="Replace what is there")
        self.save = widgets.PushButton(text="Save")
        tip = "learns the neurons that are shown, of all images, and those in FOLDER/labelled"
        self.tune = widgets.PushButton(text="Fine-tune on these", tooltip=tip)
        self.progress = widgets.ProgressBar(label="tuning", visible=False)
        self.stop = widgets.PushButton(text="Stop", visible=False)
        self.told = widgets.Label()
        super().__init__(
            widgets=[
                self.image, self.model, self.diameter, self.find, self.neurons, self.cut, tools,
                how, self.kind, self.folder, self.replace, self.save, self.tune, self.progress,
                self.stop, self.told,
            ]
        )  # fmt: skip
        for label in (how, self.told):
            label.native.setWordWrap(True)
        for widget, do in (
            (self.find, self._find), (self.neurons, self._show_cut), (self.cut, self._cut),
            (self.erase, self._remove), (self.draw, self._add), (self.save, self._save),
            (self.tune, self._tune), (self.stop, self._stop.set),
        ):  # fmt: skip
            widget.changed.connect(do)
        self._steps.taken.connect(self._while_open(self._show_steps))
        # A training must not outlive the window, nor tell it anything more.
        self._closed = threading.Event()
        self.native.destroyed.connect(self._closed.set)

    def _layers(self, kind: type) -> Callable[..., list[Any]]:
        return lambda *_: [layer for layer in self._viewer.layers if isinstance(layer, kind)]

    def _recording(self) -> Recording:
        """Return the chosen image, with what its file told."""
        layer = self.image.value
        if layer is None:
            raise RecordingError("image", "there is none: open one, or File, Open Sample, fluxseg")
        data = layer.data[0] if layer.multiscale else layer.data
        image = neurons.take_image(layer.name, data, layer.rgb)
        known = layer.metadata.get(KEY, {}).get("recording") or Recording("image", image)
        return dataclasses.replace(rename(known, layer.name), image=image)

    def _chosen(self) -> tuple[Any, dict[str, Any]]:
        """Return the chosen layer of neurons, and what is known of it."""
        layer = self.neurons.value
        if layer is None:
            raise RecordingError("neurons", "there are none: press Find, or add a labels layer")
        if layer.ndim != 2:
            raise RecordingError(layer.name, "holds the labels of a stack, not of one image")
        known = layer.metadata.setdefault(KEY, {})
        known.setdefault("hidden", np.zeros_like(layer.data))
        return layer, known

    @_shown
    def _find(self) -> None:
        given = str(self.model.value), self._recording(), self.diameter.value or None
        self._start(self._show_found, neurons.find, *given)

    def _show_found(self, result: tuple[LayerData, float, str]) -> None:
        (data, settings, _), cut, text = result
        for layer in self._layers(Labels)():
            # Earlier ones of this image are kept, but are neither seen nor learnt.
            earlier = layer.metadata.get(KEY, {}).get("recording")
            if earlier and np.array_equal(
                earlier.image, settings["metadata"][KEY]["recording"].image
            ):
                layer.visible = False
        layer = self._viewer.add_labels(data, **settings)
        layer.contour, layer.opacity = 2, 1
        layer.colormap = CyclicLabelColormap(colors=palette() / 255)
        self.reset_choices()
        self.neurons.value = layer
        self.cut.value = cut
        self.told.value = text

    def _show_cut(self, *_: Any) -> None:
        layer = self.neurons.value
        with self.cut.changed.blocked():
            self.cut.value = 0 if layer is None else layer.metadata.get(KEY, {}).get("cut", 0)

    @_shown
    def _cut(self) -> None:
        layer, known = self._chosen()
        known["cut"] = self.cut.value
        found = neurons.move_cut(layer.data, known["hidden"], layer.features, known["cut"])
        shown, known["hidden"] = found
        mode = layer.mode
        layer.editable = False  # forgets what could be undone: it would bring back another cut
        layer.data, layer.editable, layer.mode = shown, True, mode
        self.told.value = f"{len(np.unique(shown[shown > 0]))} neurons"

    @_shown
    def _remove(self) -> None:
        self._edit("fill", 0)

    @_shown
    def _add(self) -> None:
        layer, known = self._chosen()
        taken = [layer.data.max(), known["hidden"].max(), *layer.features.get("index", ())]
        self._edit("paint", 1 + int(max(taken)))

    def _edit(self, mode: str, label: int) -> None:
        layer, _ = self._chosen()
        self._viewer.layers.selection.active = layer
        layer.contiguous = False
        layer.selected_label = label
        layer.mode = mode

    @_shown
    def _save(self) -> None:
        layer, known = self._chosen()
        path = neurons.save(
            self.folder.value, self._recording(), layer.data, self.kind.value,
            features=layer.features, probability=known.get("probability"),
            replace=self.replace.value,
        )  # fmt: skip
        self.told.value = f"written: {path.absolute()}"

    @_shown
    def _tune(self) -> None:
        _, known = self._chosen()
        if "recording" not in known:
            known["recording"] = self._recording()
        fields = [
            (layer.metadata[KEY]["recording"], layer.data.copy())
            for layer in self._layers(Labels)()
            if layer.visible and "recording" in layer.metadata.get(KEY, {})
        ]
        self._stop.clear()
        self.progress.value = 0
        self.progress.visible = self.stop.visible = True
        given = str(self.model.value), fields, self.folder.value, self._on_step
        self._start(self._show_tuned, neurons.tune, *given)

    def _on_step(self, done: int, total: int) -> None:
        """Tell of a step; called in the thread of the training."""
        if self._stop.is_set() or self._closed.is_set():
            raise InterruptedRunError(2, f"Stopped at step {done}; the model stays as it was.")
        self._steps.taken.emit(done, total)

    def _show_steps(self, done: int, total: int) -> None:
        self.progress.max, self.progress.value = total, done

    def _show_tuned(self, result: tuple[Path, str]) -> None:
        self.model.value, text = result
        self.told.value = f"{text}\nMore: {result[0] / 'report.html'}"

    def _while_open(self, do: Callable[..., None]) -> Callable[..., None]:
        return lambda *given: None if self._closed.is_set() else do(*given)

    def _start(self, done: Callable[..., None], work: Callable[..., Any], *given: Any) -> None:
        """Do something long in a thread; its result goes to `done`."""
        buttons = (self.find, self.save, self.tune)
        for button in buttons:
            button.enabled = False
        self.told.value = "working ..."

        def fail(error: Exception) -> None:
            self.told.value = ""
            if not isinstance(error, FluxsegError | MemoryError):
                raise error
            show_error(str(error) or "no memory is left")

        def finish() -> None:
            self.progress.visible = self.stop.visible = False
            for button in buttons:
                button.enabled = True

        events: dict[str, Callable[..., None]]
        events = {"returned": done, "errored": fail, "finished": finish}
        connect = {event: self._while_open(do) for event, do in events.items()}
        create_worker(work, *given, _connect=connect)
