"""Clocks, locales, names and links."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tifffile

from fluxseg.io.files import read_json
from tests.conftest import with_train
from tests.faults.jobs import SMALL, Job, check_outcome, fail_job, finish_job
from tests.faults.recordings import create_fields, write_folder, write_recording
from tests.faults.surroundings import locale_environment, python_clock
from tests.faults.whole import check_whole, find_leftovers

SHORT = with_train(SMALL, epochs=1)
YEAR = 365 * 24 * 3600


def run_twice(workdir, reference, first, second, kill):
    """Begin a run in one environment, stop it, and finish it in another."""
    job = Job(workdir, environment=first)
    assert job.wait_for("epoch 3/"), job.text
    job.stop(signal.SIGKILL if kill else signal.SIGTERM)
    code, text = job.finish()
    assert code == (-signal.SIGKILL if kill else 143), text
    assert "Resuming after epoch" in finish_job(workdir, environment=second)
    check_whole(workdir)
    check_outcome(workdir, reference.outcome)
    rows = [line.split(",") for line in (workdir / "metrics.csv").read_text().splitlines()]
    seconds = [float(row[rows[0].index("seconds")]) for row in rows[1:]]
    assert all(0 < value < 600 for value in seconds), seconds


@pytest.mark.slow
@pytest.mark.fault("clock going backwards")
@pytest.mark.parametrize("kill", [False, True])
def test_a_clock_that_runs_backwards_changes_nothing(reference, tmp_path, kill):
    first = python_clock(tmp_path / "late", time.time() + YEAR)
    second = python_clock(tmp_path / "early", time.time() - YEAR)
    run_twice(tmp_path / "run", reference, first, second, kill)


@pytest.mark.slow
@pytest.mark.fault("clock going backwards")
def test_files_from_the_future_are_like_others(reference, tmp_path):
    workdir = tmp_path / "run"
    job = Job(workdir)
    assert job.wait_for("epoch 3/")
    job.stop(signal.SIGTERM)
    job.finish()
    for number, path in enumerate(sorted(workdir.rglob("*"))):
        at = time.time() + (-1) ** number * YEAR
        os.utime(path, (at, at))
    text = finish_job(workdir)
    assert "Resuming after epoch" in text
    assert "Using the crops prepared" in text
    check_outcome(workdir, reference.outcome)


@pytest.mark.fault("locale")
@pytest.mark.parametrize(
    ("name", "more", "charset"),
    [
        ("C", {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, "ascii"),
        *(
            pytest.param(name, more, charset, marks=pytest.mark.slow)
            for name, more, charset in (
                ("C", {}, "utf-8"),
                ("POSIX", {"PYTHONIOENCODING": "ascii"}, "utf-8"),
                ("tr_TR.UTF-8", {}, "utf-8"),
                ("tr_TR.ISO-8859-9", {"PYTHONUTF8": "0"}, "iso-8859-9"),
                ("de_DE.UTF-8", {}, "utf-8"),
                ("de_DE.ISO-8859-1", {"PYTHONUTF8": "0"}, "iso-8859-1"),
                ("ja_JP.EUC-JP", {"PYTHONUTF8": "0"}, "euc-jp"),
            )
        ),
    ],
)
def test_a_locale_changes_nothing(tmp_path, name, more, charset):
    environment = {**locale_environment(name, tmp_path / "locales"), **more}
    chosen = {"errors": "replace", "environment": environment}
    folder = write_folder(tmp_path / "data")
    image, masks = create_fields(np.random.default_rng(5))
    write_recording(folder / "nan.npy", np.full_like(image, np.nan), masks)
    options = ("--config.data.source", folder)
    finish_job(tmp_path / "run", *options, config=SHORT, **chosen)
    stems = ("Übermäßig", "ışıkİ", "神経")
    for stem in stems:
        write_recording(folder / f"{stem}.npy", np.full_like(image, np.nan), masks)
    # The file system knows bytes only; the locale says what they mean.
    names = [os.fsencode(f"{stem}.npy").decode(charset, "surrogateescape") for stem in stems]
    if all(text.encode("utf-8", "replace").decode() == text for text in names):
        finish_job(tmp_path / "other", *options, config=SHORT, **chosen)
        left_out = read_json(tmp_path / "other" / "data.json")["left_out"]
        assert {row["key"] for row in left_out} == {"nan.npy", *names}
        check_whole(tmp_path / "other")
    else:
        # They cannot be written down; the others are used, and it is said.
        text = finish_job(tmp_path / "other", *options, config=SHORT, **chosen)
        assert "not used: 3 (.npy 3): its name is not valid text" in text
    # An error names such files too.
    missing = tmp_path / "fehlt-ü-神経"
    fail_job(tmp_path / "third", "--config.data.source", missing, names=["fehlt"], **chosen)


NAMES = {
    "blanks": "a run with blanks ",
    "umlauts": "Läufe ÄÖÜ ß 神経 é",
    "quotes": 'it\'s "so" `called` $HOME ; & | * ? {b} %s #',
    "brackets": "[red] run",
    "backslash": "a\\run",
    "newline": "two\nlines\tand a tab",
    "long": "x" * 200,
    "markup": "<b>bold<b>:smile:&amp;",
    "dash": "-C",
    "invalid": os.fsdecode(b"bytes-\xff\xfe"),
}


@pytest.mark.fault("unusual names of workdir and data")
@pytest.mark.parametrize(
    "kind",
    ["quotes", *(pytest.param(k, marks=pytest.mark.slow) for k in NAMES if k != "quotes")],
)
def test_a_folder_may_have_any_name(tmp_path, kind):
    name = NAMES[kind]
    workdir, folder = tmp_path / name / "run" / name, tmp_path / name / "data" / name
    folder.mkdir(parents=True)
    write_folder(folder)
    options = ("--config.data.source", folder)
    chosen = {"config": SHORT, "errors": "surrogateescape"}
    if kind == "invalid":
        # Not text: JSON could not hold it.
        fail_job(workdir, *options, names=["not valid text"], **chosen)
        return
    if kind in ("brackets", "backslash"):
        # What writes the checkpoints could not read them again: said before anything is written.
        fail_job(workdir, *options, names=[workdir, "must not hold"], **chosen)
        assert not workdir.exists()
        workdir = tmp_path / "run"
    text = finish_job(workdir, *options, **chosen)
    check_whole(workdir)
    # A terminal shows a tab as blanks.
    assert f"Report: {workdir / 'report.html'}".split() == text[text.index("Report: ") :].split()
    text = finish_job(workdir, *options, **chosen)
    assert "This run is finished" in text
    assert "<b>bold" not in (workdir / "report.html").read_text(encoding="utf-8")


@pytest.mark.fault("unusual names of recordings")
@pytest.mark.parametrize(
    "kinds",
    [
        ("umlauts", "long", "markup"),
        pytest.param(tuple(NAMES), marks=pytest.mark.slow),
    ],
)
def test_a_recording_may_have_any_name(tmp_path, kinds):
    folder = write_folder(tmp_path / "data", count=6)
    rng = np.random.default_rng(9)
    valid = [kind for kind in kinds if kind != "invalid"]
    for kind in valid:
        write_recording(folder / f"{NAMES[kind]}.npy", *create_fields(rng))
    workdir = tmp_path / "run"
    options = ("--config.data.source", folder)
    finish_job(workdir, *options, config=SHORT)
    check_whole(workdir)
    items = read_json(workdir / "split.json")["items"]
    found = set(items) if isinstance(items, dict) else {item["key"] for item in items}
    assert {f"{NAMES[kind]}.npy" for kind in valid} <= found
    if "invalid" in kinds:
        # Not text: refused by name, since JSON could not hold it.
        write_recording(folder / f"{NAMES['invalid']}.npy", *create_fields(rng))
        fail_job(tmp_path / "other", *options, config=SHORT, names=["not valid text"])


@pytest.mark.slow
@pytest.mark.fault("symlinked workdir and data")
def test_links_are_followed(reference, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    job = Job(tmp_path / "link")
    assert job.wait_for("epoch 3/")
    job.stop(signal.SIGTERM)
    assert job.finish()[0] == 143
    # By its other name it is the same run.
    assert "Resuming after epoch" in finish_job(tmp_path / "real")
    check_outcome(tmp_path / "link", reference.outcome)


@pytest.mark.slow
@pytest.mark.fault("symlinked workdir and data")
def test_links_to_data_are_followed_and_may_dangle(tmp_path):
    real = write_folder(tmp_path / "real", count=7)
    (tmp_path / "link").symlink_to(real)
    (real / "field0.npy").rename(tmp_path / "elsewhere.npy")
    (real / "field0.npy").symlink_to(tmp_path / "elsewhere.npy")
    (real / "dangling.npy").symlink_to(tmp_path / "absent.npy")
    (real / "loop").symlink_to(real)
    workdir = tmp_path / "run"
    code, text = Job(workdir, "--config.data.source", tmp_path / "link", config=SHORT).finish()
    assert "Traceback" not in text, text
    if code:
        assert code == 2, text
        assert "dangling.npy" in text, text
    else:
        data = read_json(workdir / "data.json")
        assert data["n_used"] == 7
        assert [row["key"] for row in data["left_out"]] == ["dangling.npy"]
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    workdir = tmp_path / "nowhere"
    code, text = Job(workdir, config=SHORT).finish()
    assert "Traceback" not in text, text
    assert code in (0, 2), text


@pytest.mark.slow
@pytest.mark.fault("names that differ in case only")
def test_two_recordings_whose_names_differ_in_case_only(tmp_path):
    folder = write_folder(tmp_path / "data", count=5)
    rng = np.random.default_rng(3)
    write_recording(folder / "Field0.npy", *create_fields(rng))
    write_recording(folder / "FIELD0.NPY", *create_fields(rng))
    if len(list(folder.iterdir())) < 7:
        pytest.skip("this file system is case-insensitive itself")
    workdir = tmp_path / "run"
    finish_job(workdir, "--config.data.source", folder, config=SHORT)
    data = read_json(workdir / "data.json")
    assert data["n_used"] + len(data["left_out"]) == data["n_files"] == len(list(folder.iterdir()))
    check_no_collision(workdir)


@pytest.mark.slow
@pytest.mark.fault("names that differ in case only")
def test_predictions_of_names_that_differ_in_case_only(reference, tmp_path):
    rng = np.random.default_rng(3)
    paths = [
        tmp_path / "a" / "Field.tif",
        tmp_path / "b" / "field.tif",
        tmp_path / "a" / "FIELD.tif",
    ]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        tifffile.imwrite(path, create_fields(rng)[0])
    arguments = [*paths, "--model", reference.workdir, "--output", tmp_path / "out"]
    done = subprocess.run(
        [sys.executable, "-m", "fluxseg", "predict", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    said = done.stdout + done.stderr
    assert "Traceback" not in said
    if done.returncode == 0:
        assert len(list((tmp_path / "out").glob("*_labels.tif"))) == 3
        check_no_collision(tmp_path / "out")
    else:
        assert done.returncode == 2, said
        assert "field" in said.lower(), said


def check_no_collision(folder):
    """On a case-insensitive file system no file would be written over another one."""
    names = [str(path.relative_to(folder)).lower() for path in folder.rglob("*")]
    assert len(names) == len(set(names))
    assert not find_leftovers(folder)
