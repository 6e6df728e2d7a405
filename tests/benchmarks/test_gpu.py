"""The script for GPUs, run dry: nobody may have one at hand."""

import importlib.util
import json

import pytest

from tests.commands import run_python
from tests.conftest import REPOSITORY


@pytest.mark.parametrize(
    "sections",
    # What parity compiles is compiled by tests/training/test_devices.py, too.
    [["torch", "loader"], pytest.param(["parity", "speed", "job"], marks=pytest.mark.slow)],
)
def test_a_dry_run_reports_every_section(sections, tmp_path):
    output = tmp_path / "gpu.json"
    command = ("-m", "experiments.benchmarks.gpu", "--tiny", "--sections", *sections)
    run_python(*command, "--output", output, cwd=REPOSITORY)
    record = json.loads(output.read_text())
    found = record["sections"]
    assert list(found) == sections
    assert not [report["error"] for report in found.values() if "error" in report]
    assert record["versions"]["jax"]
    if "parity" in found:
        checks = {name: one for name, one in found["parity"].items() if isinstance(one, dict)}
        assert len(checks) >= 10
        assert all(one["passed"] for one in checks.values()), checks
        for name in ("reference", "classic-64", "preset"):
            best = found["speed"][f"{name}, bfloat16"]["best"]
            assert best["train_per_second"] > 0
            assert best["predict_per_second"] > 0
        assert found["job"]["report"]
        return
    assert importlib.util.find_spec("torch") or "not installed" in found["torch"]["skipped"]
    assert found["loader"]["batch"] == 2
