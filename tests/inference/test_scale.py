"""The size of the cells in an image is estimated."""

import numpy as np
import pytest
from scipy import ndimage

from fluxseg.inference.scale import estimate_diameter
from tests.data.fields import disc_masks

TRAINED = 14.0


def discs(diameter, side=512, count=40, seed=0):
    """Bright discs that do not touch, on a dark ground."""
    return disc_masks(diameter, side, count, seed, apart=1.6)[0].any(0).astype(np.float32)


def only_trained_sizes(image):
    """A stand-in for a network: marks what is about as large as `TRAINED`, and nothing else."""
    opened = ndimage.grey_opening(image, footprint=disc(0.55 * TRAINED))
    large = ndimage.grey_opening(image, footprint=disc(1.7 * TRAINED))
    return np.clip(opened - large, 0, 1).astype(np.float32)


def disc(diameter):
    radius = diameter / 2
    reach = np.arange(-int(radius), int(radius) + 1)
    return np.hypot(reach[:, None], reach) <= radius


@pytest.mark.parametrize("diameter", [6, 11, 18, 44])
def test_the_diameter_is_estimated(diameter):
    count = 40 if diameter > 7 else 150
    found = estimate_diameter(only_trained_sizes, discs(diameter, count=count), TRAINED)
    assert found == pytest.approx(diameter, rel=0.2)


def test_of_an_image_without_cells_nothing_is_known():
    assert estimate_diameter(only_trained_sizes, np.zeros((200, 300), np.float32), TRAINED) is None
    assert estimate_diameter(only_trained_sizes, np.zeros((1, 1), np.float32), TRAINED) is None


@pytest.mark.parametrize(("grains", "found"), [(6, None), (100, 6.5)])
def test_a_few_grains_do_not_pass_for_cells(grains, found):
    """Magnified by two they are as large as cells; the four cells are too few to tell."""
    image = np.pad(discs(6.5, side=240, count=grains, seed=1), 136)
    image[:120, :120] = discs(14, side=120, count=4, seed=2)
    wanted = found if found is None else pytest.approx(found, rel=0.2)
    assert estimate_diameter(only_trained_sizes, image, TRAINED) == wanted


def test_a_few_sure_cells_beat_many_fair_ones():
    """As seen at the magnification of the image, its large cells fall into pieces."""
    pieces = 0.7 * discs(TRAINED, count=120)
    cells = 0.95 * discs(TRAINED, side=256, count=20)
    by_side = {512: pieces, 256: cells}

    def probability(image):
        return by_side.get(image.shape[0], np.zeros_like(image)) + 0.05

    image = np.zeros((512, 512), np.float32)
    assert estimate_diameter(probability, image, TRAINED) == pytest.approx(2 * TRAINED, rel=0.1)
