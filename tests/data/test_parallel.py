import os
import signal
import subprocess
import sys
import time

import pytest

from fluxseg.data.parallel import IN_FLIGHT, map_in_processes
from fluxseg.errors import FluxsegError, RecordingError
from tests.conftest import REPOSITORY


def square_and_process(number):
    time.sleep(0.05 * (number % 3))
    return number**2, os.getpid()


def fail(number):
    if number == 2:
        raise RecordingError("masks", f"number {number}")
    return number


def die(number):
    os._exit(number)


class Watched(list):
    """Items that remember how many were asked for."""

    taken = 0

    def __iter__(self):
        for item in super().__iter__():
            self.taken += 1
            yield item


def test_results_come_in_order_from_other_processes():
    pairs = list(map_in_processes(square_and_process, range(9), 2))
    assert [(item, result[0]) for item, result in pairs] == [(n, n**2) for n in range(9)]
    processes = {result[1] for _, result in pairs}
    assert os.getpid() not in processes
    assert 1 <= len(processes) <= 2


@pytest.mark.parametrize(("items", "workers"), [([3], 4), ([1, 2, 3], 1), ([], 2)])
def test_one_worker_or_item_needs_no_process(items, workers):
    pairs = list(map_in_processes(square_and_process, items, workers))
    assert pairs == [(n, (n**2, os.getpid())) for n in items]


def test_few_items_are_handed_out_ahead_and_leaving_early_is_clean():
    items = Watched(range(1000))
    results = map_in_processes(square_and_process, items, 2)
    for _ in range(3):
        next(results)
    results.close()
    assert items.taken <= 3 + IN_FLIGHT * 2


def test_exceptions_of_the_function_are_raised():
    for workers in (1, 2):
        results = map_in_processes(fail, range(4), workers)
        assert [next(results), next(results)] == [(0, 0), (1, 1)]
        with pytest.raises(RecordingError, match="masks: number 2"):
            next(results)


def test_a_dead_worker_is_explained():
    with pytest.raises(FluxsegError, match="memory") as caught:
        list(map_in_processes(die, [1, 1, 1], 2))
    assert 'if __name__ == "__main__":' in str(caught.value)


SCRIPT = """
import signal
import time
from fluxseg.data.parallel import map_in_processes

def work(number):
    time.sleep(0.2)
    return number

if __name__ == "__main__":
    # Started in the background, a process ignores Ctrl-C until it says otherwise.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for item, result in map_in_processes(work, range(1000), 2):
        print(result, flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="signals of a POSIX terminal")
def test_ctrl_c_stops_everything_soon_with_one_traceback(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(script)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout.readline() == "0\n"
        # As a terminal does: to every process of the group.
        os.killpg(process.pid, signal.SIGINT)
        # Its end of file comes when the last process that holds the pipe has ended.
        _, errors = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert process.returncode in (-signal.SIGINT, 130)
    assert errors.count("Traceback") == 1
    assert "KeyboardInterrupt" in errors
