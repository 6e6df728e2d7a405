"""What training begins with: the network that ships, a file, or chance."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from fluxseg.config import Config
from fluxseg.errors import ConfigError, FluxsegError
from fluxseg.inference.model_file import write_model
from fluxseg.inference.predict import create_predictor
from fluxseg.inference.run_model import load_model
from fluxseg.inference.start import load_start
from fluxseg.job import train_and_evaluate
from fluxseg.training.state import create_train_state
from tests.conftest import TINY, with_data, with_train


def test_the_default_run_starts_from_the_model_that_ships():
    shipped = load_model()
    for start in ("auto", "pretrained"):
        params = load_start(with_train(Config(), start=start))
        jax.tree.map(np.testing.assert_array_equal, params, shipped.params)
    # The state of a run takes them as they are.
    state = create_train_state(Config(), np.ones(2), 10, tile=32, init=params)
    jax.tree.map(np.testing.assert_array_equal, state.params, shipped.params)


def test_other_settings_start_at_random_or_are_refused_by_name(caplog):
    with caplog.at_level("INFO", "fluxseg"):
        assert load_start(TINY) is None
    assert "starts at random, not pretrained: model.features is (4, 8)" in caplog.text
    with pytest.raises(ConfigError, match=r"model\.features is \(4, 8\), .*112, 160") as caught:
        load_start(with_train(TINY, start="pretrained"))
    assert "model.stem is 1, the model's 2" in str(caught.value)
    other = with_data(Config(), high_percentile=99.0)
    with pytest.raises(ConfigError, match=r"data\.high_percentile is 99\.0, the model's 99\.5"):
        load_start(with_train(other, start="pretrained"))
    assert load_start(other) is None
    # Any parameters suit another dropout.
    dry = dataclasses.replace(Config(), model=dataclasses.replace(Config().model, dropout=0.3))
    assert load_start(dry) is not None


def test_a_random_start_and_an_encoder_with_its_own_file_read_no_model(monkeypatch):
    monkeypatch.setattr("fluxseg.inference.start.load_model", None)
    model = dataclasses.replace(Config().model, encoder_kind="resnet18")
    encoder = dataclasses.replace(Config(), model=model)
    chance = with_train(Config(), start="random")
    for config in (chance, with_train(encoder, start="r.safetensors")):
        assert load_start(config) is None


def test_the_main_job_begins_there_and_a_resumed_one_does_not(tmp_path):
    path = tmp_path / "own.safetensors"
    state = create_train_state(with_train(TINY, seed=7), np.ones(2), 1)
    write_model(path, create_predictor(state, TINY))
    still = with_train(TINY, start=str(path), epochs=1, learning_rate=1e-30, weight_decay=0.0)
    first = train_and_evaluate(still, tmp_path / "run")
    same = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-20)
    jax.tree.map(same, first.state.params, state.params)
    path.unlink()
    with pytest.raises(FluxsegError, match="own"):
        load_start(still)
    again = train_and_evaluate(with_train(still, epochs=2), tmp_path / "run")
    jax.tree.map(same, again.state.params, state.params)
