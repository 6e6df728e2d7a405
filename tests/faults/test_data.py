"""Unusual names, NaN and infinity, and data without neurons."""

import json
import os

import jax
import numpy as np
import pytest

import fluxseg.training.train
from fluxseg.errors import TrainingError, WorkdirError
from fluxseg.io.files import read_json
from tests.commands import run
from tests.conftest import as_arguments, train_network, with_data, with_train
from tests.faults.jobs import SMALL, fail_job, finish_job, read_bits
from tests.faults.recordings import create_fields, write_folder, write_recording
from tests.faults.whole import check_whole

SHORT = with_train(SMALL, epochs=1)
QUOTES = 'it\'s "so" `called` $HOME ; & | * ? {b} %s #'
NAMES = (
    QUOTES, "a run with blanks ", "Läufe ÄÖÜ ß 神経 é", "[red] run", "a\\run", "two\nlines, \t",
    "x" * 200, "<b>bold<b>:smile:&amp;", "-C",
)  # fmt: skip
ASCII = {"LC_ALL": "C", "LANG": None, "LANGUAGE": None, "PYTHONUTF8": "0",
         "PYTHONCOERCECLOCALE": "0"}  # fmt: skip


def test_folders_and_recordings_may_have_any_name(tmp_path):
    workdir, folder = (tmp_path / QUOTES / part / QUOTES for part in ("run", "data"))
    rng = np.random.default_rng(9)
    for name in NAMES:
        write_recording(folder / f"{name}.npy", *create_fields(rng))
    write_recording(folder / os.fsdecode(b"bytes-\xff\xfe.npy"), *create_fields(rng))
    text = run("train", "--workdir", workdir, *as_arguments(with_data(SHORT, source=str(folder))))
    check_whole(workdir)
    assert f"Report: {workdir / 'report.html'}".split() == text[text.index("Report: ") :].split()
    assert "its name is not valid text" in text
    items = read_json(workdir / "split.json")["items"]
    assert set(items) == {f"{name}.npy" for name in NAMES}
    assert "<b>bold" not in (workdir / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("[red] run", "must not hold"),
        ("a\\run", "must not hold"),
        (os.fsdecode(b"bytes-\xff\xfe"), "not valid text"),
    ],
)
def test_a_workdir_that_its_libraries_could_not_read_again_is_refused(tmp_path, name, reason):
    with pytest.raises(WorkdirError, match=reason):
        train_network(SHORT, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_where_only_ascii_can_be_shown_other_names_are_left_out_and_said(tmp_path):
    folder = write_folder(tmp_path / "data")
    for stem in ("Übermäßig", "ışıkİ", "神経"):
        write_recording(folder / f"{stem}.npy", *create_fields(np.random.default_rng(5)))
    chosen = {"config": SHORT, "environment": ASCII, "errors": "replace"}
    text = finish_job(tmp_path / "run", "--config.data.source", folder, **chosen)
    assert "not used: 3 (.npy 3): its name is not valid text" in text
    missing = tmp_path / "fehlt-ü-神経"
    fail_job(tmp_path / "other", "--config.data.source", missing, names=["fehlt"], **chosen)


def check_scores(workdir):
    # Called for NaN and infinity.
    json.loads((workdir / "scores.json").read_text(), parse_constant=pytest.fail)
    assert check_whole(workdir)


@pytest.mark.parametrize(
    ("name", "value", "at"), [("grad_norm", np.nan, 5), ("loss_sum", np.inf, 15)]
)
def test_a_single_value_that_is_not_finite_is_found(tmp_path, monkeypatch, name, value, at):
    make = fluxseg.training.sharding.make_train_step

    def make_failing(*arguments):
        step = make(*arguments)

        def fail_at(state, batch):
            state, metrics = step(state, batch)
            if int(state.step) == at:
                metrics = metrics.replace(**{name: jax.numpy.float32(value)})
            return state, metrics

        return fail_at

    monkeypatch.setattr(fluxseg.training.sharding, "make_train_step", make_failing)
    expected = "checkpoint of step 10 is kept" if at > 10 else "no checkpoint yet"
    with pytest.raises(TrainingError, match=rf"step {at}: .*not finite.*{expected}"):
        train_network(with_train(SMALL, epochs=2), tmp_path)
    assert set(read_bits(tmp_path)) == ({"last/10", "best/10"} if at > 10 else set())


def test_a_data_set_without_any_neuron_is_said(tmp_path):
    folder = write_folder(tmp_path / "data", rois=0)
    config = with_data(SHORT, source=str(folder))
    options = (*as_arguments(config), "--config.loss.class-weights", "none")
    text = run("train", "--workdir", tmp_path / "run", *options)
    # Every score is undefined then, and a line says so before hours are spent.
    assert "WARNING: the training masks hold no neuron pixel" in text.partition("epoch ")[0]
    check_scores(tmp_path / "run")
