import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from fluxseg.data.pipeline import CropSource, iterate_evaluation
from fluxseg.errors import RecordingError
from fluxseg.formats.sources import open_source
from fluxseg.inference.calibrate import (
    OperatingPoint,
    calibrate,
    choose_operating_point,
    group_histograms,
    pool_histograms,
)
from fluxseg.inference.evaluate import evaluate_run, load_run, run_crops, run_index
from fluxseg.inference.model_file import MODEL_NAME, write_model
from fluxseg.inference.objects.run_scores import CUTS, choose_cut, write_object_scores
from fluxseg.inference.predict import create_predictor
from fluxseg.inference.probability import neuron_probability
from fluxseg.inference.run_model import (
    load_model,
    operating_point_of_run,
    training_pixel_size,
    update_run_model,
)
from fluxseg.model.calibration import LEVELS
from tests.conftest import ONE_EPOCH


@pytest.fixture
def run(trained):
    return load_run(trained[0])


def pixels_of(run, split, temperature):
    index, crops = run_index(run), run_crops(run)[split]
    probability, label = [], []
    for batch in iterate_evaluation(CropSource(index, crops), 8):
        found = neuron_probability(
            run.state.apply_fn, run.state.eval_params, batch["image"], temperature
        )
        probability.append(np.asarray(found)[batch["valid"] > 0])
        label.append(batch["label"][batch["valid"] > 0])
    return np.concatenate(probability), np.concatenate(label) > 0


def test_every_pixel_of_a_split_is_counted_once_in_its_group(run):
    index, crops = run_index(run), run_crops(run)
    for split in ("val", "test"):
        found = group_histograms(run.state, index, crops[split])
        keys = {key for key, _ in crops[split]}
        for group, histogram in found.items():
            entries = [e for e in index.entries if e.key in keys and e.group == group]
            assert histogram.sum() == sum(sum(e.valid_pixels) for e in entries)
            assert histogram[1].sum() == sum(sum(e.neuron_pixels) for e in entries)
        assert len(found) == len({e.group for e in index.entries if e.key in keys})


def test_the_operating_point_is_the_best_on_validation(run):
    index, crops = run_index(run), run_crops(run)
    point = choose_operating_point(
        pool_histograms(group_histograms(run.state, index, crops["val"]))
    )
    assert point.chosen_on == "val"
    probability, label = pixels_of(run, "val", point.temperature)

    def iou(threshold):
        found = probability >= threshold
        return (found & label).sum() / (found | label).sum()

    best = iou(point.threshold)
    assert best > 0
    assert all(iou(t) <= best + 5e-3 for t in np.linspace(0.01, 0.99, 99))
    assert operating_point_of_run(run)[0] == point
    assert choose_operating_point(np.zeros((2, LEVELS), np.int64)) == OperatingPoint()


def test_test_pixels_choose_nothing(run, tmp_path):
    index, crops = run_index(run), run_crops(run)
    scores = evaluate_run(run)
    _, point = calibrate(run.state, index, crops, scores, tmp_path)
    # With other test crops (here those of training) nothing changes but the scores of the test.
    other, same = calibrate(run.state, index, {**crops, "test": crops["train"]}, scores, tmp_path)
    assert same == point
    assert other["operating_point"]["chosen_on"] == "val"
    only = {**scores, "splits": {"test": scores["splits"]["test"]}}
    _, default = calibrate(run.state, index, crops, only, tmp_path)
    assert default == OperatingPoint()


def test_scores_state_reliability_and_objects_use_the_threshold(run, tmp_path):
    index, crops = run_index(run), run_crops(run)
    scores, point = calibrate(run.state, index, crops, evaluate_run(run), tmp_path)
    probability, label = pixels_of(run, "test", point.temperature)
    after = scores["splits"]["test"]["calibration"]["after"]
    assert after["scores"]["brier"] == pytest.approx(((probability - label) ** 2).mean(), abs=5e-4)
    share = sum(row["pixels"] * (row["share"] or 0) for row in after["curve"])
    assert share == pytest.approx(label.sum())
    source = open_source(ONE_EPOCH)
    scored = write_object_scores(run.state, index, scores, source, tmp_path, point)
    assert scored == json.loads((tmp_path / "scores.json").read_text())
    for split in scored["splits"].values():
        assert split["objects"]["threshold"] == point.threshold
        assert split["objects"]["temperature"] == point.temperature
        assert split["objects"]["chosen_on"] == "val"
    # Objects that were scored at another threshold are scored again, others are kept.
    kept = write_object_scores(run.state, index, scored, None, tmp_path, point)
    assert kept == scored
    moved = OperatingPoint(point.temperature, 0.9, "val")
    again = write_object_scores(run.state, index, scored, source, tmp_path, moved)
    assert again["splits"]["test"]["objects"]["threshold"] == 0.9


