import base64
import dataclasses
import json
import re
import shlex
import shutil
import subprocess
import time
from html.parser import HTMLParser

import numpy as np
import pytest

from fluxseg.config import AugmentConfig, Config, ModelConfig, TrainConfig, config_to_dict
from fluxseg.errors import WorkdirError
from fluxseg.io.files import write_json
from fluxseg.report.html import (
    create_command,
    describe_settings,
    render_page,
    write_report,
)
from fluxseg.report.workdir import read_run
from fluxseg.training.versions import collect_versions

HOSTILE = (
    "<script>document.title='owned'</script>",
    '"><img src=x onerror="document.title=\'owned\'">',
    "'><svg onload=document.title='owned'>",
    "</style></td></table><script>document.title='owned'</script>{{ 7 * 7 }}",
    "$\\frac{1}{0}$ 神经元 \x00\u202e\ud800",
)
VERSIONS = {"Python": "3.12.3", "fluxseg": "0.1.0", "jax": "0.10.2", "Devices": "1 × cpu (cpu)"}


def blobs(rng, size, count):
    """An image of bright cells, their mask, and a prediction that misses and invents some."""
    y, x = np.mgrid[:size, :size].astype(np.float32)
    image = 0.16 + 0.05 * np.sin(x / 60) * np.cos(y / 80) + rng.normal(0, 0.03, (size, size))
    label = np.zeros((size, size), np.uint8)
    logit = rng.normal(-4, 0.4, (size, size))
    for _ in range(count):
        (row, column), (a, b) = rng.uniform(0, size, 2), rng.uniform(5, 9, 2)
        distance = ((y - row) / a) ** 2 + ((x - column) / b) ** 2
        ring = np.exp(-distance / 1.2) * (1 - 0.5 * np.exp(-3 * distance))
        image += rng.uniform(0.2, 0.9) * ring
        fate = rng.random()
        if fate < 0.88:
            label[distance < 1] = 1
        if fate > 0.14:
            logit += 9 * np.exp(-((distance / rng.uniform(0.8, 1.4)) ** 2))
    valid = np.ones((size, size), bool)
    valid[:, : size // 40] = False
    probability = (1 / (1 + np.exp(-logit))).astype(np.float32)
    return {
        "image": image.astype(np.float32),
        "label": label,
        "probability": probability,
        "valid": valid,
    }


def scores_of(confusion):
    (tn, fp), (fn, tp) = np.asarray(confusion).astype(float)
    neuron, background = tp / (tp + fp + fn), tn / (tn + fp + fn)
    return {
        "macro_iou": (neuron + background) / 2,
        "neuron_iou": neuron,
        "background_iou": background,
        "dice": 2 * tp / (2 * tp + fp + fn),
        "precision": tp / (tp + fp),
        "recall": tp / (tp + fn),
        "accuracy": (tp + tn) / (tn + fp + fn + tp),
    }


def split_scores(rng, count, groups, first=0):
    rows = []
    for number in range(first, first + count):
        neuron = int(rng.uniform(12000, 24000))
        tp, fp = int(neuron * rng.beta(30, 8)), int(neuron * rng.beta(6, 14))
        confusion = [[262144 - neuron - fp, fp], [neuron - tp, tp]]
        rows.append(
            {
                "id": f"51{number:07d}",
                "key": f"51{number:07d}.npy",
                "group": f"experiment_container_id={5110000 + number % groups}",
                "confusion": confusion,
                "scores": scores_of(confusion),
            }
        )
    total = np.sum([row["confusion"] for row in rows], axis=0)
    scores = scores_of(total)
    return {
        "loss": 0.2241,
        "confusion": total.tolist(),
        "scores": scores,
        "intervals": {k: [v - 0.03 * (1.1 - v), v + 0.03] for k, v in scores.items()},
        "confidence": 0.95,
        "n_groups": groups,
        "n_recordings": count,
        "recordings": rows,
    }


def epoch_row(rng, epoch):
    row = {"epoch": epoch, "step": epoch * 40, "seconds": epoch * 31.0, "learning_rate": 1e-3}
    for split, gap in (("train", 0), ("val", 0.03)):
        noise = rng.normal(0, 0.006)
        row |= {
            f"{split}_loss": 0.2 + 0.5 * np.exp(-epoch / 3) + gap + gap * max(0, epoch - 9) / 4,
            f"{split}_accuracy": 0.94 - 0.2 * np.exp(-epoch / 2) - gap / 4 + noise / 4,
            f"{split}_macro_iou": 0.78 - 0.3 * np.exp(-epoch / 3) - gap + noise,
            f"{split}_neuron_iou": 0.62 - 0.5 * np.exp(-epoch / 3) - gap + noise,
        }
    return row


def create_workdir(folder, *, test=(12, 6), size=96, epochs=12):
    """Write what a finished run leaves."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    changed = TrainConfig(epochs=epochs, learning_rate=1e-3)
    config = config_to_dict(Config(train=changed))
    config["data"]["source"] = "recordings/allen"
    write_json(folder / "config.json", config)
    rows = [json.dumps(epoch_row(rng, epoch)) for epoch in range(1, epochs + 1)]
    (folder / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    splits = {"val": split_scores(rng, 10, 5), "test": split_scores(rng, *test, first=10)}
    checkpoint = {"epoch": 9, "step": 360, "monitor": "val_neuron_iou", "value": 0.561}
    write_json(folder / "scores.json", {"checkpoint": checkpoint, "splits": splits})
    shares = {"recordings": 90, "groups": 42, "crops": 360, "neuron_share": 0.067}
    data = {
        "source": {"kind": "folder", "root": "recordings/allen"},
        "n_files": 114,
        "n_used": 112,
        "left_out": [
            {"key": "511234567.npy", "reason": "masks: are [256, 256] pixels, the image 512 x 512"},
            {"key": "518888888.npy", "reason": "the file ends early: it is truncated"},
        ],
        "remarks": [{"key": "510000003.npy", "remark": "2 ROIs without any pixel"}],
        "splits": {
            "train": shares,
            "val": shares | {"recordings": 10, "groups": 5, "crops": 40},
            "test": shares | {"recordings": test[0], "groups": test[1], "crops": 4 * test[0]},
        },
        "straddling": [],
        "moved": [],
        "split_by": "group",
        "leaks": False,
    }
    write_json(folder / "data.json", data)
    (folder / "examples").mkdir()
    examples = []
    ranked = sorted(splits["test"]["recordings"], key=lambda row: -row["scores"]["neuron_iou"])
    for number, rank in enumerate(("best", "median", "worst")):
        name = f"{number:03d}.npz"
        arrays = blobs(rng, size, round(size * size / 2600))
        np.savez_compressed(folder / "examples" / name, **arrays)
        row = ranked[number * (len(ranked) - 1) // 2]
        iou = row["scores"]["neuron_iou"]
        ids = {"id": row["id"], "key": row["key"], "split": "test"}
        examples.append(ids | {"rank": rank, "neuron_iou": iou, "file": name})
    write_json(folder / "examples" / "examples.json", examples)
    return folder


def change(path, edit):
    value = json.loads(path.read_text())
    edit(value)
    # Escaped, so that a test can also write what is no text.
    path.write_text(json.dumps(value))


@pytest.fixture
def workdir(tmp_path):
    return create_workdir(tmp_path / "run-07")


def page_of(workdir):
    """The page without its pictures, which take most of the time."""
    return render_page(read_run(workdir), dict.fromkeys(("curves", "scores", "examples"), ()), {})


def whole_page_of(workdir):
    return write_report(workdir, versions=VERSIONS).read_text(encoding="utf-8")


def text_of(page):
    """What a reader sees, in one line."""
    parts, hidden = [], 0

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            nonlocal hidden
            hidden += tag == "style"

        def handle_endtag(self, tag):
            nonlocal hidden
            hidden -= tag == "style"

        def handle_data(self, data):
            if not hidden:
                parts.append(data)

    Reader().feed(page)
    return re.sub(r"\s+", " ", " ".join(parts))


def tags_of(page):
    """Every tag with its attributes, and that those which need an end have one in order."""
    tags, stack = [], []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            tags.append((tag, dict(attrs)))
            if tag not in ("meta", "img", "br"):
                stack.append(tag)

        def handle_endtag(self, tag):
            assert stack.pop() == tag, self.getpos()

    Reader().feed(page)
    assert stack == []
    return tags


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


def test_files_left_out_and_remarks_are_listed(workdir):
    text = text_of(page_of(workdir))
    assert "2 files of 114 left out." in text
    assert "518888888.npy the file ends early: it is truncated" in text
    assert "510000003.npy 2 ROIs without any pixel" in text


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


@pytest.mark.parametrize(("file", "content"), [
    ("metrics.jsonl", None),
    ("metrics.jsonl", b'{"epoch": 1, "step": 4}\n{"epoch": 2, "st'),
    ("metrics.jsonl", b'{"step": 4}\n'),
    ("metrics.jsonl", b'{"epoch": 1, "step": 4, "train_loss": "low"}\n'),
    ("metrics.jsonl", b"[1, 2]\n"),
    ("metrics.jsonl", b"\xff\xfe\x00"),
    ("scores.json", b'{"splits": {"test": {"scores": {}}}}'),
    ("scores.json", b'{"splits": {"../test": {}}}'),
    ("scores.json", b'{"checkpoint": {"epoch": 2}, "splits": {}}'),
    ("scores.json", b"[]"),
    ("scores.json", b"{"),
    ("config.json", b'{"train": 3}'),
    ("data.json", b'{"n_files": "many"}'),
    ("examples/examples.json", b'[{"id": "a"}]'),
    ("examples/000.npz", b"PK not really"),
    ("examples/000.npz", None),
])  # fmt: skip
def test_a_damaged_file_is_named(workdir, file, content):
    if content is None:
        (workdir / file).unlink()
    else:
        (workdir / file).write_bytes(content)
    with pytest.raises(WorkdirError, match=re.escape(str(workdir / file))):
        whole_page_of(workdir)
    assert not (workdir / "report.html").exists()


def test_a_split_or_example_cannot_lead_out_of_the_workdir(workdir):
    change(workdir / "examples" / "examples.json", lambda e: e[0].update(file="../secret.npz"))
    with pytest.raises(WorkdirError, match="not a plain name"):
        whole_page_of(workdir)


def test_examples_of_different_shapes_and_of_other_fields_are_named(workdir):
    path = workdir / "examples" / "001.npz"
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **{**arrays, "label": arrays["label"][1:]})
    with pytest.raises(WorkdirError, match=r"001\.npz: .*one size, got image \[96, 96\], label"):
        whole_page_of(workdir)


def test_a_folder_without_a_run_says_so(tmp_path):
    with pytest.raises(WorkdirError, match="holds no run"):
        write_report(tmp_path, versions={})


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
        "augment.flips",
        "augment.gain",
        "data.source",
        "model.features",
        "model.up",
        "train.score_test_each_epoch",
        "train.learning_rate",
        "train.monitor",
    }
    words = shlex.split(create_command(values).replace("\\\n", ""))
    assert words[:3] == ["python", "-m", "fluxseg.main"]
    assert parse_main(words[3:], "fluxseg").config == config


def test_versions_name_the_packages_and_the_devices():
    versions = collect_versions()
    assert {"Python", "fluxseg", "jax", "flax", "optax", "numpy", "System", "Devices"} <= {
        *versions
    }
    assert "cpu" in versions["Devices"] or "gpu" in versions["Devices"].lower()


def test_a_page_of_1376_recordings_is_light_and_quick(tmp_path):
    workdir = create_workdir(tmp_path / "large", test=(1376, 460))
    began = time.perf_counter()
    page = write_report(workdir, versions=VERSIONS)
    assert time.perf_counter() - began < 10
    content = page.read_text(encoding="utf-8")
    embedded = sum(len(uri) for uri in re.findall(r'src="([^"]*)"', content))
    assert len(content) - embedded < 1_000_000
    assert "<summary>Show all 1376</summary>" in content
    assert content.count("<img ") == 6


def make_hostile(workdir):
    """Put hostile text wherever a data file could have put it."""

    def scores(value):
        for number, row in enumerate(value["splits"]["test"]["recordings"]):
            text = HOSTILE[number % len(HOSTILE)]
            row.update(id=text, key=text + ".npy", group=text)

    def data(value):
        value["left_out"] = [{"key": text, "reason": text} for text in HOSTILE]
        value["remarks"] = [{"key": text, "remark": text} for text in HOSTILE]
        value["moved"] = list(HOSTILE)
        value["source"] = {text: text for text in HOSTILE}
        value["straddling"] = [
            {"first": text, "second": text, "similarity": 0.9, "splits": ["train", text]}
            for text in HOSTILE
        ]

    def examples(value):
        for text, row in zip((HOSTILE[0], HOSTILE[1], HOSTILE[-1]), value, strict=True):
            row.update(id=text, key=text)

    change(workdir / "scores.json", scores)
    change(workdir / "data.json", data)
    change(workdir / "examples" / "examples.json", examples)
    change(workdir / "config.json", lambda c: c["data"].update(source=HOSTILE[3]))


def test_hostile_text_stays_text(workdir):
    make_hostile(workdir)
    page = whole_page_of(workdir)
    tags = tags_of(page)
    assert not {tag for tag, _ in tags} & {"script", "svg"}
    assert all(a["src"].startswith("data:") for tag, a in tags if tag == "img")
    assert HOSTILE[0] in text_of(page)
    assert "{{ 7 * 7 }}" in text_of(page)


BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


@pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome on this machine")
def test_in_a_browser_nothing_runs_and_nothing_is_fetched(workdir, tmp_path):
    make_hostile(workdir)
    page = write_report(workdir, versions=VERSIONS)
    log = tmp_path / "net.json"
    dom, errors = browse(page, tmp_path / "profile", log)
    assert "<title>run-07 – fluxseg report</title>" in dom
    assert "&lt;script&gt;document.title=" in dom
    assert "CONSOLE" not in errors, errors
    assert requests_of(log) == set()


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


def browse(page, profile, log):
    """Open a page; returns its document after loading, and what the browser logged."""
    command = [
        *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
        *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
        *("--disable-sync", "--enable-logging=stderr", "--v=0", "--disable-dev-shm-usage"),
        "--host-resolver-rules=MAP * ~NOTFOUND",
        *(f"--user-data-dir={profile}", f"--log-net-log={log}", "--dump-dom", page.as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, timeout=120, check=True)
    return done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")


def requests_of(log):
    """Every address that a page asked for; the browser's own requests have no origin."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    events = [json.loads(line.rstrip(",")) for line in lines if '"initiator":' in line]
    assert all("url" in event["params"] for event in events)
    return {
        event["params"]["url"]
        for event in events
        if event["params"]["initiator"] != "not an origin"
    }
