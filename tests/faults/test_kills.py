"""A run is killed at random moments, and ends with the same bits."""

import os

import numpy as np
import pytest

from tests.faults.kills import PHASES, survive_kill

KILLS = int(os.environ.get("FLUXSEG_FAULT_KILLS", "50"))


@pytest.mark.fault("`kill -9` at a random moment of a run")
@pytest.mark.parametrize(
    "phase", [pytest.param("training", marks=pytest.mark.slow), "checkpoint", "report"]
)
def test_a_killed_run_ends_with_the_same_bits(reference, tmp_path, phase):
    rng = np.random.default_rng([PHASES.index(phase), 1000])
    survive_kill(reference, tmp_path, rng, phase)


@pytest.mark.slow
@pytest.mark.parametrize(
    "number",
    [
        pytest.param(n, marks=pytest.mark.fault(f"`kill -9`, phase {PHASES[n % len(PHASES)]}"))
        for n in range(KILLS)
    ],
)
def test_no_moment_is_a_bad_one(reference, tmp_path, number):
    killed = survive_kill(
        reference, tmp_path, np.random.default_rng(number), PHASES[number % len(PHASES)]
    )
    print("killed after:", *killed)
