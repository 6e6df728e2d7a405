import json
import os

import jax
import numpy as np
import pytest
import tifffile
from PIL import Image

from fluxseg.config import ModelConfig
from fluxseg.data.recording import Recording
from fluxseg.errors import ConfigError, RecordingError
from fluxseg.formats.npz import write_npz
from fluxseg.formats.pick import Pick
from fluxseg.inference.inputs import plan_jobs, read_input
from fluxseg.inference.predict import Predictor
from fluxseg.inference.predict_files import predict_files
from fluxseg.model.unet import create_unet

CONFIG = ModelConfig(features=(4, 8), convs=1, stem=1, norm="none")
IMAGE = np.random.default_rng(0).integers(0, 4000, (40, 50)).astype(np.uint16)


@pytest.fixture(scope="module")
def model():
    image = np.zeros((1, 16, 16, 1), np.float32)
    params = create_unet(CONFIG).init(jax.random.key(1), image, train=False)["params"]
    return Predictor(CONFIG, params, threshold=0.5)


@pytest.fixture
def data(tmp_path, monkeypatch):
    folder = tmp_path / "data"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.png", "b.png", "sub/A.png", "b_labels.png"):
        Image.fromarray(IMAGE.astype(np.uint8)).save(folder / name)
    monkeypatch.chdir(tmp_path)
    return folder


def names(jobs):
    return [(job.path.as_posix(), job.name) for job in jobs]


def test_files_folders_and_patterns_name_each_image_once(data, tmp_path):
    out = tmp_path / "out"
    expected = [("data/a.png", "a"), ("data/b.png", "b"), ("data/sub/A.png", "A_2")]
    assert names(plan_jobs(["data"], out)) == expected
    assert names(plan_jobs(["data", "data/a.png", "data/*.png"], out)) == expected
    assert names(plan_jobs(["data/*.png"], out)) == expected[:2]
    # The order of the inputs decides which of two gets the plain name.
    assert names(plan_jobs(["data/sub/A.png", "data/**/a.png"], out)) == [
        ("data/sub/A.png", "A"),
        ("data/a.png", "a_2"),
    ]


def test_inputs_that_name_nothing_are_told(data, tmp_path):
    (tmp_path / "empty").mkdir()
    jobs = plan_jobs(["absent.png", "no*.png", "empty", "data/a.png"], tmp_path / "out")
    assert [bool(job.error) for job in jobs] == [True, True, True, False]
    assert "no such file" in jobs[0].error


def test_predictions_are_no_inputs(data):
    out = data / "out"
    out.mkdir()
    Image.fromarray(IMAGE.astype(np.uint8)).save(out / "old.png")
    jobs = plan_jobs(["data"], out)
    assert "old" not in [job.name for job in jobs]
    assert len(jobs) == 3
    assert "output folder" in plan_jobs(["data/out/old.png"], out)[0].error
    assert "output folder" in plan_jobs(["data"], data)[0].error


@pytest.mark.skipif(os.name == "nt", reason="these are no file names there")
@pytest.mark.parametrize("name", ["..png", "a\nb.png", "..\\x.png", "a" * 240 + ".png", " .png"])
def test_names_stay_in_the_output_folder(data, tmp_path, model, name):
    Image.fromarray(IMAGE.astype(np.uint8)).save(data / "sub" / "x.png")
    (data / "sub" / "x.png").rename(data / name)
    out = tmp_path / "out"
    outcomes = predict_files(model, plan_jobs([f"data/{name}"], out), out, ["mask"])
    assert not outcomes[0].error
    (file,) = outcomes[0].files
    assert (out / file).resolve().parent == out.resolve()
    assert (out / file).is_file()
    assert not set(file) & set('\n\\/:*?"<>|')


def test_a_movie_is_not_predicted_frame_by_frame(model, tmp_path):
    path = tmp_path / "movie.tif"
    tifffile.imwrite(path, np.stack([IMAGE] * 9), photometric="minisblack")
    jobs = plan_jobs([str(path)], tmp_path / "out")
    assert [job.name for job in jobs] == ["movie"]
    (outcome,) = predict_files(model, jobs, tmp_path / "out", ["mask"])
    assert "is a movie of 9 frames: make an image of it with `fluxseg project" in outcome.error
    assert not outcome.files


def test_the_channel_that_is_picked_is_predicted(model, tmp_path):
    path = tmp_path / "two.tif"
    tifffile.imwrite(path, np.stack([IMAGE, IMAGE[::-1]]), imagej=True, metadata={"axes": "CYX"})
    (job,) = plan_jobs([str(path)], tmp_path / "out", Pick(channel="2"))
    np.testing.assert_array_equal(read_input(job.path, job.pick)[0], IMAGE[::-1])
    with pytest.raises(RecordingError, match=r"holds 2 channels \(1, 2\); choose with --channel"):
        read_input(path)


