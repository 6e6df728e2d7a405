"""The model that comes with fluxseg: in the package, small, and good on fields it never saw."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

import fluxseg
import fluxseg.pretrained
from experiments.pretrained.crops import Crops, find_borders, training_ranges
from experiments.pretrained.scores import count_found, score_settings, simulate_held_out
from fluxseg.data.resample import resample_image, zoomed_shape
from fluxseg.inference.model_file import MODEL_NAME, read_model
from fluxseg.inference.objects.counts import ObjectCounts
from tests.commands import run
from tests.conftest import REPOSITORY

FOLDER = Path(fluxseg.pretrained.__file__).parent


@pytest.fixture(scope="module")
def model():
    return fluxseg.load_model()


@pytest.fixture(scope="module")
def fields():
    return list(simulate_held_out(training_ranges(), 4, seed=77_001))


def test_it_is_small_and_has_a_card():
    assert (FOLDER / MODEL_NAME).stat().st_size < 8e6
    card = (FOLDER / "card.md").read_text(encoding="utf-8")
    for part in ("licence", "training data", "What it is not for", "experiments.pretrained.train"):
        assert part in card


def test_it_is_in_the_package_that_is_installed():
    settings = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    assert "pretrained/*.safetensors" in settings
    assert "pretrained/*.md" in settings


def test_it_knows_what_it_is(model):
    # `load_model` takes for granted that its parameters fit its architecture.
    assert read_model(FOLDER / MODEL_NAME).config == model.config
    assert fluxseg.load_model("pretrained").info == model.info
    assert model.licence == "Apache-2.0"
    assert model.diameter_px == 14
    assert model.info["data"]["source"] == "fluxseg.simulation"


def test_it_finds_cells_in_simulated_fields_that_it_has_not_seen(model, fields):
    predicted = []
    for field in fields:
        diameter = model.find_diameter(field.image)
        probability = model.predict(field.image, tta=False, diameter=diameter)
        predicted.append((probability, diameter))
    scores = score_settings(fields, predicted, model.threshold)
    # Faint rings and dim cells count as missed, and sizes are estimated.
    assert scores["f1"] > 0.62
    assert scores["macro_iou"] > 0.73


def test_the_size_of_cells_does_not_matter(model, fields):
    field = max(fields, key=lambda field: field.instances.max() * (11 < field.diameter_px < 18))
    side = 320
    part = dataclasses.replace(
        field,
        **{name: getattr(field, name)[:side, :side] for name in ("image", "instances", "ignore")},
    )
    image = part.image.astype(np.float32)
    counts = {}
    for zoom in (0.5, 1.0, 2.0):
        shape = zoomed_shape(image.shape, zoom)
        rois = model.segment(resample_image(image, shape), tta=False)
        back = np.rint((np.arange(side) + 0.5) * zoom - 0.5).astype(int).clip(0, shape[0] - 1)
        counts[zoom] = count_found(part, rois.labels[np.ix_(back, back)]).scores()["object_f1"]
    # The field with most cells, 516 of them, is a crowded one.
    assert counts[1.0] > 0.6
    assert counts[2.0] > counts[1.0] - 0.1
    assert counts[0.5] > counts[1.0] - 0.25


@pytest.mark.parametrize("kind", ["flat", "noise", "gradient"])
def test_it_finds_nothing_where_nothing_is(model, kind):
    rng = np.random.default_rng(5)
    image = {
        "flat": np.full((256, 256), 7, np.uint8),
        "noise": rng.poisson(50, (256, 256)),
        "gradient": np.add.outer(np.arange(256.0), np.arange(256.0)) + rng.normal(0, 5, (256, 256)),
    }[kind]
    assert len(model.segment(image, tta=False)) <= 2


def test_the_verb_needs_no_model_and_writes_what_the_library_finds(model, fields, tmp_path):
    Image.fromarray(fields[0].image[:200, :230]).save(tmp_path / "field.png")
    run("predict", tmp_path / "field.png", "--output", tmp_path / "out", "--diameter", "14")
    labels = tifffile.imread(tmp_path / "out" / "field_labels.tif")
    expected = model.segment(fields[0].image[:200, :230], diameter=14)
    np.testing.assert_array_equal(labels, expected.labels)
    summary = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert summary["tta"] is False
    assert summary["images"][0]["diameter_px"] == 14


def test_borders_are_where_two_cells_meet():
    instances = np.array([[1, 1, 2, 2], [1, 0, 0, 2], [3, 3, 3, 3]])
    expected = np.array([[0, 1, 1, 0], [1, 0, 0, 1], [1, 0, 0, 1]], bool)
    np.testing.assert_array_equal(find_borders(instances), expected)


def test_training_crops_leave_a_gap_that_weighs_more(tmp_path):
    source = Crops(3, tmp_path, 12, tile=128)
    crops = [source[number] for number in range(12)]
    again = Crops(3, tmp_path, 12, tile=128)[5]
    for name, value in crops[5].items():
        np.testing.assert_array_equal(again[name], value)
    # The same tissue in another display.
    later = source[12 + 5]
    np.testing.assert_array_equal(later["label"], crops[5]["label"])
    heavy = np.stack([crop["valid"] > 1 for crop in crops])
    label = np.stack([crop["label"] for crop in crops])
    assert heavy.any()
    assert not label[heavy].any()
    assert label.any()


def test_counting_leaves_out_doubtful_cells(fields):
    field = max(fields, key=lambda field: field.ignore.sum())
    found = count_found(field, np.where(field.ignore, 1, 0))
    assert (found.n_predicted, found.n_true) == (0, field.instances.max())
    assert isinstance(found, ObjectCounts)
