"""The job is one: a notebook's call and the command leave the same, and evaluation agrees."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

import fluxseg
from fluxseg.job import evaluate
from tests.commands import run
from tests.conftest import ONE_EPOCH, as_arguments, with_data

SCORED = ("loss", "confusion", "scores", "intervals", "objects", "calibration")


def listed(workdir):
    """Files but for those whose names tell of the time or of the run's bytes."""
    paths = (path.relative_to(workdir) for path in workdir.rglob("*") if path.is_file())
    return sorted(
        str(path) for path in paths if path.parts[0] not in ("tensorboard", "checkpoints")
    )


def test_a_call_and_the_command_leave_the_same(finished, tmp_path):
    workdir, result = finished
    run("train", "--workdir", tmp_path / "run", *as_arguments(ONE_EPOCH))
    assert listed(tmp_path / "run") == listed(workdir)
    for name in ("scores.json", "config.json", "split.json", "data.json"):
        assert json.loads((tmp_path / "run" / name).read_text()) == json.loads(
            (workdir / name).read_text()
        ), name
    one, other = (fluxseg.load_model(path) for path in (result.model, tmp_path / "run"))
    assert (one.threshold, one.temperature) == (other.threshold, other.temperature)
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)


def test_the_result_is_what_the_files_say(finished):
    workdir, result = finished
    assert result.scores == json.loads((workdir / "scores.json").read_text())
    assert result.model == workdir / "model.safetensors"
    assert result.report == workdir / "report.html"
    for split in ("val", "test"):
        assert set(SCORED) <= set(result.scores["splits"][split])
    assert "Neuron IoU" in repr(result)
    assert "<table" in result._repr_html_()


def test_evaluation_gives_the_scores_of_the_job(finished, tmp_path):
    workdir, result = Path(shutil.copytree(finished[0], tmp_path / "run")), finished[1]
    scores, page = evaluate(workdir)
    assert page == workdir / "report.html"
    assert scores["operating_point"] == result.scores["operating_point"]
    for split, row in result.scores["splits"].items():
        found = scores["splits"][split]
        for name in ("confusion", "scores", "intervals", "objects", "calibration", "recordings"):
            assert found[name] == row[name], (split, name)
        assert found["loss"] == pytest.approx(row["loss"], rel=1e-6)


def test_other_recordings_are_scored_at_the_operating_point_of_the_run(finished, tmp_path):
    workdir, result = finished
    other = with_data(ONE_EPOCH, source="simulator")
    scores, page = evaluate(workdir, other.data.source, tmp_path / "out")
    assert page == tmp_path / "out" / "report.html"
    assert set(scores["splits"]) == {"external"}
    assert scores["operating_point"] == result.scores["operating_point"]
    assert scores["splits"]["external"]["objects"]["threshold"] == pytest.approx(
        result.scores["operating_point"]["threshold"]
    )


def test_a_profile_is_a_trace_of_a_few_steps(tmp_path):
    fluxseg.train_and_evaluate(ONE_EPOCH, tmp_path, profile=True)
    assert list((tmp_path / "profile").glob("plugins/profile/*/*.xplane.pb"))
