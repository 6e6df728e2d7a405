import os
import subprocess
import sys

import pytest

from fluxseg.errors import WorkdirError
from fluxseg.training.lock import lock_workdir
from tests.conftest import REPOSITORY, TINY, train_network

HOLD = """
import sys, time
from fluxseg.training.lock import lock_workdir
with lock_workdir(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(workdir):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(workdir)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_run_is_refused_and_told_of_the_first(tmp_path):
    process = hold(tmp_path)
    try:
        with pytest.raises(WorkdirError, match=f"in use by process {process.pid} on .* since 20"):
            train_network(TINY, tmp_path)
    finally:
        process.kill()
        process.communicate()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_killed_process_holds_nothing(tmp_path):
    process = hold(tmp_path)
    process.kill()
    process.communicate()
    with lock_workdir(tmp_path):
        assert str(os.getpid()) in (tmp_path / ".lock").read_text()


def test_two_runs_of_one_process_do_not_share_a_workdir(tmp_path):
    mine = pytest.raises(WorkdirError, match=str(os.getpid()))
    with lock_workdir(tmp_path), mine, lock_workdir(tmp_path):
        pass
    with lock_workdir(tmp_path):
        pass


def test_a_damaged_lock_file_blocks_nobody(tmp_path):
    (tmp_path / ".lock").write_bytes(b"\xff{")
    with lock_workdir(tmp_path):
        pass


def test_a_folder_that_is_gone_is_named(tmp_path):
    with pytest.raises(WorkdirError, match="gone"), lock_workdir(tmp_path / "gone"):
        pass
