"""The shipped experiments load, say how to run them, and run."""

import ast
import json

import pytest

from fluxseg.arguments import read_config_file
from fluxseg.config import Config, config_from_dict, config_to_dict
from tests.commands import run
from tests.conftest import REPOSITORY, train_network, with_train

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
