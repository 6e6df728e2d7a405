import dataclasses
import json
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from fluxseg.training.checkpoints import open_checkpoints, restore_state
from fluxseg.training.loop import train_and_evaluate
from fluxseg.training.sweep import group_members, run_folder, run_sweep, share_cache
from fluxseg.training.sweep_plan import Sweep, plan_sweep
from tests.commands import run as run_verb
from tests.conftest import TINY, with_train

BASE = with_train(TINY, epochs=2)
VARY = {"train.learning_rate": (1e-3, 3e-3), "train.seed": (0, 1)}


def no_report(config, workdir, result):
    (workdir / "report.html").write_text("")


def history(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    members = plan_sweep(Sweep(BASE, VARY))
    assert run_sweep(members, folder, no_report, together=True) == {}
    return members, folder


def last_state(workdir, like):
    checkpoints = open_checkpoints(workdir)
    try:
        return restore_state(checkpoints.last, like)
    finally:
        checkpoints.close()


def test_members_equal_runs_of_their_own(swept, tmp_path):
    members, folder = swept
    for number in (0, 3):
        member = members[number]
        alone = train_and_evaluate(share_cache(member.config, folder), tmp_path / str(number))
        workdir = run_folder(folder, member)
        one = last_state(tmp_path / str(number), alone.state)
        other = last_state(workdir, alone.state)
        assert int(one.step) == int(other.step) > 4
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-4),
            one.params,
            other.params,
        )
        for row, expected in zip(history(workdir), alone.history, strict=True):
            for name, value in row.items():
                assert value == pytest.approx(expected[name], rel=0.01, abs=0.01), name
        scores = json.loads((workdir / "scores.json").read_text())
        assert scores["checkpoint"]["monitor"] == alone.scores["checkpoint"]["monitor"]
        for split, row in scores["splits"].items():
            assert row["loss"] == pytest.approx(alone.scores["splits"][split]["loss"], rel=0.01)


def test_the_workdirs_are_ordinary_and_share_the_crops(swept):
    members, folder = swept
    assert len(list((folder / "caches").iterdir())) == 1
    for member in members:
        names = {path.name for path in run_folder(folder, member).iterdir()}
        assert names >= {"config.json", "scores.json", "metrics.jsonl", "checkpoints", "split.json"}
        assert names >= {"versions.json", "tensorboard", "data.json", "metrics.csv"}


def test_finished_runs_are_skipped_and_longer_ones_go_on(swept):
    members, folder = swept
    touched = []
    finish = lambda config, workdir, result: touched.append(workdir.name)  # noqa: E731
    assert run_sweep(members, folder, finish, together=True) == {}
    assert touched == []
    before = {member.name: history(run_folder(folder, member)) for member in members}
    longer = [
        dataclasses.replace(member, config=with_train(member.config, epochs=3))
        for member in members
    ]
    assert run_sweep(longer, folder, no_report, together=True) == {}
    for member in longer:
        rows = history(run_folder(folder, member))
        assert [row["epoch"] for row in rows] == [1, 2, 3]
        assert rows[:2] == before[member.name]


@pytest.mark.slow
def test_members_at_different_steps_go_on(tmp_path):
    members = plan_sweep(Sweep(BASE, {"train.seed": (0, 1, 2)}))
    first = dataclasses.replace(members[0], config=with_train(members[0].config, epochs=1))
    run_sweep([first], tmp_path, no_report)
    assert run_sweep(members, tmp_path, no_report, together=True) == {}
    for member in members:
        assert [row["epoch"] for row in history(run_folder(tmp_path, member))] == [1, 2]


def test_patience_ends_one_member_and_the_others_go_on(tmp_path):
    base = with_train(BASE, epochs=5, patience=1, weight_decay=0.0, schedule="constant")
    members = plan_sweep(Sweep(base, {"train.learning_rate": (1e-30, 3e-3)}))
    assert run_sweep(members, tmp_path, no_report, together=True) == {}
    still, learning = (history(run_folder(tmp_path, member)) for member in members)
    assert len(still) == 2
    assert len(learning) >= 2
    assert learning[-1]["train_loss"] < learning[0]["train_loss"]


@pytest.mark.parametrize("together", [True, False])
def test_a_member_that_diverges_leaves_the_others_alone(tmp_path, together):
    base = with_train(BASE, clip_norm=0.0, warmup_steps=0)
    members = plan_sweep(Sweep(base, {"train.learning_rate": (1e30, 3e-3)}))
    failures = run_sweep(members, tmp_path, no_report, together=together)
    assert list(failures) == [members[0].name]
    assert "is not finite" in failures[members[0].name]
    assert len(history(run_folder(tmp_path, members[1]))) == 2
    assert not (run_folder(tmp_path, members[0]) / "report.html").exists()


def test_groups_have_one_program_and_a_size():
    vary = {"model.dropout": (0.0, 0.1, 0.3), "train.seed": (0, 1, 2)}
    groups = group_members(plan_sweep(Sweep(BASE, vary)), 4)
    assert sorted(map(len, groups)) == [2, 3, 4]
    for group in groups:
        assert len({member.config.model.dropout > 0 for member in group}) == 1


CONFIG = """
import dataclasses
from tests.conftest import TINY, with_train
def get_config():
    return with_train(TINY, epochs=12)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_stopped_sweep_goes_on_and_ends_as_one_that_was_not(tmp_path, number):
    (tmp_path / "config.py").write_text(CONFIG)
    arguments = [
        "sweep", "--config", str(tmp_path / "config.py"), "--together", "yes",
        "--vary", "train.seed=0,1",
    ]  # fmt: skip
    command = [sys.executable, "-m", "fluxseg", *arguments, "--output", str(tmp_path / "killed")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    watched = tmp_path / "killed" / "runs" / "seed=1" / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not watched.exists() or watched.read_text().count("\n") < 2:
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == (-9 if number == signal.SIGKILL else 143), output
    output = run_verb(*arguments, "--output", tmp_path / "killed", timeout=600)
    assert "Resuming after epoch" in output
    output = run_verb(*arguments, "--output", tmp_path / "killed", timeout=600)
    assert "2 of 2 runs are finished already" in output
    run_verb(*arguments, "--output", tmp_path / "whole", timeout=600)
    for name in ("seed=0", "seed=1"):
        one, other = (history(tmp_path / f / "runs" / name) for f in ("killed", "whole"))
        assert len(one) == 12
        if number == signal.SIGTERM:
            assert one == other
        for row, expected in zip(one, other, strict=True):
            assert row["train_loss"] == pytest.approx(expected["train_loss"], rel=0.05)
