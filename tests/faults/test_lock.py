"""Two runs in one workdir: the second refuses, and names the first."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.faults.jobs import Job, check_outcome, fail_job, finish_job

LOCK = ".lock"


@pytest.mark.fault("two runs in one workdir")
@pytest.mark.parametrize(
    "moment",
    [
        "The model has",
        *(pytest.param(m, marks=pytest.mark.slow) for m in ("Preparing the crops", "epoch 6/")),
    ],
)
def test_the_second_run_refuses_and_names_the_first(reference, tmp_path, moment):
    workdir = tmp_path / "run"
    first = Job(workdir)
    assert first.wait_for(moment)
    first.stop(signal.SIGSTOP)
    try:
        names = [workdir, first.process.pid, socket.gethostname(), "since 20"]
        print(fail_job(workdir, names=names))
        # A link to the workdir is the same workdir.
        (tmp_path / "link").symlink_to(workdir)
        fail_job(tmp_path / "link", names=[first.process.pid])
    finally:
        first.stop(signal.SIGCONT)
    code, text = first.finish()
    assert code == 0, text
    check_outcome(workdir, reference.outcome)


@pytest.mark.slow
@pytest.mark.fault("lock of a process that has died")
@pytest.mark.parametrize(
    "content",
    [
        {"host": socket.gethostname(), "pid": 2**22 - 1, "since": "2020-01-01T00:00:00+00:00"},
        pytest.param("", marks=pytest.mark.slow),
        pytest.param("{", marks=pytest.mark.slow),
        # The number of the dead process has been given to another one.
        pytest.param(
            {"host": socket.gethostname(), "pid": os.getpid(), "since": "2020-01-01T00:00:00"},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_stale_lock_does_not_block(reference, tmp_path, content):
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / LOCK).write_text(text)
    finish_job(tmp_path)
    check_outcome(tmp_path, reference.outcome)


@pytest.mark.slow
@pytest.mark.fault("run killed while its worker processes prepare")
def test_worker_processes_of_a_killed_run_do_not_hold_its_workdir(tmp_path):
    options = ("--config.data.workers", "2", "--config.simulator.containers", "24")
    first = Job(tmp_path / "run", *options)
    assert first.wait_for("Preparing the crops")
    time.sleep(2)
    first.stop(signal.SIGKILL)
    first.process.wait()
    # At once: its worker processes may still live.
    finish_job(tmp_path / "run", *options)


@pytest.mark.slow
@pytest.mark.fault("two runs in one workdir")
def test_of_two_runs_begun_at_once_one_wins(reference, tmp_path):
    workdir = tmp_path / "run"
    jobs = [Job(workdir) for _ in range(3)]
    results = [job.finish() for job in jobs]
    assert sorted(code for code, _ in results) == [0, 2, 2], results
    for code, text in results:
        assert code == 0 or "is in use by process" in text, text
    check_outcome(workdir, reference.outcome)


@pytest.mark.slow
@pytest.mark.fault("workdir read while it is being written")
def test_reading_a_workdir_needs_no_lock(tmp_path):
    workdir = tmp_path / "run"
    job = Job(workdir)
    assert job.wait_for("epoch 2/")
    job.stop(signal.SIGSTOP)
    try:
        shutil.copytree(workdir, tmp_path / "copy")
        done = subprocess.run(
            [sys.executable, "-m", "fluxseg", "evaluate", "--workdir", str(workdir)],
            capture_output=True,
            text=True,
            timeout=120,
        )
    finally:
        job.stop(signal.SIGCONT)
    assert done.returncode in (0, 2), done.stderr
    assert "Traceback" not in done.stderr
    assert job.finish()[0] == 0, job.text
