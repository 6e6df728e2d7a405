import dataclasses
import itertools

import numpy as np
import pytest

from fluxseg.data.pipeline import make_batches
from fluxseg.simulation.source import ENDLESS, SimulatedFields

SOURCE = SimulatedFields(seed=3, tile=64, field=128)


def test_a_crop_depends_on_seed_and_index_alone():
    crops = [SOURCE[index] for index in (0, 7, ENDLESS - 1)]
    for index, crop in zip((ENDLESS - 1, 7, 0), reversed(crops), strict=True):
        again = dataclasses.replace(SOURCE, length=ENDLESS)[index]
        for name, value in crop.items():
            np.testing.assert_array_equal(value, again[name])
    other = dataclasses.replace(SOURCE, seed=4)[7]
    assert not np.array_equal(crops[1]["image"], other["image"])
    assert not np.array_equal(crops[1]["image"], crops[0]["image"])


def test_a_crop_is_what_the_training_wants():
    neurons = ignored = 0
    for index in range(12):
        crop = SOURCE[index]
        assert crop["image"].shape == crop["label"].shape == crop["valid"].shape == (64, 64)
        assert crop["image"].dtype == np.float32
        assert crop["label"].dtype == crop["valid"].dtype == np.uint8
        assert set(np.unique(crop["label"])) <= {0, 1}
        assert crop["crop"] == index
        neurons += crop["label"].sum()
        ignored += (crop["valid"] == 0).sum()
        assert not ((crop["valid"] == 0) & (crop["label"] > 0)).any()
    assert neurons > 0
    assert ignored > 0


def test_grain_draws_fresh_batches_from_it_for_ever():
    batches = make_batches(SOURCE, 2, seed=0, epochs=None, threads=2)
    drawn = [next(batches) for _ in range(3)]
    numbers = np.concatenate([batch["crop"] for batch in drawn])
    assert len(set(numbers.tolist())) == 6
    assert drawn[0]["image"].shape == (2, 64, 64, 1)
    again = make_batches(SOURCE, 2, seed=0, epochs=None, threads=0)
    for batch, same in zip(drawn, itertools.islice(again, 3), strict=True):
        np.testing.assert_array_equal(batch["image"], same["image"])


@pytest.mark.parametrize("item", [-1, 5, 10**12])
def test_there_is_no_crop_beyond_the_length(item):
    with pytest.raises(IndexError, match="of 5"):
        dataclasses.replace(SOURCE, length=5)[item]


@pytest.mark.parametrize("settings", [{"tile": 100}, {"length": 0}, {"length": 2**31}])
def test_settings_that_do_not_fit_are_refused(settings):
    with pytest.raises(ValueError, match=r"grid|length"):
        dataclasses.replace(SOURCE, **settings)
