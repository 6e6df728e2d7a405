"""The window, by napari itself; it needs a screen, or `xvfb-run`: see CONTRIBUTING.md.

`FLUXSEG_FIGURE=docs/figures/napari.png` also writes the picture of the how-to page.
"""

import functools
import os

import numpy as np
import pytest
import tifffile

import fluxseg
from fluxseg.adapt.few_shot import FewShot
from fluxseg.errors import InterruptedRunError
from fluxseg.inference.model_file import write_model
from tests.inference.models import tiny_model

pytest.importorskip("napari", reason="napari is not installed: pip install '.[window]'")
pytestmark = [pytest.mark.napari, pytest.mark.filterwarnings("default")]


@pytest.fixture
def viewer(make_napari_viewer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Shown, as widgets in a hidden window are never visible.
    return make_napari_viewer(show=True)


@pytest.fixture
def widget(viewer):
    return viewer.window.add_plugin_dock_widget("fluxseg", "Find neurons")[1]


@pytest.fixture
def told(monkeypatch):
    """What notifications say."""
    texts = []
    for module in ("fluxseg.napari.widget", "napari.utils.notifications"):
        monkeypatch.setattr(f"{module}.show_error", texts.append)
    return texts


@pytest.fixture
def small(tmp_path):
    write_model(tmp_path / "small.safetensors", tiny_model(threshold=0.3, tile=64))
    return tmp_path / "small.safetensors"


def press(button, widget, qtbot, seconds=120):
    button.native.click()
    qtbot.waitUntil(lambda: widget.find.enabled, timeout=1000 * seconds)


def test_from_the_sample_to_a_tuned_model(viewer, widget, qtbot, tmp_path, small, monkeypatch):
    monkeypatch.setattr("fluxseg.adapt.few_shot.FewShot", functools.partial(FewShot, steps=3))
    viewer.open_sample("fluxseg", "field")
    image, truth = viewer.layers
    assert widget.image.value is image
    assert not truth.visible
    widget.model.value = small
    press(widget.find, widget, qtbot)
    layer = widget.neurons.value
    everything = layer.data.copy()
    assert everything.any()
    # The cut hides and shows at once, and runs no network.
    middle = float(np.median(layer.features["confidence"]))
    widget.cut.value = round(middle, 2)
    hidden = np.setdiff1d(everything, layer.data)
    assert hidden.size
    widget.cut.value = 0
    np.testing.assert_array_equal(layer.data, everything)
    # Remove by a click, add by paint, undo: napari's own tools.
    widget.erase.native.click()
    first = layer.data[layer.data > 0][0]
    where = np.argwhere(layer.data == first)[0]
    layer.fill(where, layer.selected_label)
    assert first not in layer.data
    layer.undo()
    assert first in layer.data
    widget.draw.native.click()
    assert layer.mode == "paint"
    layer.paint((40, 40), layer.selected_label)
    new = layer.selected_label
    assert new not in everything
    widget.cut.value = 1
    assert np.unique(layer.data).tolist() == [0, new], "what a person has drawn stays"
    widget.cut.value = 0
    widget.save.native.click()
    path = tmp_path / "neurons" / "simulated field.npz"
    assert len(fluxseg.read_recording(path).masks) == len(np.unique(layer.data)) - 1
    press(widget.tune, widget, qtbot, 300)
    assert widget.model.value == tmp_path / "neurons" / "tuned_1"
    assert widget.progress.value == widget.progress.max < 10
    assert "report.html" in widget.told.value


def test_a_training_can_be_stopped(viewer, widget, qtbot, told, small):
    viewer.open_sample("fluxseg", "field")
    widget.model.value = small
    press(widget.find, widget, qtbot)
    widget._steps.taken.connect(lambda *_: widget.stop.native.click())
    press(widget.tune, widget, qtbot, 300)
    assert len(told) == 1
    assert told[0].startswith("Stopped at step ")
    assert widget.model.value == small


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (None, "image: there is none: open one"),
        (np.zeros((32, 32, 3), np.uint8), "image: is in colour"),
        (np.zeros((4, 8, 8)), "image: is a stack of 4 x 8 x 8"),
    ],
)
def test_what_is_no_field_gives_a_sentence(viewer, widget, told, data, text):
    if data is not None:
        viewer.add_image(data, name="image")
    widget.find.native.click()
    assert len(told) == 1
    assert told[0].startswith(text)
    for button in (widget.save, widget.erase, widget.draw, widget.tune):
        button.native.click()
    assert all(one.startswith("neurons: there are none") for one in told[1:])
    assert len(told) == 5


def test_a_closed_window_ends_the_training(viewer, widget, qtbot, small):
    viewer.open_sample("fluxseg", "field")
    widget.model.value = small
    press(widget.find, widget, qtbot)
    widget.tune.native.click()
    qtbot.waitUntil(lambda: widget.progress.value > 0, timeout=120_000)
    viewer.window.remove_dock_widget(widget.native)
    widget.native.deleteLater()
    qtbot.waitUntil(widget._closed.is_set, timeout=10_000)
    with pytest.raises(InterruptedRunError):
        widget._on_step(1, 2)
    # The window's end in this fixture waits for the thread.


def test_errors_of_the_thread_give_a_sentence(viewer, widget, qtbot, told):
    viewer.add_image(np.zeros((32, 32)), name="image")
    widget.model.value = "nowhere"
    press(widget.find, widget, qtbot)
    assert "nowhere" in told[0]


def test_files_are_read_and_labels_written(viewer, told, tmp_path):
    recording = fluxseg.simulate_recording(fluxseg.SimulatorConfig(size=64), 0)
    fluxseg.write_recording(tmp_path / "a.npz", recording)
    image, labels = viewer.open(tmp_path / "a.npz", plugin="fluxseg")
    np.testing.assert_array_equal(image.data, recording.image)
    assert labels.save(str(tmp_path / "b.zip"), plugin="fluxseg") == [str(tmp_path / "b.zip")]
    (tmp_path / "bad.tif").write_bytes(b"no image")
    viewer.open(tmp_path / "bad.tif", plugin="fluxseg")
    assert len(viewer.layers) == 2
    assert "bad.tif" in told[0]
    movie = np.zeros((4, 8, 8), np.uint8)
    tifffile.imwrite(tmp_path / "movie.tif", movie, photometric="minisblack")
    viewer.open(tmp_path / "movie.tif", plugin="fluxseg")
    assert told[1].endswith("own reader, and split or project it")


def test_the_picture_of_the_page(viewer, widget, qtbot):
    if not (figure := os.environ.get("FLUXSEG_FIGURE")):
        pytest.skip("writes a picture: set FLUXSEG_FIGURE")
    from PIL import Image

    viewer.window.resize(1150, 720)
    viewer.open_sample("fluxseg", "field")
    press(widget.find, widget, qtbot)
    viewer.reset_view()
    qtbot.wait(1000)
    picture = Image.fromarray(viewer.screenshot(canvas_only=False, flash=False)).convert("RGB")
    picture.quantize(128).save(figure, optimize=True)
