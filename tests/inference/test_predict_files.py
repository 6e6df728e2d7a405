import csv
import json
import shutil

import numpy as np
import pytest
import tifffile
from PIL import Image

from fluxseg.config import ModelConfig
from fluxseg.errors import ConfigError
from fluxseg.formats.pick import Pick
from fluxseg.formats.sources import FolderSource
from fluxseg.inference.inputs import plan_jobs, read_input
from fluxseg.inference.objects.rois import find_rois
from fluxseg.inference.predict import Predictor
from fluxseg.inference.predict_files import predict_files, read_names
from fluxseg.inference.shown import find_doubts
from tests.data.fields import disc
from tests.inference.models import random_params

CONFIG = ModelConfig(features=(4, 8), convs=1, stem=1, norm="none")
IMAGE = np.random.default_rng(0).integers(0, 4000, (40, 50)).astype(np.uint16)


@pytest.fixture(scope="module")
def model():
    return Predictor(CONFIG, random_params(CONFIG, seed=1), threshold=0.5)


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


def test_files_folders_and_patterns_name_each_image_once(data):
    expected = [("data/a.png", "a"), ("data/b.png", "b"), ("data/sub/A.png", "A_2")]
    assert names(plan_jobs(["data"])[0]) == expected
    assert names(plan_jobs(["data", "data/a.png", "data/*.png"])[0]) == expected
    assert names(plan_jobs(["data/*.png"])[0]) == expected[:2]
    (data / "0").mkdir()
    shutil.copy(data / "b.png", data / "0")
    assert names(plan_jobs(["data"])[0]) == [*expected[:2], ("data/0/b.png", "b_2"), expected[2]]
    # The order of the inputs decides which of two gets the plain name.
    assert names(plan_jobs(["data/sub/A.png", "data/**/a.png"])[0]) == [
        ("data/sub/A.png", "A"),
        ("data/a.png", "a_2"),
    ]


def test_an_image_of_a_later_call_does_not_replace_results_of_another(data, model, tmp_path):
    out = tmp_path / "out"
    calls = (["data/sub"], ["data/a.png"], ["data/sub"], ["data/a.png", "data/sub/A.png", "data"])
    for texts, expected in zip(calls, (["A"], ["a_2"], ["A"], ["a_2", "A", "b"]), strict=True):
        jobs = plan_jobs(texts, names=read_names(out))[0]
        assert [job.name for job in jobs] == expected
        predict_files(model, jobs, out, ["table"])
    assert {path.stem for path in out.glob("*.csv")} == {"A_neurons", "a_2_neurons", "b_neurons"}
    (data / "sub" / "A.png").unlink()
    assert "A" not in read_names(out).values()  # Its image is gone: the name is free.
    row = json.loads((out / "predictions.json").read_text())
    row["names"] = {"../data/a.png": "../a"}
    (out / "predictions.json").write_text(json.dumps(row))
    assert read_names(out) == {}


def test_inputs_that_name_nothing_are_told(data, tmp_path):
    (tmp_path / "empty").mkdir()
    jobs = plan_jobs(["absent.png", "no*.png", "empty", "data/a.png"])[0]
    assert [bool(job.error) for job in jobs] == [True, True, True, False]
    assert "no such file" in jobs[0].error


def test_predictions_are_no_inputs_wherever_they_are(data, model):
    before = names(plan_jobs(["data"])[0])
    predict_files(model, plan_jobs(["data"])[0], data, ["probability", "labels", "npz", "mask"])
    jobs, unused = plan_jobs(["data"])
    assert names(jobs) == before
    assert len(unused) == 4 * len(before) + 1
    assert set(unused.values()) == {"written by fluxseg predict"}
    assert plan_jobs(["data/*.tif"])[0][0].error == "matches no image"
    assert "is an output of fluxseg predict" in plan_jobs(["data/a_labels.tif"])[0][0].error


def test_outputs_fit_together_and_keep_the_scale(model, tmp_path):
    tifffile.imwrite(
        tmp_path / "a.tif",
        IMAGE,
        photometric="minisblack",
        resolution=(1e4 / 0.8, 1e4 / 0.8),
        resolutionunit="CENTIMETER",
    )
    out = tmp_path / "out"
    jobs = plan_jobs([str(tmp_path / "a.tif")])[0]
    formats = ["probability", "labels", "mask", "npz"]
    (outcome,) = predict_files(model, jobs, out, formats, threshold=0.45)
    assert set(outcome.files) | {"predictions.json"} == {path.name for path in out.iterdir()}
    probability, scale, _ = read_input(out / "a_probability.tif")
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
    rois = find_rois(probability, threshold=0.45, um_per_px=scale, min_confidence=cut)
    assert fewer.neurons == len(rois) == (rois.confidence >= cut).sum()
    assert json.loads((out / "predictions.json").read_text())["min_confidence"] == cut


