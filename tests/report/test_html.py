import base64
import dataclasses
import json
import re
import shlex
import shutil

import numpy as np
import pytest

from fluxseg.config import AugmentConfig, Config, ModelConfig, TrainConfig, config_to_dict
from fluxseg.errors import WorkdirError
from fluxseg.report.html import create_command, describe_settings, render_page, write_report
from fluxseg.report.workdir import read_run
from tests.report.pages import BROWSER, browse, requests_of, tags_of, text_of
from tests.report.workdirs import change, create_workdir

VERSIONS = {"Python": "3.12.3", "fluxseg": "0.1.0", "jax": "0.10.2", "Devices": "1 × cpu (cpu)"}


@pytest.fixture
def workdir(tmp_path):
    return create_workdir(tmp_path / "run-07")


def page_of(workdir):
    """The page without its pictures, which take most of the time."""
    return render_page(read_run(workdir), dict.fromkeys(("curves", "scores", "examples"), ()), {})


def whole_page_of(workdir):
    (workdir / "versions.json").write_text(json.dumps(VERSIONS), encoding="utf-8")
    return write_report(workdir).read_text(encoding="utf-8")


def test_the_verdict_names_the_scores_the_interval_and_how_the_checkpoint_was_chosen(workdir):
    test = json.loads((workdir / "scores.json").read_text())["splits"]["test"]
    low, high = test["intervals"]["neuron_iou"]
    text = text_of(page_of(workdir))
    assert f"macro IoU of {test['scores']['macro_iou']:.3f}" in text
    assert f"{test['scores']['neuron_iou']:.3f} (95 % interval over groups: {low:.3f} to" in text
    assert f"{high:.3f}), with the checkpoint of epoch 9, chosen on validation only." in text
    assert "On 12 recordings (6 groups) of the test split" in text
    for name in ("Background IoU", "Dice", "Precision", "Recall", "Accuracy", "Loss"):
        assert name in text


