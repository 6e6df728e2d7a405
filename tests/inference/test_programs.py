"""Compiled networks are kept whole, and a damaged or foreign one is compiled anew."""

import jax
import numpy as np
import pytest

from fluxseg.config import ModelConfig
from fluxseg.inference.predict import Predictor
from fluxseg.inference.programs import network_probability
from fluxseg.model.unet import create_unet
from tests.inference.models import random_params

CONFIG = ModelConfig(features=(4, 8), convs=1, stem=1)


@pytest.fixture
def params():
    return random_params(CONFIG)


@pytest.fixture
def folder(monkeypatch, tmp_path):
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    monkeypatch.setattr("fluxseg.inference.programs._programs", {})
    yield tmp_path
    jax.config.update("jax_compilation_cache_dir", before)


def test_a_kept_network_gives_the_same_and_damage_is_passed_over(params, folder, monkeypatch):
    model, image = Predictor(CONFIG, params), np.random.default_rng(0).random((40, 50))
    expected = model.predict(image)
    (path,) = folder.glob("fluxseg-*")
    kept = path.read_bytes()
    for content in (kept, kept[:1000], b"", b"\x80\x04K\x01."):
        path.write_bytes(content)
        monkeypatch.setattr("fluxseg.inference.programs._programs", {})
        np.testing.assert_array_equal(model.predict(image), expected)
        # The very program where it is whole, else a new one in its place.
        assert (path.read_bytes() == kept) or content != kept
        assert len(path.read_bytes()) > 1000


def test_the_probability_is_that_of_the_network(params, folder):
    images = np.random.default_rng(0).random((1, 32, 64, 1), np.float32)
    logits = create_unet(CONFIG).apply({"params": params}, images)
    found = network_probability(CONFIG, params, images, 2.0)
    expected = jax.nn.sigmoid((logits[..., 1] - logits[..., 0]) / 2)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    other = network_probability(CONFIG, jax.tree.map(np.asarray, params), images[:, :, :32], 1.0)
    assert other.shape == (1, 32, 32)
    assert len(list(folder.glob("fluxseg-*"))) == 2


def test_what_is_compiled_again_does_not_come_from_the_cache_of_jax(params, folder, monkeypatch):
    model, image = Predictor(CONFIG, params), np.random.default_rng(1).random((40, 50))
    expected = model.predict(image)
    for _ in range(3):
        for path in folder.glob("fluxseg-*"):
            path.unlink()
        for _ in range(2):
            # As in a new process: nothing is compiled in memory.
            jax.clear_caches()
            monkeypatch.setattr("fluxseg.inference.programs._programs", {})
            np.testing.assert_array_equal(model.predict(image), expected)
        # JAX cannot store again what it has read from its own cache.
        assert len(list(folder.glob("fluxseg-*"))) == 1


def test_a_program_that_misses_a_part_is_compiled_anew(params, folder, monkeypatch):
    model, image = Predictor(CONFIG, params), np.random.default_rng(2).random((40, 50))
    expected = model.predict(image)

    def broken(*arguments):
        raise jax.errors.JaxRuntimeError("NOT_FOUND: Function not found")

    class Broken:
        deserialize_and_load = staticmethod(lambda *content: broken)
        serialize = staticmethod(lambda compiled: b"")

    monkeypatch.setattr("fluxseg.inference.programs.serialize_executable", Broken)
    monkeypatch.setattr("fluxseg.inference.programs._programs", {})
    np.testing.assert_array_equal(model.predict(image), expected)
    assert not list(folder.glob("fluxseg-*"))