@pytest.mark.parametrize(
    "wrong", [{"threshold": 0.0}, {"threshold": 2.0}, {"formats": ["svg"]}, {"formats": []}]
)
def test_wrong_settings_are_refused_before_any_work(model, tmp_path, wrong):
    with pytest.raises(ConfigError):
        predict_files(model, [], tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()


def test_neurons_go_to_the_tools_of_the_lab(model, tmp_path):
    from typing import get_args

    from fluxseg.formats.convert import read_recording
    from fluxseg.formats.formats import ENDINGS, PredictFormat

    image = np.random.default_rng(0).random((48, 64)).astype(np.float32)
    tifffile.imwrite(tmp_path / "a.tif", image)
    kinds = [kind for kind in get_args(PredictFormat) if kind in ENDINGS and kind != "npz"]
    assert len(kinds) == 7
    jobs = plan_jobs([str(tmp_path / "a.tif")])[0]
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


def blobs(shape=(60, 70)):
    """Give a model's probability of three discs."""
    cells = [disc(shape, centre, 7) for centre in ((12, 15), (30, 50), (48, 20))]
    return np.float32(0.9) * np.any(cells, 0)


class Fixed(Predictor):
    """A model whose prediction is known, and that counts how often it is asked."""

    def predict(self, image, **settings):
        asked.append(settings)
        return blobs(np.shape(image)) if np.ptp(image) else np.zeros(np.shape(image), np.float32)


asked = []


@pytest.fixture
def fixed(model):
    asked.clear()
    return Fixed(CONFIG, model.params, threshold=0.5)


def test_people_get_outlines_and_a_table(fixed, tmp_path):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 50, (60, 70)).astype(np.uint16) + 400 * (blobs() > 0).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", image)
    (outcome,) = predict_files(fixed, plan_jobs([str(tmp_path)])[0], tmp_path)
    assert outcome.files == ("a_labels.tif", "a_overlay.png", "a_neurons.csv", "a_probability.tif")
    assert (outcome.neurons, outcome.warnings) == (3, ())
    with (tmp_path / "a_neurons.csv").open() as file:
        rows = list(csv.DictReader(file))
    labels = tifffile.imread(tmp_path / "a_labels.tif")
    assert [int(row["neuron"]) for row in rows] == [1, 2, 3]
    for row in rows:
        inside = labels == int(row["neuron"])
        assert int(row["area_px"]) == inside.sum()
        centre = [values.mean() for values in np.nonzero(inside)]
        assert [float(row["y_px"]), float(row["x_px"])] == pytest.approx(centre, abs=0.01)
        assert float(row["diameter_px"]) == pytest.approx(
            2 * (inside.sum() / np.pi) ** 0.5, abs=0.01
        )
        assert float(row["mean_probability"]) == pytest.approx(0.9, abs=1e-3)
        assert 0.7 < float(row["contrast"]) <= 1
        assert row["area_um2"] == ""
    with Image.open(tmp_path / "a_overlay.png") as picture:
        pixels = np.asarray(picture)
    scale = len(pixels) // 60
    assert pixels.shape == (60 * scale, 70 * scale, 3)
    yellow = (pixels == (255, 210, 0)).all(-1)
    large = labels.repeat(scale, 0).repeat(scale, 1)
    assert not yellow[large == 0].any()
    edge = np.pad(large, 1)
    for y, x in [(1, 0), (-1, 0), (0, 1), (0, -1)]:
        differs = (edge != np.roll(edge, (y, x), (0, 1)))[1:-1, 1:-1] & (large > 0)
        assert yellow[differs].all()
    gray = pixels[~yellow]
    assert (gray == gray[:, :1]).all()


def test_what_is_done_is_not_done_again(fixed, tmp_path, caplog, monkeypatch):
    caplog.set_level("INFO", "fluxseg")
    for name in "abc":
        np.save(tmp_path / f"{name}.npy", np.arange(3000, dtype=np.uint16).reshape(50, 60))
    out = tmp_path / "out"

    def run(**settings):
        asked.clear()
        jobs = plan_jobs([str(tmp_path / f"{name}.npy") for name in "abc"])[0]
        return predict_files(fixed, jobs, out, **settings), len(asked)

    def stop(done, _):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(progress=stop)
    assert len(json.loads((out / "predictions.json").read_text())["images"]) == 2
    first, count = run()
    assert count == 1
    assert [outcome.neurons for outcome in first] == [3, 3, 3]
    assert "Predicting 1 image;" in caplog.text
    caplog.clear()
    assert run() == (first, 0)
    assert "Predicting" not in caplog.text
    assert run(overwrite=True) == (first, 3)
    assert run(threshold=0.6)[1] == 3
    # Another version may find other neurons.
    monkeypatch.setattr("fluxseg.version.__version__", "0.0.1")
    assert run(threshold=0.6)[1] == 3
    assert run(threshold=0.6)[1] == 0
    np.save(tmp_path / "b.npy", np.zeros((50, 60), np.uint16))
    (out / "c_overlay.png").unlink()
    changed, count = run(threshold=0.6)
    assert count == 2
    assert [outcome.neurons for outcome in changed] == [3, 0, 3]


