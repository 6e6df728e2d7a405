import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fluxseg.formats.polygons import fill_polygons, trace_polygons

MASKS = arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)))


def area(ring):
    x, y = ring.T
    return np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y) / 2


@settings(max_examples=100, deadline=None)
@given(MASKS)
def test_ten_round_trips_change_no_pixel(mask):
    again = mask
    for _ in range(10):
        again = fill_polygons(trace_polygons(again), mask.shape)
    np.testing.assert_array_equal(again, mask)


@settings(max_examples=100, deadline=None)
@given(MASKS)
def test_rings_enclose_the_area_and_are_minimal(mask):
    rings = trace_polygons(mask)
    assert sum(area(ring) for ring in rings) == mask.sum()
    for ring in rings:
        steps = np.roll(ring, -1, axis=0) - ring
        assert (np.count_nonzero(steps, axis=1) == 1).all()
        # Every corner is one: horizontal and vertical steps take turns.
        assert ((steps[:, 0] == 0) != (np.roll(steps[:, 0], 1) == 0)).all()
        assert len(np.unique(ring, axis=0)) == len(ring)


def test_oblique_polygons_fill_the_pixels_whose_centres_are_inside():
    ring = np.array([[1.0, 1.0], [7.3, 2.2], [4.1, 8.9]])
    filled = fill_polygons([ring], (10, 10))
    for row in range(10):
        for column in range(10):
            point = np.array([column + 0.5, row + 0.5])
            sides = [
                np.cross(np.append(b - a, 0), np.append(point - a, 0))[2]
                for a, b in zip(ring, np.roll(ring, -1, axis=0), strict=True)
            ]
            assert filled[row, column] == (min(sides) > 0 or max(sides) < 0)


def test_what_lies_outside_of_the_image_is_cut_off():
    ring = np.array([[-1e9, -5.0], [3, -5], [3, 1e9], [-1e9, 1e9]])
    filled = fill_polygons([ring], (4, 6))
    assert filled[:, :3].all()
    assert not filled[:, 3:].any()
