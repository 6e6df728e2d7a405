"""The shipped experiments load, say how to run them, and run."""

import ast
import dataclasses
import json
import subprocess
import sys

import pytest

from fluxseg.arguments import read_config_file
from fluxseg.config import Config, config_from_dict, config_to_dict
from fluxseg.files import write_json
from fluxseg.interop.sources import FolderSource
from fluxseg.training.loop import train_and_evaluate
from tests.conftest import REPOSITORY, with_data, with_train

FILES = sorted((REPOSITORY / "experiments").glob("*.py"))
CONFIGS = [path for path in FILES if "def get_config" in path.read_text()]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_experiment_is_its_own_record(path):
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    for part in ("What:", "Hardware:", "Command:"):
        assert part in docstring
    assert f"experiments/{path.name}" in docstring or f"-m experiments.{path.stem}" in docstring


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_settings_of_an_experiment_can_be_written_and_read(path):
    config = read_config_file(path)
    assert config_from_dict(config_to_dict(config)) == config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_an_experiment_runs_shrunk(path, tmp_path):
    config = read_config_file(path)
    config = dataclasses.replace(
        with_train(with_data(config, tile=32, workers=1), epochs=1, batch_size=2),
        simulator=dataclasses.replace(config.simulator, containers=3, sessions=1, size=64),
        model=dataclasses.replace(
            config.model, features=tuple(max(2, f // 32) for f in config.model.features)
        ),
    )
    result = train_and_evaluate(config, tmp_path)
    assert len(result.history) == 1
    assert set(result.scores["splits"]) == {"val", "test"}


def test_the_quick_experiment_runs_as_its_docstring_says(tmp_path):
    command = ["-m", "fluxseg.main", "--config", "experiments/quick.py", "--workdir"]
    done = subprocess.run(
        [sys.executable, *command, str(tmp_path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report.html").exists()


@pytest.mark.slow
def test_the_main_job_learns_to_find_neurons(tmp_path):
    result = train_and_evaluate(with_train(Config(), epochs=6), tmp_path)
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
    result = train_and_evaluate(config, tmp_path)
    data = json.loads((tmp_path / "data.json").read_text())
    assert data["leaks"]
    assert data["n_used"] == 6
    assert data["straddling"]
    assert result.scores["splits"]["test"]["scores"]["neuron_iou"] > 0.2


def test_the_leakage_experiment_runs_shrunk_and_goes_on(tmp_path, monkeypatch):
    from experiments import leakage

    for name, value in {"DONORS": 4, "CONTAINERS": 2, "SESSIONS": 2, "NEW_DONORS": 1}.items():
        monkeypatch.setattr(leakage, name, value)
    monkeypatch.setattr(leakage, "SIZE", 64)
    folder = tmp_path / "recordings"
    leakage.write_recordings(folder, 3)
    with_container, without, new = (
        sorted((folder / part).iterdir()) for part in ("container", "donor", "new")
    )
    assert (len(with_container), len(without), len(new)) == (16, 16, 4)
    sources = {part: FolderSource(folder / part) for part in ("container", "donor")}
    groups = {
        part: {source.read(key).group for key in source.keys()}  # noqa: SIM118
        for part, source in sources.items()
    }
    assert (len(groups["container"]), len(groups["donor"])) == (8, 4)
    commands = []

    def run(module, *arguments):
        commands.append(module)
        workdir = arguments[arguments.index("--workdir") + 1]
        part = {"test": {"scores": {"neuron_iou": 0.7}}}
        if module == "fluxseg":
            part, workdir = {"external": {"scores": {"neuron_iou": 0.6}}}, workdir / "new"
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(workdir / "scores.json", {"splits": part})

    monkeypatch.setattr(leakage, "_run", run)
    for _ in range(2):
        found = leakage.run_split("donor", folder, tmp_path / "run", 3, 1)
    assert found == {"reported": 0.7, "new": 0.6}
    assert commands == ["fluxseg.main", "fluxseg"]
    rows = [{"split": split, "seed": seed, **found} for split in leakage.SPLITS for seed in (0, 1)]
    assert "| donor | 0.700 ± 0.000 | 0.600 ± 0.000 | 0.100 ± 0.000 |" in leakage.write_table(
        tmp_path / "table.md", rows
    )
    leakage.draw_gaps(tmp_path / "gaps.png", rows)
    assert (tmp_path / "gaps.png").stat().st_size > 5000
