"""The verbs finetune and review in real processes."""

import itertools
import json

import jax
import numpy as np
import pytest

from fluxseg.formats.npz import read_npz
from fluxseg.inference.model_file import read_model, write_model
from fluxseg.inference.predict import create_predictor
from fluxseg.training.state import create_train_state
from tests.commands import run
from tests.conftest import TINY, write_simulated


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model file with random parameters."""
    state = create_train_state(TINY, np.ones(2), 1)
    path = tmp_path_factory.mktemp("model") / "start.safetensors"
    write_model(path, create_predictor(state, TINY, 0.4, {"seed": 0}))
    return path


@pytest.fixture(scope="module")
def tuned(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned")
    data = write_simulated(folder / "data", 4)
    arguments = ("finetune", "--model", model, "--data", data, "--output", folder / "run",
                 "--steps", 4, "--encoder", "frozen", "--curve", "--folds", 2)  # fmt: skip
    return folder, arguments, run(*arguments)


def test_finetune_writes_a_model_scores_and_a_curve(model, tuned):
    folder, _, text = tuned
    assert "before -> after" in text
    again = ("finetune", "--data", folder / "data", "--output", folder / "no", "--curve")
    assert "--folds must be 2 or more, got 1" in run(*again, "--folds", 1, code=2)
    assert not (folder / "no").exists()
    assert "field(s) held out (Neurons: F1 " in text
    before, after = read_model(model), read_model(folder / "run" / "model.safetensors")
    assert after.config == before.config
    assert after.info["finetuned"]["from"]["name"] == "start.safetensors"
    assert after.info["finetuned"]["from"]["checkpoint"] if "checkpoint" in before.info else True
    assert set(after.info["finetuned"]["before"]["scores"]) >= {"neuron_iou", "object_f1"}
    frozen = [name for name in before.params if name.startswith("encoder_")]
    assert len(frozen) >= 4
    for name in before.params:
        for field, value in before.params[name].items():
            # The average of equal parameters over the steps may differ by rounding.
            same = np.allclose(value, after.params[name][field], rtol=1e-6, atol=0)
            assert same == (name in frozen), name
    scores = json.loads((folder / "run" / "scores.json").read_text())
    held = scores["finetune"]["after"]
    trained = json.loads((folder / "run" / "data.json").read_text())["splits"]["train"]["groups"]
    assert held["n_groups"] + trained == 4
    assert sum(map(sum, held["recordings"][0]["confusion"])) == 64 * 64


def test_the_curve_holds_whole_groups_out_and_its_subsets_are_nested(tuned):
    folder, _, text = tuned
    curve = json.loads((folder / "run" / "curve.json").read_text())
    assert [row["n"] for row in curve["rows"]] == [0, 1, 2]
    assert "fields  groups" in text
    for fold in (1, 2):
        parts = [part for part in curve["parts"] if part["fold"] == fold]
        for smaller, larger in itertools.pairwise(parts):
            assert smaller["learnt_from"] == larger["learnt_from"][: smaller["n"]]
            assert not set(larger["learnt_from"]) & set(larger["held_out"])
    held = [key for part in curve["parts"] if part["n"] == 0 for key in part["held_out"]]
    assert len(set(held)) == len(held) == 4
    row = curve["rows"][1]["neuron_iou"]
    values = [p["scores"]["neuron_iou"] for p in curve["parts"] if p["n"] == 1]
    assert row["mean"] == pytest.approx(np.mean(values))
    assert "no recordings" in run("check", folder / "run", code=2)
    png = (folder / "run" / "curve.png").read_bytes()
    assert png.startswith(b"\x89PNG")


def test_the_same_command_again_changes_nothing_and_another_model_is_refused(tuned, tmp_path):
    folder, arguments, _ = tuned
    before = read_model(folder / "run" / "model.safetensors")
    curve = (folder / "run" / "curve.json").read_bytes()
    assert "This run is finished" in run(*arguments)
    after = read_model(folder / "run" / "model.safetensors")
    jax.tree.map(np.testing.assert_array_equal, after.params, before.params)
    assert (after.threshold, after.info) == (before.threshold, before.info)
    assert (folder / "run" / "curve.json").read_bytes() == curve
    other = ["finetune", "--model", folder / "run" / "model.safetensors", *arguments[3:]]
    assert "fine-tuning of another model" in run(*other, code=2)


def test_one_group_is_learnt_from_and_what_cannot_be_said_is_said(model, tmp_path):
    data = write_simulated(tmp_path / "data", 1)
    text = run("finetune", "--model", model, "--data", data, "--output", tmp_path / "run",
               "--steps", 2, "--curve")  # fmt: skip
    assert "no honest score" in text
    assert "No learning curve" in text
    info = read_model(tmp_path / "run" / "model.safetensors").info["finetuned"]
    assert info["after"] is None
    assert info["remarks"]


def test_review_lists_pictures_and_reads_corrections_back(model, tmp_path):
    data = write_simulated(tmp_path / "data", 2, seed=3)
    folder = tmp_path / "review"
    text = run("review", model, "--data", data, "--output", folder, "--min-confidence", 0)
    assert "not known whether the model was trained" in text
    saved = json.loads((folder / "review.json").read_text())
    assert len(saved["recordings"]) == 2
    rows = saved["disagreements"]
    assert rows
    assert (folder / "review.csv").read_text().count("\n") == len(rows) + 1
    page = (folder / "review.html").read_text()
    assert "<script" not in page
    assert page.count("<img") == len(list(folder.glob("sheet-*.png"))) >= 1
    # Nothing of it is a recording.
    assert "no recordings" in run("check", folder, code=2)
    text = run("review", "--apply", folder, "--output", tmp_path / "new")
    assert "2 recordings in" in text
    for row in saved["recordings"]:
        added = read_npz(tmp_path / "new" / f"{row['name']}.npz")
        assert len(added.masks) == row["labels"] + row["missed"]
    again = ("review", model, "--data", data, "--output", folder, "--min-confidence", 0)
    run(*again)
    # What somebody has corrected is not written over.
    corrected = next(iter(folder.glob("*_missed.zip")))
    corrected.write_bytes(b"corrected")
    assert f"{corrected}: was corrected since an earlier review: merge" in run(*again, code=2)
    assert corrected.read_bytes() == b"corrected"
    corrected.unlink()
    for path in data.iterdir():
        path.write_bytes(b"")
    assert "no recording can be read" in run(*again, code=2)


def test_without_a_run_the_network_that_ships_reviews(tmp_path):
    data = write_simulated(tmp_path / "data", 1)
    text = run("review", "--data", data, "--output", tmp_path / "review")
    assert "not known" not in text
    assert len(json.loads((tmp_path / "review" / "review.json").read_text())["recordings"]) == 1


def test_review_leaves_out_what_a_run_was_trained_on(tuned):
    folder, _, _ = tuned
    text = run("review", folder / "run", "--output", folder / "review")
    assert "that the model was trained on are left out" in text
    split = json.loads((folder / "run" / "split.json").read_text())["items"]
    held = [key for key, item in split.items() if "train" not in item["splits"]]
    saved = json.loads((folder / "review" / "review.json").read_text())
    assert [row["key"] for row in saved["recordings"]] == sorted(held)
    run("review", folder / "run", "--all", "--output", folder / "review")
    saved = json.loads((folder / "review" / "review.json").read_text())
    assert len(saved["recordings"]) == 4
    assert "learnt what the labels leave out" in saved["remarks"][0]


def test_wrong_uses_are_explained(model, tmp_path):
    assert "--data" in run("review", model, code=2)
    assert "name one run" in run("review", code=2)
    assert "--output" in run("review", "--apply", tmp_path, code=2)
    assert "review.json" in run("review", "--apply", tmp_path, "--output", tmp_path / "x", code=2)
