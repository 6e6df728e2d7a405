"""kill -9 at a random moment of a chosen phase: the run is started again, and ends the same."""

import signal
import time

import numpy as np
import pytest

from tests.faults.jobs import SMALL, Job, check_outcome, finish_job
from tests.faults.whole import ORBAX_TEMPORARY, check_whole, find_leftovers

NEXT = {
    "start": "prepare",
    "prepare": "training",
    "training": "evaluation",
    "evaluation": "report",
    "report": "end",
}
LINES = {
    "prepare": "Preparing the crops",
    "training": "The model has",
    "evaluation": f"epoch {SMALL.train.epochs}/",
}
PHASES = (*NEXT, "checkpoint")
SAVING = 0.03
"""Seconds that a small checkpoint takes, about."""
ATTEMPTS = 5
"""Times that a run is started to be hit; on a busy machine some end before."""


def wait_for_saving(job, workdir, epoch):
    """Wait until a checkpoint is being written, after an epoch; False if it never is."""
    if not job.wait_for(f"epoch {epoch}/" if epoch else "The model has"):
        return False
    folders = [workdir / "checkpoints" / name for name in ("last", "best")]
    return job.wait_for(
        lambda: any(
            ORBAX_TEMPORARY in path.name
            for folder in folders
            if folder.is_dir()
            for path in folder.iterdir()
        )
    )


def kill_in_phase(workdir, reference, rng, phase):
    """Kill a new job at a random moment of a phase; False if it ended before."""
    job = Job(workdir)
    if phase == "checkpoint":
        reached = wait_for_saving(job, workdir, int(rng.integers(SMALL.train.epochs)))
        seconds = SAVING
    else:
        reached = phase == "start" or job.wait_for(
            LINES.get(phase) or (workdir / "examples").exists
        )
        seconds = reference.moments[NEXT[phase]] - reference.moments[phase]
    if reached:
        time.sleep(rng.uniform(0, seconds))
    job.stop(signal.SIGKILL)
    return job.finish()[0] == -signal.SIGKILL


@pytest.mark.parametrize(
    ("phase", "seed"),
    [
        ("checkpoint", 0),
        *(
            pytest.param(phase, seed, marks=pytest.mark.slow)
            for phase in PHASES
            for seed in range(1, 6)
        ),
    ],
)
def test_a_killed_run_ends_with_the_same_bits(reference, tmp_path, phase, seed):
    rng = np.random.default_rng([PHASES.index(phase), seed])
    folders = (tmp_path / str(attempt) for attempt in range(ATTEMPTS))
    workdir = next((f for f in folders if kill_in_phase(f, reference, rng, phase)), None)
    assert workdir, f"no run could be killed in its phase {phase}"
    check_whole(workdir) if workdir.exists() else None
    if seed % 5 == 1:
        # The restarted run is killed, too.
        again = Job(workdir)
        time.sleep(rng.uniform(0, reference.moments["end"]))
        again.stop(signal.SIGKILL)
        again.finish()
    finish_job(workdir)
    check_whole(workdir)
    check_outcome(workdir, reference.outcome)
    assert not find_leftovers(workdir)
