import numpy as np
import pytest
from scipy.spatial.distance import pdist

from fluxseg.simulation.ranges import DEFAULT, draw_parameters
from fluxseg.simulation.tissue import (
    EDGE,
    Cells,
    create_cells,
    draw_cells,
    outline_distance,
    place_cells,
)

ONE = (1.0, 1.0)


def drawn(seed=0, **changes):
    return draw_parameters(np.random.default_rng(seed), DEFAULT) | changes


def one_cell(depth=0.0, radius=7.0, **changes):
    """A round cell in the middle of a patch, without any irregularity."""
    values = {
        "centre": np.array([[depth, 20.0, 20.0]]), "radius": np.array([radius]),
        "half": np.array([radius]), "wave": np.zeros((1, 4)),
        "nucleus": np.array([[0.7 * radius, 0.0, 0.0, 0.0]]), "dim": np.array([0.9]),
        "shade": np.zeros((1, 2)), "filled": np.array([False]), "light": np.array([1.0]),
        "active": np.array([True]),
    }  # fmt: skip
    return Cells(**{**values, **changes})


def middle(patch):
    return patch[len(patch) // 2]


def test_cells_keep_their_distance_and_their_density():
    values = drawn(apart=1.8, radius=6.0, patchy=0.0)
    centre = place_cells(np.random.default_rng(0), (25.0, 400.0, 400.0), 300, values)
    assert 270 <= len(centre) <= 300
    assert pdist(centre).min() >= 1.8 * 6.0
    assert (np.abs(centre[:, 0]) <= 12.5).all()
    assert (centre[:, 1:] >= 0).all()
    assert (centre[:, 1:] <= 400).all()


def test_a_cut_through_the_middle_is_a_ring_with_a_dim_nucleus():
    patches = draw_cells(one_cell(), ONE, 1.0)
    line = middle(patches.light[0])
    assert line[len(line) // 2] < 0.35 * line.max()
    assert (middle(patches.outline[0]) < 1).sum() in (13, 14)


def test_the_outline_is_the_half_height_of_the_body_whatever_the_depth():
    for depth in (0.0, 3.0, -6.0, 8.0):
        patches = draw_cells(one_cell(depth=depth), (6.0, 6.0), 1.5)
        inside = patches.outline < 1
        above = patches.body > EDGE * patches.body.max()
        assert (inside != above).sum() < 0.03 * above.sum(), depth


def test_cells_that_are_drawn_are_what_the_ranges_say():
    values = drawn(3, density=6e4, radius=6.0, filled=0.2, active=0.6, spread=0.5)
    cells = create_cells(np.random.default_rng(0), (600.0, 600.0), values)
    thick = 2 * (6.0 + 2.0 * values["axial"])
    expected = 6e4 * thick * 612**2 * 1e-9
    assert 0.75 * expected < len(cells.radius) < 1.1 * expected
    assert np.median(cells.radius) == pytest.approx(6.0, rel=0.03)
    assert cells.filled.mean() == pytest.approx(0.2, abs=0.05)
    assert cells.active.mean() == pytest.approx(0.6, abs=0.06)
    assert (cells.light > 0).all()
    edge = outline_distance(cells, values["axial"])
    assert ((edge > 0.15) & (edge <= 1)).all()
    light = draw_cells(cells, ONE, values["axial"]).light
    assert light.min() >= 0
    assert light.max() < 3
