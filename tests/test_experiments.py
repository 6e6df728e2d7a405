"""The shipped experiments load, say how to run them, and run."""

import ast
import collections
import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from fluxseg.arguments import read_config_file
from fluxseg.config import Config, ModelConfig, config_from_dict, config_to_dict
from fluxseg.data.splits import SplitItem, manifest_from_json
from fluxseg.io.files import read_json, write_json
from fluxseg.training.loop import train_and_evaluate
from tests.conftest import REPOSITORY, with_data, with_train

FILES = sorted((REPOSITORY / "experiments").glob("*/*.py"))
FILES = [path for path in FILES if path.parent.name != "benchmarks"]
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
    result = train_and_evaluate(config, tmp_path)
    assert len(result.history) == 1
    assert set(result.scores["splits"]) == {"val", "test"}


def test_the_quick_experiment_runs_as_its_docstring_says(tmp_path):
    command = ["-m", "fluxseg.main", "--config", "experiments/configs/quick.py", "--workdir"]
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


def test_training_sets_share_with_the_test_set_only_what_their_name_says():
    from experiments.studies import leakage

    keys = [
        f"field-0-{donor}-{container}-{session}-{quarter}.npz"
        for donor in range(leakage.DONORS)
        for container in range(leakage.CONTAINERS)
        for session in range(leakage.SESSIONS)
        for quarter in range(4)
    ]
    items = [SplitItem(key, key[:-8], key, 1) for key in keys]
    others = set()
    for reach, kind in enumerate(leakage.KINDS):
        manifest = leakage.divide(kind, items, 5)
        assert manifest_from_json(manifest.to_json()) == manifest
        train, val, test = (
            {leakage.place_of(key) for key, _ in manifest.crops(split)}
            for split in ("train", "val", "test")
        )
        assert [len(train), len(val), len(test)] == [120, 6, 12]
        others.add((frozenset(val), frozenset(test)))
        assert not {place[0] for place in test} & {place[0] for place in val}
        # quarter, recording, container, donor
        for depth in range(4):
            for scored in (val, test):
                shared = {place[: 4 - depth] for place in train} & {p[: 4 - depth] for p in scored}
                assert bool(shared) == (depth > reach), (kind, depth)
        assert leakage.divide(kind, items, 5) == manifest != leakage.divide(kind, items, 6)
    assert len(others) == 1


def test_a_cell_that_is_rejected_is_labelled_in_no_session_and_shown_in_all():
    from experiments.studies import leakage

    everything = leakage.simulate_donor(0, 3, 128)
    some = leakage.simulate_donor(0, 3, 128, rejected=0.4)
    share = []
    for whole, part in zip(everything, some, strict=True):
        np.testing.assert_array_equal(whole.image, part.image)
        assert (whole.id, whole.metadata) == (part.id, part.metadata)
        share.append(len(part.masks) / len(whole.masks))
    assert 0.4 < np.mean(share) < 0.8
    # Its place is empty in every session, but for neighbours that reach into it.
    for container in (0, 1):
        sessions = range(container * leakage.SESSIONS, (container + 1) * leakage.SESSIONS)
        labelled = [some[number].masks.any(0) for number in sessions]
        shown = [everything[number].masks.any(0) for number in sessions]
        gone = [a & ~b for a, b in zip(shown, labelled, strict=True)]
        assert (gone[0] & labelled[1]).sum() < 0.25 * gone[0].sum()


def test_quarters_are_cut_row_by_row():
    from experiments.studies import leakage

    image = np.arange(32).reshape(4, 8)
    quarters = leakage.split_quarters(image)
    assert [quarter[0, 0] for quarter in quarters] == [0, 4, 16, 20]
    assert all(quarter.shape == (2, 4) for quarter in quarters)
    np.testing.assert_array_equal(
        leakage.split_quarters(np.stack([image, -image]))[3][1], -quarters[3]
    )


def test_the_leakage_experiment_runs_shrunk_and_goes_on(tmp_path, monkeypatch):
    from experiments.studies import leakage

    shrunk = {"DONORS": 4, "TESTED": 1, "TARGETS": 2, "SESSIONS": 1, "SIZE": 64, "TILE": 32}
    for name, value in {**shrunk, "TRAIN_QUARTERS": 8}.items():
        monkeypatch.setattr(leakage, name, value)
    folder = tmp_path / "recordings"
    leakage.write_quarters(folder, 3)
    assert len(list(folder.glob("*.npz"))) == 4 * 2 * 4
    config = dataclasses.replace(
        with_data(with_train(leakage.create_config(1), batch_size=4), workers=1),
        model=ModelConfig(features=(4, 8), convs=1, stem=1),
    )
    found = leakage.run_split("donor", folder, tmp_path / "run", 3, config)
    split = read_json(tmp_path / "run" / "split.json")
    counts = collections.Counter(item["splits"][0] for item in split["items"].values())
    assert counts == {"train": 8, "val": 2, "test": 2}
    write_json(folder / "done.json", {})
    assert leakage.run_split("donor", folder, tmp_path / "run", 3, config) == found


def test_the_table_and_figure_of_the_leak(tmp_path):
    from experiments.studies import leakage

    scores = {0: {"crop": 0.7, "donor": 0.6}, 1: {"crop": 0.72, "donor": 0.6}, 2: {"crop": 0.71}}
    text = leakage.write_table(tmp_path / "table.md", scores)
    assert "| crop | 0.710 ± 0.010 | 0.110 ± 0.014 | 3 |" in text
    assert "| donor | 0.600 ± 0.000 |  | 2 |" in text
    assert "container" not in text
    leakage.draw_scores(tmp_path / "scores.png", scores)
    assert (tmp_path / "scores.png").stat().st_size > 5000
