import numpy as np

from experiments.studies.overlay import draw_fields
from tests.conftest import REPOSITORY


def test_the_picture_of_the_simulator_is_the_committed_one(tmp_path):
    from PIL import Image

    draw_fields(tmp_path / "figure.png")
    drawn, stored = (
        np.asarray(Image.open(path).convert("RGB"), float)
        for path in (tmp_path / "figure.png", REPOSITORY / "docs" / "figures" / "simulator.png")
    )
    assert drawn.shape == stored.shape
    # Other processors round other digits, which may flip a grey level here and there.
    assert np.abs(drawn - stored).mean() < 2