def test_the_page_holds_its_figures_and_names_nothing_outside(workdir):
    page = whole_page_of(workdir)
    tags = tags_of(page)
    assert not {tag for tag, _ in tags} & {"script", "link", "iframe", "object", "form", "base"}
    for tag, attributes in tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href"):
            if name in attributes:
                start = "data:image/png;base64," if tag == "img" else "#"
                assert attributes[name].startswith(start)
    targets = {a["href"][1:] for _, a in tags if "href" in a}
    assert targets <= {a["id"] for _, a in tags if "id" in a}
    policy = next(a["content"] for t, a in tags if t == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")
    embedded = {base64.b64decode(a["src"].split(",")[1]) for t, a in tags if t == "img"}
    written = {path.read_bytes() for path in (workdir / "figures").iterdir()}
    assert embedded == written
    assert len(written) == 6


def test_the_same_files_give_the_same_page_and_no_leftovers(workdir):
    (workdir / "figures").mkdir()
    (workdir / "figures" / "example-7.png").write_bytes(b"of an earlier report")
    (workdir / "figures" / "mine.png").write_bytes(b"someone's own")
    first = whole_page_of(workdir)
    assert whole_page_of(workdir) == first
    names = {path.name for path in (workdir / "figures").iterdir()}
    assert "mine.png" in names
    assert "example-7.png" not in names
    assert not list(workdir.rglob(".part-*"))


def test_a_leaky_split_is_said_in_the_verdict_and_in_a_notice(workdir):
    pair = {"first": "a.npy", "second": "b.npy", "similarity": 0.93, "splits": ["train", "test"]}
    honest = text_of(page_of(workdir))
    assert "not independent" not in honest
    assert "The split leaks" not in honest
    change(workdir / "data.json", lambda d: d.update(split_by="crop", leaks=True))
    leaky = text_of(page_of(workdir))
    assert "not independent of the training data" in leaky
    assert "It was made by crop" in leaky
    change(workdir / "data.json", lambda d: d.update(leaks=False, straddling=[pair]))
    straddling = text_of(page_of(workdir))
    assert "not independent of the training data" in straddling
    assert "1 pair of near-duplicates stands in different splits" in straddling
    assert "a.npy and b.npy (similarity 0.93; training , test )" in straddling
    pair["splits"] = ["train", "val"]
    change(workdir / "data.json", lambda d: d.update(straddling=[pair]))
    elsewhere = text_of(page_of(workdir))
    assert "not independent of the training data" not in elsewhere
    assert "1 pair of near-duplicates stands in different splits" in elsewhere


@pytest.mark.parametrize(("source", "value", "warned"), [("folder", 0.83, True),
                         ("folder", 0.81, False), ("simulator", 0.95, False)])  # fmt: skip
def test_scores_above_the_labels_own_quality_are_suspicious(workdir, source, value, warned):
    def edit(scores):
        scores["splits"]["test"]["scores"]["macro_iou"] = value

    change(workdir / "scores.json", edit)
    change(workdir / "data.json", lambda d: d.update(source={"kind": source}))
    assert ("is suspicious unless" in text_of(page_of(workdir))) == warned


def test_few_groups_and_undefined_scores_are_said(workdir):
    def edit(scores):
        scores["splits"]["val"]["n_groups"] = 4
        test = scores["splits"]["test"]
        test["n_groups"] = 1
        test["intervals"] = dict.fromkeys(test["intervals"])
        test["scores"]["precision"] = None
        test["recordings"][0]["scores"] = dict.fromkeys(test["recordings"][0]["scores"])

    change(workdir / "scores.json", edit)
    text = text_of(page_of(workdir))
    assert "Validation: only 4 groups." in text
    assert "the interval is not reliable" in text
    assert "Test: only 1 group." in text
    assert "Precision undefined no interval" in text
    # The recording without scores is the last of its table, after the worst and the best.
    table = text[text.index("Test: 12 recordings, the worst first") :]
    assert "undefined undefined undefined undefined" in table[: table.index("Validation: 10")]
    order = [float(row) for row in re.findall(r"511000\d+ (0\.\d+)", table)]
    assert order[:11] == sorted(order[:11])


@pytest.mark.parametrize("missing", [["scores.json", "examples"], ["examples"], ["data.json"],
                                     ["scores.json", "examples", "data.json"]])  # fmt: skip
def test_what_is_missing_is_left_out_of_the_page(workdir, missing):
    for name in missing:
        path = workdir / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    page = whole_page_of(workdir)
    tags_of(page)
    text = text_of(page)
    assert ("Confusion" in text) == ("scores.json" not in missing)
    assert ("Left out" in text) == ("data.json" not in missing)
    assert "Training curves" in text
    if "scores.json" in missing:
        row = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
        assert "no final scores yet: after 12 epochs the neuron IoU is" in text
        assert f"{row['val_neuron_iou']:.3f} on the validation split" in text


def test_a_run_before_its_first_epoch_and_one_without_validation(workdir, tmp_path):
    change(workdir / "scores.json", lambda s: s["splits"].pop("val"))
    change(workdir / "scores.json", lambda s: s["checkpoint"].update(monitor=None, value=None))
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    rows = [{k: v for k, v in row.items() if not k.startswith("val")} for row in rows]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "the last one, as no validation split could choose" in text_of(page_of(workdir))
    early = tmp_path / "early"
    early.mkdir()
    shutil.copy(workdir / "config.json", early)
    (early / "metrics.jsonl").write_text("")
    assert "has not finished its first epoch" in text_of(page_of(early))


def test_reliability_and_dialects_are_explained(workdir):
    assert "Reliability" not in text_of(page_of(workdir))
    from tests.report.test_compare import complete

    complete(workdir, 0.7)
    page = whole_page_of(workdir)
    text = text_of(page)
    assert "A temperature of 1.40 , fitted on the validation split" in text
    assert "less sure of itself" in text
    assert "0.0300 0.0140 0.0126 to 0.0154" in text
    assert "cut at a probability of 0.410, the threshold that was chosen on the validation" in text
    for source in ("STNeuroNet", "StarDist", "Cellpose", "Kirillov", "codeneuro"):
        assert source in text
    assert "Share of neuron pixels against their probability, Test" in page
    assert (workdir / "figures" / "reliability-test.png").exists()


def test_an_evaluation_on_other_data_needs_neither_config_nor_history(workdir):
    (workdir / "config.json").unlink()
    (workdir / "metrics.jsonl").unlink()
    change(workdir / "scores.json", lambda s: s.update(splits={"external": s["splits"]["test"]}))
    text = text_of(whole_page_of(workdir))
    assert "from another source than it was trained on" in text
    assert "fluxseg evaluate --workdir RUN" in text
    assert "Training curves" not in text


UNEQUAL = json.dumps(
    {
        "splits": {},
        "finetune": {
            "from": {"name": "a"}, "verdict": "", "better": None, "remarks": [],
            "before": {"scores": {}, "recordings": []},
            "after": {"scores": {}, "recordings": [{"id": "x", "scores": {}}]},
        },
    }
).encode()  # fmt: skip


@pytest.mark.parametrize(("file", "content"), [
    ("metrics.jsonl", None), ("metrics.jsonl", b'{"epoch": 1, "step": 4}\n{"epoch": 2, "st'),
    ("metrics.jsonl", b'{"step": 4}\n'),
    ("metrics.jsonl", b'{"epoch": 1, "step": 4, "train_loss": "low"}\n'),
    ("metrics.jsonl", b"[1, 2]\n"), ("metrics.jsonl", b"\xff\xfe\x00"),
    ("scores.json", b'{"splits": {"test": {"scores": {}}}}'),
    ("scores.json", b'{"splits": {"../test": {}}}'),
    ("scores.json", b'{"checkpoint": {"epoch": 2}, "splits": {}}'), ("scores.json", b"[]"),
    ("scores.json", b"{"), ("config.json", b'{"train": 3}'),
    ("scores.json", b"{}"), ("scores.json", UNEQUAL),
    ("data.json", b'{"n_files": "many"}'), ("examples/examples.json", b'[{"id": "a"}]'),
    ("examples/000.npz", b"PK not really"), ("examples/000.npz", None),
])  # fmt: skip
def test_a_damaged_file_is_named(workdir, file, content):
    if content is None:
        (workdir / file).unlink()
    else:
        (workdir / file).write_bytes(content)
    with pytest.raises(WorkdirError, match=re.escape(str(workdir / file))):
        whole_page_of(workdir)
    assert not (workdir / "report.html").exists()


def test_examples_of_different_shapes_and_of_other_fields_are_named(workdir):
    path = workdir / "examples" / "001.npz"
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **{**arrays, "label": arrays["label"][1:]})
    with pytest.raises(WorkdirError, match=r"001\.npz: .*one size, got image \[96, 96\], label"):
        whole_page_of(workdir)


