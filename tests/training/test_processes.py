import json
import signal
import time

import numpy as np
import pytest

from fluxseg.config import Config
from fluxseg.inference.evaluate import load_run
from tests.commands import run
from tests.conftest import TINY, as_arguments, read_history, with_train
from tests.together import finish_together, run_together, start_together

# Long enough that a signal arrives while it trains.
LONG = with_train(TINY, epochs=200)


def main(config: Config, workdir):
    return ["fluxseg.main", "--workdir", workdir, *as_arguments(config)]


def figures(workdir):
    """The history, the scores and the parameters of a run."""
    scores = json.loads((workdir / "scores.json").read_text())["splits"]
    return read_history(workdir), scores, load_run(workdir).state.params


def assert_close(found, expected):
    for row, other in zip(found[0], expected[0], strict=True):
        assert row.keys() == other.keys()
        for name, value in row.items():
            # Sums in another order; a pixel on the edge of the threshold may fall either way.
            assert value == pytest.approx(other[name], rel=2e-3, abs=2e-4), name
    assert found[1]["test"]["scores"] == pytest.approx(expected[1]["test"]["scores"], abs=2e-3)
    for leaf, other in zip(leaves(found[2]), leaves(expected[2]), strict=True):
        np.testing.assert_allclose(leaf, other, atol=2e-3)


def leaves(params):
    import jax

    return [np.asarray(leaf) for leaf in jax.tree.leaves(params)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("alone")
    run("train", "--workdir", workdir, *as_arguments(TINY))
    return figures(workdir)


def test_two_processes_train_as_one_does(alone, tmp_path):
    said = run_together(2, *main(TINY, tmp_path))
    assert "2 x cpu in 2 processes" in said[0]
    # The second one has nothing to say; its network library has.
    assert [line for line in said[1].splitlines() if not line.startswith("[Gloo]")] == []
    assert_close(figures(tmp_path), alone)
    assert (tmp_path / "report.html").exists()
    assert (tmp_path / "model.safetensors").exists()
    events = list((tmp_path / "tensorboard").iterdir())
    assert len(events) == 1


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes_and_devices(alone, tmp_path):
    run_together(2, *main(with_train(TINY, epochs=1, schedule="constant"), tmp_path / "a"))
    said = run_together(1, *main(with_train(TINY, schedule="constant"), tmp_path / "a"), devices=4)
    assert "Resuming after epoch 1" in said[0]
    run_together(1, *main(with_train(TINY, schedule="constant"), tmp_path / "b"))
    assert_close(figures(tmp_path / "a"), figures(tmp_path / "b"))


def wait_for_epochs(workdir, count, processes):
    deadline = time.monotonic() + 120
    path = workdir / "metrics.jsonl"
    while not (path.exists() and len(path.read_text().splitlines()) >= count):
        for process in processes:
            assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_them_all_with_everything_saved(tmp_path):
    processes = start_together(2, *main(LONG, tmp_path))
    wait_for_epochs(tmp_path, 3, processes)
    processes[1].send_signal(signal.SIGTERM)
    results = finish_together(processes, 60)
    assert [code for code, _ in results] == [143, 143]
    assert "Stopped and saved at step" in results[0][1]
    done = len((tmp_path / "metrics.jsonl").read_text().splitlines())
    said = run_together(2, *main(with_train(LONG, epochs=done + 1), tmp_path))
    assert "Resuming after epoch" in said[0]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == done + 1


def test_a_process_that_dies_stops_the_others_which_name_it(tmp_path):
    processes = start_together(2, *main(LONG, tmp_path), timeout=10)
    wait_for_epochs(tmp_path, 2, processes)
    processes[1].kill()
    code, said = finish_together(processes, 120)[0]
    assert code != 0
    # On a slow machine the heartbeat may be missed before the broken connection is.
    assert "process 1 of 2 has failed" in said or "stopped sending heartbeats" in said, said