def test_the_model_of_a_run_is_tempered_and_knows_its_pixel_size(trained, run):
    model = load_model(trained[0])
    point, scale = operating_point_of_run(run)
    assert (model.temperature, model.threshold) == (point.temperature, point.threshold)
    sizes = {entry.um_per_px for entry in run_index(run).entries}
    # Simulated fields of view differ in it, so the model has none of its own.
    assert len(sizes) > 1
    assert model.um_per_px is scale is None
    index = run_index(run)
    entries = type(index.entries)(dataclasses.replace(e, um_per_px=0.8) for e in index.entries)
    alike = dataclasses.replace(index, entries=entries)
    assert training_pixel_size(alike, run_crops(run)["train"]) == 0.8
    image = np.random.default_rng(0).random((64, 64))
    tempered = model.predict(image)
    plain = np.asarray(jax.nn.sigmoid(_log_odds(model, image)))
    assert (tempered > 0.5).mean() == (plain > 0.5).mean()
    odds = np.log(tempered / (1 - tempered)) * model.temperature
    np.testing.assert_allclose(odds, _log_odds(model, image), atol=1e-3)


def test_model_file_and_scores_have_one_operating_point(trained, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(trained[0], folder)
    run = load_run(folder)
    point, _ = operating_point_of_run(run)
    update_run_model(run, point)
    assert not (folder / MODEL_NAME).exists()
    info = {"checkpoint": dict(run.checkpoint)}
    write_model(folder / MODEL_NAME, create_predictor(run.state, run.config, 0.3, info))
    update_run_model(run, point)
    model = load_model(folder)
    assert (model.temperature, model.threshold) == (point.temperature, point.threshold)
    assert model.info == info
    # Without prepared crops there is nothing to choose by but the model file.
    shutil.rmtree(folder / "cache")
    stored, _ = operating_point_of_run(run)
    assert stored == dataclasses.replace(point, chosen_on=None)
    (folder / MODEL_NAME).unlink()
    assert operating_point_of_run(run)[0] == OperatingPoint()


def _log_odds(model, image):
    from fluxseg.data.transforms import normalize_image

    normalised = normalize_image(image, model.low_percentile, model.high_percentile)
    logits = model.apply_fn({"params": model.params}, normalised[None, ..., None], False)
    return np.asarray(logits[0, ..., 1] - logits[0, ..., 0])


def test_the_least_confidence_has_the_best_f1_of_the_validation_split(run, tmp_path):
    index, crops = run_index(run), run_crops(run)
    scores, point = calibrate(run.state, index, crops, evaluate_run(run), tmp_path)
    source = open_source(ONE_EPOCH)
    chosen = choose_cut(run.state, index, scores, source, point)
    assert dataclasses.replace(chosen, min_confidence=0.0) == point
    f1 = {}
    for cut in {*CUTS[::4], chosen.min_confidence}:
        at = dataclasses.replace(point, min_confidence=cut)
        found = write_object_scores(run.state, index, scores, source, tmp_path, at)
        f1[cut] = found["splits"]["val"]["objects"]["scores"]["object_f1"]
        assert found["operating_point"]["min_confidence"] == cut
    assert max(f1.values()) == f1[chosen.min_confidence]
    # Without a split that has chosen, or without the recordings, it is left.
    assert choose_cut(run.state, index, scores, source, OperatingPoint()) == OperatingPoint()

    class Gone:
        def read(self, key):
            raise RecordingError("file", f"{key} is gone")

    gone = Gone()
    assert choose_cut(run.state, index, scores, gone, point) == point
