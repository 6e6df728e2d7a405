import dataclasses
import json
import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxseg.training.epochs import Callbacks
from fluxseg.training.loop import train_and_evaluate
from fluxseg.training.profiling import (
    Operation,
    StepProfiler,
    StepTimes,
    choose_steps,
    device_shares,
    format_table,
    host_shares,
    merge_intervals,
    top_operations,
)
from tests.conftest import TINY, with_train


@given(st.integers(1, 1000))
@settings(deadline=None, max_examples=100)
def test_steps_of_the_middle_are_chosen(steps):
    first, last = choose_steps(steps)
    assert 1 <= first <= last <= steps
    assert last - first < 6
    assert first > 1 or steps == 1
    if steps >= 20:
        assert (first, last) == (10, 15)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)).map(sorted), max_size=12))
@settings(deadline=None, max_examples=200)
def test_intervals_are_joined_as_sets_of_points(pairs):
    merged = merge_intervals((begin, end) for begin, end in pairs)
    # Half steps tell intervals that touch from those that do not.
    inside = {n for begin, end in pairs for n in range(2 * begin, 2 * end + 1)}
    again = [n for begin, end in merged for n in range(int(2 * begin), int(2 * end) + 1)]
    assert sorted(inside) == again


def operation(name, run, begin, end, program="jit_step"):
    return Operation(name, program, run, begin, end)


def test_a_device_is_idle_between_executions_and_not_within_them():
    operations = [
        operation("dot.1", 1, 0.0, 1.0),
        # On another thread, with a pause that belongs to the program.
        operation("add.2", 1, 2.0, 4.0),
        operation("dot.1", 2, 3.0, 6.0),
        operation("dot.1", 3, 8.0, 10.0),
    ]
    shares = device_shares(operations)
    assert shares["seconds"] == 10
    assert shares["busy"] == pytest.approx(0.8)
    assert shares["idle"] == pytest.approx(0.2)
    assert shares["longest_idle_seconds"] == pytest.approx(2)
    assert set(device_shares([]).values()) == {None}


def test_operations_are_added_up_by_kind_and_program():
    operations = [
        operation("dot_general.1", 1, 0.0, 1.0),
        operation("dot_general.22", 1, 5.0, 7.0),
        operation("dot_general", 2, 5.0, 6.0, "jit_other"),
        operation("add.3", 1, 0.0, 1.0),
    ]
    rows = top_operations(operations, steps=2)
    assert [(row["program"], row["operation"]) for row in rows] == [
        ("jit_step", "dot_general"),
        ("jit_other", "dot_general"),
        ("jit_step", "add"),
    ]
    assert [row["milliseconds"] for row in rows] == [1500, 500, 500]
    assert [row["share"] for row in rows] == [0.6, 0.2, 0.2]
    assert top_operations([], 1) == []


def test_the_time_of_the_host_is_shared_out():
    times = [StepTimes(0.0, 1.0, 1.5), StepTimes(2.0, 2.0, 2.5)]
    shares = host_shares(times, 10.0)
    assert shares == {"waiting_for_data": 0.1, "dispatch": 0.1}


@pytest.fixture(scope="module")
def profiled(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("profiled")
    steps = []
    callbacks = Callbacks(on_step=lambda done, total: steps.append(done))
    config = with_train(TINY, epochs=2, batch_size=2)
    result = train_and_evaluate(config, workdir, callbacks, profile=True)
    return workdir, result, steps


def test_a_run_is_profiled_and_trains_as_without(profiled, tmp_path):
    _, result, steps = profiled
    plain = train_and_evaluate(with_train(TINY, epochs=2, batch_size=2), tmp_path)
    without_time = [
        [{**row, "seconds": 0} for row in history] for history in (result.history, plain.history)
    ]
    assert without_time[0] == without_time[1]
    assert steps == list(range(1, result.history[-1]["step"] + 1))
    assert not (tmp_path / "profile").exists()


def test_the_profile_holds_a_trace_and_shares(profiled):
    folder = profiled[0] / "profile"
    assert list(folder.glob("plugins/profile/*/*.xplane.pb"))
    assert list(folder.glob("plugins/profile/*/*.trace.json.gz"))
    table = json.loads((folder / "steps.json").read_text())
    epoch = profiled[1].history[0]["step"]
    assert tuple(table["steps"]) == choose_steps(epoch)
    assert 0 < table["device"]["busy"] <= 1
    assert table["device"]["busy"] + table["device"]["idle"] == pytest.approx(1)
    assert 0 <= table["device"]["longest_idle_seconds"] < table["device"]["seconds"]
    assert 0 < table["host"]["dispatch"] < 1
    assert 0 <= table["host"]["waiting_for_data"] < 1
    assert table["step_seconds"]["traced"] > 0
    assert 1 <= len(table["operations"]) <= 15
    assert sum(row["share"] for row in table["operations"]) <= 1 + 1e-9
    programs = {row["program"] for row in table["operations"]}
    assert all(program.startswith("jit_") for program in programs)
    lines = format_table(table)
    assert len(lines) == 3 + len(table["operations"])
    assert "device busy" in lines[1]


def test_a_run_that_ends_too_soon_says_so(tmp_path, caplog):
    profiler = StepProfiler(tmp_path, 100)
    step, _ = profiler.wrap(lambda state, batch: (state, 0), Callbacks())
    step(0, 0)
    with caplog.at_level(logging.WARNING):
        profiler.close()
        profiler.close()
    assert [record.message for record in caplog.records] == [
        "The run ended before step 10: there is no profile"
    ]
    assert step(3, 0) == (3, 0)


def test_unknown_figures_are_shown_as_such():
    table = {
        "steps": [1, 1],
        "step_seconds": {"traced": None, "not_traced": None},
        "host": host_shares([StepTimes(0.0, 0.0, 0.5)], 1.0),
        "device": device_shares([]),
        "operations": [],
    }
    assert "device busy unknown" in format_table(table)[1]
    assert dataclasses.asdict(StepTimes(1.0, 2.0))["done"] == 0
