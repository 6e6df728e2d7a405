import csv
import json
import re

import pytest

from fluxseg.config import Config
from fluxseg.report.sweep import collect_table, write_table
from fluxseg.training.sweep import Sweep, plan_sweep, run_folder

EVIL = '<script>alert(1)</script>$x$"'


def write_run(folder, member, value):
    workdir = run_folder(folder, member)
    workdir.mkdir(parents=True)
    rows = [
        {"epoch": 1, "step": 5, "val_neuron_iou": value / 2, "seconds": 3.0},
        {"epoch": 2, "step": 10, "val_neuron_iou": value, "seconds": 6.0},
    ]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    split = {"scores": {"neuron_iou": 1 - value, "macro_iou": 0.5}}
    scores = {"checkpoint": {"epoch": 2, "value": value}, "splits": {"val": split, "test": split}}
    (workdir / "scores.json").write_text(json.dumps(scores))


@pytest.fixture
def table(tmp_path):
    vary = {"train.learning_rate": (1e-3, 2e-3), "data.source": ("simulator", EVIL)}
    members = plan_sweep(Sweep(Config(), vary))
    for member, value in zip(members[:3], (0.2, 0.6, 0.4), strict=True):
        write_run(tmp_path, member, value)
    return collect_table(members, tmp_path, {members[3].name: "no such <folder>"})


def test_rows_are_sorted_by_validation_and_never_by_test(table):
    assert [row.monitored for row in table.rows] == [0.6, 0.4, 0.2, None]
    assert [row.test.get("neuron_iou") for row in table.rows[:3]] == pytest.approx([0.4, 0.6, 0.8])
    assert [row.epoch for row in table.rows] == [2, 2, 2, None]
    assert table.rows[0].settings == {"train.learning_rate": 1e-3, "data.source": EVIL}
    assert table.rows[3].failure == "no such <folder>"


def test_the_files_say_the_same(table, tmp_path):
    page = write_table(table, tmp_path)
    with (tmp_path / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["val_neuron_iou"] for row in rows] == ["0.6", "0.4", "0.2", ""]
    assert rows[0]["train.learning_rate"] == "0.001"
    stored = json.loads((tmp_path / "sweep.json").read_text())
    assert [row["monitored"] for row in stored["rows"]] == [0.6, 0.4, 0.2, None]
    text = page.read_text()
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "Content-Security-Policy" in text
    assert not re.search(r"(src|href)=\"(?!data:|#)", text)
    assert text.count("<tr><th scope") == 4


def test_a_sweep_without_scores_still_has_a_page(tmp_path):
    members = plan_sweep(Sweep(Config(), {"train.seed": (0, 1)}))
    page = write_table(collect_table(members, tmp_path), tmp_path)
    assert "None of the runs has scores yet" in page.read_text()
