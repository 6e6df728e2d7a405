"""What the benchmarks share, and each of them once on the smallest scale."""

import json

import numpy as np
import pytest

from experiments.benchmarks import prepare
from experiments.benchmarks.measure import (
    Variant,
    run_interleaved,
    summarise,
)
from experiments.benchmarks.time_to_score import FLUXSEG, PYTORCH, find_times
from tests.commands import run_python
from tests.conftest import REPOSITORY


def test_variants_take_turns_in_processes_of_their_own(tmp_path, capfd):
    log = tmp_path / "log"
    program = "import os, sys; open(sys.argv[1], 'a').write(sys.argv[2] + os.environ.get('X', '-'))"
    program += "; print('words'); print('{\"figure\": 2}')"
    variants = [
        Variant("a", ("-c", program, str(log), "a"), {"X": "1"}),
        Variant("b", ("-c", program, str(log), "b")),
    ]
    results = run_interleaved(variants, 3)
    assert log.read_text() == "a1b-b-a1a1b-"
    assert [len(rounds) for rounds in results.values()] == [3, 3]
    for figures in results["a"]:
        assert figures["figure"] == 2
        assert figures["wall_seconds"] > 0
        assert figures["peak_mb"] > 1


def test_a_process_that_fails_is_not_passed_over():
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        run_interleaved([Variant("a", ("-c", "1 / 0"))], 1)


def test_ratios_are_taken_round_by_round():
    results = {
        "a": [{"t": 1.0}, {"t": 10.0}, {"t": 2.0}],
        "b": [{"t": 2.0}, {"t": 20.0}, {"t": 8.0}],
    }
    slow, fast = summarise(results, "t", "a"), summarise(results, "t", "a", larger_is_better=False)
    assert [row.ratio for row in slow] == [1, 2]
    assert (slow[1].ratio_low, slow[1].ratio_high) == (2, 4)
    assert fast[1].ratio == 0.5
    assert (fast[1].median, fast[1].low, fast[1].high) == (8, 2, 20)


def test_times_to_scores_are_read_off_the_curves():
    curves = {PYTORCH: [0.1, 0.5, 0.7, 0.6], FLUXSEG: [0.5, 0.62]}
    times = find_times(curves, {PYTORCH: 1.0, FLUXSEG: 10.0}, crops=100)
    goal, final = times.values()
    assert goal == {"score": 0.6, PYTORCH: 300, FLUXSEG: 20, "times faster": 15}
    assert final == {"score": 0.6, PYTORCH: 400, FLUXSEG: 20, "times faster": 20}
    never = find_times({PYTORCH: [0.9], FLUXSEG: [0.1]}, {PYTORCH: 1.0, FLUXSEG: 1.0}, 1)
    assert never["the reference's final"][FLUXSEG] is None
    assert never["the reference's final"]["times faster"] is None


def test_every_job_of_preparing_is_timed_in_a_process_of_its_own(tmp_path):
    prepare.write_files(tmp_path / "files", "float32", 2, size=128, rois=30)
    this = ("-m", "experiments.benchmarks.prepare", "--folder", str(tmp_path / "files"))
    variants = [Variant(name, (*this, "--worker", job)) for name, job in prepare.WORKERS.items()]
    for (figures,) in run_interleaved(variants, 1).values():
        assert 0 < figures["seconds"] < 30
        assert figures["peak_mb"] > 10


SMALL = {
    "train_step": ("--models", "fluxseg", "--brief", "--contestants", "flax-naive", "fluxseg",
                   "--batch", "2", "--seconds", "0.1", "--allocators", "default"),
    "convolutions": ("--shapes", "1,64,64,8,8", "--seconds", "0.01"),
    "epoch": ("--contestants", "the loader alone", "fluxseg, data and training", "--containers",
              "1", "--seconds", "0.1"),
}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == "convolutions" else pytest.mark.slow)
        for name in SMALL
    ],
)
def test_a_benchmark_runs_as_it_says(name, tmp_path):
    output = tmp_path / "record.json"
    arguments = ("--rounds", "1", "--output", str(output), *SMALL[name])
    run_python("-m", f"experiments.benchmarks.{name}", *arguments, cwd=REPOSITORY)
    record = json.loads(output.read_text())
    ratios = [row["ratio"] for rows in record["summary"].values() for row in rows]
    assert ratios
    assert np.isfinite(ratios).all()
