"""Nothing grows in a long run, and the soak notices what does."""

import json
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from experiments.studies import soak
from experiments.studies.soak import (
    Watch,
    fit_slope,
    judge,
    longest_session,
    read_samples,
    summarise,
)
from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    # In a process of its own, where no other test has left anything.
    folder = tmp_path_factory.mktemp("soak")
    command = [
        sys.executable,
        "-m",
        "experiments.studies.soak",
        "--steps",
        "400",
        "--seconds",
        "0.05",
    ]
    for name, path in (("workdir", "run"), ("output", "soak.json"), ("figure", "soak.png")):
        command += [f"--{name}", str(folder / path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert (folder / "soak.json").exists(), done.stderr
    return json.loads((folder / "soak.json").read_text())["rounds"]["soak"][0]


def test_a_run_of_four_hundred_steps_leaves_nothing_behind(figures):
    assert (figures["epochs"], figures["steps"]) == (10, 400)
    assert figures["traces_first_epoch"] > 5
    assert figures["traces_later"] == figures["compilations_later"] == 0
    assert figures["live_arrays_growth"] == figures["live_array_bytes_growth"] == 0
    for name in ("threads", "handles"):
        assert figures[f"{name}_most_later"] <= figures[f"{name}_most_earlier"] + 6, name
    before = figures["checkpoints_files_most_earlier"]
    assert figures["checkpoints_files_most_later"] <= 1.25 * before
    # Memory moves by whole megabytes in so short a time: the long run is for that.
    assert not [text for text in judge(figures) if not text.startswith("memory")]


def test_logs_stay_small(figures):
    assert 0 < figures["metrics.jsonl_bytes_per_epoch"] < 600
    assert 0 < figures["metrics.csv_bytes_per_epoch"] < 300
    assert 0 < figures["tensorboard_bytes_per_epoch"] < 5000
    # Some hundreds: 30 arrays, and what the library notes of each.
    assert 0 < figures["blocks_per_checkpoint"] < 2000


def test_the_slope_is_not_moved_by_outliers():
    rng = np.random.default_rng(0)
    steps = np.arange(0, 20_000, 10.0)
    noise = rng.normal(0, 1, steps.size)
    noise[rng.integers(0, steps.size, 100)] += 500
    slope, low, high = fit_slope(steps, 300 + 0.002 * steps + noise)
    assert slope == pytest.approx(2, abs=0.1)
    assert low < 2 < high
    slope, low, high = fit_slope(steps, 300 + noise)
    assert low < 0 < high


def create_samples(**grows):
    """Samples of a run of 50 epochs; each named figure grows by so much an epoch."""
    samples = []
    for epoch in range(1, 51):
        for kind in ("second", "second", "epoch"):
            row = {
                **dict.fromkeys(("traces", "compilations"), 20),
                **dict.fromkeys(("threads", "handles", "live_arrays", "live_array_bytes"), 10),
                **{f"{name}_{end}": 10 for name in soak.LOGS for end in ("bytes", "files")},
                "memory_mb": 300.0,
                "blocks": 1000,
                "checkpoints_bytes": 1000,
                "checkpoints_files": 40,
            }
            row |= {name: row[name] + epoch * growth for name, growth in grows.items()}
            samples.append(
                {**row, "kind": kind, "session": 0, "epoch": epoch, "step": 40 * epoch}
                | {"seconds": float(epoch)}
            )
    return samples


def test_what_checkpoints_leave_is_told_apart_from_what_steps_do():
    # 0.05 MB an epoch of 40 steps, all of it the checkpoint's.
    samples = create_samples(memory_mb=0.05, blocks=500)
    left = {"memory_mb_per_checkpoint": 0.05, "blocks_per_checkpoint": 500.0}
    figures = summarise(samples, left)
    assert figures["memory_slope"] == pytest.approx(1.25)
    assert figures["memory_slope_of_steps"] == pytest.approx(0, abs=1e-6)
    assert judge(figures) == []
    (failure,) = judge(summarise(samples, {**left, "memory_mb_per_checkpoint": 0.2}))
    assert "0.200 MB at each checkpoint" in failure


def test_a_run_in_which_nothing_grows_passes():
    assert judge(summarise(create_samples())) == []


@pytest.mark.parametrize(
    ("name", "growth", "word"),
    [
        ("memory_mb", 0.05, "memory grows by 1.250 MB"),
        ("blocks", 200, "memory: 200 more blocks"),
        ("traces", 1, "49 traces after the first epoch"),
        ("compilations", 1, "49 compilations"),
        ("threads", 1, "threads: at most"),
        ("handles", 1, "handles: at most"),
        ("live_arrays", 1, "more live arrays"),
        ("checkpoints_files", 3, "checkpoints_files"),
        ("checkpoints_bytes", 500, "checkpoints_bytes"),
    ],
)
def test_what_grows_is_noticed(name, growth, word):
    failures = judge(summarise(create_samples(**{name: growth})))
    assert len(failures) == 1
    assert word in failures[0]


def test_the_longest_session_is_judged_up_to_its_last_epoch():
    rows = [
        {"kind": "epoch", "session": 0},
        {"kind": "second", "session": 1},
        {"kind": "epoch", "session": 1},
        {"kind": "epoch", "session": 1},
        {"kind": "second", "session": 1},
    ]
    assert longest_session(rows) == rows[1:4]
    with pytest.raises(SystemExit, match="no epoch"):
        longest_session(rows[1:2])


def test_threads_and_open_files_are_seen_and_sessions_are_told_apart(tmp_path):
    path = tmp_path / "soak.jsonl"
    for session in range(2):
        with Watch(tmp_path, path, 10) as watch:
            # The system counts threads for a moment after they have ended.
            time.sleep(0.5)
            watch.on_epoch({"epoch": 1})
            before = read_samples(path)[-1]
            ended = threading.Event()
            thread = threading.Thread(target=ended.wait)
            thread.start()
            (tmp_path / "checkpoints").mkdir(exist_ok=True)
            (tmp_path / "checkpoints" / f"{session}").write_bytes(bytes(1000))
            with path.open():
                watch.on_epoch({"epoch": 2})
            ended.set()
            thread.join()
        after = read_samples(path)[-1]
        assert after["session"] == session
        assert after["threads"] == before["threads"] + 1
        assert after["handles"] == before["handles"] + 1
        assert after["checkpoints_bytes"] == 1000 * (session + 1)
    path.write_text(path.read_text() + json.dumps({"half": 1})[:-2])
    assert len(read_samples(path)) == 4


def test_a_function_that_is_traced_again_is_counted(tmp_path):
    import jax

    double = jax.jit(lambda x: 2 * x)
    double(np.ones(3))
    with Watch(tmp_path, tmp_path / "soak.jsonl", 10) as watch:
        double(np.ones(3))
        assert watch.traces == watch.compilations == 0
        double(np.ones(4))
        assert watch.traces >= 1
        assert watch.compilations == 1


def test_the_picture_and_the_verdict_come_from_one_command(tmp_path, monkeypatch, capsys):
    samples = create_samples()
    monkeypatch.setattr(soak, "run_soak", lambda *_: samples)
    monkeypatch.setattr(soak, "enable_compilation_cache", lambda: None)
    nothing = {"memory_mb_per_checkpoint": 0.0, "blocks_per_checkpoint": 0.0}
    monkeypatch.setattr(soak, "measure_checkpoints", lambda *_: nothing)
    output, figure = tmp_path / "soak.json", tmp_path / "soak.png"
    options = ["--workdir", tmp_path, "--output", output, "--figure", figure]
    monkeypatch.setattr("sys.argv", ["soak", *map(str, options)])
    assert soak.main() == 0
    assert "Nothing grows." in capsys.readouterr().out
    assert 5_000 < figure.stat().st_size < 100_000
    record = json.loads(output.read_text())
    assert record["failures"] == []
    assert len(record["curve"]) == 100
    samples[:] = create_samples(traces=1)
    assert soak.main() == 1
    assert json.loads(output.read_text())["failures"]
