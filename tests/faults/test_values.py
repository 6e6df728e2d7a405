"""NaN and infinity, and data with nothing or far too much in them."""

import json
import math
import os
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import tifffile

import fluxseg.training.train
from fluxseg.errors import TrainingError
from fluxseg.io.files import read_json
from tests.conftest import train_network, with_data, with_train
from tests.faults.disks import limited
from tests.faults.jobs import SMALL, Job, check_error, fail_job, finish_job, read_bits
from tests.faults.recordings import SIZE, create_fields, write_folder, write_recording
from tests.faults.whole import check_whole

SHORT = with_train(SMALL, epochs=2)
NOT_FINITE = "NaN or infinity in the loss or its gradient"


def numbers_in(value):
    match value:
        case dict():
            return [n for v in value.values() for n in numbers_in(v)]
        case list():
            return [n for v in value for n in numbers_in(v)]
        case float() | int():
            return [value]
    return []


def check_scores(workdir):
    scores = read_json(workdir / "scores.json")
    assert all(math.isfinite(number) for number in numbers_in(scores))
    assert check_whole(workdir)
    return scores


def told(workdir):
    """What data.json says of each file."""
    data = read_json(workdir / "data.json")
    rows = [(row["key"], row["reason"]) for row in data["left_out"]]
    rows += [(row["key"], row["remark"]) for row in data["remarks"]]
    return {key: " ".join(text for k, text in rows if k == key) for key, _ in rows}


@pytest.mark.fault("NaN or infinity in images and masks")
def test_values_that_are_not_finite_are_left_out_and_listed(tmp_path):
    rng = np.random.default_rng(0)
    folder = write_folder(tmp_path / "data")
    for name, value in (("nan", np.nan), ("inf", np.inf), ("minus", -np.inf)):
        image, masks = create_fields(rng)
        image[rng.random(image.shape) < 0.05] = value
        write_recording(folder / f"{name}.npy", image, masks)
    image, masks = create_fields(rng)
    write_recording(folder / "nothing.npy", np.full_like(image, np.nan), masks)
    write_recording(folder / "huge.npy", image.astype(np.float64) * 1e300, masks)
    image, masks = create_fields(rng)
    weights = np.where(masks, 1, 0).astype(np.float32)
    weights[0, 3, 4:9] = (np.nan, np.inf, -np.inf, -1, 1e-40)
    write_recording(folder / "masks.npy", image, weights)
    workdir = tmp_path / "run"
    finish_job(workdir, "--config.data.source", folder, config=SHORT)
    rows = told(workdir)
    for name in ("nan", "inf", "minus"):
        assert "NaN or infinite" in rows[f"{name}.npy"]
    assert "no finite pixel" in rows["nothing.npy"]
    assert "masks.npy" in rows, "masks with NaN are not remarked on"
    check_scores(workdir)


