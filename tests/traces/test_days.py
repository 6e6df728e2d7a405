import os

import pytest

from experiments.studies.days import track

PYTHON = os.environ.get("FLUXSEG_TRACK2P", "")


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON, reason="FLUXSEG_TRACK2P names no Python that has Track2p")
def test_track2p_follows_the_cells_of_three_sessions(tmp_path):
    found = track(tmp_path, PYTHON, 41)
    assert found["right"] >= 0.9 * found["matches"]
    assert found["right"] >= 0.8 * found["found"] >= 16