def test_changed_settings_are_marked_and_the_command_repeats_the_run():
    from fluxseg.main import parse_main

    config = Config(
        augment=AugmentConfig(flips=False, gain=0.0),
        model=ModelConfig(features=(8, 16), up="transposed", local_px=Config().model.local_px),
        train=TrainConfig(score_test_each_epoch=True, learning_rate=1e-4, monitor="val_loss"),
    )
    config = dataclasses.replace(
        config, data=dataclasses.replace(config.data, source="my $(data); 'folder'", cache="")
    )
    values = config_to_dict(config)
    changed = {row["name"] for row in describe_settings(values) if row["changed"]}
    assert changed == {
        "augment.flips", "augment.gain", "data.source", "model.features", "model.up",
        "train.score_test_each_epoch", "train.learning_rate", "train.monitor",
    }  # fmt: skip
    words = shlex.split(create_command(values).replace("\\\n", ""))
    assert words[:3] == ["python", "-m", "fluxseg.main"]
    assert parse_main(words[3:], "fluxseg").config == config


@pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome on this machine")
def test_the_browser_test_would_notice_scripts_errors_and_requests(tmp_path):
    page = tmp_path / "bad.html"
    page.write_text(
        "<title>run-07</title><script>document.title='owned'; console.error('bad')</script>"
        '<img src="http://nowhere.invalid/picture.png">'
    )
    dom, errors = browse(page, tmp_path / "profile", tmp_path / "net.json")
    assert "<title>owned</title>" in dom
    assert "CONSOLE" in errors
    assert requests_of(tmp_path / "net.json") == {"http://nowhere.invalid/picture.png"}