def test_recordings_and_plain_arrays_are_read(tmp_path):
    write_npz(tmp_path / "r.npz", Recording("r", IMAGE, metadata={"um_per_px": 0.78}))
    image, scale = read_input(tmp_path / "r.npz")
    np.testing.assert_array_equal(image, IMAGE)
    assert scale == 0.78
    np.save(tmp_path / "plain.npy", IMAGE)
    np.testing.assert_array_equal(read_input(tmp_path / "plain.npy")[0], IMAGE)
    np.save(tmp_path / "stack.npy", IMAGE[None])
    with pytest.raises(RecordingError, match=r"stack\.npy"):
        read_input(tmp_path / "stack.npy")


def test_masks_beside_an_image_are_not_looked_at(tmp_path):
    Image.fromarray(IMAGE.astype(np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "a_masks.png").write_bytes(b"damaged")
    assert read_input(tmp_path / "a.png")[0].shape == (40, 50)


def test_outputs_fit_together_and_keep_the_scale(model, tmp_path):
    tifffile.imwrite(
        tmp_path / "a.tif",
        IMAGE,
        photometric="minisblack",
        resolution=(1e4 / 0.8, 1e4 / 0.8),
        resolutionunit="CENTIMETER",
    )
    out = tmp_path / "out"
    jobs = plan_jobs([str(tmp_path / "a.tif")], out)
    formats = ["probability", "labels", "mask", "npz"]
    (outcome,) = predict_files(model, jobs, out, formats, threshold=0.45)
    assert set(outcome.files) | {"predictions.json"} == {path.name for path in out.iterdir()}
    probability, scale = read_input(out / "a_probability.tif")
    assert scale == pytest.approx(0.8)
    np.testing.assert_allclose(probability, model.predict(IMAGE), atol=1e-6)
    mask = tifffile.imread(out / "a_mask.tif")
    np.testing.assert_array_equal(mask == 255, probability >= np.float32(0.45))
    labels = tifffile.imread(out / "a_labels.tif")
    with np.load(out / "a_prediction.npz") as arrays:
        np.testing.assert_array_equal(arrays["labels"], labels)
        np.testing.assert_array_equal(arrays["probability"], probability)
        np.testing.assert_array_equal(arrays["area"], np.bincount(labels.ravel())[1:])
        assert outcome.neurons == labels.max() == len(arrays["quality"])
        sure = arrays["confidence"]
    row = json.loads((out / "predictions.json").read_text())["images"][0]
    assert row["neurons"] == outcome.neurons
    cut = float(np.median(sure))
    (fewer,) = predict_files(model, jobs, out, formats, threshold=0.45, min_confidence=cut)
    assert fewer.neurons == (sure >= cut).sum()
    assert json.loads((out / "predictions.json").read_text())["min_confidence"] == cut


def test_a_bad_file_does_not_stop_the_others(model, tmp_path):
    for name in ("a.npy", "c.npy"):
        np.save(tmp_path / name, IMAGE)
    whole = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "b.npy").write_bytes(whole[:500])
    (tmp_path / "d.tif").write_bytes(b"II*\x00\xff\xff\xff\x00")
    seen = []
    jobs = plan_jobs([str(tmp_path)], tmp_path / "out")
    outcomes = predict_files(
        model, jobs, tmp_path / "out", ["mask"], progress=lambda *done: seen.append(done)
    )
    assert [bool(outcome.error) for outcome in outcomes] == [False, True, False, True]
    assert seen == [(n, 4) for n in (1, 2, 3, 4)]
    rows = json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]
    assert "truncated" in rows[1]["error"]
    assert rows[1]["files"] == []


@pytest.mark.parametrize(
    "wrong", [{"threshold": 0.0}, {"threshold": 2.0}, {"formats": ["svg"]}, {"formats": []}]
)
def test_wrong_settings_are_refused_before_any_work(model, tmp_path, wrong):
    with pytest.raises(ConfigError):
        predict_files(model, [], tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()


def test_neurons_go_to_the_tools_of_the_lab(model, tmp_path):
    from typing import get_args

    from fluxseg.cli.apply import PredictFormat
    from fluxseg.formats.formats import ENDINGS
    from fluxseg.formats.sources import read_recording
    from fluxseg.inference.predict_files import OutputFormat

    assert get_args(PredictFormat) == get_args(OutputFormat)
    image = np.random.default_rng(0).random((48, 64)).astype(np.float32)
    tifffile.imwrite(tmp_path / "a.tif", image)
    kinds = [kind for kind in get_args(OutputFormat) if kind in ENDINGS and kind != "npz"]
    assert len(kinds) == 7
    jobs = plan_jobs([str(tmp_path / "a.tif")], tmp_path / "out")
    (outcome,) = predict_files(model, jobs, tmp_path / "out", kinds, threshold=0.4)
    assert not outcome.error
    assert outcome.neurons
    labels = tifffile.imread(tmp_path / "out" / "a_labels.tif")
    for kind, file in zip(kinds, outcome.files, strict=True):
        assert file == "a" + ("_labels.tif" if kind == "labels" else ENDINGS[kind])
        if kind == "labels":
            continue
        source = tmp_path / "out" / file
        picture = tmp_path / "a.tif" if kind == "imagej" else None
        found = read_recording(source, picture)
        assert len(found.masks) == outcome.neurons == labels.max()
        for number, mask in enumerate(found.masks, 1):
            np.testing.assert_array_equal(mask, labels == number)
