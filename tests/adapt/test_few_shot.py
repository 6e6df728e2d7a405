"""Scores before and after a fine-tuning, and its learning curve, as plain values."""

import dataclasses
import functools
import json
import shutil

import jax
import numpy as np
import pytest

from fluxseg.adapt.few_shot import (
    FewShot,
    claim_folder,
    create_config,
    finetune,
    set_length,
    tuned_share,
)
from fluxseg.adapt.learning_curve import format_curve, judge_curve, plan_curve, summarise_curve
from fluxseg.adapt.verdict import judge
from fluxseg.config import SimulatorConfig
from fluxseg.data.cache import read_crops
from fluxseg.data.recording import Recording, group_of
from fluxseg.data.resample import median_diameter
from fluxseg.data.tiles import join_grid
from fluxseg.errors import ConfigError, WorkdirError
from fluxseg.formats.npz import write_npz
from fluxseg.formats.sources import FolderSource
from fluxseg.inference.calibrate import OperatingPoint
from fluxseg.inference.evaluate import evaluate_data, load_run
from fluxseg.inference.field_scores import pool_scores, score_field, score_fields
from fluxseg.inference.objects import run_scores
from fluxseg.inference.objects.rois import find_rois
from fluxseg.inference.predict import create_predictor
from fluxseg.inference.run_model import load_model, model_of_run
from fluxseg.job import evaluate
from fluxseg.report.html import write_report
from fluxseg.simulation.sessions import SimulatedSource
from fluxseg.training.state import create_train_state
from tests.conftest import TINY
from tests.data.fields import disc_masks


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
    with pytest.raises(ConfigError, match="share must be 0 to 1"):
        FewShot(share=1.5)


NATIVE = (128, 140)


def read_discs(seed, diameter=20):
    """A field with discs in place of cells."""
    masks = np.pad(disc_masks(diameter, seed=seed)[0], ((0, 0), (0, 0), (6, 6)))
    rng = np.random.default_rng(seed)
    image = (700 * masks.any(0) + rng.integers(0, 300, NATIVE)).astype(np.uint16)
    metadata = {"donor_name": f"m{seed}", "um_per_px": 0.5}
    names = tuple(map(str, range(len(masks))))
    return Recording(f"r{seed}", image, masks, names, group_of(metadata, ""), metadata)


def test_more_fields_are_learnt_longer_and_count_more(model, tmp_path):
    def steps_of(fields, **settings):
        config = create_config(model, "simulator", tmp_path, FewShot(**settings))
        return set_length(config, fields).train.steps

    assert [steps_of(fields) for fields in (1, 3, 4, 6, 9, 50)] == [150, 150, 180, 270, 400, 400]
    assert steps_of(9, steps=7) == 7
    assert [tuned_share(fields) for fields in (0, 1, 4, 6, 8, 50)] == [0.5, 0.5, 0.5, 0.75, 1, 1]


@pytest.fixture(scope="module")
def tuned(model, tmp_path_factory):
    """A model that knows cells of 8 px, tuned to fields with cells of 20 px."""
    folder = tmp_path_factory.mktemp("tuned")
    for seed in range(4):
        write_npz(folder / "data" / f"r{seed}.npz", read_discs(seed))
    start = dataclasses.replace(model, diameter_px=8.0, tta=True, um_per_px=0.9)
    settings = FewShot(steps=4)
    result, entry = finetune(start, "start", str(folder / "data"), folder / "run", settings)
    return folder, start, result, entry


def test_the_share_of_the_tuned_parameters_can_be_given(tuned, tmp_path):
    folder, start, result, _ = tuned
    shutil.copytree(folder / "run", tmp_path / "run")
    settings = FewShot(steps=4, share=1.0)
    finetune(start, "start", str(folder / "data"), tmp_path / "run", settings)
    jax.tree.map(
        np.testing.assert_array_equal,
        load_model(tmp_path / "run").params,
        result.state.eval_params,
    )


def test_a_model_is_tuned_at_the_magnification_that_it_predicts_at(tuned):
    folder, start, result, _ = tuned
    saved = json.loads((folder / "run" / "config.json").read_text())
    assert saved["data"]["diameter_px"] == 8
    for entry in result.dataset.index.entries:
        zoom = 8 / median_diameter(read_discs(int(entry.id[1:])).masks)
        assert entry.shape == tuple(round(side * zoom) for side in NATIVE)
    for loaded in (load_model(folder / "run"), model_of_run(load_run(folder / "run"))):
        assert (loaded.diameter_px, loaded.um_per_px) == (8, None)
    assert load_model(folder / "run").tta
    # Half way between the first network and the tuned one, whichever file it is read from.
    halves = jax.tree.map(lambda a, b: (a + b) / 2, start.params, result.state.eval_params)
    for read in (load_model(folder / "run").params, load_run(folder / "run").state.eval_params):
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), read, halves)
    image = read_discs(7).image
    assert load_model(folder / "run").predict(image).shape == NATIVE
    assert load_model(folder / "run").predict(image, diameter=20).shape == NATIVE


