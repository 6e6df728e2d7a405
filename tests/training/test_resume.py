"""Real processes of the main job, stopped and started again."""

import json
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from fluxseg.inference.evaluate import load_run
from fluxseg.training.checkpoints import arrays_of
from tests.conftest import TINY, as_arguments, with_train

CONFIG = with_train(TINY, epochs=4)


def command(workdir):
    return [
        sys.executable, "-m", "fluxseg.main", "--workdir", str(workdir), *as_arguments(CONFIG)
    ]  # fmt: skip


def start(workdir):
    return subprocess.Popen(
        command(workdir), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(workdir):
    done = subprocess.run(command(workdir), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def wait_for_epoch(workdir, epoch, process):
    deadline = time.monotonic() + 120
    path = workdir / "metrics.jsonl"
    while not path.exists() or path.read_text().count("\n") < epoch:
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def bits(workdir):
    state = load_run(workdir).state
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(arrays_of(state))]


def figures(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        del row["seconds"]
    return rows


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    output = finish(workdir)
    assert "epoch 4/" in output
    return workdir


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_goes_on_to_the_same_bits(uninterrupted, tmp_path, number):
    process = start(tmp_path)
    wait_for_epoch(tmp_path, 2, process)
    process.send_signal(number)
    output = process.communicate(timeout=60)[0]
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 128 + number, output
        assert "Run the same command again to go on" in output
    assert len(figures(tmp_path)) < 4
    output = finish(tmp_path)
    assert "Resuming after epoch" in output
    assert "Using the crops prepared" in output
    assert figures(tmp_path) == figures(uninterrupted)
    assert bits(tmp_path) == bits(uninterrupted)
    assert json.loads((tmp_path / "scores.json").read_text()) == json.loads(
        (uninterrupted / "scores.json").read_text()
    )


def test_a_user_mistake_is_a_message_and_not_a_traceback(tmp_path):
    for arguments, message in (
        (["--config.data.source", str(tmp_path / "absent")], "absent"),
        (["--config", str(tmp_path / "absent.py")], "no such config file"),
        (["--config.train.epochs", "0"], "epochs"),
        (["--config.train.epochs", "x"], "epochs"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "fluxseg.main", "--workdir", str(tmp_path / "w"), *arguments],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 2, done
        assert message in done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr
