import json
import re
import shutil

import numpy as np
import pytest

from fluxseg.errors import ConfigError, WorkdirError
from fluxseg.report.compare import (
    choose_common_examples,
    compare_recordings,
    compare_settings,
    compare_splits,
    name_runs,
    render_comparison,
    write_comparison,
)
from fluxseg.report.compare_plots import plot_overlaid_curves
from fluxseg.report.workdir import read_run
from tests.report.pages import text_of
from tests.report.workdirs import change, create_workdir, scores_of

NO_FIGURES = dict.fromkeys(("curves", "reliability", "differences", "examples"), ())


def part(number, shift):
    curve = [
        {"low": i / 15, "high": (i + 1) / 15, "pixels": 100 * (i < 12)}
        | {"confidence": (i + 0.5) / 15, "share": min(1, (i + shift) / 15)}
        for i in range(15)
    ]
    scores = dict(zip(("ece", "mce", "brier", "nll"), (number, 0.2, 0.03, 0.1), strict=True))
    intervals = {name: [value * 0.9, value * 1.1] for name, value in scores.items()}
    return {"scores": scores, "intervals": intervals, "curve": curve}


def complete(workdir, f1):
    """Add what calibration and single neurons give."""

    def edit(scores):
        scores["operating_point"] = {"temperature": 1.4, "threshold": 0.41, "chosen_on": "val"}
        for split in scores["splits"].values():
            parts = {"before": part(0.03, 2), "after": part(f1 / 50, 1)}
            split["calibration"] = {"temperature": 1.4, "confidence": 0.95, **parts}
            split["objects"] = {
                "scores": {"object_f1": f1, "object_precision": 0.7},
                "intervals": {"object_f1": [f1 - 0.02, f1 + 0.02]},
                "counts": {"n_true": 90, "n_predicted": 100},
                "threshold": 0.41,
                "chosen_on": "val",
                "distance_unit": "um",
                "recordings": [
                    {"key": row["key"], "scores": {"object_f1": f1 + 0.01 * number}}
                    for number, row in enumerate(split["recordings"])
                ],
            }

    change(workdir / "scores.json", edit)
    return workdir


def better(workdir, target, gain=300):
    """A copy of a run that finds more pixels of every recording."""
    shutil.copytree(workdir, target)

    def edit(scores):
        for split in scores["splits"].values():
            for row in split["recordings"]:
                row["confusion"][1] = [row["confusion"][1][0] - gain, row["confusion"][1][1] + gain]
                row["scores"] = scores_of(row["confusion"])
            total = np.sum([row["confusion"] for row in split["recordings"]], axis=0)
            split.update(confusion=total.tolist(), scores=scores_of(total))

    change(target / "scores.json", edit)
    change(target / "config.json", lambda config: config["train"].update(epochs=99))
    return target


@pytest.fixture
def first(tmp_path):
    return complete(create_workdir(tmp_path / "one"), 0.7)


@pytest.fixture
def second(first, tmp_path):
    return complete(better(first, tmp_path / "two"), 0.8)


def runs_of(*folders):
    return dict(zip(name_runs(folders), map(read_run, folders), strict=True))


def text_of_runs(*folders):
    runs = runs_of(*folders)
    return text_of(render_comparison(runs, compare_splits(runs), NO_FIGURES))


def test_differences_are_those_of_the_same_recordings(first, second):
    runs = runs_of(first, second)
    test = next(split for split in compare_splits(runs) if split["name"] == "test")
    found = test["pairs"]["two"]["scores"]
    ours, theirs = (
        {row["key"]: row["scores"]["neuron_iou"] for row in run.splits[-1]["recordings"]}
        for run in runs.values()
    )
    expected = [theirs[key] - ours[key] for key in ours]
    assert found["neuron_iou"]["mean"] == pytest.approx(np.mean(expected))
    assert found["neuron_iou"]["better"] == len(expected) == 12
    assert found["neuron_iou"]["interval"][0] > 0
    assert found["object_f1"]["mean"] == pytest.approx(0.1)
    assert "object_recall" not in found
    text = text_of_runs(first, second)
    mean, low, high = (
        f"{value:+.3f}" for value in (found["neuron_iou"]["mean"], *found["neuron_iou"]["interval"])
    )
    assert f"by {mean} on average over 12 recordings (6 groups) of the test split" in text
    assert f"{low} to {high}" in text
    assert "it is better" in text
    assert "it is worse" in text_of_runs(second, first)


