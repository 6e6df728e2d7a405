"""Disks that are full, read-only, forbidden, or gone."""

import shutil
import signal

import pytest

from fluxseg.errors import WorkdirError
from tests.conftest import train_network
from tests.faults.disks import bound_by_permissions, leave_free, read_only, small_disk, used_by
from tests.faults.jobs import (
    SMALL,
    Job,
    check_error,
    check_outcome,
    fail_job,
    finish_job,
    read_bits,
)
from tests.faults.whole import check_whole, find_leftovers


def room_for(workdir, part):
    """Bytes with which a run fails while it writes this part, from the sizes of a whole run."""
    cache = used_by(workdir / "cache")
    step = used_by(next((workdir / "checkpoints" / "best").iterdir()))
    return {
        "settings": 0,
        "cache": cache // 2,
        "first checkpoint": cache + step // 2,
        "later checkpoint": cache + used_by(workdir / "checkpoints") - step // 4,
        "report": used_by(workdir) - used_by(workdir / "report.html") // 2,
    }[part]


def stop_after(workdir, epoch):
    """Begin a run and stop it after an epoch; return the bits of its checkpoints."""
    job = Job(workdir)
    assert job.wait_for(f"epoch {epoch}/")
    job.stop(signal.SIGTERM)
    code, text = job.finish()
    assert code == 143, text
    return read_bits(workdir)


def check_kept(workdir, before):
    """Checkpoints that there were are as they were, and nothing is half written."""
    check_whole(workdir)
    after = read_bits(workdir)
    kept = set(before) & set(after)
    assert any(name.startswith("last/") for name in kept), f"only {sorted(after)} are left"
    for name in kept:
        assert after[name] == before[name], f"{name} has changed"


SLOW = ("settings", "cache", "later checkpoint", "report")


@pytest.mark.parametrize(
    "part", ["first checkpoint", *(pytest.param(part, marks=pytest.mark.slow) for part in SLOW)]
)
def test_a_full_disk_is_said_and_the_run_goes_on_when_there_is_room(reference, tmp_path, part):
    with small_disk(tmp_path / "disk") as disk:
        workdir = disk / "run"
        filler = leave_free(disk, room_for(reference.workdir, part))
        fail_job(workdir, names=[workdir, "no space left on device"])
        check_whole(workdir) if workdir.exists() else None
        filler.unlink()
        finish_job(workdir)
        check_whole(workdir)
        check_outcome(workdir, reference.outcome)
        assert not find_leftovers(workdir)


@pytest.mark.slow
def test_a_disk_that_is_read_only_or_fills_up_later_leaves_the_checkpoints_alone(
    reference, tmp_path
):
    with small_disk(tmp_path / "disk") as disk:
        workdir = disk / "run"
        with read_only(disk):
            fail_job(workdir, names=[workdir, "read-only"])
        before = stop_after(workdir, 3)
        with read_only(disk):
            fail_job(workdir, names=[workdir, "read-only"])
        check_kept(workdir, before)
        filler = leave_free(disk, 20_000)
        fail_job(workdir, names=[workdir, "no space left on device"])
        check_kept(workdir, before)
        filler.unlink()
        finish_job(workdir)
        check_outcome(workdir, reference.outcome)


@pytest.mark.parametrize("name", ["", "checkpoints", "cache"])
def test_a_file_in_place_of_a_folder_is_named(tmp_path, name):
    workdir = tmp_path / "run"
    path = workdir / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    with pytest.raises(WorkdirError) as caught:
        train_network(SMALL, workdir)
    assert str(path) in str(caught.value)
    assert path.read_text() == "mine"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["checkpoints/last", "cache", "config.json"])
def test_what_may_not_be_written_is_named(reference, tmp_path, name):
    workdir = tmp_path / "run"
    wrapper = bound_by_permissions()
    before = stop_after(workdir, 3)
    path = workdir / name
    # A folder that cannot be entered says more than one that cannot be written.
    path.chmod({"config.json": 0o000, "cache": 0o000}.get(name, 0o555))
    try:
        fail_job(workdir, wrapper=wrapper, names=[path.resolve(), "permission denied"])
    finally:
        path.chmod(0o755)
    check_kept(workdir, before)
    finish_job(workdir, wrapper=wrapper)
    check_outcome(workdir, reference.outcome)


@pytest.mark.parametrize("how", [pytest.param("moved", marks=pytest.mark.slow), "deleted"])
def test_a_run_whose_workdir_is_gone_says_so(reference, tmp_path, how):
    workdir = tmp_path / "run"
    job = Job(workdir)
    assert job.wait_for("epoch 2/")
    if how == "moved":
        workdir.rename(tmp_path / "elsewhere")
    else:
        while workdir.exists():
            shutil.rmtree(workdir, ignore_errors=True)
    check_error(*job.finish(), names=[workdir])
    if how == "moved":
        # What was moved is a run like any other.
        finish_job(tmp_path / "elsewhere")
        check_outcome(tmp_path / "elsewhere", reference.outcome)
