import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxseg.simulation.grids import (
    coarse_shape,
    draw_clouds,
    enlarge,
    patch_index,
    splat_patches,
    splat_points,
    take_patches,
)


@pytest.mark.parametrize("spacing", [1.5, 4.0, 11.3])
def test_clouds_have_mean_0_and_deviation_1_and_are_smooth(spacing):
    image = np.stack([draw_clouds(np.random.default_rng(i), (96, 128), spacing) for i in range(40)])
    assert image.dtype == np.float32
    assert image.mean() == pytest.approx(0, abs=0.15)
    assert image.std() == pytest.approx(1, rel=0.15)
    step = np.abs(np.diff(image, axis=2)).mean()
    assert step < 1.5 / spacing


@pytest.mark.parametrize("shape", [(64, 64), (512, 447), (33, 90)])
@pytest.mark.parametrize("spacing", [2.0, 3.7])
def test_an_enlarged_image_has_the_shape_and_the_places(shape, spacing):
    coarse = np.zeros(coarse_shape(shape, spacing), np.float32)
    place = np.array([[20.0, 25.0]])
    splat_points(coarse, place / spacing + 1, np.ones(1))
    image = enlarge(coarse, shape)
    assert image.shape == shape
    peak = np.array(np.unravel_index(image.argmax(), shape))
    assert np.abs(peak - place[0]).max() <= spacing
    np.testing.assert_allclose(enlarge(np.ones_like(coarse), shape), 1, rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(-3, 12), st.floats(-3, 14), st.floats(0, 5)), max_size=12))
def test_splatted_points_keep_their_light_and_their_centre(points):
    canvas = np.zeros((9, 11), np.float32)
    places = np.array([point[:2] for point in points]).reshape(-1, 2)
    light = np.array([point[2] for point in points])
    splat_points(canvas, places, light)
    inside = ((places >= 0) & (np.floor(places) < (8, 10))).all(1)
    assert canvas.sum() == pytest.approx(light[inside].sum(), rel=1e-5, abs=1e-5)
    rows = (canvas.sum(1) * np.arange(9)).sum()
    assert rows == pytest.approx((light * places[:, 0])[inside].sum(), rel=1e-4, abs=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 6), st.integers(1, 6))
def test_patches_are_added_and_cut_as_a_loop_does(seed, count, side):
    rng = np.random.default_rng(seed)
    shape = (10, 13)
    corner = rng.integers(-side, shape, (count, 2))
    patches = rng.random((count, side, side)).astype(np.float32)
    expected = np.zeros((shape[0] + 2 * side, shape[1] + 2 * side))
    for (row, column), patch in zip(corner + side, patches, strict=True):
        expected[row : row + side, column : column + side] += patch
    index = patch_index(shape, corner, side)
    total = splat_patches(shape, index, patches)
    np.testing.assert_allclose(total, expected[side:-side, side:-side], rtol=1e-5)
    image = rng.random(shape)
    cut = take_patches(image, index)
    framed = np.pad(image, side, constant_values=np.nan)
    for (row, column), patch in zip(corner + side, cut, strict=True):
        np.testing.assert_array_equal(patch, framed[row : row + side, column : column + side])