def test_files_of_others_are_kept(fixed, tmp_path):
    image = np.arange(4200, dtype=np.uint16).reshape(60, 70)
    mine = (blobs() > 0).astype(np.uint16)
    for name in "ab":
        tifffile.imwrite(tmp_path / f"{name}.tif", image)
    tifffile.imwrite(tmp_path / "a_labels.tif", mine)
    jobs = plan_jobs([str(tmp_path)])[0]
    assert [job.name for job in jobs] == ["a", "b"]
    first, second = predict_files(fixed, jobs, tmp_path, ["labels", "imagej"])
    assert "a_labels.tif was corrected, or is not from fluxseg" in first.warnings[0]
    assert (first.files, second.files) == (("a_rois.zip",), ("b_labels.tif", "b_rois.zip"))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a_labels.tif"), mine)
    # A prediction that nobody has corrected is no label, so this one is.
    source = FolderSource(str(tmp_path))
    assert source.keys() == ["a.tif", "b.tif"]
    assert len(source.read("a.tif").masks) == 1
    assert source.read("b.tif").masks is None


def test_the_images_of_others_are_never_written_over(fixed, tmp_path):
    channels = np.stack([IMAGE, IMAGE[::-1]])
    tifffile.imwrite(tmp_path / "two.tif", channels, imagej=True, metadata={"axes": "CYX"})
    tifffile.imwrite(tmp_path / "one.tif", IMAGE, description="mine")
    before = {name: (tmp_path / name).read_bytes() for name in ("one.tif", "two.tif")}
    jobs = plan_jobs([str(tmp_path)], Pick(channel="1"))[0]
    one, two = predict_files(fixed, jobs, tmp_path, ["coco", "cellpose"])
    assert one.files == ("one.json", "one_seg.npy")
    assert two.files == ()
    assert "two.json is not written: two.tif is there, another image" in two.warnings
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


@pytest.mark.parametrize(
    ("image", "diameter", "doubt"),
    [
        (np.full((60, 70), 7, np.uint16), None, "image is constant: every pixel is 7"),
        (np.zeros((60, 70), np.uint16), None, "image is constant"),
        (np.full((60, 70), np.nan, np.float32), None, "image has no finite pixel"),
        ((blobs() > 0).astype(np.uint16) * 5, None, "looks like labels, not like a picture"),
        (IMAGE, 5000.0, "--diameter 5000 is more than half of the image's side"),
    ],
)
def test_doubtful_results_are_told(fixed, image, diameter, doubt):
    rois = find_rois(fixed.predict(image) if np.isfinite(image).all() else np.zeros(image.shape))
    assert any(doubt in text for text in find_doubts(image, rois, diameter, 16.0))


def test_a_diameter_that_the_cells_do_not_have_is_told():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 4000, (200, 200))
    mask = np.zeros((200, 200), np.float32)
    for y in range(20, 200, 40):
        for x in range(20, 200, 40):
            mask[y - 6 : y + 6, x - 6 : x + 6] = 1
    rois = find_rois(mask)
    assert len(rois) == 25
    assert find_doubts(image, rois, 13.0, 16.0) == []
    assert find_doubts(image, rois, None, 16.0) == []
    (doubt,) = find_doubts(image, rois, 30.0, 16.0)
    assert "the cells found are about 14 px across, not 30" in doubt
    assert find_doubts(image, find_rois(0 * mask), None, 16.0) == ["no neuron was found"]
    assert any("far from cells of 4 to 64 px" in d for d in find_doubts(image, rois, 70.0, 16.0))


def test_images_of_one_field_give_one_result(model, tmp_path, caplog):
    caplog.set_level("INFO", "fluxseg")
    for name, image in (("max", IMAGE), ("mean", IMAGE[::-1]), ("other", IMAGE[1:])):
        tifffile.imwrite(tmp_path / f"{name}.tif", image)
    both = [str(tmp_path / "max.tif"), str(tmp_path / "mean.tif")]
    jobs, _ = plan_jobs(both, one_field=True)
    output = tmp_path / "output"
    (outcome,) = predict_files(model, jobs, output, ["probability"])
    assert (outcome.name, outcome.more) == ("max", (both[1],))
    assert f"{both[0]} and 1 more of one field: " in caplog.text
    found = tifffile.imread(output / "max_probability.tif")
    np.testing.assert_array_equal(found, model.predict([IMAGE, IMAGE[::-1]]))
    # It is done; with one image only, or another second one, it is not.
    written = (output / "max_probability.tif").stat().st_mtime_ns
    assert predict_files(model, jobs, output, ["probability"]) == [outcome]
    assert (output / "max_probability.tif").stat().st_mtime_ns == written
    tifffile.imwrite(both[1], IMAGE)
    predict_files(model, jobs, output, ["probability"])
    found = tifffile.imread(output / "max_probability.tif")
    np.testing.assert_array_equal(found, model.predict(IMAGE))
    # Those that cannot be of one field are told.
    jobs, _ = plan_jobs([both[0], str(tmp_path / "other.tif")], one_field=True)
    (outcome,) = predict_files(model, jobs, output, ["probability"])
    assert "other.tif: has 39 x 50 px, max.tif has 40 x 50" in outcome.error
    (job,) = plan_jobs([*both, "absent.tif"], one_field=True)[0]
    assert job.path.name == "absent.tif"
    assert "no such file" in job.error