@pytest.mark.fault(NOT_FINITE)
@pytest.mark.parametrize(
    "options",
    [
        ("--config.train.learning-rate", "1e30"),
        pytest.param(
            # The warm-up ends in the second epoch, which has a checkpoint before it.
            ("--config.train.learning-rate", "3e37", "--config.train.warmup-steps", "1000000"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, options):
    workdir = tmp_path / "run"
    message = fail_job(
        workdir, *options, names=["step ", "not finite", "train.learning_rate", "--workdir"]
    )
    print(message)
    check_whole(workdir)
    for arrays in read_bits(workdir).values():
        for array in arrays:
            values = np.frombuffer(array, np.float32 if len(array) % 4 == 0 else np.uint8)
            assert len(array) == 4 or np.isfinite(values).all()


@pytest.mark.fault(NOT_FINITE)
@pytest.mark.parametrize("name", ["grad_norm", "loss_sum"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("at", [5, 15])
def test_a_single_value_that_is_not_finite_is_found(tmp_path, monkeypatch, name, value, at):
    make = fluxseg.training.train.make_train_step

    def make_failing(*arguments):
        step = make(*arguments)

        def fail_at(state, batch):
            state, metrics = step(state, batch)
            if int(state.step) == at:
                metrics = metrics.replace(**{name: jax.numpy.float32(value)})
            return state, metrics

        return fail_at

    monkeypatch.setattr(fluxseg.training.train, "make_train_step", make_failing)
    expected = "checkpoint of step 10 is kept" if at > 10 else "no checkpoint yet"
    with pytest.raises(TrainingError, match=rf"step {at}: .*not finite.*{expected}"):
        train_network(SHORT, tmp_path)
    assert set(read_bits(tmp_path)) == ({"last/10", "best/10"} if at > 10 else set())


@pytest.mark.slow
@pytest.mark.fault("batches without any neuron")
def test_most_batches_may_be_without_a_neuron(tmp_path):
    folder = write_folder(tmp_path / "data", count=9, rois=0)
    rng = np.random.default_rng(1)
    for number in range(3):
        write_recording(folder / f"some{number}.npy", *create_fields(rng, 2))
    workdir = tmp_path / "run"
    # The split must have neurons in training; the groups are divided by chance.
    finish_job(
        workdir, "--config.data.source", folder, "--config.data.split-by", "crop", config=SHORT
    )
    check_scores(workdir)
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert all(math.isfinite(row["train_loss"]) for row in rows)


@pytest.mark.fault("a data set without any neuron")
@pytest.mark.parametrize("weights", ["none", pytest.param("balanced", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["no ROI", pytest.param("empty", marks=pytest.mark.slow)])
def test_a_data_set_without_any_neuron_is_said(tmp_path, weights, kind):
    folder = tmp_path / "data"
    rng = np.random.default_rng(0)
    for number in range(8):
        image, masks = create_fields(rng, 0 if kind == "no ROI" else 3)
        write_recording(folder / f"field{number}.npy", image, np.zeros_like(masks))
    options = ("--config.data.source", folder, "--config.loss.class-weights", weights)
    code, text = Job(tmp_path / "run", *options, config=SHORT).finish()
    if code:
        print(check_error(code, text, names=["neuron", "masks"]))
    else:
        # Every score is undefined then, and a line says so before hours are spent.
        assert "WARNING" in text.partition("epoch ")[0], text
        assert "neuron" in text.partition("WARNING")[2], text
        check_scores(tmp_path / "run")


@pytest.mark.fault("a single recording")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), ["cannot be divided", "data.split_by"]),
        pytest.param(("--config.data.split-by", "crop"), None, marks=pytest.mark.slow),
        pytest.param(
            ("--config.data.train-fraction", "1", "--config.data.val-fraction", "0"),
            None,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_one_recording_is_enough_or_said_not_to_be(tmp_path, options, words):
    folder = write_folder(tmp_path / "data", count=1)
    options = ("--config.data.source", folder, *options)
    if words:
        print(fail_job(tmp_path / "run", *options, config=SHORT, names=words))
    else:
        text = finish_job(tmp_path / "run", *options, config=SHORT)
        check_scores(tmp_path / "run")
        assert "Report: " in text


def measure(*command):
    """Run `python -m COMMAND`; return exit code, text, seconds and peak bytes of its memory."""
    began = time.monotonic()
    # A process that asks for more is told that there is none.
    limit = limited("-v", 16 * 2**20)
    process = subprocess.Popen(
        [*limit, sys.executable, "-m", *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process.stdout:
        text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, text, time.monotonic() - began, usage.ru_maxrss * 1024


@pytest.mark.slow
@pytest.mark.fault("a million tiny ROIs")
def test_a_million_masks_of_a_small_field_are_used(tmp_path):
    # 32 x 32 px, so that a million masks take 1 GB: as many as a file may hold.
    folder = tmp_path / "data"
    folder.mkdir()
    rng = np.random.default_rng(0)
    masks = np.zeros((1_000_000, 32, 32), bool)
    places = rng.integers(0, 32, (1_000_000, 2))
    masks[np.arange(1_000_000), places[:, 0], places[:, 1]] = True
    np.savez_compressed(
        folder / "many.npz",
        image=rng.gamma(4, 20, (32, 32)).astype(np.float32),
        masks_packed=np.packbits(masks),
        masks_shape=np.array(masks.shape),
        roi_ids=np.arange(1_000_000),
    )
    del masks
    code, text, seconds, peak = measure("fluxseg", "check", folder, "--workers", "1")
    print(f"check: {seconds:.0f} s, {peak / 2**30:.1f} GiB\n{text}")
    assert "1000000 ROIs" in text, text
    assert code == 0, text
    assert seconds < 240
    assert peak < 8 * 2**30


@pytest.mark.slow
@pytest.mark.fault("a million tiny ROIs")
@pytest.mark.parametrize("kind", ["labels", "stat"])
def test_a_million_rois_of_a_large_field_are_refused_in_time(tmp_path, kind):
    # As masks they would take 4 TB.
    folder, side = tmp_path / "data", 2048
    write_folder(folder, 8)
    rng = np.random.default_rng(0)
    image = rng.gamma(4, 20, (side, side)).astype(np.float32)
    if kind == "labels":
        numbers = np.arange(1, 1024 * 1024 + 1, dtype=np.uint32).reshape(1024, 1024)
        tifffile.imwrite(folder / "many.tif", image)
        tifffile.imwrite(folder / "many_labels.tif", numbers.repeat(2, 0).repeat(2, 1))
    else:
        plane = folder / "many" / "suite2p" / "plane0"
        plane.mkdir(parents=True)
        places = rng.integers(0, side, (1_000_000, 2))
        stat = np.empty(1_000_000, object)
        for number, (y, x) in enumerate(places):
            stat[number] = {
                "ypix": np.array([y]), "xpix": np.array([x]), "lam": np.ones(1, np.float32),
            }  # fmt: skip
        np.save(plane / "stat.npy", stat, allow_pickle=True)
        ops = {"Ly": side, "Lx": side, "max_proj": image, "meanImg": image}
        np.save(plane / "ops.npy", np.array(ops, object), allow_pickle=True)
        np.save(plane / "iscell.npy", np.ones((1_000_000, 2)))
    code, text, seconds, peak = measure("fluxseg", "check", folder, "--workers", "1")
    print(f"check, {kind}: {seconds:.0f} s, {peak / 2**30:.1f} GiB\n{text}")
    assert "Traceback" not in text, text
    assert code == 1, text
    lines = [line for line in text.splitlines() if line.startswith("many")]
    assert lines, text
    assert "unusable" in lines[0], text
    assert ("GiB" if kind == "labels" else "more than") in lines[0], text
    assert seconds < 240
    assert peak < 8 * 2**30
    # The others are trained on.
    workdir = tmp_path / "run"
    finish_job(workdir, "--config.data.source", folder, config=with_data(SHORT, tile=SIZE // 2))
    assert len(told(workdir)) >= 1
