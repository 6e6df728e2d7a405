"""Checkpoints that something has happened to."""

import gc
import logging
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxseg.errors import WorkdirError
from fluxseg.training.checkpoints import (
    arrays_of,
    open_checkpoints,
    read_progress,
    restore_checkpoint,
    restore_newest,
)
from fluxseg.training.state import create_train_state, sum_arrays
from tests.conftest import TINY, train_network, with_train

# The libraries below leave unfinished reads behind where a file is damaged.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

SHORT = with_train(TINY, epochs=3, schedule="constant")
LONG = with_train(TINY, epochs=4, schedule="constant")


@pytest.fixture(autouse=True)
def collected():
    """What a damaged file leaves behind goes with its test."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run of three epochs, what four give, and the bits of its last two states."""
    workdir = tmp_path_factory.mktemp("begun")
    train_network(SHORT, workdir)
    like = create_train_state(SHORT, np.ones(2), 15)
    checkpoints = open_checkpoints(workdir)
    states = {
        step: leaves(restore_checkpoint(checkpoints.last, like, step)[0]) for step in (10, 15)
    }
    checkpoints.close()
    copy = tmp_path_factory.mktemp("whole") / "run"
    shutil.copytree(workdir, copy)
    return workdir, train_network(LONG, copy), states


@pytest.fixture
def copy(begun, tmp_path):
    """A copy of that run, to be damaged."""
    return Path(shutil.copytree(begun[0], tmp_path / "run"))


def newest(workdir, name="last"):
    steps = (workdir / "checkpoints" / name).iterdir()
    return max((step for step in steps if step.name.isdigit()), key=lambda step: int(step.name))


def files_of(step):
    """The files of a checkpoint that hold something."""
    found = sorted(path for path in step.rglob("*") if path.is_file() and path.stat().st_size)
    assert len(found) > 3
    return found


def damage(path, way):
    content = bytearray(path.read_bytes())
    if way == "missing":
        path.unlink()
    elif way == "truncated":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[int(float(way) * (len(content) - 1))] ^= 0x55
        path.write_bytes(bytes(content))


def leaves(state):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(arrays_of(state))]


@pytest.mark.parametrize("way", ["missing", "truncated", "0.6"])
def test_what_is_restored_is_what_was_saved_or_the_one_before(begun, tmp_path, way):
    workdir, _, states = begun
    like = create_train_state(SHORT, np.ones(2), 15)
    noticed = 0
    for which in range(len(files_of(newest(workdir)))):
        copy = tmp_path / str(which)
        shutil.copytree(workdir / "checkpoints", copy / "checkpoints")
        damage(files_of(newest(copy))[which], way)
        checkpoints = open_checkpoints(copy)
        try:
            state, progress = restore_newest(checkpoints.last, like)
        finally:
            checkpoints.close()
        assert progress["step"] == int(state.step)
        assert leaves(state) == states[int(state.step)]
        noticed += int(state.step) == 10
    # Some of the files hold nothing that is needed.
    assert noticed >= 2


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(begun, copy, caplog):
    whole = begun[1]
    step = newest(copy)
    damage(step / "state" / "manifest.ocdbt", "0.5")
    with caplog.at_level(logging.WARNING):
        result = train_network(LONG, copy)
    assert f"step {step.name} cannot be read" in caplog.text
    assert "Using the checkpoint before it, of step 10" in caplog.text
    assert leaves(result.state) == leaves(whole.state)
    assert [row["train_loss"] for row in result.history] == [
        row["train_loss"] for row in whole.history
    ]
    assert (copy / "checkpoints" / "damaged" / "last-15").is_dir()


def test_a_damaged_progress_is_noticed(copy):
    path = next(p for p in files_of(newest(copy)) if b"split_hash" in p.read_bytes())
    text = path.read_text()
    assert '"epoch": 3' in text or '"epoch":3' in text
    path.write_text(text.replace('"step_in_epoch": 0', '"step_in_epoch": 1'))
    checkpoints = open_checkpoints(copy)
    try:
        with pytest.raises(WorkdirError, match="its progress has changed"):
            read_progress(checkpoints.last, checkpoints.last.latest_step())
    finally:
        checkpoints.close()


def test_if_all_are_damaged_the_error_says_what_to_do(copy):
    for step in (copy / "checkpoints" / "last").iterdir():
        for path in files_of(step):
            path.write_bytes(b"")
    with pytest.raises(WorkdirError, match=r"no checkpoint can be read; delete .*checkpoints"):
        train_network(LONG, copy)


def test_without_the_best_checkpoint_the_newest_one_is_scored(copy, caplog):
    for path in files_of(newest(copy, "best")):
        path.write_bytes(b"")
    (copy / "scores.json").unlink()
    result = train_network(SHORT, copy)
    assert "Using the newest state instead, of epoch 3" in caplog.text
    assert result.scores["checkpoint"]["epoch"] == 3
    assert result.scores["splits"]["test"]["scores"]["macro_iou"] is not None


def test_what_a_killed_save_left_is_removed_by_the_next_run_only(copy):
    left = copy / "checkpoints" / "last" / "99.orbax-checkpoint-tmp"
    left.mkdir()
    open_checkpoints(copy).close()
    assert left.exists()
    open_checkpoints(copy, tidy=True).close()
    assert not left.exists()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 31), st.integers(0, 12))
def test_any_changed_bit_changes_the_sum(seed, bit, place):
    values = np.random.default_rng(seed).integers(0, 2**32, 13, np.uint32)
    changed = values.copy()
    changed[place] ^= np.uint32(1 << bit)
    a, b = (
        (v[:12].reshape(3, 4).view(np.float32), v[12:].view(np.int32)) for v in (values, changed)
    )
    tree = {"a": jnp.asarray(a[0]), "b": jnp.asarray(a[1])}
    other = {"a": jnp.asarray(b[0]), "b": jnp.asarray(b[1])}
    assert int(sum_arrays(tree)) != int(sum_arrays(other))
    # By hand.
    words = values.astype(np.uint64)
    places = 2 * np.arange(12, dtype=np.uint64) + 1
    expected = (words[:12] * places).sum() + 3 * words[12]
    assert int(sum_arrays(tree)) == int(expected % 2**32)
