import json

import numpy as np
import pytest
import tifffile

from fluxseg.config import ModelConfig
from fluxseg.errors import ConfigError, RecordingError
from fluxseg.inference.ensemble import combine_models, load_models
from fluxseg.inference.inputs import plan_jobs
from fluxseg.inference.model_file import write_model
from fluxseg.inference.predict import Predictor
from fluxseg.inference.predict_files import predict_files
from tests.inference.models import random_params

IMAGE = np.random.default_rng(0).integers(0, 4000, (40, 50)).astype(np.uint16)


def make_model(seed, features=(4, 8), **fields):
    config = ModelConfig(features=features, convs=1, stem=1, norm="none")
    return Predictor(config, random_params(config, seed), **fields)


@pytest.fixture(scope="module")
def models():
    return [make_model(seed, temperature=1 + seed, threshold=0.2 + 0.1 * seed) for seed in range(3)]


@pytest.mark.parametrize("options", [{}, {"tta": True}, {"tile": 32}])
def test_the_maps_are_mean_and_spread_of_the_members(models, options):
    members = (*models, make_model(9, features=(8, 8)))
    alone = [model.predict(IMAGE, **options) for model in members]
    mean, std = combine_models(members).predict_maps(IMAGE, **options).values()
    np.testing.assert_allclose(mean, np.mean(alone, 0), atol=1e-6)
    np.testing.assert_allclose(std, np.std(alone, 0), atol=1e-6)
    assert mean.dtype == std.dtype == np.float32
    assert std.max() > 0.01


def test_members_that_agree_have_no_spread(models):
    assert combine_models((models[0], models[0])).predict_maps(IMAGE)["std"].max() == 0


def test_the_files_of_an_ensemble(models, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", IMAGE)
    out = tmp_path / "out"
    ensemble = combine_models(models)
    assert ensemble.threshold == pytest.approx(0.3)
    (outcome,) = predict_files(ensemble, plan_jobs([str(tmp_path / "a.tif")])[0], out)
    names = [f"a_{kind}.tif" for kind in ("probability", "labels", "std")]
    assert set(names) <= set(outcome.files)
    for name, values in ensemble.predict_maps(IMAGE).items():
        np.testing.assert_array_equal(tifffile.imread(out / f"a_{name}.tif"), values)
    assert json.loads((out / "predictions.json").read_text())["images"][0]["files"] == list(
        outcome.files
    )


def test_one_model_or_several_are_loaded(models, tmp_path):
    paths = [tmp_path / f"{number}.safetensors" for number in range(3)]
    for path, model in zip(paths, models, strict=True):
        write_model(path, model)
    alone, together = load_models(paths[:1]), load_models(paths)
    np.testing.assert_array_equal(alone.predict(IMAGE), models[0].predict(IMAGE))
    for name, values in combine_models(models).predict_maps(IMAGE).items():
        np.testing.assert_array_equal(together.predict_maps(IMAGE)[name], values)
    with pytest.raises(ConfigError, match="named twice"):
        load_models([paths[0], paths[0]])
    with pytest.raises(ConfigError, match="at least one"):
        load_models([])


def test_bad_input_is_named(models):
    with pytest.raises(RecordingError):
        combine_models(models).predict_maps(np.zeros((2, 3, 4)))
    with pytest.raises(ConfigError, match="diameter is of no use"):
        combine_models(models).predict_maps(IMAGE, diameter=12)
    with pytest.raises(ConfigError, match="one size of cells"):
        combine_models((models[0], make_model(1, diameter_px=15.0)))