def test_scores_before_and_after_are_of_native_pixels_and_know_no_label(tuned):
    folder, start, _, entry = tuned
    for part in ("before", "after"):
        for row in entry[part]["recordings"]:
            assert np.sum(row["confusion"]) == NATIVE[0] * NATIVE[1]
    source = FolderSource(str(folder / "data"))

    class Relabelled:
        def read(self, key):
            recording = source.read(key)
            masks = np.zeros((1, *NATIVE), bool)
            masks[0, 5:100, 5:100] = True
            return dataclasses.replace(recording, masks=masks, roi_ids=("a",))

    found = [
        np.sum(row["confusion"], 0).tolist()
        for labels in (source, Relabelled())
        for row in score_fields(start, labels, ["r1.npz"])
    ]
    assert found[0] == found[1]
    image = source.read("r1.npz").image
    seen = start.predict(image, diameter=start.find_diameter(image)) >= start.threshold
    assert found[0] == [(~seen).sum(), seen.sum()]


def test_neurons_of_resampled_crops_are_compared_with_the_native_masks(
    tuned, tmp_path, monkeypatch
):
    folder, _, result, _ = tuned
    sizes = []

    def stitch_truth(state, index, entry, temperature):
        labels = [label for _, label, _ in read_crops(index, entry)]
        sizes.append(entry.shape)
        return {"probability": join_grid(np.stack(labels), entry.shape).astype(np.float32)}

    monkeypatch.setattr(run_scores, "stitch_recording", stitch_truth)
    source, index = FolderSource(str(folder / "data")), result.dataset.index
    scores = run_scores.write_object_scores(
        result.state, index, result.scores, source, tmp_path, OperatingPoint()
    )
    found = scores["splits"]["test"]["objects"]
    assert sizes
    assert all(shape[0] < NATIVE[0] for shape in sizes)
    assert found["scores"]["object_f1"] == 1
    truth = sum(len(source.read(row["key"]).masks) for row in found["recordings"])
    assert found["counts"]["n_true"] == truth


def test_other_recordings_are_scored_at_the_magnification_of_the_run(tuned, tmp_path):
    folder = tuned[0]
    write_npz(tmp_path / "data" / "other.npz", read_discs(9, diameter=32))
    scores = evaluate_data(load_run(folder / "run"), str(tmp_path / "data"), tmp_path / "scores")
    (row,) = scores["splits"]["external"]["recordings"]
    zoom = 8 / median_diameter(read_discs(9, diameter=32).masks)
    assert np.sum(row["confusion"]) == round(NATIVE[0] * zoom) * round(NATIVE[1] * zoom)
    # A run that was moved, or made with a relative path, still has its crops.
    moved = tmp_path / "moved"
    shutil.copytree(folder / "run", moved)
    config = json.loads((moved / "config.json").read_text())
    config["data"]["cache"] = "run/cache"
    (moved / "config.json").write_text(json.dumps(config))
    assert evaluate_data(load_run(moved), str(tmp_path / "data"), tmp_path / "again") == scores


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


def test_a_curve_has_mean_and_range():
    curve = make_curve({0: [0.2, 0.4], 1: [0.3, 0.6], 3: [0.5, None]})
    row = curve["rows"][1]["neuron_iou"]
    assert (row["mean"], row["low"], row["high"]) == pytest.approx((0.45, 0.3, 0.6))
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


def make_row(found):
    """A field with four labelled neurons of 25 px of which so many are found, and nothing else."""
    masks = np.zeros((4, 32, 32), bool)
    for number in range(4):
        masks[number, 8 * number : 8 * number + 5, 4:9] = True
    recording = Recording("r", np.ones((32, 32)), masks, ("a", "b", "c", "d"))
    probability = masks[:found].any(0).astype(np.float32)
    return score_field(recording, "r.npz", probability, find_rois(probability, min_area=9), 0.5)


def test_a_model_that_became_worse_is_called_so():
    better, verdict = judge([make_row(3)], [make_row(2)], "start")
    assert better is False
    assert "WORSE" in verdict
    assert "keep using start" in verdict
    assert f"{6 / 7:.3f} -> {4 / 6:.3f}" in verdict
    assert judge([make_row(2)], [make_row(3)], "start")[0] is True
    better, verdict = judge([make_row(2)], [make_row(2)], "start")
    assert better is True
    assert "No change" in verdict


def test_a_small_change_is_none():
    row = make_row(3)
    (background, alarm), (missed, found) = row["confusion"]
    close = {**row, "confusion": [[background, alarm], [missed + 1, found - 1]]}
    for pair in ((row, close), (close, row)):
        better, verdict = judge(*([one] for one in pair), "start")
        assert better is True
        assert "No change worth mentioning" in verdict


def test_what_the_report_says_of_a_tuning_agrees_with_itself(tuned):
    folder, _, _, entry = tuned
    split = json.loads((folder / "run" / "scores.json").read_text())["splits"]["test"]
    for name in ("neuron_iou", "macro_iou"):
        assert split["scores"][name] == entry["after"]["scores"][name]
    assert split["objects"]["scores"]["object_f1"] == entry["after"]["scores"]["object_f1"]
    page = write_report(folder / "run").read_text()
    assert "Before and after the tuning" in page
    assert entry["verdict"].replace("->", "-&gt;") in page
    assert (folder / "run" / "figures" / "tuning-0.png").stat().st_size > 5000
    for part in ("before", "after"):
        assert f"{entry[part]['scores']['macro_iou']:.3f}" in page


def test_a_tuning_keeps_its_scores_before_and_after(tuned):
    run = tuned[0] / "run"
    scores = (run / "scores.json").read_bytes()
    with pytest.raises(WorkdirError, match=r"is a fine-tuning.*--data FOLDER"):
        evaluate(run)
    assert (run / "scores.json").read_bytes() == scores
