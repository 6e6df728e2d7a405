"""The shipped experiments load, say how to run them, and run."""

import ast
import dataclasses
import json

import pytest

from fluxseg.arguments import read_config_file
from fluxseg.config import Config, config_from_dict, config_to_dict
from tests.commands import run
from tests.conftest import REPOSITORY, train_network, with_data, with_train

FILES = sorted((REPOSITORY / "experiments").glob("*/*.py"))
BENCHMARKS = [path for path in FILES if path.parent.name == "benchmarks"]
FILES = [path for path in FILES if path not in BENCHMARKS]
RECORDS = sorted((REPOSITORY / "experiments").glob("*/results/*.json"))
CONFIGS = [path for path in FILES if "def get_config" in path.read_text()]
# What is left are parts that experiments share.
RUN = [path for path in FILES if path in CONFIGS or "def main(" in path.read_text()]


@pytest.mark.parametrize("path", RUN, ids=lambda path: path.stem)
def test_an_experiment_is_its_own_record(path):
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    for part in ("What:", "Hardware:", "Command:"):
        assert part in docstring
    name = path.relative_to(REPOSITORY / "experiments").with_suffix("")
    module = ".".join(("experiments", *name.parts))
    assert f"experiments/{name}.py" in docstring or f"-m {module}" in docstring


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_record_names_the_command_that_made_it(path):
    words = json.loads(path.read_text())["command"].split()
    assert words[:2] == ["python", "-m"]
    module = REPOSITORY.joinpath(*words[2].split(".")).with_suffix(".py")
    assert module in BENCHMARKS
    assert f"-m {words[2]}" in ast.get_docstring(ast.parse(module.read_text()))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_settings_of_an_experiment_can_be_written_and_read(path):
    config = read_config_file(path)
    assert config_from_dict(config_to_dict(config)) == config


@pytest.mark.parametrize(
    "path",
    [
        # The quick experiment runs below.
        pytest.param(path, marks=pytest.mark.slow)
        for path in CONFIGS
    ],
    ids=lambda path: path.stem,
)
def test_an_experiment_runs_shrunk(path, tmp_path):
    config = read_config_file(path)
    config = dataclasses.replace(
        with_train(with_data(config, tile=32, workers=1), epochs=1, batch_size=2),
        simulator=dataclasses.replace(config.simulator, containers=3, sessions=1, size=64),
        model=dataclasses.replace(
            config.model, features=tuple(max(2, f // 32) for f in config.model.features)
        ),
    )
    result = train_network(config, tmp_path)
    assert len(result.history) == 1
    assert set(result.scores["splits"]) == {"val", "test"}


def test_the_quick_experiment_runs_as_its_docstring_says(tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    run("train", "--config", "experiments/configs/quick.py", "--workdir", tmp_path)
    assert (tmp_path / "report.html").exists()


@pytest.mark.slow
def test_the_main_job_learns_to_find_neurons(tmp_path):
    result = train_network(with_train(Config(), epochs=6), tmp_path)
    scores = result.scores["splits"]["test"]["scores"]
    assert scores["neuron_iou"] > 0.4
    assert scores["macro_iou"] > 0.66
    # Labels are noisy by design: more than this would mean that the test has leaked.
    assert scores["macro_iou"] < 0.9


@pytest.mark.slow
def test_real_sessions_can_be_trained_on(real_data, tmp_path):
    config = with_data(
        with_train(Config(), epochs=4),
        source=str(real_data / "allen_sessions"),
        split_by="recording",
        train_fraction=0.5,
        val_fraction=0.25,
    )
    result = train_network(config, tmp_path)
    data = json.loads((tmp_path / "data.json").read_text())
    assert data["leaks"]
    assert data["n_used"] == 6
    assert data["straddling"]
    assert result.scores["splits"]["test"]["scores"]["neuron_iou"] > 0.2