def test_the_table_marks_the_best_and_says_what_is_missing(first, second, tmp_path):
    runs = runs_of(first, second)
    page = render_comparison(runs, compare_splits(runs), NO_FIGURES)
    assert re.search(r"F1</b>.*?0\.700</td>.*?<b>0\.800</b>", page, re.DOTALL)
    # The lower calibration error is the better one.
    assert re.search(r"ECE</b>.*?<b>0\.0140</b>.*?0\.0160</td>", page, re.DOTALL)
    plain = create_workdir(tmp_path / "plain")
    text = text_of_runs(first, plain)
    assert "ECE" in text
    assert "0.700 0.680 to 0.720 – –" in text
    assert "not known; evaluate it again" not in text
    assert text_of_runs(plain, create_workdir(tmp_path / "other")).count("ECE") == 0


def test_other_recordings_or_labels_are_not_compared(first, second):
    def relabel(scores):
        for row in scores["splits"]["test"]["recordings"][:3]:
            row["confusion"][1][0] += 1
        for row in scores["splits"]["val"]["recordings"]:
            row["key"] = "other-" + row["key"]

    change(second / "scores.json", relabel)
    runs = runs_of(first, second)
    pairs = {split["name"]: split["pairs"]["two"] for split in compare_splits(runs)}
    assert pairs["test"]["common"] == pairs["test"]["scores"]["neuron_iou"]["n_recordings"] == 9
    assert pairs["val"] == {"common": 0, "n_first": 10, "n_second": 10, "scores": {}}
    text = text_of_runs(first, second)
    assert re.search(r"two : only 9 recordings of 12 are also scored, with the same labels", text)
    assert "has scored other recordings than one" in text


def test_one_group_gives_no_verdict(first, second):
    for folder in (first, second):
        change(
            folder / "scores.json",
            lambda s: [row.update(group="g") for row in s["splits"]["test"]["recordings"]],
        )
    text = text_of_runs(first, second)
    assert "below 5 groups no verdict is possible" in text
    splits = [read_run(folder).splits[-1] for folder in (first, second)]
    assert compare_recordings(*splits)["scores"]["neuron_iou"]["interval"] is None


def test_runs_of_one_epoch_have_a_point_where_others_have_a_line():
    rows = [{"epoch": 1, "train_loss": 0.5, "val_loss": None}, {"epoch": 2, "train_loss": 0.4}]
    for count, marker in ((1, "o"), (2, "None")):
        panel = plot_overlaid_curves({"a": rows[:count]}).axes[0]
        assert panel.lines[0].get_marker() == marker


def test_settings_and_versions_that_differ_are_listed(first, second):
    (first / "versions.json").write_text(json.dumps({"jax": "0.9", "numpy": "2"}))
    (second / "versions.json").write_text(json.dumps({"jax": "0.10", "numpy": "2"}))
    rows = compare_settings(runs_of(first, second))
    assert rows == [
        {"name": "train.epochs", "values": [12, 99]},
        {"name": "jax", "values": ["0.9", "0.10"]},
    ]


def test_examples_that_runs_share_come_first(first, second):
    runs = runs_of(first, second)
    chosen = choose_common_examples(runs)
    assert len(chosen) == 3
    assert all(list(rows) == ["one", "two"] for _, rows in chosen)
    change(second / "examples" / "examples.json",
           lambda rows: [row.update(key=row["key"] + "x") for row in rows])  # fmt: skip
    chosen = choose_common_examples(runs_of(first, second))
    assert [list(rows) for _, rows in chosen] == [["one"], ["two"]]


def test_wrong_folders_are_named(first, tmp_path):
    with pytest.raises(ConfigError, match="two or more different"):
        write_comparison([first], tmp_path / "c.html")
    with pytest.raises(ConfigError, match="two or more different"):
        write_comparison([first, first / "." / ""], tmp_path / "c.html")
    with pytest.raises(WorkdirError, match="holds no run"):
        write_comparison([first, tmp_path], tmp_path / "c.html")
