import dataclasses
import subprocess
import sys
import time

import pytest

from fluxseg.training.sweep import Sweep, plan_sweep, run_folder, run_sweep
from tests.commands import run as run_verb
from tests.conftest import TINY, read_history, train_network, with_train

BASE = with_train(TINY, epochs=2)


def train(config, workdir):
    train_network(config, workdir)
    (workdir / "report.html").write_text("")


CONFIG = """
from tests.conftest import TINY, with_train
def get_config():
    return with_train(TINY, epochs={})
"""


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    config, output = folder / "config.py", folder / "out"
    config.write_text(CONFIG.format(BASE.train.epochs))
    said = run_verb("sweep", "--config", config, "--vary", "train.seed=0,1", "--output", output)
    assert "seed=1" in said
    assert (output / "sweep.html").exists()
    return plan_sweep(Sweep(BASE, {"train.seed": (0, 1)})), output


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
    assert run_sweep(members, folder, lambda config, workdir: touched.append(workdir)) == {}
    assert touched == []
    before = {member.name: read_history(run_folder(folder, member)) for member in members}
    longer = [
        dataclasses.replace(member, config=with_train(member.config, epochs=3))
        for member in members
    ]
    assert run_sweep(longer, folder, train) == {}
    for member in longer:
        rows = read_history(run_folder(folder, member))
        assert [row["epoch"] for row in rows] == [1, 2, 3]
        assert rows[:2] == before[member.name]


def test_a_member_that_diverges_leaves_the_others_alone(tmp_path):
    base = with_train(BASE, clip_norm=0.0, warmup_steps=0)
    members = plan_sweep(Sweep(base, {"train.learning_rate": (1e30, 3e-3)}))
    failures = run_sweep(members, tmp_path, train)
    assert list(failures) == [members[0].name]
    assert "is not finite" in failures[members[0].name]
    assert len(read_history(run_folder(tmp_path, members[1]))) == 2
    assert not (run_folder(tmp_path, members[0]) / "report.html").exists()


@pytest.mark.slow
def test_a_killed_sweep_goes_on_and_ends_as_one_that_was_not(tmp_path):
    (tmp_path / "config.py").write_text(CONFIG.format(12))
    arguments = ["sweep", "--config", str(tmp_path / "config.py"), "--vary", "train.seed=0,1"]
    command = [sys.executable, "-m", "fluxseg", *arguments, "--output", str(tmp_path / "killed")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    watched = tmp_path / "killed" / "runs" / "seed=1" / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not watched.exists() or watched.read_text().count("\n") < 2:
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.communicate()
    output = run_verb(*arguments, "--output", tmp_path / "killed")
    assert "1 of 2 runs are finished already" in output
    assert "Resuming after epoch" in output
    output = run_verb(*arguments, "--output", tmp_path / "killed")
    assert "2 of 2 runs are finished already" in output
    run_verb(*arguments, "--output", tmp_path / "whole")
    for name in ("seed=0", "seed=1"):
        one, other = (read_history(tmp_path / f / "runs" / name) for f in ("killed", "whole"))
        assert len(one) == 12
        assert one == other
