import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxseg.data.duplicates import SIMILARITY_THRESHOLD, near_duplicates
from fluxseg.data.fingerprint import (
    SPECTRUM_SIZE,
    blank_fingerprint,
    decode_fingerprint,
    digest,
    encode_fingerprint,
    fingerprint,
)
from fluxseg.errors import RecordingError
from tests.data.fields import create_session

IMAGE = create_session(0, 0)
MARK = fingerprint(IMAGE)


def similarity(one, other):
    pairs = near_duplicates([one, other], threshold=-1.0)
    return pairs[0].similarity


def assert_close(one, other):
    """Equal but for the last digit, which rounding may change."""
    for name in ("spectrum", "thumbnail"):
        first, second = getattr(one, name).astype(int), getattr(other, name).astype(int)
        np.testing.assert_allclose(first, second, atol=1)
        assert np.mean(first != second) < 0.02


@settings(max_examples=25, deadline=None)
@given(
    gain=st.sampled_from([1e-3, 0.25, 1.0, 3.0, 7.0, 1e4]),
    offset=st.integers(-1000, 1000),
    dtype=st.sampled_from(["<f4", ">f4", "f8"]),
)
def test_gain_and_offset_do_not_matter(gain, offset, dtype):
    assert_close(MARK, fingerprint(((IMAGE + float(offset)) * gain).astype(dtype)))


@pytest.mark.parametrize("shift", [(15, 15), (-15, 7), (0, -11)])
def test_spectrum_and_thumbnail_survive_a_shift(shift):
    moved, other = fingerprint(create_session(0, 1, shift)), fingerprint(create_session(1, 0))
    assert similarity(MARK, moved) > SIMILARITY_THRESHOLD + 0.1
    assert similarity(MARK, other) < SIMILARITY_THRESHOLD - 0.1

    def spectral(one, two):
        return np.corrcoef(one.spectrum, two.spectrum)[0, 1]

    # In standard deviations of the correlation of independent spectra.
    assert spectral(MARK, moved) > 4 / np.sqrt(SPECTRUM_SIZE)
    assert abs(spectral(MARK, other)) < 3 / np.sqrt(SPECTRUM_SIZE)


def in_eight_bits(image):
    low, high = np.percentile(image, (0.5, 99.9))
    return ((image - low) / (high - low) * 255).clip(0, 255).astype("u1")


def with_holes(image):
    holes = np.where(np.random.default_rng(5).random(image.shape) < 0.05, np.nan, image)
    holes[60:90, 100:150], holes[:10] = np.inf, -np.inf
    return holes


@pytest.mark.parametrize(
    ("change", "least"),
    [
        (in_eight_bits, 0.95), (with_holes, 0.85), (lambda image: image[:, 16:-16], 0.7),
        (lambda image: image[24:, :-8], 0.7),
    ],
)  # fmt: skip
def test_depth_borders_and_pixels_that_are_not_finite_hardly_matter(change, least):
    assert similarity(MARK, fingerprint(change(IMAGE))) > least


def test_orientation_does_matter():
    assert similarity(MARK, fingerprint(IMAGE[::-1])) < SIMILARITY_THRESHOLD
    assert similarity(MARK, fingerprint(np.rot90(IMAGE))) < SIMILARITY_THRESHOLD


@pytest.mark.parametrize(
    "image",
    [
        np.full((64, 64), 7, np.uint16),
        np.full((300, 500), np.nan),
        np.zeros((1, 500)),
        np.arange(500.0)[None],
        np.zeros((1, 1), bool),
    ],
)
def test_nothing_to_see_gives_a_blank_fingerprint(image):
    blank = fingerprint(image)
    assert not blank.spectrum.any()
    assert not blank.thumbnail.any()
    assert similarity(blank, MARK) == 0
    assert similarity(blank, blank_fingerprint()) == 0


def test_text_round_trip():
    text = encode_fingerprint(MARK)
    assert text.isascii()
    assert len(text) < 7000
    again = decode_fingerprint(text)
    np.testing.assert_array_equal(again.spectrum, MARK.spectrum)
    np.testing.assert_array_equal(again.thumbnail, MARK.thumbnail)


@pytest.mark.parametrize(
    "damage",
    [lambda t: t[:-4], lambda t: t[2:], lambda t: t + "é", lambda t: "", lambda t: "2" + t],
)
def test_damaged_text_is_refused(damage):
    with pytest.raises(RecordingError, match="fingerprint: "):
        decode_fingerprint(damage(encode_fingerprint(MARK)))


@settings(max_examples=20, deadline=None)
@given(dtype=st.sampled_from(["u2", ">u2", "i4", "u8", "f4", ">f8"]), order=st.sampled_from("CF"))
def test_digest_is_of_the_numbers(dtype, order):
    assert digest(IMAGE.astype(dtype, order=order)) == digest(IMAGE)


def test_digest_of_special_values():
    image = np.array([[0.0, np.nan], [np.inf, 1]])
    same = np.array([[-0.0, -np.nan], [np.inf, 1]])
    assert digest(image) == digest(same)
    assert digest(image) != digest(np.array([[0.0, np.nan], [-np.inf, 1]]))


@settings(max_examples=25, deadline=None)
@given(row=st.integers(0, 255), column=st.integers(0, 255))
def test_digest_sees_every_pixel(row, column):
    label = np.zeros(IMAGE.shape, bool)
    image, changed = IMAGE.copy(), label.copy()
    image[row, column] += 1
    changed[row, column] = True
    digests = [digest(IMAGE), digest(IMAGE, label), digest(image, label), digest(IMAGE, changed)]
    assert len(set(digests)) == 4
