"""Disks that are full, read-only, forbidden, or gone."""

import shutil
import signal

import pytest

from tests.faults.disks import (
    bound_by_permissions,
    leave_free,
    limited,
    read_only,
    small_disk,
    used_by,
)
from tests.faults.jobs import (
    Job,
    check_error,
    check_outcome,
    fail_job,
    finish_job,
    read_bits,
)
from tests.faults.whole import check_whole, find_leftovers

FULL = "disk full"


def room_for(workdir, part):
    """Bytes with which a run fails while it writes this part, from the sizes of a whole run."""
    cache = used_by(workdir / "cache")
    step = used_by(next((workdir / "checkpoints" / "best").iterdir()))
    checkpoints = used_by(workdir / "checkpoints")
    return {
        "cache": cache // 2,
        "index": cache - 4096,
        "settings": 0,
        "first checkpoint": cache + step // 2,
        "best checkpoint": cache + step + step // 2,
        "later checkpoint": cache + checkpoints - step // 4,
        "examples": used_by(workdir) - used_by(workdir / "report.html") - 400_000,
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


@pytest.mark.parametrize(
    "part",
    [
        "first checkpoint",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (
                "settings",
                "cache",
                "index",
                "best checkpoint",
                "later checkpoint",
                "examples",
                "report",
            )
        ),
    ],
)
@pytest.mark.fault(FULL)
def test_a_full_disk_is_said_and_the_run_goes_on_when_there_is_room(reference, tmp_path, part):
    room = room_for(reference.workdir, part)
    with small_disk(tmp_path / "disk") as disk:
        workdir = disk / "run"
        filler = leave_free(disk, room)
        message = fail_job(workdir, names=[workdir, "no space left on device"])
        print(part, room, message)
        check_whole(workdir) if workdir.exists() else None
        filler.unlink()
        finish_job(workdir)
        check_whole(workdir)
        check_outcome(workdir, reference.outcome)
        assert not find_leftovers(workdir)


@pytest.mark.slow
@pytest.mark.fault(FULL)
@pytest.mark.parametrize("room", [0, 20_000, 100_000])
def test_a_disk_that_fills_up_later_leaves_the_checkpoints_alone(reference, tmp_path, room):
    with small_disk(tmp_path / "disk") as disk:
        workdir = disk / "run"
        before = stop_after(workdir, 3)
        filler = leave_free(disk, room)
        message = fail_job(workdir, names=[workdir, "no space left on device"])
        print(room, message)
        check_kept(workdir, before)
        filler.unlink()
        finish_job(workdir)
        check_outcome(workdir, reference.outcome)


@pytest.mark.slow
@pytest.mark.fault(FULL)
@pytest.mark.parametrize("part", ["cache", "report.html"])
def test_files_that_may_not_grow_further_are_like_a_full_disk(reference, tmp_path, part):
    # A limit of the shell or a quota; needs no right to mount anything.
    (shard,) = (reference.workdir / "cache").glob("*.array_record")
    sizes = [shard.stat().st_size, (reference.workdir / "report.html").stat().st_size]
    assert sizes[0] < sizes[1]
    limit = sizes[0] // 2 if part == "cache" else sum(sizes) // 2
    wrapper = limited("-f", limit // 512)
    message = fail_job(tmp_path / "run", names=[part, "too large"], wrapper=wrapper)
    print(message)
    check_whole(tmp_path / "run")
    finish_job(tmp_path / "run")
    check_outcome(tmp_path / "run", reference.outcome)


@pytest.mark.slow
@pytest.mark.fault("read-only workdir")
def test_a_read_only_disk_is_said_at_the_beginning(reference, tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        with read_only(disk):
            fail_job(disk / "run", names=[disk / "run", "read-only"])
        before = stop_after(disk / "run", 3)
        with read_only(disk):
            fail_job(disk / "run", names=[disk / "run", "read-only"])
        check_kept(disk / "run", before)
        finish_job(disk / "run")
        check_outcome(disk / "run", reference.outcome)


@pytest.mark.fault("a file where a folder should be")
@pytest.mark.parametrize(
    "name", ["", *(pytest.param(n, marks=pytest.mark.slow) for n in ("checkpoints", "cache"))]
)
def test_a_file_in_place_of_a_folder_is_named(tmp_path, name):
    workdir = tmp_path / "run"
    path = workdir / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    fail_job(workdir, names=[path])
    assert path.read_text() == "mine"


@pytest.mark.slow
@pytest.mark.fault("permission denied")
@pytest.mark.parametrize("name", [".", "checkpoints/last", "cache", "config.json", "new"])
def test_what_may_not_be_written_is_named(reference, tmp_path, name):
    workdir = tmp_path / "run"
    wrapper = bound_by_permissions()
    before = {}
    if name == "new":
        tmp_path.chmod(0o555)
        path = workdir
    else:
        before = stop_after(workdir, 3)
        path = workdir / name
    # A folder that cannot be entered says more than one that cannot be written.
    mode = {"config.json": 0o000, "cache": 0o000}.get(name, 0o555)
    if name != "new":
        path.chmod(mode)
    try:
        fail_job(workdir, wrapper=wrapper, names=[path.resolve(), "permission denied"])
    finally:
        tmp_path.chmod(0o755)
        if path.exists():
            path.chmod(0o755)
    if before:
        check_kept(workdir, before)
    finish_job(workdir, wrapper=wrapper)
    check_outcome(workdir, reference.outcome)


@pytest.mark.fault("workdir deleted or moved while running")
@pytest.mark.parametrize("how", [pytest.param("moved", marks=pytest.mark.slow), "deleted"])
@pytest.mark.parametrize("epoch", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_a_run_whose_workdir_is_gone_says_so(reference, tmp_path, how, epoch):
    workdir = tmp_path / "run"
    job = Job(workdir)
    assert job.wait_for(f"epoch {epoch}/" if epoch else "The model has")
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
