"""Labels that were exported or paired wrongly are told, right ones never."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from fluxseg.data.label_checks import find_better_fit, inspect_labels, looks_like_labels
from fluxseg.errors import RecordingError
from fluxseg.formats.images import read_image


def field(seed=0, side=200, cells=40):
    """A noisy image `[H, W]` with rings, and the labels of its cells."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side]
    labels = np.zeros((side, side), np.uint16)
    image = rng.normal(500, 60, (side, side))
    for number in range(1, cells + 1):
        y, x = rng.integers(8, side - 8, 2)
        away = np.hypot(rows - y, columns - x)
        labels[(away < 6) & (labels == 0)] = number
        image[(away < 6) & (away > 2)] += rng.uniform(100, 400)
    return image.astype(np.uint16), labels


@pytest.mark.parametrize("seed", range(2))
def test_labels_that_fit_are_not_remarked_on(seed):
    image, labels = field(seed)
    assert inspect_labels(image, 40, labels > 0) == ()
    assert not looks_like_labels(image)
    assert looks_like_labels(labels)
    assert looks_like_labels((labels > 0).astype(np.uint8) * 255)
    # Where nothing fits at all, nothing is told either.
    assert find_better_fit(image, field(seed + 100)[1] > 0) == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda label: label.T, "transposed"),
        (lambda label: label[:, ::-1], "flipped left to right"),
        (lambda label: label[::-1], "flipped upside down"),
        (lambda label: np.rot90(label, 3), "turned by 90 degrees"),
        (
            lambda label: np.roll(label, (10, -15), (0, 1)),
            "shifted by about -10 rows and 15 columns",
        ),
    ],
)
def test_labels_that_fit_better_otherwise_are_told(change, words):
    image, labels = field()
    (remark,) = inspect_labels(image, 40, change(labels > 0))
    assert remark == f"the ROIs would fit the image better {words}: compare them"


def test_masks_of_all_cells_as_one_roi_and_specks_are_told():
    image, labels = field()
    (parts,) = inspect_labels(image, 1, labels > 0)
    assert parts.startswith("1 ROI has ")
    assert "separate parts" in parts
    specks = np.zeros((200, 200), bool)
    specks[::10, ::10] = True
    found = inspect_labels(image, 400, specks)
    assert any("400 ROIs have 1 px on average" in text for text in found)


def test_masks_with_smooth_edges_are_cut_at_half(tmp_path):
    image, labels = field()
    tifffile.imwrite(tmp_path / "a.tif", image)
    large = Image.fromarray((labels > 0).astype(np.uint8) * 255).resize((800, 800))
    smooth = np.asarray(large.resize((200, 200), Image.Resampling.LANCZOS))
    assert len(np.unique(smooth)) > 20
    Image.fromarray(smooth).save(tmp_path / "a_mask.png")
    found = read_image(tmp_path / "a.tif")
    assert any("smooth edges: cut at half" in remark for remark in found.remarks)
    assert np.mean(found.masks.any(0) != (labels > 0)) < 0.01
    (tmp_path / "a_mask.png").unlink()
    for values in (smooth.astype(np.uint16) * 257, smooth / np.float32(255), smooth * (7 / 255)):
        tifffile.imwrite(tmp_path / "a_mask.tif", values)
        again = read_image(tmp_path / "a.tif").masks
        assert np.mean(again.any(0) != found.masks.any(0)) < 1e-3


def test_what_is_no_label_image_is_said(tmp_path):
    image, labels = field()
    tifffile.imwrite(tmp_path / "a.tif", image)
    colours = np.random.default_rng(0).integers(1, 255, (labels.max() + 1, 3)).astype(np.uint8)
    for values, reason in (
        (colours[labels], "is in colours: labels must be one number"),
        (np.where(labels, labels, np.nan).astype("f4"), "NaN or infinity; 0 must stand for"),
        (np.stack([labels == 1, labels == 2]).astype("u1"), "holds 2 images: labels must be one"),
    ):
        kind = "rgb" if values.shape[-1] == 3 else "minisblack"
        tifffile.imwrite(tmp_path / "a_masks.tif", values, photometric=kind)
        with pytest.raises(RecordingError, match=reason):
            read_image(tmp_path / "a.tif")
    # Of masks of one bit, programs differ about which value is white.
    for inside in (True, False):
        tifffile.imwrite(tmp_path / "a_masks.tif", (labels > 0) == inside, photometric="miniswhite")
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif").masks.any(0), labels > 0)


def test_swapped_and_transposed_files_are_errors(tmp_path):
    image, labels = field()
    tifffile.imwrite(tmp_path / "a.tif", labels)
    tifffile.imwrite(tmp_path / "a_masks.tif", image)
    with pytest.raises(RecordingError, match="no label image; image and labels seem to be swapped"):
        read_image(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "b.tif", image[:, :150])
    tifffile.imwrite(tmp_path / "b_masks.tif", labels[:, :150].T)
    with pytest.raises(RecordingError, match=r"\[150, 200\] px, .*seem to be transposed"):
        read_image(tmp_path / "b.tif")
