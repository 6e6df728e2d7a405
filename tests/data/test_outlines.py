import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fluxseg.data.recording import YELLOW, draw_outlines, outline_masks


@settings(max_examples=60, deadline=None)
@given(arrays(bool, st.tuples(st.integers(0, 3), st.integers(1, 7), st.integers(1, 7))))
def test_an_outline_is_every_roi_pixel_with_a_neighbour_outside(masks):
    expected = np.zeros(masks.shape[1:], bool)
    for mask in masks:
        for row, column in zip(*np.nonzero(mask), strict=True):
            for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                y, x = row + dy, column + dx
                inside = 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and mask[y, x]
                expected[row, column] |= not inside
    np.testing.assert_array_equal(outline_masks(masks), expected)


def test_a_picture_has_the_image_in_gray_and_the_outlines_in_colour():
    image = np.arange(100, dtype=np.uint16).reshape(10, 10)
    masks = np.zeros((1, 10, 10), bool)
    masks[0, 2:6, 2:6] = True
    picture = draw_outlines(image, masks)
    assert picture.shape == (10, 10, 3)
    assert picture.dtype == np.uint8
    assert tuple(picture[2, 2]) == YELLOW
    assert len(set(picture[3, 3])) == 1
    np.testing.assert_array_equal((picture == YELLOW).all(-1), outline_masks(masks))
    assert picture[9, 9, 0] == 255
    assert draw_outlines(image, None)[0, 0, 0] == 0
