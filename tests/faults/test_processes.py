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

TIMEOUT = 10
"""Seconds without a sign of life after which a process is given up."""
SLACK = 15
"""Seconds that the others may take to notice, besides."""
TOGETHER = with_train(SMALL, epochs=30, batch_size=4)


LONG = with_train(SMALL, epochs=150, batch_size=4)
"""The processes need a second or two to agree on a step at which to stop."""


def command(workdir, config=TOGETHER):
    return ["fluxseg.main", "--workdir", workdir, *as_arguments(config)]


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
    """How a run of as many processes ends that nothing happens to, made when first asked for."""
    outcomes = {}

    def run(count, config=TOGETHER):
        if (count, config) not in outcomes:
            workdir = tmp_path_factory.mktemp(f"undisturbed{count}") / "run"
            run_together(count, *command(workdir, config), timeout=60)
            outcomes[count, config] = read_outcome(workdir)
        return outcomes[count, config]

    return run


CASES = [
    # tests/training/test_processes.py kills one in less time.
    pytest.param(2, 1, signal.SIGKILL, marks=pytest.mark.slow),
    *(
        pytest.param(count, index, number, marks=pytest.mark.slow)
        for count, index, number in (
            (2, 0, signal.SIGKILL),
            (2, 1, signal.SIGSTOP),
            (2, 0, signal.SIGSTOP),
            (4, 2, signal.SIGKILL),
            (4, 3, signal.SIGSTOP),
        )
    ),
]


@pytest.mark.fault("one of several processes is killed or hangs")
@pytest.mark.parametrize(("count", "index", "number"), CASES)
def test_the_others_stop_and_name_it(undisturbed, tmp_path, count, index, number):
    workdir = tmp_path / "run"
    processes = start_together(count, *command(workdir), timeout=TIMEOUT)
    rng = np.random.default_rng([count, index, number])
    with all_ended(processes):
        wait_for_step(workdir, processes)
        time.sleep(rng.uniform(0, 0.5))
        processes[index].send_signal(number)
        at = time.monotonic()
        others = [process for n, process in enumerate(processes) if n != index]
        results = finish_together(others, TIMEOUT + SLACK)
        took = time.monotonic() - at
    print(f"the others stopped after {took:.1f} s")
    check_whole(workdir)
    run_together(count, *command(workdir), timeout=60)
    check_outcome(workdir, undisturbed(count))
    print("the run went on and ended with the same bits")
    for code, text in results:
        if code == -signal.SIGABRT:
            # JAX's runtime was first: its message is longer, and the first process is its leader.
            assert "leader task" in text or f"\n{index}\nThe tasks have crashed" in text, text
        else:
            print(check_error(code, text, names=[f"process {index} of {count}"]))


@pytest.mark.slow
@pytest.mark.fault("one of several processes is told to stop")
@pytest.mark.parametrize("index", [0, 1])
def test_sigterm_to_one_stops_and_saves_all(undisturbed, tmp_path, index):
    workdir = tmp_path / "run"
    processes = start_together(2, *command(workdir, LONG), timeout=TIMEOUT)
    with all_ended(processes):
        wait_for_step(workdir, processes)
        processes[index].send_signal(signal.SIGTERM)
        results = finish_together(processes, 60)
    assert [code for code, _ in results] == [143, 143], results
    assert "saved at step" in results[0][1], results
    run_together(2, *command(workdir, LONG), timeout=60)
    check_outcome(workdir, undisturbed(2, LONG))


@pytest.mark.slow
@pytest.mark.fault("one of several processes is killed, the run goes on with one")
def test_a_run_goes_on_with_fewer_processes(undisturbed, tmp_path):
    workdir = tmp_path / "run"
    processes = start_together(2, *command(workdir), timeout=TIMEOUT)
    with all_ended(processes):
        wait_for_step(workdir, processes)
        processes[1].kill()
        ((code, said),) = finish_together(processes[:1], TIMEOUT + SLACK)
    run_together(1, *command(workdir))
    history, expected = read_outcome(workdir)["history"], undisturbed(2)["history"]
    assert len(history) == len(expected)
    for row, other in zip(history, expected, strict=True):
        # Sums in another order: the same but for rounding.
        assert row["train_loss"] == pytest.approx(other["train_loss"], rel=2e-2)
    check_error(code, said, names=["process 1 of 2"])
