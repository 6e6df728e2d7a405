"""Label images: their components, their masks, and the image that they belong to."""

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from fluxseg.errors import RecordingError
from fluxseg.formats.images import read_image
from fluxseg.formats.labels import label_components, masks_from_labels, merge_labels
from fluxseg.formats.pixels import write_image_tiff
from tests.formats.test_images import GRAY16, LABELS, save


def test_pixels_that_touch_at_a_corner_are_one_component():
    assert label_components(np.eye(4, dtype=bool)).max() == 1


@settings(max_examples=50, deadline=None)
@given(
    labels=hnp.arrays(
        st.sampled_from(["u1", "u2", "i4", "f4", "?"]),
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=8),
        elements=st.integers(0, 1),
    ),
    factor=st.integers(1, 100),
)
def test_labels_become_masks_and_back(labels, factor):
    if labels.dtype != bool:
        labels = (labels * factor).astype(labels.dtype)
    masks, names = masks_from_labels(labels)
    expected = [v for v in np.unique(labels) if v != 0]
    assert names == tuple(str(int(v)) for v in expected)
    for mask, value in zip(masks, expected, strict=True):
        np.testing.assert_array_equal(mask, labels == value)
    again, _ = masks_from_labels(merge_labels(masks))
    np.testing.assert_array_equal(again, masks)


def test_small_rois_are_drawn_over_large_ones():
    masks = np.zeros((3, 4, 4), bool)
    masks[0, 1, 1] = masks[1] = masks[2, 1, :2] = True
    assert merge_labels(masks)[1].tolist() == [3, 1, 2, 2]
    many = np.zeros((70_000, 1, 1), bool)
    assert merge_labels(many).dtype == np.uint32


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (np.array([[-1, 2]]), "0 or more, found -1"),
        (np.array([[0.5, 2]]), "whole numbers"),
        (np.array([[np.nan, 2]]), "whole numbers"),
        (np.array([[np.inf, 2]]), "whole numbers"),
        (np.arange(500 * 500).reshape(500, 500), "249999 different labels would take 58.2 GiB"),
    ],
)
def test_labels_that_are_none_are_said(labels, reason):
    with pytest.raises(RecordingError, match=reason):
        masks_from_labels(labels)


def folder(tmp_path, mask_name, labels, image_name="cell.tif"):
    for name in (image_name, mask_name):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(tmp_path / image_name, GRAY16)
    if mask_name.lower().endswith((".tif", ".tiff")):
        write_image_tiff(tmp_path / mask_name, labels, compress=True)
    else:
        save(tmp_path / mask_name, labels)
    return tmp_path / image_name


@pytest.mark.parametrize("value", [1, 255])
def test_binary_masks_are_taken_apart(tmp_path, value):
    binary = (LABELS > 0).astype(np.uint8) * value
    found = read_image(folder(tmp_path, "cell_mask.png", binary))
    assert found.roi_ids == ("1", "2", "3")
    np.testing.assert_array_equal(found.masks.any(0), LABELS > 0)
    whole = read_image(folder(tmp_path / "other", "cell_labels.png", binary))
    assert whole.roi_ids == (str(value),)


@pytest.mark.parametrize("labels", [np.zeros((6, 8), "u1"), np.ones((6, 8), "u1")])
def test_masks_of_one_value(tmp_path, labels):
    found = read_image(folder(tmp_path, "cell_masks.png", labels))
    assert len(found.masks) == labels[0, 0]


def test_jpeg_masks_are_cut_at_half(tmp_path):
    mask = np.zeros((32, 32), np.uint8)
    mask[4:12, 4:12] = mask[20:28, 16:30] = 255
    tifffile.imwrite(tmp_path / "cell.tif", np.arange(1024, dtype="u2").reshape(32, 32))
    save(tmp_path / "cell_mask.jpg", mask, quality=90)
    found = read_image(tmp_path / "cell.tif")
    np.testing.assert_array_equal(found.masks.any(0), mask > 0)
    assert len(found.masks) == 2
    assert "the masks are a JPEG file: cut at half of the largest value" in found.remarks


def test_palette_numbers_are_labels(tmp_path):
    tifffile.imwrite(tmp_path / "cell.tif", GRAY16)
    picture = Image.fromarray(LABELS, "L").convert("P")
    picture.putpalette([value * 37 % 256 for value in range(768)])
    picture.save(tmp_path / "cell_masks.png")
    assert len(np.unique(Image.open(tmp_path / "cell_masks.png"))) == 4
    assert len(read_image(tmp_path / "cell.tif").masks) == 3


def test_masks_that_do_not_fit_name_their_file(tmp_path):
    path = folder(tmp_path, "cell_masks.tif", LABELS[:5])
    with pytest.raises(RecordingError, match=r"cell_masks\.tif: masks: are \[5, 8\] px"):
        read_image(path)
    write_image_tiff(tmp_path / "cell_masks.tif", LABELS, compress=True)
    save(tmp_path / "cell_label.png", LABELS)
    with pytest.raises(RecordingError, match=r"several .*: cell_label\.png, cell_masks\.tif"):
        read_image(path)
    with pytest.raises(RecordingError, match="named as labels, but its image is not there"):
        read_image(save(tmp_path / "alone_mask.png", LABELS))
