"""Any number of devices, in any formulation, takes the same step."""

import functools
import json
import os

import pytest

from tests.commands import run_python
from tests.conftest import REPOSITORY


@functools.cache
def check(*parts):
    """Run parts of `tests.training.device_check` in a process with eight virtual devices."""
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
    }
    command = ("-m", "tests.training.device_check", *parts)
    return json.loads(run_python(*command, env=environment, cwd=REPOSITORY, timeout=900))


@pytest.mark.parametrize("way", ["jit", "pmap", "shard_map"])
def test_devices_give_the_same_gradient(way):
    # On gradients: Adam would hide a factor.
    deviations = check("few", "evaluation")["few"][f"{way}-8"]
    assert deviations["gradient"] < 1e-5
    assert deviations["loss"] < 1e-5
    assert deviations["weight"] == 0
    assert deviations["confusion"] == 0


@pytest.mark.parametrize("count", ["2", "8"])
def test_any_number_of_devices_counts_the_same(count):
    found = check("few", "evaluation")["evaluation"]
    assert found[count] == {"confusion": 0, "total": 0}


@pytest.mark.slow
def test_the_curve_of_the_loss_depends_on_neither_devices_nor_micro_batches():
    curves = dict(check("curves")["curves"])
    moved = curves.pop("moved")["parameters"]
    assert moved > 1e-3
    assert {"8", "8, 2 micro-batches", "1, 4 micro-batches"} < set(curves)
    for name, run in curves.items():
        assert run["loss"] < 1e-5, name
        assert run["pixels"] == run["first_confusion"] == 0, name
        assert run["parameters"] < 1e-4, name
        assert run["average"] < 1e-4, name
        assert run["optimizer"] < 1e-3, name
