import os
import subprocess
import sys

import pytest

from fluxseg.errors import WorkdirError
from fluxseg.training.lock import claim_workdir
from tests.conftest import REPOSITORY, TINY, train_network

HOLD = """
import sys, time
from pathlib import Path
from fluxseg.training.lock import claim_workdir
with claim_workdir(Path(sys.argv[1])):
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
    with claim_workdir(tmp_path):
        assert str(os.getpid()) in (tmp_path / ".lock").read_text()


def test_two_runs_of_one_process_do_not_share_a_workdir(tmp_path):
    mine = pytest.raises(WorkdirError, match=str(os.getpid()))
    with claim_workdir(tmp_path), mine, claim_workdir(tmp_path):
        pass
    with claim_workdir(tmp_path):
        pass


def test_a_damaged_lock_file_blocks_nobody(tmp_path):
    (tmp_path / ".lock").write_bytes(b"\xff{")
    with claim_workdir(tmp_path):
        pass


def test_a_folder_that_cannot_be_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WorkdirError, match="file/run"), claim_workdir(tmp_path / "file" / "run"):
        pass
