"""kill -9 at a random moment of a chosen phase, and the restart."""

import signal
import time
from pathlib import Path

import numpy as np

from tests.faults.jobs import SMALL, Job, Reference, check_outcome, finish_job
from tests.faults.whole import ORBAX_TEMPORARY, check_whole, find_leftovers

PHASES = ("start", "prepare", "training", "checkpoint", "evaluation", "report")
NEXT = {
    "start": "prepare",
    "prepare": "training",
    "training": "evaluation",
    "evaluation": "report",
    "report": "end",
}
SAVING = 0.03
"""Seconds that a small checkpoint takes, about."""
TWICE = 0.2
"""Share of the tries in which the restarted run is killed too."""
ATTEMPTS = 5
"""Times that a run is started to be hit; on a busy machine some end before."""


def survive_kill(
    reference: Reference, folder: Path, rng: np.random.Generator, phase: str
) -> list[str]:
    """Kill a run in a phase, start it again, and compare its end with that of `reference`.

    Args:
        reference: the uninterrupted run.
        folder: empty folder for the workdirs.
        rng: chooses the moment.
        phase: one of `PHASES`.

    Returns:
        The last line that the run said before it was killed, for each kill.

    Raises:
        AssertionError: if anything is lost.
    """
    for attempt in range(ATTEMPTS):
        workdir = folder / f"{phase}-{attempt}"
        job = Job(workdir)
        if not kill_in_phase(job, workdir, reference, rng, phase):
            continue
        killed = [_last_line(job)]
        check_whole(workdir) if workdir.exists() else None
        if rng.random() < TWICE:
            again = Job(workdir)
            time.sleep(rng.uniform(0, reference.moments["end"]))
            again.stop(signal.SIGKILL)
            again.finish()
            killed.append(_last_line(again))
            check_whole(workdir) if workdir.exists() else None
        finish_job(workdir)
        check_whole(workdir)
        check_outcome(workdir, reference.outcome)
        assert not find_leftovers(workdir), find_leftovers(workdir)
        return killed
    raise AssertionError(f"no run could be killed in its phase {phase}")


def kill_in_phase(
    job: Job, workdir: Path, reference: Reference, rng: np.random.Generator, phase: str
) -> bool:
    """Kill a job at a random moment of a phase; False if it ended before."""
    if phase == "checkpoint":
        reached = _wait_for_saving(job, workdir, int(rng.integers(SMALL.train.epochs)))
        seconds = SAVING
    else:
        reached = _wait_for_phase(job, workdir, phase)
        seconds = reference.moments[NEXT[phase]] - reference.moments[phase]
    if reached:
        time.sleep(rng.uniform(0, seconds))
    job.stop(signal.SIGKILL)
    return job.finish()[0] == -signal.SIGKILL


def _wait_for_phase(job: Job, workdir: Path, phase: str) -> bool:
    match phase:
        case "start":
            return True
        case "prepare":
            return job.wait_for("Preparing the crops")
        case "training":
            return job.wait_for("The model has")
        case "evaluation":
            return job.wait_for(f"epoch {SMALL.train.epochs}/")
        case _:
            return job.wait_for((workdir / "examples").exists)


def _wait_for_saving(job: Job, workdir: Path, epoch: int) -> bool:
    """Wait until a checkpoint is being written, after an epoch."""
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


def _last_line(job: Job) -> str:
    return job.lines[-1][1].strip() if job.lines else "(nothing yet)"
