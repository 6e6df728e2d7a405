"""Scores before and after a fine-tuning, and its learning curve, as plain values."""

import dataclasses

import numpy as np
import pytest

from fluxseg.config import SimulatorConfig
from fluxseg.data.simulator import SimulatedSource
from fluxseg.errors import ConfigError, WorkdirError
from fluxseg.inference.few_shot import FewShot, claim_folder, create_config, format_scores
from fluxseg.inference.field_scores import pool_scores, score_fields
from fluxseg.inference.learning_curve import (
    format_curve,
    judge_curve,
    plan_curve,
    summarise_curve,
)
from fluxseg.inference.predict import create_predictor
from fluxseg.report.curve import plot_learning_curve
from fluxseg.training.state import create_train_state
from tests.conftest import TINY


@pytest.fixture(scope="module")
def model():
    state = create_train_state(TINY, np.ones(2), 1)
    return dataclasses.replace(create_predictor(state, TINY, 0.45), low_percentile=2.0)


def test_fields_are_scored_whole_with_the_threshold_of_the_model(model):
    source = SimulatedSource(SimulatorConfig(containers=2, sessions=1, size=64))
    rows = score_fields(model, source, source.keys())
    total = np.zeros((2, 2), int)
    for key, row in zip(source.keys(), rows, strict=True):
        recording = source.read(key)
        truth, found = recording.masks.any(0), model.predict(recording.image) >= 0.45
        confusion = [[(~truth & ~found).sum(), (~truth & found).sum()],
                     [(truth & ~found).sum(), (truth & found).sum()]]  # fmt: skip
        assert row["confusion"] == np.array(confusion).tolist()
        total += confusion
    scores = pool_scores(rows)
    assert scores["neuron_iou"] == pytest.approx(total[1, 1] / total.ravel()[1:].sum())
    assert "object_f1" in scores
    assert pool_scores([])["neuron_iou"] is None


def test_normalisation_and_architecture_are_those_of_the_model(model, tmp_path):
    config = create_config(model, "simulator", tmp_path, FewShot(encoder="frozen", held_out=0))
    assert config.model == TINY.model
    assert (config.data.tile, config.data.low_percentile) == (64, 2.0)
    assert config.data.train_fraction == 1
    assert config.train.encoder == "frozen"
    with pytest.raises(ConfigError, match="held_out"):
        FewShot(held_out=1)


def test_a_folder_belongs_to_one_starting_point(tmp_path):
    claim_folder(tmp_path, {"parameters_sha256": "a"})
    claim_folder(tmp_path, {"parameters_sha256": "a"})
    with pytest.raises(WorkdirError, match="another model"):
        claim_folder(tmp_path, {"parameters_sha256": "b"})
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    with pytest.raises(WorkdirError, match="no fine-tuning"):
        claim_folder(tmp_path / "run", {"parameters_sha256": "a"})


def make_curve(table):
    """A curve of which `table` gives, for each number of fields, the neuron IoU of each fold."""
    parts = [
        {"fold": fold, "n": n, "n_groups": n,
         "scores": {"neuron_iou": value, "macro_iou": 0.5, "object_f1": None}}
        for n, values in table.items()
        for fold, value in enumerate(values, 1)
    ]  # fmt: skip
    return summarise_curve(parts)


def test_a_curve_has_mean_range_and_paired_gains():
    curve = make_curve({0: [0.2, 0.4], 1: [0.3, 0.6], 3: [0.5, None]})
    row = curve["rows"][1]["neuron_iou"]
    assert (row["mean"], row["low"], row["high"]) == pytest.approx((0.45, 0.3, 0.6))
    assert row["sd"] == pytest.approx(np.std([0.3, 0.6], ddof=1))
    assert row["gain"]["values"] == pytest.approx([0.1, 0.2])
    assert curve["rows"][2]["neuron_iou"]["values"] == [0.5]
    assert curve["rows"][0]["object_f1"]["mean"] is None
    lines = format_curve({**curve, "split_by": "group"})
    assert "0.450 (0.300-0.600)" in lines[2]
    assert "undefined" in lines[1]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({0: [0.1, 0.1], 1: [0.3, 0.3], 3: [0.4, 0.42], 4: [0.4, 0.42]}, "more labelling is"),
        ({0: [0.1, 0.1], 1: [0.3, 0.3], 3: [0.3, 0.29]}, "unlikely to help"),
        ({0: [0.1, 0.1], 1: [0.3, 0.3], 3: [0.4, 0.29]}, "the folds disagree"),
    ],
)
def test_the_verdict_looks_at_the_latest_doubling_in_every_fold(table, words):
    text = judge_curve(make_curve(table))
    assert words in text
    assert text.startswith("From 1 to ")


def test_a_curve_needs_three_groups():
    plan = plan_curve({"a": "1", "b": "2", "c": "3", "d": "3"}, folds=5)
    assert len(plan.held_out) == 3
    for held, pool in zip(plan.held_out, plan.pools, strict=True):
        assert sorted([*held, *pool]) == ["a", "b", "c", "d"]
    assert plan.sizes == [1, 2]
    with pytest.raises(ConfigError, match="3 groups"):
        plan_curve({"a": "1", "b": "2"})


def test_the_axes_of_the_figure_say_what_they_are():
    figure = plot_learning_curve(
        {**make_curve({0: [0.2, 0.4], 1: [0.3, 0.6], 3: [0.5, 0.7]}), "split_by": "recording"}
    )
    for panel, name in zip(figure.axes, ("Neuron IoU", "Object F1"), strict=True):
        assert panel.get_xlabel().startswith("Labelled fields")
        assert name in panel.get_ylabel()
    panel = figure.axes[0]
    assert [label.get_text() for label in panel.get_xticklabels()] == ["0", "1", "3"]
    np.testing.assert_allclose(panel.lines[0].get_ydata(), [0.3, 0.45, 0.6])
    assert "same tissue" in figure.get_supxlabel()


def test_without_anything_held_out_there_are_no_scores():
    assert format_scores({"before": None, "after": None}) == ["No scores, as nothing was held out."]
