"""One of several processes dies or hangs: the others stop, name it, and the run resumes."""

import contextlib
import signal
import time

import numpy as np
import pytest

from tests.conftest import as_arguments, with_train
from tests.faults.jobs import SMALL, check_error, check_outcome, read_outcome
from tests.faults.whole import check_whole
from tests.together import finish_together, run_together, start_together

COUNT = 2
"""Processes."""
TIMEOUT = 10
"""Seconds without a sign of life after which a process is given up."""
SLACK = 15
"""Seconds that the others may take to notice, besides."""
TOGETHER = with_train(SMALL, epochs=30, batch_size=4)


def command(workdir):
    return ["fluxseg.main", "--workdir", workdir, *as_arguments(TOGETHER)]


def wait_for_step(workdir, processes, seconds=180):
    """Wait until the first checkpoint is there: all train."""
    deadline = time.monotonic() + seconds
    folder = workdir / "checkpoints" / "last"
    while not (folder.is_dir() and any(path.name.isdigit() for path in folder.iterdir())):
        assert all(process.poll() is None for process in processes), finish_together(processes)
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextlib.contextmanager
def all_ended(processes):
    """No process outlives the block, not even a stopped one."""
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stdout.close()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """How a run of two processes ends that nothing happens to."""
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    run_together(COUNT, *command(workdir), timeout=60)
    return read_outcome(workdir)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("index", "number"), [(1, signal.SIGKILL), (0, signal.SIGKILL), (1, signal.SIGSTOP)]
)
def test_the_others_stop_and_name_it(undisturbed, tmp_path, index, number):
    workdir = tmp_path / "run"
    processes = start_together(COUNT, *command(workdir), timeout=TIMEOUT)
    rng = np.random.default_rng([index, number])
    with all_ended(processes):
        wait_for_step(workdir, processes)
        time.sleep(rng.uniform(0, 0.5))
        processes[index].send_signal(number)
        others = [process for n, process in enumerate(processes) if n != index]
        results = finish_together(others, TIMEOUT + SLACK)
    check_whole(workdir)
    run_together(COUNT, *command(workdir), timeout=60)
    check_outcome(workdir, undisturbed)
    for code, text in results:
        if code == -signal.SIGABRT:
            # JAX's runtime was first: its message is longer, and the first process is its leader.
            assert "leader task" in text or f"\n{index}\nThe tasks have crashed" in text, text
        else:
            check_error(code, text, names=[f"process {index} of {COUNT}"])
