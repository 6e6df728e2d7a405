import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fluxseg.data import transforms
from fluxseg.errors import RecordingError

DTYPES = [
    "uint8", "int8", "uint16", "int16", "uint32", "int64", "uint64", "float16", "float32", "bool",
]  # fmt: skip


@given(
    hnp.arrays(
        st.sampled_from(["bool", "uint8", "int8", "float32"]),
        hnp.array_shapes(min_dims=3, max_dims=3, max_side=4),
        elements=st.sampled_from([0, 0, 0, 1]),
    ),
    st.booleans(),
)
@settings(max_examples=50, deadline=None)
def test_merging_is_or_over_rois_and_counts_the_empty_ones(masks, fortran):
    expected = np.zeros(masks.shape[1:], bool)
    for place in np.ndindex(masks.shape):
        expected[place[1:]] |= bool(masks[place] > 0)
    masks = np.asfortranarray(masks) if fortran else masks
    merged, empty = transforms.merge_and_count(masks)
    np.testing.assert_array_equal(merged, expected)
    np.testing.assert_array_equal(transforms.merge_masks(masks), expected)
    assert empty == [mask.max() > 0 for mask in masks].count(False)


def test_merging_takes_values_above_zero_only():
    masks = np.array([[[np.nan, -1, -np.inf, -0.0]], [[np.inf, 1e-30, 0, 0]]])
    merged, empty = transforms.merge_and_count(masks)
    assert merged.tolist() == [[True, True, False, False]]
    assert empty == 1


def test_merge_masks_of_no_roi_is_empty():
    assert not transforms.merge_masks(np.zeros((0, 4, 5), bool)).any()
    assert transforms.merge_masks(np.zeros((0, 4, 5), bool)).shape == (4, 5)


def test_merge_masks_names_a_wrong_shape():
    with pytest.raises(RecordingError, match="masks"):
        transforms.merge_masks(np.zeros((4, 5), bool))


def test_quarters_are_row_major():
    image = np.arange(16).reshape(4, 4)
    quarters = transforms.crop_quarters(image)
    np.testing.assert_array_equal(quarters[1], image[:2, 2:])
    np.testing.assert_array_equal(quarters[2], image[2:, :2])


@given(
    hnp.arrays(
        "int32",
        st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 3)).map(
            lambda s: (2 * s[0], 2 * s[1], s[2])
        ),
    )
)
@settings(max_examples=50, deadline=None)
def test_join_quarters_is_the_inverse(image):
    np.testing.assert_array_equal(transforms.join_quarters(transforms.crop_quarters(image)), image)


