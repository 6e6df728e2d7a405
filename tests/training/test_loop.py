import dataclasses
import json

import numpy as np
import pytest

from fluxseg.config import ModelConfig, config_from_dict
from fluxseg.errors import WorkdirError
from fluxseg.training.checkpoints import open_checkpoints
from fluxseg.training.progress import Callbacks
from tests.conftest import TINY, train_network, with_data, with_train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    config = with_train(TINY, epochs=6)
    seen = {"steps": [], "epochs": []}
    callbacks = Callbacks(
        on_step=lambda done, total: seen["steps"].append((done, total)),
        on_epoch=seen["epochs"].append,
    )
    return config, workdir, train_network(config, workdir, callbacks), seen


def test_the_workdir_holds_everything(run):
    config, workdir, result, _ = run
    names = {path.name for path in workdir.iterdir()}
    assert names == {
        ".lock", "cache", "checkpoints", "config.json", "data.json", "metrics.csv",
        "metrics.jsonl", "scores.json", "split.json", "tensorboard", "versions.json",
    }  # fmt: skip
    assert config_from_dict(json.loads((workdir / "config.json").read_text())) == config
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert rows == result.history
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert (workdir / "metrics.csv").read_text().count("\n") == 7


def test_callbacks_see_every_step_and_epoch(run):
    config, _, result, seen = run
    total = result.history[-1]["step"]
    assert seen["steps"] == [(n, total) for n in range(1, total + 1)]
    assert seen["epochs"] == result.history
    crops = len(result.dataset.crops("train"))
    assert total == config.train.epochs * -(-crops // config.train.batch_size)


def test_every_pixel_of_a_split_is_scored_exactly_once(run):
    _, _, result, _ = run
    sizes = {entry.key: entry.shape[0] * entry.shape[1] for entry in result.dataset.index.entries}
    for split in ("val", "test"):
        scores = result.scores["splits"][split]
        by_key = {row["key"]: np.array(row["confusion"]) for row in scores["recordings"]}
        assert {key for key, _ in result.dataset.crops(split)} == set(by_key)
        for key, confusion in by_key.items():
            assert confusion.sum() == sizes[key]
        np.testing.assert_array_equal(sum(by_key.values()), scores["confusion"])


def test_the_best_epoch_is_the_one_with_the_best_validation_figure(run):
    _, workdir, result, _ = run
    values = [row["val_neuron_iou"] or 0 for row in result.history]
    best = result.scores["checkpoint"]
    assert best["epoch"] == 1 + int(np.argmax(values))
    assert result.scores["splits"]["val"]["scores"]["neuron_iou"] == pytest.approx(max(values))
    checkpoints = open_checkpoints(workdir)
    assert checkpoints.best.all_steps() == [best["step"]]
    assert len(checkpoints.last.all_steps()) == 2
    checkpoints.close()


def test_history_never_shows_test_unless_asked(run, tmp_path):
    _, _, result, _ = run
    assert not any(name.startswith("test_") for row in result.history for name in row)
    asked = with_train(TINY, epochs=1, score_test_each_epoch=True)
    assert "test_macro_iou" in train_network(asked, tmp_path).history[0]


def test_a_finished_run_is_not_trained_again(run):
    config, workdir, result, _ = run
    steps = []
    again = train_network(
        config, workdir, Callbacks(on_step=lambda done, total: steps.append(done))
    )
    assert steps == []
    assert again.scores == result.scores
    assert again.history == result.history


def test_other_settings_are_refused_with_the_difference(run):
    config, workdir, _, _ = run
    other = dataclasses.replace(config, model=ModelConfig(features=(4, 16), convs=1, stem=1))
    with pytest.raises(WorkdirError, match=r"model\.features: \(4, 8\) -> \(4, 16\)"):
        train_network(other, workdir)
    other = with_data(config, split_seed=5)
    with pytest.raises(WorkdirError, match=r"data\.split_seed: 0 -> 5"):
        train_network(other, workdir)
    assert config_from_dict(json.loads((workdir / "config.json").read_text())) == config
    with pytest.raises(WorkdirError, match=r"change train\.steps and train\.epochs"):
        train_network(with_train(config, epochs=12, steps=1000), workdir)


def test_a_manifest_gives_the_same_split_again(run, tmp_path):
    config, workdir, result, _ = run
    again = with_train(
        with_data(config, manifest=str(workdir / "split.json"), split_seed=9), epochs=1
    )
    other = train_network(again, tmp_path)
    assert other.dataset.manifest.content_hash == result.dataset.manifest.content_hash


def test_patience_stops_early(tmp_path):
    # Without learning, no epoch is better than the first.
    config = with_train(TINY, epochs=50, patience=2, learning_rate=1e-30, weight_decay=0.0)
    result = train_network(config, tmp_path)
    assert len(result.history) == 3
    assert result.scores["checkpoint"]["epoch"] == 1


def test_without_validation_the_last_epoch_is_used(tmp_path):
    config = with_data(with_train(TINY, epochs=2), train_fraction=0.7, val_fraction=0.0)
    result = train_network(config, tmp_path)
    assert result.scores["checkpoint"]["epoch"] == 2
    assert set(result.scores["splits"]) == {"test"}
