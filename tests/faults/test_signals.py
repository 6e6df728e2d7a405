"""SIGTERM, Ctrl-C and what SLURM sends: saved, left, and gone on with."""

import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.faults.jobs import SMALL, Job, check_outcome, finish_job
from tests.faults.whole import check_whole


def test_a_run_is_left_within_a_step_of_each_signal_and_goes_on(reference, tmp_path):
    for number, step in ((signal.SIGTERM, 17), (signal.SIGINT, 41)):
        command = ["-m", "tests.faults.stop_at_step", tmp_path, str(step), str(int(number))]
        done = subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, timeout=300
        )
        said = done.stdout + done.stderr
        assert done.returncode == 128 + number, said
        assert "Traceback" not in said
        saved = re.search(r"saved at step (\d+)", said)
        assert saved, said
        assert "Run the same command again to go on" in said
        assert step <= int(saved[1]) <= step + 1, said
        check_whole(tmp_path)
    text = finish_job(tmp_path)
    assert "Using the crops prepared" in text
    assert f"step {saved[1]}" in text
    check_outcome(tmp_path, reference.outcome)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
@pytest.mark.parametrize("seed", range(3))
def test_a_signal_at_any_moment_loses_nothing(reference, tmp_path, number, seed):
    rng = np.random.default_rng([seed, number])
    job = Job(tmp_path)
    time.sleep(rng.uniform(0, 0.95 * reference.moments["end"]))
    before = job.text
    job.stop(number)
    code, text = job.finish()
    assert "Traceback" not in text, text
    if code:
        # Before and after training there is nothing to save: a signal ends the process as usual.
        assert code in (128 + number, -number), text
        if "The model has" in before and f"epoch {SMALL.train.epochs}/" not in text:
            assert "saved at step" in text, text
    check_whole(tmp_path)
    finish_job(tmp_path)
    check_outcome(tmp_path, reference.outcome)
