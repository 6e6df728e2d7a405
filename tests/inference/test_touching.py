"""A whole run with the third class: its resume, its model file, and all that is made with it."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxseg.adapt.few_shot import FewShot, create_config
from fluxseg.errors import WorkdirError
from fluxseg.formats.sources import open_source
from fluxseg.inference.evaluate import evaluate_run, load_run
from fluxseg.inference.field_scores import score_fields
from fluxseg.inference.inputs import Job
from fluxseg.inference.model_file import read_model, write_model
from fluxseg.inference.objects.rois import find_rois
from fluxseg.inference.predict import Predictor
from fluxseg.inference.predict_files import predict_files
from fluxseg.inference.run_model import MODEL_NAME, load_model
from fluxseg.main import main
from fluxseg.model.unet import create_unet
from fluxseg.training.loop import train_and_evaluate
from tests.conftest import TINY, as_arguments, with_data, with_train

CONFIG = with_train(with_data(TINY, touching=True), epochs=3)
CLASSES = ("background", "neuron", "touching")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("touching")
    assert main(["--workdir", str(folder), *as_arguments(CONFIG)]) == 0
    return folder


def bits(state):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state.params)]


def test_every_score_is_one_of_two_classes(workdir):
    splits = json.loads((workdir / "scores.json").read_text())["splits"]
    two = train_and_evaluate(with_train(TINY, epochs=1), workdir / "two").scores["splits"]
    for name, split in splits.items():
        confusion = np.array(split["confusion"])
        assert confusion.shape == (2, 2)
        # The truth is the merged mask, the same pixels as without the third class.
        np.testing.assert_array_equal(confusion.sum(1), np.sum(two[name]["confusion"], axis=1))
        assert split["objects"]["scores"]["object_f1"] is not None
        assert split["calibration"]["after"]["scores"]["ece"] is not None


def test_a_run_resumes_with_the_same_bits_and_the_same_classes_only(workdir, tmp_path):
    train_and_evaluate(with_train(CONFIG, epochs=2, schedule="constant"), tmp_path / "a")
    parts = train_and_evaluate(with_train(CONFIG, epochs=3, schedule="constant"), tmp_path / "a")
    whole = train_and_evaluate(with_train(CONFIG, epochs=3, schedule="constant"), tmp_path / "b")
    assert bits(parts.state) == bits(whole.state)
    assert parts.scores == whole.scores
    with pytest.raises(WorkdirError, match=r"data\.touching: True -> False"):
        train_and_evaluate(with_data(CONFIG, touching=False), workdir)
    scores = json.loads((workdir / "scores.json").read_text())
    again = evaluate_run(load_run(workdir))
    assert again["splits"]["test"]["confusion"] == scores["splits"]["test"]["confusion"]


def test_the_model_file_holds_three_classes(workdir, tmp_path):
    model = read_model(workdir / MODEL_NAME)
    assert model.classes == CLASSES
    assert "touching" in model._repr_html_()
    write_model(tmp_path / "copy.safetensors", model)
    copy = read_model(tmp_path / "copy.safetensors")
    image = np.random.default_rng(0).normal(size=(70, 90))
    classes = model.predict_classes(image)
    np.testing.assert_array_equal(copy.predict_classes(image), classes)
    (workdir / MODEL_NAME).rename(tmp_path / "away")
    try:
        from_run = load_model(workdir)
    finally:
        (tmp_path / "away").rename(workdir / MODEL_NAME)
    assert from_run.classes == CLASSES
    np.testing.assert_allclose(from_run.predict_classes(image), classes, atol=1e-6)
    assert create_config(model, "simulator", tmp_path, FewShot()).data.touching


def test_prediction_examples_and_object_scores_use_it(workdir, tmp_path):
    source = open_source(CONFIG)
    key = sorted(source.keys())[0]
    recording = source.read(key)
    np.save(tmp_path / "field.npy", recording.image)
    model = dataclasses.replace(load_model(workdir), um_per_px=None)
    probability, touching = model.predict_touching(recording.image)
    np.testing.assert_allclose(probability, model.predict(recording.image), atol=1e-6)
    # A network of three epochs has no touching pixel above one half; the use is what counts.
    share = float(np.quantile(touching[probability >= model.threshold], 0.7))
    sure = dataclasses.replace(model, params=raise_touching(model.params, share))
    probability, touching = sure.predict_touching(recording.image)
    scale = recording.metadata.get("um_per_px")
    expected = find_rois(probability, touching=touching, threshold=model.threshold)
    assert len(expected) != len(find_rois(probability, threshold=model.threshold))
    outcome = predict_files(sure, [Job(tmp_path / "field.npy", "field")], tmp_path, ["npz"])[0]
    assert outcome.neurons == len(expected)
    with np.load(tmp_path / "field_prediction.npz") as stored:
        np.testing.assert_array_equal(stored["labels"], expected.labels)
    found = find_rois(probability, touching=touching, threshold=model.threshold, um_per_px=scale)
    row = score_fields(sure, source, [key])[0]
    assert row["objects"]["n_predicted"] == len(found)
    rows = json.loads((workdir / "examples" / "examples.json").read_text())
    with np.load(workdir / "examples" / rows[0]["file"]) as example:
        assert set(np.unique(example["label"])) <= {0, 1}
        assert (example["touching"] <= example["probability"] + 1e-6).all()


def raise_touching(params, share):
    """Shift the logit of "touching" so that a share of a neuron pixel becomes one half."""
    head = dict(params["head"])
    head["bias"] = np.asarray(head["bias"]).copy()
    head["bias"].reshape(3, -1)[2] -= np.log(share / (1 - share))
    return {**params, "head": head}


@given(st.integers(0, 10**6), st.floats(0.3, 4))
@settings(max_examples=5, deadline=None)
def test_classes_are_shares_of_one_and_agree_with_the_neuron_probability(seed, temperature):
    unet = create_unet(CONFIG.model, 3)
    image = np.random.default_rng(seed).normal(size=(50, 70))
    params = unet.init(jax.random.key(seed), np.zeros((1, 16, 16, 1)))["params"]
    model = Predictor(CONFIG.model, params, temperature=temperature, classes=CLASSES)
    classes = model.predict_classes(image, tile=48, overlap=16)
    assert classes.shape == (50, 70, 3)
    assert classes.dtype == np.float32
    np.testing.assert_allclose(classes.sum(-1), 1, atol=1e-5)
    whole = model.predict(image, tile=48, overlap=16)
    np.testing.assert_allclose(1 - classes[..., 0], whole, atol=1e-5)
    two = create_unet(CONFIG.model, 2).init(jax.random.key(seed), np.zeros((1, 16, 16, 1)))
    binary = Predictor(CONFIG.model, two["params"])
    probability, touching = binary.predict_touching(image)
    assert touching is None
    np.testing.assert_array_equal(probability, binary.predict(image))
    np.testing.assert_allclose(binary.predict_classes(image)[..., 1], probability, atol=1e-6)
