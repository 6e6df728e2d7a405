"""Damaged checkpoints are noticed, and the one before is used."""

import gc
import logging
import shutil
import signal

import jax
import numpy as np
import pytest

from fluxseg.training.checkpoints import arrays_of, open_checkpoints, restore_newest
from tests.faults.damage import damage_file, damage_folder
from tests.faults.jobs import (
    SMALL,
    Job,
    check_outcome,
    create_empty_state,
    fail_job,
    finish_job,
    read_bits,
)
from tests.faults.whole import find_leftovers

# Orbax leaves coroutines behind when a file cannot be read.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

WAYS = ("flipped", "missing", "truncated", "empty", "folder missing")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that was killed after its fourth epoch, with two states to go on from."""
    workdir = tmp_path_factory.mktemp("stopped") / "run"
    job = Job(workdir)
    assert job.wait_for("epoch 4/")
    job.stop(signal.SIGTERM)
    assert job.finish()[0] == 143, job.text
    assert len(steps_of(workdir)) == 2
    return workdir


def steps_of(workdir):
    return sorted(int(p.name) for p in (workdir / "checkpoints" / "last").iterdir())


def copy_of(workdir, target):
    shutil.copytree(workdir, target)
    return target


def newest(workdir):
    return workdir / "checkpoints" / "last" / str(steps_of(workdir)[-1])


def restore(workdir):
    """What a run would go on from: the step and the bytes."""
    checkpoints = open_checkpoints(workdir)
    try:
        found = restore_newest(checkpoints.last, create_empty_state(SMALL))
    finally:
        checkpoints.close()
    assert found is not None
    state, progress = found
    leaves = jax.tree.leaves(arrays_of(state))
    return int(state.step), progress, [np.asarray(leaf).tobytes() for leaf in leaves]


@pytest.mark.fault("newest checkpoint damaged (read only)")
@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("tries", [8, pytest.param(200, marks=pytest.mark.slow)])
def test_no_damage_gets_into_a_state(stopped, tmp_path, caplog, record_property, how, tries):
    before, after = steps_of(stopped)
    bits = read_bits(stopped)
    whole = restore(stopped)
    rng = np.random.default_rng([WAYS.index(how), tries])
    record_property("tries", tries)
    noticed = 0
    for number in range(tries):
        workdir = tmp_path / str(number)
        copy_of(stopped / "checkpoints", workdir / "checkpoints")
        damaged = damage_folder(newest(workdir), how, rng)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            step, progress, found = restore(workdir)
        assert step in (before, after)
        assert found == bits[f"last/{step}"], damaged
        if step == before:
            noticed += 1
            assert f"step {after}" in caplog.text, caplog.text
            assert f"of step {before}" in caplog.text, caplog.text
        else:
            # A place that holds nothing of the state, such as a time of writing.
            assert progress == whole[1], damaged
        shutil.rmtree(workdir)
    caplog.clear()
    # Now, and not in a test that has nothing to do with it.
    gc.collect()
    print(f"{how}: {noticed} of {tries} noticed, the others change nothing")
    assert noticed


@pytest.mark.fault("newest checkpoint damaged: the run goes on from the one before")
@pytest.mark.parametrize(
    ("how", "seed"),
    [
        ("flipped", 0),
        *(
            pytest.param(how, seed, marks=pytest.mark.slow)
            for how in WAYS
            for seed in range(1, 5 if how == "flipped" else 2)
        ),
    ],
)
def test_a_run_goes_on_from_the_checkpoint_before_to_the_same_bits(
    reference, stopped, tmp_path, how, seed
):
    workdir = copy_of(stopped, tmp_path / "run")
    before, after = steps_of(workdir)
    damaged = damage_folder(newest(workdir), how, np.random.default_rng(seed))
    text = finish_job(workdir)
    print(damaged, *(line for line in text.splitlines() if "WARNING" in line), sep="\n")
    if f"of step {before}" in text:
        assert f"step {after}" in text
        assert f", step {before}" in text
    else:
        # A file that holds nothing of the state, such as a marker, or a place like that.
        assert f"Resuming after epoch 4, step {after}" in text, text
    check_outcome(workdir, reference.outcome)
    assert not find_leftovers(workdir)


@pytest.mark.slow
@pytest.mark.fault("best checkpoint damaged")
@pytest.mark.parametrize("how", WAYS)
def test_a_damaged_best_checkpoint_is_said(reference, tmp_path, how):
    workdir = copy_of(reference.workdir, tmp_path / "run")
    (folder,) = (workdir / "checkpoints" / "best").iterdir()
    rng = np.random.default_rng(WAYS.index(how))
    if how == "folder missing":
        shutil.rmtree(folder / "state")
    else:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            if path.stat().st_size:
                damage_file(path, how, rng)
    code, text = Job(workdir).finish()
    assert code == 0, text
    assert "Traceback" not in text
    assert "best" in text
    assert "WARNING" in text, text


@pytest.mark.fault("all checkpoints damaged")
@pytest.mark.parametrize("how", ["truncated", pytest.param("missing", marks=pytest.mark.slow)])
def test_without_any_whole_checkpoint_the_error_says_what_to_do(stopped, reference, tmp_path, how):
    workdir = copy_of(stopped, tmp_path / "run")
    for step in steps_of(workdir):
        for path in (workdir / "checkpoints" / "last" / str(step)).rglob("*"):
            if path.is_file():
                path.unlink() if how == "missing" else path.write_bytes(path.read_bytes()[:7])
    advice = workdir / "checkpoints"
    message = fail_job(workdir, names=["no checkpoint can be read", "delete", advice])
    print(message)
    shutil.rmtree(advice)
    finish_job(workdir)
    check_outcome(workdir, reference.outcome)
