"""The napari plugin without napari: layers, the cut, what is written, the manifest."""

import dataclasses
import functools
import importlib

import numpy as np
import pytest

import fluxseg
from fluxseg.adapt.few_shot import FewShot
from fluxseg.config import SimulatorConfig
from fluxseg.errors import FluxsegError, RecordingError, WorkdirError
from fluxseg.formats.convert import write_recording
from fluxseg.formats.labels import merge_labels
from fluxseg.formats.own import is_prediction
from fluxseg.formats.sources import FolderSource
from fluxseg.inference.inputs import plan_jobs
from fluxseg.inference.model_file import write_model
from fluxseg.inference.outputs import FILES
from fluxseg.inference.predict_files import predict_files
from fluxseg.napari import layers, neurons
from tests.conftest import REPOSITORY
from tests.inference.models import tiny_model

PACKAGE = REPOSITORY / "fluxseg" / "napari"


@pytest.fixture(scope="module")
def recording():
    return fluxseg.simulate_recording(SimulatorConfig(size=64, seed=1), 0)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    write_model(path, tiny_model(tile=64))
    return path


def two_cells():
    """Labels 1 and 3, and their confidence."""
    labels = np.zeros((16, 16), np.int32)
    labels[2:6, 2:6], labels[9:14, 9:14] = 1, 3
    return labels, {"index": np.array([1, 2, 3]), "confidence": np.array([0.2, 0.5, 0.8])}


def test_moving_the_cut_hides_and_shows_and_loses_nothing():
    labels, features = two_cells()
    nothing = np.zeros_like(labels)
    shown, hidden = neurons.move_cut(labels, nothing, features, 0.5)
    assert set(np.unique(shown)) == {0, 3}
    assert set(np.unique(hidden)) == {0, 1}
    back = neurons.move_cut(shown, hidden, features, 0.0)
    np.testing.assert_array_equal(back, (labels, nothing))


def test_what_was_removed_stays_away_and_what_was_drawn_stays():
    labels, features = two_cells()
    shown, hidden = neurons.move_cut(labels, np.zeros_like(labels), features, 0.5)
    shown[shown == 3] = 0
    # Drawn over the hidden cell, even with its number.
    shown[4:8, 4:8] = 1
    drawn = shown > 0
    for cut in (0.9, 0.0):
        shown, hidden = neurons.move_cut(shown, hidden, features, cut)
        assert (shown[drawn] == shown[4, 4]).all()
    assert shown[2, 2] == 1
    assert shown[4, 4] not in (0, 1, 3)
    assert not hidden.any()
    assert not shown[9:14, 9:14].any()


def test_unknown_neurons_are_sure():
    assert neurons.confidence_of({}, np.array([1, 2])).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("shape", "rgb", "text"),
    [((8, 8, 3), True, "cell: is in colour"), ((5, 8, 8), False, "cell: is a stack of 5 x 8 x 8")],
)
def test_what_is_no_field_is_refused_with_advice(shape, rgb, text):
    with pytest.raises(RecordingError, match=text):
        neurons.take_image("cell", np.zeros(shape), rgb)


def test_an_image_of_one_plane_is_an_image():
    assert neurons.take_image("x", np.zeros((1, 8, 9), np.uint8)).shape == (8, 9)
    with pytest.raises(RecordingError, match="x: must hold real numbers"):
        neurons.take_image("x", np.zeros((8, 9), complex))


def test_the_same_neurons_as_predict_finds(recording, model):
    (labels, settings, _), cut, text = neurons.find(str(model), recording)
    rois = fluxseg.load_model(model).segment(
        recording.image, min_confidence=0, um_per_px=recording.metadata["um_per_px"]
    )
    np.testing.assert_array_equal(labels, rois.labels)
    np.testing.assert_allclose(settings["features"]["confidence"], rois.confidence, atol=1e-4)
    assert cut == 0
    assert text.startswith(f"{len(rois)} neurons")


@pytest.mark.parametrize("kind", neurons.FORMATS)
def test_corrected_neurons_are_written_in_every_format(tmp_path, recording, kind):
    image = recording.image[:16, :16]
    field = dataclasses.replace(recording, id="a/b", image=image, masks=None, roi_ids=())
    labels, features = two_cells()
    given = {"features": features, "probability": (labels > 0).astype(np.float32)}
    path = neurons.save(tmp_path, field, labels, kind, **given)
    assert path.exists()
    assert path.name.startswith("a_b")
    with pytest.raises(WorkdirError, match="is there already"):
        neurons.save(tmp_path, field, labels, kind, **given)
    assert neurons.save(tmp_path, field, labels, kind, replace=True, **given) == path
    if kind in (*neurons.FORMATS[:1], "suite2p", "cellpose", "nwb", "neurofinder"):
        assert len(fluxseg.read_recording(path).masks) == 2
    if kind == "labels":
        assert not is_prediction(path), "a person's labels are labels"
    if kind == "table":
        assert "0.8" in path.read_text(encoding="utf-8")


def test_a_labelled_recording_keeps_its_group(tmp_path, recording):
    neurons.save(tmp_path, recording, two_cells()[0].repeat(4, 0).repeat(4, 1), neurons.RECORDING)
    source = FolderSource(str(tmp_path))
    (key,) = source.keys()
    read = source.read(key)
    assert read.group == recording.group
    assert len(read.masks) == 2


def test_another_image_of_the_same_name_is_another_recording(tmp_path, recording):
    labels = np.ones(recording.image.shape, np.int32)
    other = dataclasses.replace(recording, image=recording.image + 1)
    fields = (recording, other, recording, other)
    paths = [neurons.add_labelled(tmp_path, field, labels) for field in fields]
    assert paths[:2] == paths[2:]
    assert len(set(paths)) == 2


