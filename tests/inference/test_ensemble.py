import json

import jax
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fluxseg.config import ModelConfig
from fluxseg.errors import ConfigError, RecordingError
from fluxseg.inference.ensemble import (
    Ensemble,
    combine_members,
    ensemble_probability,
    load_ensemble,
)
from fluxseg.inference.inputs import plan_jobs
from fluxseg.inference.model_file import write_model
from fluxseg.inference.predict import Predictor
from fluxseg.inference.predict_files import predict_files
from fluxseg.model.unet import create_unet
from tests.commands import run as run_verb

IMAGE = np.random.default_rng(0).integers(0, 4000, (40, 50)).astype(np.uint16)


def make_model(seed, features=(4, 8), **fields):
    config = ModelConfig(features=features, convs=1, stem=1, norm="none")
    start = np.zeros((1, 16, 16, 1), np.float32)
    params = create_unet(config).init(jax.random.key(seed), start, train=False)["params"]
    return Predictor(config, params, **fields)


@pytest.fixture(scope="module")
def models():
    return [make_model(seed, temperature=1 + seed, threshold=0.2 + 0.1 * seed) for seed in range(3)]


@pytest.mark.parametrize("options", [{}, {"tta": True}, {"tile": 32}])
def test_members_in_one_program_equal_members_alone(models, options):
    other = make_model(9, features=(8, 8))
    alone = [model.predict(IMAGE, **options) for model in (*models, other)]
    found = ensemble_probability([*models[:2], other, models[2]], IMAGE, **options)
    np.testing.assert_allclose(found.mean, np.mean(alone, 0), atol=1e-5)
    np.testing.assert_allclose(found.std, np.std(alone, 0), atol=1e-5)
    assert found.mean.dtype == np.float32
    assert found.std.max() > 0.01


@given(hnp.arrays(np.float64, (5, 3), elements=st.floats(0, 1)))
@settings(max_examples=100, deadline=None)
def test_the_maps_are_what_they_say(probabilities):
    def entropy(p):
        return -sum(q * np.log2(q) for q in (p, 1 - p) if q > 0)

    found = combine_members(probabilities)
    for number, members in enumerate(probabilities):
        total = entropy(members.mean())
        assert found.mean[number] == pytest.approx(members.mean(), abs=1e-6)
        assert found.std[number] == pytest.approx(members.std(), abs=1e-6)
        assert found.entropy[number] == pytest.approx(total, abs=1e-5)
        mutual = total - np.mean([entropy(p) for p in members])
        assert found.information[number] == pytest.approx(mutual, abs=1e-5)
    assert (found.information >= 0).all()
    assert (found.information <= found.entropy + 1e-6).all()


def test_members_that_agree_have_no_disagreement(models):
    found = ensemble_probability([models[0], models[0]], IMAGE)
    assert found.std.max() < 1e-6
    assert found.information.max() < 1e-5
    assert found.entropy.max() > 0.1


def test_the_files_of_an_ensemble(models, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", IMAGE)
    out = tmp_path / "out"
    ensemble = Ensemble(tuple(models))
    assert ensemble.threshold == pytest.approx(0.3)
    (outcome,) = predict_files(ensemble, plan_jobs([str(tmp_path / "a.tif")])[0], out)
    names = [f"a_{kind}.tif" for kind in ("probability", "labels", "std", "entropy", "information")]
    assert list(outcome.files) == names
    expected = ensemble_probability(models, IMAGE)
    for name, values in zip(
        ("probability", "std", "entropy", "information"),
        (expected.mean, expected.std, expected.entropy, expected.information),
        strict=True,
    ):
        np.testing.assert_array_equal(tifffile.imread(out / f"a_{name}.tif"), values)
    assert json.loads((out / "predictions.json").read_text())["images"][0]["files"] == names


def test_models_are_found_by_file_and_in_a_sweep(models, tmp_path):
    for number, model in enumerate(models):
        write_model(tmp_path / "sweep" / "runs" / f"seed={number}" / "model.safetensors", model)
    paths = sorted(tmp_path.glob("sweep/runs/*/model.safetensors"))
    found = load_ensemble(paths)
    np.testing.assert_array_equal(
        found.predict(IMAGE).mean, ensemble_probability(models, IMAGE).mean
    )
    with pytest.raises(ConfigError, match="named twice"):
        load_ensemble([paths[0], paths[0]])
    with pytest.raises(ConfigError, match="two or more"):
        load_ensemble(paths[:1])


def test_bad_input_is_named(models):
    with pytest.raises(RecordingError):
        ensemble_probability(models, np.zeros((2, 3, 4)))
    with pytest.raises(ConfigError, match="diameter is of no use"):
        ensemble_probability(models, IMAGE, diameter=12)
    with pytest.raises(ConfigError, match="one size of cells"):
        Ensemble((models[0], make_model(1, diameter_px=15.0)))


@pytest.mark.slow
def test_the_verb(models, tmp_path):
    paths = [tmp_path / f"{number}.safetensors" for number in range(2)]
    for path, model in zip(paths, models, strict=False):
        write_model(path, model)
    tifffile.imwrite(tmp_path / "a.tif", IMAGE)
    out = tmp_path / "out"
    run_verb("predict", tmp_path / "a.tif", "--output", out, "--ensemble", *paths)
    assert (out / "a_information.tif").exists()
    text = run_verb(
        "predict", tmp_path / "a.tif", "--output", out, "--ensemble", *paths,
        "--model", paths[0], code=2,
    )  # fmt: skip
    assert "exclude each other" in text
