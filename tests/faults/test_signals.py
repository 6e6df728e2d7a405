"""SIGTERM, Ctrl-C and what SLURM sends: saved, left, and gone on with."""

import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.faults.jobs import SMALL, Job, check_outcome, finish_job
from tests.faults.whole import check_whole

SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_JOBID": "4711",
    "SLURM_JOB_NUM_NODES": "1",
    "SLURM_NNODES": "1",
    "SLURM_NTASKS": "1",
    "SLURM_NPROCS": "1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_NODELIST": "localhost",
    "SLURM_JOB_NODELIST": "localhost",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "1",
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_STEP_TASKS_PER_NODE": "1",
    "SLURM_TASKS_PER_NODE": "1",
}
"""What `srun` of a batch job with one task sets."""


def epoch_reached(job, epoch):
    return job.wait_for(f"epoch {epoch}/")


@pytest.mark.fault("SIGTERM or Ctrl-C at a chosen step")
@pytest.mark.parametrize(
    ("number", "step"),
    [
        (signal.SIGTERM, 17),
        pytest.param(signal.SIGINT, 11, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 1, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 60, marks=pytest.mark.slow),
    ],
)
def test_a_run_is_left_within_a_step_of_the_signal(reference, tmp_path, number, step):
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.stop_at_step", tmp_path, str(step), str(int(number))],
        capture_output=True,
        text=True,
        timeout=120,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 128 + number, said
    assert "Traceback" not in said
    saved = re.search(r"saved at step (\d+)", said)
    assert saved, said
    assert step <= int(saved[1]) <= step + 1, said
    check_whole(tmp_path)
    text = finish_job(tmp_path)
    assert f"step {saved[1]}" in text
    check_outcome(tmp_path, reference.outcome)


@pytest.mark.slow
@pytest.mark.fault("SIGTERM or Ctrl-C at a random moment")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("seed", range(6))
def test_a_signal_at_any_moment_loses_nothing(reference, tmp_path, number, seed):
    rng = np.random.default_rng([seed, number])
    job = Job(tmp_path)
    time.sleep(rng.uniform(0, 0.95 * reference.moments["end"]))
    before = job.text
    at = time.monotonic()
    job.stop(number)
    code, text = job.finish()
    took = time.monotonic() - at
    assert "Traceback" not in text, text
    if code:
        # Before and after training there is nothing to save: SIGTERM ends the process as usual.
        assert code in (128 + number, -number), text
        assert took < 30, f"left after {took:.0f} s"
        if "The model has" in before and f"epoch {SMALL.train.epochs}/" not in text:
            assert "saved at step" in text, text
    check_whole(tmp_path)
    finish_job(tmp_path)
    check_outcome(tmp_path, reference.outcome)


@pytest.mark.slow
@pytest.mark.fault("Ctrl-C in a terminal while worker processes prepare")
def test_ctrl_c_reaches_all_processes_of_a_terminal(reference, tmp_path):
    config = ("--config.data.workers", "2", "--config.simulator.containers", "24")
    job = Job(tmp_path, *config, start_new_session=True)
    assert job.wait_for("Preparing the crops")
    time.sleep(0.5)
    os.killpg(job.process.pid, signal.SIGINT)
    code, text = job.finish()
    assert code == 130, text
    assert "Traceback" not in text
    finish_job(tmp_path, *config)


@pytest.mark.slow
@pytest.mark.fault("SLURM: preempted and requeued")
@pytest.mark.parametrize("epoch", [1, 3])
def test_a_job_that_slurm_requeues_goes_on(reference, tmp_path, epoch):
    # `scontrol requeue` sends SIGTERM, SIGKILL after KillWait, and runs the same script again.
    job = Job(tmp_path, environment=SLURM)
    assert epoch_reached(job, epoch)
    job.stop(signal.SIGTERM)
    code, text = job.finish(seconds=30)
    assert code == 143, text
    assert "Run the same command again to go on" in text
    text = finish_job(tmp_path, environment={**SLURM, "SLURM_RESTART_COUNT": "1"})
    assert "Resuming after epoch" in text
    check_outcome(tmp_path, reference.outcome)


@pytest.mark.slow
@pytest.mark.fault("SLURM: warned by SIGUSR1 (`--signal=USR1@120`)")
def test_the_warning_of_slurm_saves_too(reference, tmp_path):
    job = Job(tmp_path, environment=SLURM)
    assert epoch_reached(job, 2)
    job.stop(signal.SIGUSR1)
    code, text = job.finish(seconds=30)
    assert code == 128 + signal.SIGUSR1, text
    assert "saved at step" in text, text
    finish_job(tmp_path, environment={**SLURM, "SLURM_RESTART_COUNT": "1"})
    check_outcome(tmp_path, reference.outcome)
