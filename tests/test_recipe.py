"""The experiment on the recipe: its changes, its runs, its table."""

import dataclasses

import pytest

from experiments.studies import recipe, recipe_changes
from fluxseg.config import Config, config_from_dict, config_to_dict
from fluxseg.io.files import read_json, write_json
from tests.conftest import TINY, with_train

SMALL = recipe.create_recipe(small=True)


def test_the_recipe_is_the_default_from_a_random_start():
    assert recipe.create_recipe(small=False) == with_train(Config(), start="random")
    assert (SMALL.model, SMALL.loss, SMALL.augment) == (Config().model, Config().loss, TINY.augment)


@pytest.mark.parametrize("name", [name for name in recipe.CHANGES if name != recipe.RECIPE])
def test_a_change_is_of_one_thing_on_the_same_fields(name):
    changed = recipe.CHANGES[name](SMALL)
    assert config_from_dict(config_to_dict(changed)) == changed
    assert changed.simulator == SMALL.simulator
    sections = [field.name for field in dataclasses.fields(Config)]
    different = [s for s in sections if getattr(changed, s) != getattr(SMALL, s)]
    if name == recipe_changes.STEPS:
        assert changed.train.batch_size == SMALL.train.batch_size
        assert changed.train.epochs == SMALL.train.epochs
        assert changed.data == SMALL.data
    else:
        assert len(different) == 1


def test_a_run_is_trained_scored_and_not_run_again(tmp_path):
    recipe.run_change("recipe", TINY, tmp_path, 1)
    folder = recipe.folder_of("recipe", tmp_path, 1)
    record = read_json(folder / "fields.json")
    assert set(record["scores"]) == {"chosen", "half", "turned"}
    assert record["cpu_seconds"] > 0
    assert read_json(folder / "config.json")["train"]["seed"] == 1
    written = (folder / "fields.json").stat().st_mtime_ns
    recipe.run_change("recipe", TINY, tmp_path, 1)
    assert (folder / "fields.json").stat().st_mtime_ns == written
    (row, *others) = recipe.read_rows(tmp_path, [0, 1])
    assert (row["title"], list(row["iou"]), len(others)) == ("recipe", [1], 2)


def _write_run(workdir, name, seed, iou, f1):
    folder = recipe.folder_of(name, workdir, seed)
    scores = {"scores": {"neuron_iou": iou, "object_f1": f1}}
    kinds = {"chosen": scores, "half": scores, "turned": scores}
    write_json(folder / "fields.json", {"scores": kinds})
    write_json(folder / "scores.json", {"splits": {"val": scores}})


def test_the_table_compares_equal_seeds(tmp_path):
    for seed, iou in ((0, 0.60), (1, 0.64)):
        _write_run(tmp_path, "recipe", seed, iou, 0.8)
    _write_run(tmp_path, "no dropout", 0, 0.55, 0.81)
    _write_run(tmp_path, "no dropout", 1, 0.61, 0.83)
    _write_run(tmp_path, "bfloat16", 1, 0.65, 0.80)
    rows = recipe.read_rows(tmp_path, [0, 1])
    text = recipe.write_table(tmp_path / "recipe.md", rows)
    lines = {line.split("|")[1].strip(): line for line in text.splitlines()}
    assert "| 0.620 ± 0.028 |  | 0.800 ± 0.000 |  | 2 |" in lines["recipe"]
    assert (
        "| 0.580 ± 0.042 | -0.040 ± 0.014 | 0.820 ± 0.014 | +0.020 ± 0.014 | 2 |"
        in (lines["no dropout"])
    )
    assert "| 0.650 | +0.010 | 0.800 | +0.000 | 1 |" in lines["bfloat16"]
    assert "half as wide" not in lines
    recipe.draw_changes(tmp_path / "recipe.png", rows)
    assert (tmp_path / "recipe.png").stat().st_size > 5000
