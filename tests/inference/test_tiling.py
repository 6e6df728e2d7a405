"""Tiles of a network whose group norms see the whole of a tile and no more."""

import itertools

import numpy as np
import pytest

from fluxseg.config import ModelConfig, SimulatorConfig
from fluxseg.inference.predict import Predictor
from fluxseg.inference.tiling import plan_tiles
from fluxseg.simulation.sessions import SimulatedSource
from tests.inference.models import random_params

SIZE, TILE, OVERLAP = 384, 224, 64


@pytest.fixture(scope="module")
def predictions():
    config = ModelConfig(features=(16, 32, 64), convs=1, dtype="float32")
    predictor = Predictor(config, random_params(config))
    source = SimulatedSource(SimulatorConfig(containers=1, sessions=1, size=SIZE))
    field = source.read(source.keys()[0]).image
    blended = predictor.predict(field, tile=TILE, overlap=OVERLAP)
    return predictor.predict(field), blended, predictor.predict(field, tile=SIZE // 2, overlap=0)


def seam(prediction, whole, line):
    """How much more the error jumps between the pixels at either side of a line than elsewhere."""
    error = prediction - whole
    steps = sum(np.abs(np.diff(error, axis=axis)).mean(1 - axis) for axis in (0, 1))
    return steps[line - 1] / np.median(steps)


def test_tiles_are_near_the_whole_image(predictions):
    # Group norms see other statistics in a tile than in the whole image; without them the two
    # are equal, see test_predict.py.
    whole, blended, _ = predictions
    assert np.abs(blended - whole).mean() < 0.35 * whole.std()


def test_there_is_no_seam(predictions):
    whole, blended, butted = predictions
    for start in plan_tiles((SIZE, SIZE), TILE, OVERLAP, 32).columns:
        for line in {start, start + TILE} - {0, SIZE}:
            assert seam(blended, whole, line) < 1.5
    # Tiles that only touch have one.
    assert seam(butted, whole, SIZE // 2) > 2


def test_the_fewest_tiles_are_used_and_start_on_the_grid_of_poolings():
    plan = plan_tiles((512, 700), 512, 128, 32)
    assert plan.rows == (0,)
    assert plan.columns == (0, 192)
    assert plan.tile == (512, 512)
    plan = plan_tiles((4096, 4096), 512, 128, 32)
    assert len(plan.rows) == 11
    assert all(start % 32 == 0 for start in plan.rows)
    assert all(left + 512 - right >= 128 for left, right in itertools.pairwise(plan.rows))