def test_quarters_need_even_sides():
    with pytest.raises(ValueError, match="even"):
        transforms.crop_quarters(np.zeros((3, 4)))
    with pytest.raises(ValueError, match="4 quarters"):
        transforms.join_quarters(np.zeros((3, 2, 2)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_normalize_keeps_the_order_of_pixels_whatever_the_dtype(dtype):
    rng = np.random.default_rng(0)
    if dtype == "bool":
        image = rng.random((32, 32)) < 0.5
    elif np.dtype(dtype).kind == "f":
        image = (rng.standard_normal((32, 32)) * 300).astype(dtype)
    else:
        info = np.iinfo(dtype)
        image = rng.integers(info.min, info.max, (32, 32), dtype, endpoint=True)
    normalized = transforms.normalize_image(image, 1, 99)
    assert normalized.dtype == np.float32
    order = np.argsort(image, axis=None, kind="stable")
    # Nothing wraps around: a brighter pixel is never darker afterwards.
    assert (np.diff(normalized.ravel()[order].astype(np.float64)) >= 0).all()
    assert normalized.min() <= 0.02
    assert normalized.max() >= 0.98


def test_normalize_puts_the_percentiles_at_0_and_1():
    image = np.arange(10_000, dtype=np.uint16).reshape(100, 100)
    normalized = transforms.normalize_image(image, 10, 90)
    assert np.percentile(normalized, 10) == pytest.approx(0, abs=1e-3)
    assert np.percentile(normalized, 90) == pytest.approx(1, abs=1e-3)


@given(
    image=hnp.arrays(
        st.sampled_from(["uint8", "int8", "uint16", ">u2", "int16", "int32", "uint32"]),
        hnp.array_shapes(min_dims=2, max_dims=2, min_side=6, max_side=20),
        elements=st.integers(0, 12),
    ),
    step=st.integers(1, 3),
    start=st.sampled_from(["min", "zero", "max"]),
    percentiles=st.tuples(st.floats(0, 49), st.floats(50, 100)) | st.just((1.0, 99.5)),
)
@settings(max_examples=150, deadline=None)
def test_images_of_integers_are_normalized_as_numpy_would(image, step, start, percentiles):
    info = np.iinfo(image.dtype)
    first = {"min": info.min, "zero": 0, "max": info.max - 120}[start]
    image = (image.astype(np.int64) * step + first).astype(image.dtype)
    # Floats are normalised by way of `numpy.percentile`.
    expected = transforms.normalize_image(image.astype(np.float64), *percentiles)
    found = transforms.normalize_image(image, *percentiles)
    assert found.dtype == np.float32
    assert found.tobytes() == expected.tobytes()


@given(gain=st.floats(1e-3, 1e3), offset=st.floats(-1e3, 1e3))
@settings(max_examples=30, deadline=None)
def test_normalize_ignores_gain_and_offset(gain, offset):
    image = np.random.default_rng(1).random((20, 20))
    changed = transforms.normalize_image(image * gain + offset)
    np.testing.assert_allclose(changed, transforms.normalize_image(image), atol=1e-4)


def test_pixels_that_are_not_finite_do_not_disturb_the_others():
    image = np.random.default_rng(2).random((40, 40))
    holes = image.copy()
    holes[:3] = np.nan
    holes[3, :10] = np.inf
    holes[4, :10] = -np.inf
    normalized = transforms.normalize_image(holes)
    assert np.isfinite(normalized).all()
    expected = transforms.normalize_image(image[5:])
    np.testing.assert_allclose(normalized[5:], expected, atol=0.05)
    np.testing.assert_array_equal(transforms.normalize_image(np.full((4, 4), np.nan)), 0)


def test_contrast_in_very_few_pixels_is_kept():
    image = np.zeros((100, 100), np.uint16)
    image[5, 5] = 1000
    assert transforms.normalize_image(image)[5, 5] == 1


def test_huge_values_do_not_overflow():
    image = np.array([[-1e308, 1e308], [0, 1e307]])
    normalized = transforms.normalize_image(image, 0, 100)
    np.testing.assert_allclose(normalized, [[0, 1], [0.5, 0.55]], atol=1e-6)


def test_percentiles_must_be_in_order():
    with pytest.raises(ValueError, match="low"):
        transforms.normalize_image(np.zeros((2, 2)), 50, 50)


@given(hnp.arrays("float32", (5, 7), elements=st.floats(-1, 3, width=32)))
@settings(max_examples=100, deadline=None)
def test_quantization_has_more_than_12_bits(image):
    stored = transforms.quantize(image)
    assert stored.dtype == np.uint16
    np.testing.assert_allclose(transforms.dequantize(stored), image, atol=2**-14)
    np.testing.assert_array_equal(transforms.quantize(transforms.dequantize(stored)), stored)


def test_the_eight_symmetries_differ_and_are_undone():
    image = np.arange(9).reshape(3, 3)
    turned = [transforms.rotate(image, symmetry) for symmetry in range(8)]
    assert len({array.tobytes() for array in map(np.ascontiguousarray, turned)}) == 8
    for symmetry, array in enumerate(turned):
        np.testing.assert_array_equal(transforms.rotate_back(array, symmetry), image)
    rectangle = np.arange(6).reshape(2, 3)
    for symmetry in range(8):
        back = transforms.rotate_back(transforms.rotate(rectangle, symmetry), symmetry)
        np.testing.assert_array_equal(back, rectangle)
