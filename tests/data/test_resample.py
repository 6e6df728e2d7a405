"""Images and masks are brought to the size of cells that is wanted."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from fluxseg.data.resample import (
    MOST,
    TOLERANCE,
    choose_zoom,
    cut_patches,
    median_diameter,
    merge_patches,
    resample_image,
    resample_masks,
    zoomed_shape,
)
from fluxseg.data.transforms import merge_masks
from fluxseg.errors import ConfigError
from tests.data.fields import disc_masks

WANTED = 14.0


def paste(patch, shape):
    return merge_patches([patch], shape)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    wanted=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    seed=st.integers(0, 9),
)
def test_resampling_keeps_range_mean_and_shape(shape, wanted, seed):
    image = np.random.default_rng(seed).random(shape).astype(np.float32)
    found = resample_image(image, wanted)
    assert found.shape == wanted
    assert found.dtype == np.float32
    assert image.min() - 1e-6 <= found.min() <= found.max() <= image.max() + 1e-6
    np.testing.assert_array_equal(resample_image(image, shape), image)


def test_resampling_down_averages_and_does_not_alias():
    stripes = np.tile(np.array([0.0, 1.0], np.float32), (64, 32))
    np.testing.assert_allclose(resample_image(stripes, (16, 16)), 0.5, atol=0.05)


def test_resampling_keeps_places():
    image = np.zeros((40, 60), np.float32)
    image[10:20, 30:50] = 1
    twice = resample_image(image, zoomed_shape(image.shape, 2.0))
    assert twice.shape == (80, 120)
    np.testing.assert_allclose(
        ndimage.center_of_mass(twice), (2 * 14.5 + 0.5, 2 * 39.5 + 0.5), atol=0.05
    )


def test_small_differences_of_size_are_left_alone():
    assert choose_zoom(WANTED * TOLERANCE * 0.999, WANTED) == 1
    assert choose_zoom(2 * WANTED, WANTED) == pytest.approx(0.5)
    assert choose_zoom(1.0, WANTED) == MOST
    assert choose_zoom(1000.0, WANTED) == 1 / MOST


@pytest.mark.parametrize("diameter", [0, 0.5, -3, np.nan, np.inf])
def test_a_diameter_must_be_sensible(diameter):
    with pytest.raises(ConfigError, match="diameter"):
        choose_zoom(diameter, WANTED)


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(0, 4),
    shape=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    dtype=st.sampled_from(["bool", "uint8", "float32"]),
    seed=st.integers(0, 99),
)
def test_patches_are_the_masks_without_what_is_empty(count, shape, dtype, seed):
    rng = np.random.default_rng(seed)
    masks = ((rng.random((count, *shape)) < 0.1) * 3).astype(dtype)
    patches = list(cut_patches(masks))
    kept = [mask > 0 for mask in masks if mask.any()]
    assert len(patches) == len(kept)
    for patch, mask in zip(patches, kept, strict=True):
        np.testing.assert_array_equal(paste(patch, shape), mask)
        assert patch.mask[[0, -1]].any(1).all()
        assert patch.mask[:, [0, -1]].any(0).all()
    np.testing.assert_array_equal(merge_patches(patches, shape), merge_masks(masks))


def test_the_median_diameter_is_that_of_discs_and_leaves_empty_masks_out():
    masks = np.zeros((4, 20, 20), bool)
    masks[0, 2:4, 2:4] = masks[2, :10, :10] = masks[3, 5:8, 5:8] = True
    assert median_diameter(masks) == pytest.approx(2 * np.sqrt(9 / np.pi))
    assert median_diameter(masks[1:2]) is None
    assert median_diameter(masks[:0]) is None


@settings(max_examples=30, deadline=None)
@given(
    shape=st.tuples(st.integers(4, 30), st.integers(4, 30)),
    wanted=st.tuples(st.integers(2, 60), st.integers(2, 60)),
    seed=st.integers(0, 999),
)
def test_a_mask_gets_its_share_of_pixels_those_that_it_covers_most(shape, wanted, seed):
    rng = np.random.default_rng(seed)
    mask = ndimage.binary_dilation(rng.random(shape) < 0.03, iterations=int(rng.integers(1, 4)))
    patches = resample_masks(mask[None], wanted)
    if not mask.any():
        assert patches == []
        return
    found = paste(patches[0], wanted)
    growth = np.prod(wanted) / np.prod(shape)
    assert found.sum() == max(round(mask.sum() * growth), 1)
    covered = resample_image(mask.astype(np.float32), wanted)
    if not found.all():
        assert covered[found].min() >= covered[~found].max() - 2e-5


@pytest.mark.parametrize("diameter", [4, 10.5, 31])
def test_discs_become_as_large_as_wanted_and_stay_where_they_are(diameter):
    masks, centres = disc_masks(diameter, side=200)
    zoom = choose_zoom(median_diameter(masks), WANTED)
    shape = zoomed_shape((200, 200), zoom)
    patches = resample_masks(masks, shape)
    found = np.stack([paste(patch, shape) for patch in patches])
    assert median_diameter(found) == pytest.approx(WANTED, rel=0.03)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    for mask, (row, column) in zip(found, (centres + 0.5) * shape[0] / 200 - 0.5, strict=True):
        expected = np.hypot(rows - row, columns - column) < zoom * diameter / 2
        # A disc of 4 px is hardly one.
        least = 0.85 if diameter > 4 else 0.7
        assert (mask & expected).sum() / (mask | expected).sum() > least


def test_the_smallest_roi_does_not_vanish():
    mask = np.zeros((1, 40, 40), bool)
    mask[0, 13, 38] = True
    (patch,) = resample_masks(mask, (10, 10))
    assert np.argwhere(paste(patch, (10, 10))).tolist() == [[3, 9]]