def test_nothing_and_the_wrong_image_are_not_written(tmp_path, recording):
    labels = np.zeros(recording.image.shape, np.int32)
    with pytest.raises(RecordingError, match="press Find, or paint some"):
        neurons.save(tmp_path, recording, labels, "labels")
    labels[3, 3] = 1
    with pytest.raises(RecordingError, match="press Find first"):
        neurons.save(tmp_path, recording, labels, "probability")
    with pytest.raises(RecordingError, match="choose those of this image"):
        neurons.save(tmp_path, recording, labels[1:], "labels")
    assert not list(tmp_path.iterdir())


def test_tuning_learns_the_fields_of_the_folder_and_can_be_stopped(
    tmp_path, recording, model, monkeypatch
):
    monkeypatch.setattr("fluxseg.adapt.few_shot.FewShot", functools.partial(FewShot, steps=3))
    fields = [(recording, merge_labels(recording.masks))]
    with pytest.raises(FluxsegError, match="no neurons"):
        neurons.tune(str(model), [], tmp_path, lambda *_: None)

    def stop(done, total):
        raise FluxsegError(f"stopped at {done} of {total}")

    with pytest.raises(FluxsegError, match="stopped at 1 of"):
        neurons.tune(str(model), fields, tmp_path, stop)
    steps = []
    output, text = neurons.tune(str(model), fields, tmp_path, lambda *at: steps.append(at))
    assert output.name == "tuned_2"
    assert steps[-1][0] == steps[-1][1] < 10
    assert "look at what both find" in text
    assert neurons.find(str(output), recording)[0][0].shape == recording.image.shape


def kinds(found):
    return [kind for _, _, kind in found]


def test_recordings_and_outputs_of_predict_are_read(tmp_path, recording, model):
    write_recording(tmp_path / "a.npz", recording)
    image, labels = layers.read_layers(tmp_path / "a.npz")
    np.testing.assert_array_equal(image[0], recording.image)
    assert labels[0].max() == len(recording.masks)
    low, high = image[1]["contrast_limits"]
    assert low < high
    output = tmp_path / "out"
    jobs, _ = plan_jobs([str(tmp_path / "a.npz")])
    network = dataclasses.replace(fluxseg.load_model(model), threshold=0.3)
    predict_files(network, jobs, output, (*FILES, "suite2p", "nwb", "cellpose"), min_confidence=0)
    (made,) = layers.read_layers(output / "a_labels.tif")
    count = made[0].max()
    assert made[1]["features"]["index"].tolist() == list(range(1, count + 1))
    _, same = layers.read_layers(output / "a_prediction.npz")
    np.testing.assert_array_equal(same[0], made[0])
    np.testing.assert_array_equal(
        same[1]["features"]["confidence"], made[1]["features"]["confidence"]
    )
    assert kinds(layers.read_layers(output / "a_probability.tif")) == ["image"]
    assert kinds(layers.read_layers(output / "a_mask.tif")) == ["labels"]
    for name in ("a_suite2p", "a.nwb", "a_seg.npy"):
        assert kinds(layers.read_layers(output / name)) == ["image", "labels"]
    (_, told, _) = layers.read_layers(output / "a_suite2p")[1]
    np.testing.assert_allclose(
        told["features"]["confidence"], made[1]["features"]["confidence"], atol=1e-4
    )
    assert layers.get_reader(str(output / "a_overlay.png")) is None
    damaged = output / "b_prediction.npz"
    damaged.write_bytes((output / "a_prediction.npz").read_bytes()[:2000])
    with pytest.raises(RecordingError, match=r"b_prediction\.npz: is damaged"):
        layers.read_layers(damaged)


def test_labels_in_doubt_leave_the_image(tmp_path, recording):
    write_recording(tmp_path / "a.tif", recording, "labels")
    (tmp_path / "a_masks.tif").write_bytes((tmp_path / "a_labels.tif").read_bytes())
    assert kinds(layers.read_layers(tmp_path / "a.tif")) == ["image"]
    assert kinds(layers.read_layers(tmp_path / "a_labels.tif")) == ["labels"]
    np.save(tmp_path / "plain.npy", recording.image)
    assert kinds(layers.read_layers(tmp_path / "plain.npy")) == ["image"]


def test_what_cannot_be_read_names_the_file(tmp_path):
    (tmp_path / "x.tif").write_bytes(b"no image")
    with pytest.raises(RecordingError, match=r"x\.tif"):
        layers.read_layers(tmp_path / "x.tif")
    assert layers.get_reader(str(tmp_path)) is None
    assert layers.get_reader(["a.tif", "b.tif"]) is None


@pytest.mark.parametrize("name", ["x.tif", "x.zip"])
def test_labels_are_written_and_read_again(tmp_path, name):
    labels = two_cells()[0]
    assert layers.write(str(tmp_path / name), labels, {}) == [str(tmp_path / name)]
    if name == "x.tif":
        np.testing.assert_array_equal(layers.read_layers(tmp_path / name)[0][0], labels)


def test_the_sample_is_a_field_with_its_truth_hidden():
    image, truth = layers.simulate_layers()
    assert image[0].shape == truth[0].shape == (256, 256)
    assert truth[1]["visible"] is False


def test_the_manifest_names_what_is_there():
    lines = (PACKAGE / "napari.yaml").read_text(encoding="utf-8").splitlines()
    names = [line.split(": ")[1] for line in lines if "python_name" in line]
    assert len(names) == 4
    for name in names:
        module, function = name.split(":")
        if module.endswith("widget"):
            assert f"class {function}(" in (PACKAGE / "widget.py").read_text(encoding="utf-8")
        else:
            assert callable(getattr(importlib.import_module(module), function))
