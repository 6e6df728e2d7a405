import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fluxseg.data.recording import YELLOW, Recording, draw_outlines, group_of, outline_masks
from fluxseg.errors import RecordingError

IMAGE = np.zeros((4, 6), np.uint16)
MASKS = np.zeros((2, 4, 6), bool)


def test_a_valid_recording():
    recording = Recording("a", IMAGE, MASKS, ("1", "2"), "g")
    assert recording.group == "g"
    assert Recording("a", IMAGE).group == "a"
    assert Recording("a", IMAGE, MASKS[:0]).masks.shape == (0, 4, 6)


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("id", {"id": ""}), ("id", {"id": 3}), ("image", {"image": IMAGE[0]}),
        ("image", {"image": IMAGE[:0]}), ("image", {"image": IMAGE.astype(complex)}),
        ("image", {"image": IMAGE.astype(object)}), ("image", {"image": [[1]]}),
        ("masks", {"masks": MASKS[0]}), ("masks", {"masks": MASKS[:, :3]}),
        ("masks", {"masks": MASKS.astype(np.uint8)}), ("masks", {"masks": "none"}),
        ("roi_ids", {"roi_ids": ("1",)}), ("roi_ids", {"masks": None}),
    ],
)  # fmt: skip
def test_every_fault_names_its_field(field, arguments):
    good = {"id": "a", "image": IMAGE, "masks": MASKS, "roi_ids": ("1", "2")}
    with pytest.raises(RecordingError) as caught:
        Recording(**{**good, **arguments})
    assert caught.value.field == field


def test_the_group_is_the_first_key_that_is_there():
    metadata = {"donor_name": "d", "specimen_name": "s", "experiment_container_id": 5}
    assert group_of(metadata, "x") == "experiment_container_id=5"
    del metadata["experiment_container_id"]
    assert group_of(metadata, "x") == "specimen_name=s"
    assert group_of({"specimen_name": " ", "donor_name": None}, "x") == "x"


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
