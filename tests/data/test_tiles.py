import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxseg.data.tiles import crop_grid, grid_ownership, join_grid, tile_positions

SHAPES = st.tuples(st.integers(1, 90), st.integers(1, 90))


@given(shape=SHAPES, tile=st.integers(2, 40))
@settings(max_examples=200, deadline=None)
def test_uncrop_is_the_inverse_and_every_pixel_has_one_owner(shape, tile):
    image = np.random.default_rng(0).integers(0, 1000, shape)
    tiles = crop_grid(image, tile)
    assert tiles.shape[1:] == (tile, tile)
    np.testing.assert_array_equal(join_grid(tiles, shape), image)
    owned = grid_ownership(shape, tile)
    count = np.zeros((max(shape[0], tile), max(shape[1], tile)), int)
    for (row, column), mine in zip(tile_positions(shape, tile), owned, strict=True):
        count[row : row + tile, column : column + tile] += mine
    assert (count[: shape[0], : shape[1]] == 1).all()
    assert count.sum() == image.size


def test_a_small_image_is_mirrored_or_padded_with_zeros():
    image = np.array([[1, 2, 3], [4, 5, 6]])
    np.testing.assert_array_equal(crop_grid(image, 4)[0][0], [1, 2, 3, 2])
    np.testing.assert_array_equal(crop_grid(image, 4, "constant")[0][3], 0)


def test_a_wrong_number_of_tiles_is_named():
    with pytest.raises(ValueError, match="4 tiles"):
        join_grid(np.zeros((3, 8, 8)), (16, 16))
