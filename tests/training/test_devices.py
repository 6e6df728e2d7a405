import json
import os
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def deviations():
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.device_check"],
        capture_output=True,
        text=True,
        env=environment,
        cwd=REPOSITORY,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("count", [1, 2, 4, 8])
@pytest.mark.parametrize("way", ["jit", "pmap", "shard_map"])
def test_any_number_of_devices_gives_the_same_gradient(deviations, way, count):
    found = deviations[f"{way}-{count}"]
    # On gradients: Adam would hide a factor.
    assert found["gradient"] < 1e-5
    assert found["loss"] < 1e-5
    assert found["weight"] == 0
    assert found["confusion"] == 0


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_any_number_of_devices_counts_the_same(deviations, count):
    assert deviations[f"eval-{count}"]["confusion"] == 0


def test_three_classes_are_ready_for_pmap(deviations):
    assert deviations["touching"]["gradient"] < 1e-5
    assert deviations["touching"]["confusion"] == 0
