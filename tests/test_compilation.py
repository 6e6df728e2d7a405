"""What a run compiles: each program once, and nothing if an earlier run has left it."""

import json
import os
import sys
from pathlib import Path

import pytest

from fluxseg.compilation import cache_folder
from tests.commands import run_python
from tests.conftest import REPOSITORY

LISTEN = """
import collections, json, os, sys
from pathlib import Path
import jax
compiled, hits = collections.Counter(), [0]
def on_duration(event, seconds, **about):
    if event.endswith("/backend_compile_duration"):
        compiled[about["fun_name"]] += 1
def on_event(event, **about):
    hits[0] += event == "/jax/compilation_cache/cache_hits"
jax.monitoring.register_event_duration_secs_listener(on_duration)
jax.monitoring.register_event_listener(on_event)
"""
# The crops divide into batches of 8 neither in training nor in validation.
TRAIN = """
from fluxseg.compilation import enable_compilation_cache
from tests.conftest import TINY, train_network, with_train
# Importing the tests' settings has chosen the cache of the tests, which hides what is compiled.
del os.environ["JAX_COMPILATION_CACHE_DIR"]
enable_compilation_cache()
config = with_train(TINY, epochs=2, batch_size=8, score_test_each_epoch=True)
result = train_network(config, Path(sys.argv[1]))
sizes = [len(result.dataset.crops(split)) for split in ("train", "val", "test")]
print(json.dumps({"compiled": compiled, "hits": hits[0], "sizes": sizes}))
"""
# A notebook that has computed something before it asks for a model.
USE = """
from tifffile import imwrite
jax.numpy.ones(3).block_until_ready()
compiled.clear()
import fluxseg
field = fluxseg.simulate_recording(fluxseg.SimulatorConfig(size=96), 0).image
fluxseg.load_model().segment(field)
imwrite(sys.argv[1] + ".tif", field)
from fluxseg.cli.app import main
assert main(["predict", sys.argv[1] + ".tif", "--output", sys.argv[1]]) == 0
heavy = {"orbax", "grain", "matplotlib", "optax", "flax", "h5py"} & set(sys.modules)
labels = (Path(sys.argv[1]) / f"{Path(sys.argv[1]).name}_labels.tif").read_bytes().hex()
print(json.dumps({"compiled": compiled, "heavy": sorted(heavy), "labels": labels}))
"""


def run(script, workdir, home):
    left_out = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    environment |= {"XDG_CACHE_HOME": str(home), "HOME": str(home)}
    said = run_python("-c", LISTEN + script, workdir, cwd=REPOSITORY, env=environment)
    return json.loads(said.splitlines()[-1])


@pytest.mark.skipif(sys.platform == "win32", reason="the folder is another one there")
def test_each_program_is_compiled_once_and_kept(tmp_path):
    first = run(TRAIN, tmp_path / "one", tmp_path / "home")
    assert any(size % 8 for size in first["sizes"])
    # A program that is compiled anew would be found in the cache that the first one went to.
    assert first["hits"] == 0
    for name in ("jit(train_step)", "jit(eval_step)"):
        assert first["compiled"][name] == 1
    second = run(TRAIN, tmp_path / "two", tmp_path / "home")
    assert second["compiled"] == first["compiled"]
    assert second["hits"] == sum(second["compiled"].values())


@pytest.mark.skipif(sys.platform == "win32", reason="the folder is another one there")
def test_a_second_process_that_uses_a_model_compiles_nothing(tmp_path):
    first = run(USE, tmp_path / "one", tmp_path / "home")
    # One for each image size that is looked at, each under a name of its own.
    assert first["compiled"]
    assert all(name.startswith("jit(network_") for name in first["compiled"])
    assert set(first["compiled"].values()) == {1}
    assert first["heavy"] == ["flax"]
    (tmp_path / "two").mkdir()
    second = run(USE, tmp_path / "two" / "one", tmp_path / "home")
    assert (second["compiled"], second["heavy"]) == ({}, [])
    assert second["labels"] == first["labels"]


def test_the_folder_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "fluxseg"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "fluxseg"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_folder() == Path.home() / "Library" / "Caches" / "fluxseg"
