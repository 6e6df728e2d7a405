"""Projections over time against brute force over the whole movie."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fluxseg.errors import ConfigError, RecordingError
from fluxseg.formats.projections import MAX_BIN, CorrelationImage, MaxProjection, MeanProjection

MOVIES = hnp.arrays(
    st.sampled_from([np.uint8, np.uint16, np.int16, np.float32, np.float64]),
    st.tuples(st.integers(2, 12), st.integers(1, 5), st.integers(1, 5)),
    elements=st.integers(0, 200),
)
CUTS = st.lists(st.integers(0, 12), max_size=4)


def stream(projection, movie, cuts=()):
    for block in np.split(movie, sorted(min(cut, len(movie)) for cut in cuts)):
        projection = projection.add(block)
    return projection.result()


def brute_correlation(movie):
    values = movie.astype(np.float64)
    height, width = values.shape[1:]
    image = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            found = []
            for k in range(max(i - 1, 0), min(i + 2, height)):
                for m in range(max(j - 1, 0), min(j + 2, width)):
                    a, b = values[:, i, j], values[:, k, m]
                    if (k, m) != (i, j) and np.isfinite(b).all():
                        constant = np.ptp(a) == 0 or np.ptp(b) == 0
                        found.append(0 if constant else np.corrcoef(a, b)[0, 1])
            image[i, j] = np.mean(found) if found else 0
            if not np.isfinite(values[:, i, j]).all():
                image[i, j] = np.nan
    return image


@settings(max_examples=40, deadline=None)
@given(movie=MOVIES, cuts=CUTS)
def test_streams_equal_brute_force_however_they_are_cut(movie, cuts):
    largest = stream(MaxProjection(), movie, cuts)
    np.testing.assert_array_equal(largest, movie.max(0), strict=True)
    mean = stream(MeanProjection(), movie, cuts)
    np.testing.assert_allclose(mean, movie.mean(0, dtype=np.float64), rtol=1e-12, strict=True)
    correlation = stream(CorrelationImage(), movie, cuts)
    np.testing.assert_allclose(correlation, brute_correlation(movie), rtol=1e-6, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(movie=MOVIES, cuts=CUTS, count=st.integers(2, 14))
def test_the_moving_average_comes_before_the_maximum(movie, cuts, count):
    window = min(count, len(movie))
    means = [movie[i : i + window].mean(0, np.float64) for i in range(len(movie) - window + 1)]
    expected = np.max(means, axis=0)
    found = stream(MaxProjection(count), movie, cuts)
    assert found.dtype == movie.dtype
    # Half-way cases of integers may round either way.
    tolerance = 0.5 + 1e-9 if movie.dtype.kind in "iu" else 1e-4
    np.testing.assert_allclose(found.astype(float), expected, atol=tolerance)


def test_no_digits_are_lost_on_a_bright_background():
    rng = np.random.default_rng(0)
    movie = 1e7 + np.cumsum(rng.normal(size=(400, 6, 7)), axis=2)
    found = stream(CorrelationImage(), movie, range(0, 400, 7))
    np.testing.assert_allclose(found, brute_correlation(movie), rtol=1e-6)
    counts = np.full((3, 2, 2), 2**53 - 1, np.int64)
    np.testing.assert_array_equal(stream(MaxProjection(), counts, [1]), counts[0])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_missing_pixels_do_not_spread(value):
    movie = np.random.default_rng(1).normal(size=(20, 5, 6)).astype(np.float32)
    movie[3, 1, 1] = value
    movie[:, 4, 5] = value
    clean = np.where(np.isfinite(movie), movie, np.nan)
    with np.errstate(all="raise"):
        largest = stream(MaxProjection(), movie, [2, 9])
        mean = stream(MeanProjection(), movie, [2, 9])
        binned = stream(MaxProjection(3), movie, [2, 9])
        correlation = stream(CorrelationImage(), movie, [2, 9])
    known = np.ones((5, 6), bool)
    known[4, 5] = False
    np.testing.assert_array_equal(np.isfinite(largest), known)
    np.testing.assert_allclose(largest[known], np.nanmax(clean[:, known], 0))
    np.testing.assert_allclose(mean[known], np.nanmean(clean[:, known].astype(float), 0))
    assert np.isnan(mean[4, 5])
    windows = np.stack([clean[i : i + 3].astype(float).mean(0) for i in range(18)])
    np.testing.assert_allclose(binned[known], np.nanmax(windows[:, known], 0), rtol=1e-5)
    np.testing.assert_allclose(correlation, brute_correlation(clean), rtol=1e-6)


def test_memory_does_not_grow_with_the_movie():
    block = np.random.default_rng(0).integers(0, 99, (16, 64, 64)).astype(np.uint16)

    def peak(count):
        tracemalloc.start()
        for projection in (MaxProjection(4), MeanProjection(), CorrelationImage()):
            for _ in range(count):
                projection = projection.add(block)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    assert peak(60) < 1.2 * peak(3)


def test_what_is_no_block_of_frames_is_said():
    for projection in (MaxProjection(), MaxProjection(3), MeanProjection(), CorrelationImage()):
        with pytest.raises(RecordingError, match="has no frames"):
            projection.result()
        with pytest.raises(RecordingError, match=r"must be \[T, H, W\]"):
            projection.add(np.zeros((3, 3)))
        with pytest.raises(RecordingError, match="real numbers"):
            projection.add(np.zeros((1, 3, 3), complex))
        with pytest.raises(RecordingError, match=r"are .* px, those before"):
            projection.add(np.ones((1, 3, 3))).add(np.ones((1, 3, 4)))
    for count in (0, MAX_BIN + 1):
        with pytest.raises(ConfigError, match="bin: must be 1 to"):
            MaxProjection(count)
