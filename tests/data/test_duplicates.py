import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxseg.data.duplicates import (
    MAX_SHIFT,
    SIMILARITY_THRESHOLD,
    Entry,
    Pair,
    near_duplicates,
    resolve_duplicates,
)
from fluxseg.data.fingerprint import (
    SPECTRUM_SIZE,
    THUMBNAIL,
    Fingerprint,
    blank_fingerprint,
    fingerprint,
)
from tests.data.fields import create_sessions


@pytest.fixture(scope="module")
def sessions():
    """Fingerprints of 3 sessions of 16 fields, and the field of each."""
    images, numbers = create_sessions(16, 3)
    return [fingerprint(image) for image in images], numbers


def random_fingerprints(rng, count):
    return [
        Fingerprint(
            rng.integers(-99, 100, SPECTRUM_SIZE, np.int8),
            rng.integers(-99, 100, (THUMBNAIL, THUMBNAIL), np.int8),
        )
        for _ in range(count)
    ]


def all_similarities(fingerprints):
    """Correlation of all pairs at the best of all shifts, by products of shifted pictures."""
    pictures = np.stack([f.thumbnail for f in fingerprints]).astype(np.float32)
    norms = np.linalg.norm(pictures, axis=(1, 2))
    flat = pictures.reshape(len(pictures), -1)
    padded = np.pad(pictures, [(0, 0), (MAX_SHIFT, MAX_SHIFT), (MAX_SHIFT, MAX_SHIFT)])
    count, sides = len(pictures), range(2 * MAX_SHIFT + 1)
    best = np.full((count, count), -np.inf)
    for top in sides:
        moved = [
            padded[:, top : top + THUMBNAIL, left : left + THUMBNAIL].reshape(count, -1)
            for left in sides
        ]
        products = np.concatenate(moved) @ flat.T
        best = np.maximum(best, products.reshape(len(sides), count, count).max(0))
    return best / np.outer(norms, norms)


def test_against_all_pairs_and_all_shifts(sessions):
    fingerprints = sessions[0]
    expected = all_similarities(fingerprints)
    found = near_duplicates(fingerprints, threshold=0.1, candidates=len(fingerprints))
    assert found == sorted(found)
    similarity = {(pair.first, pair.second): pair.similarity for pair in found}
    assert len(similarity) > 60
    for first, second in itertools.combinations(range(len(fingerprints)), 2):
        if (first, second) in similarity:
            assert similarity[first, second] == pytest.approx(expected[first, second], abs=1e-3)
        else:
            assert expected[first, second] < 0.1 + 1e-3


def test_few_candidates_are_the_most_similar_spectra():
    rng = np.random.default_rng(0)
    fingerprints = random_fingerprints(rng, 300)
    spectra = np.stack([f.spectrum for f in fingerprints]).astype(float)
    correlations = spectra @ spectra.T
    correlations /= np.sqrt(np.outer(np.diag(correlations), np.diag(correlations)))
    np.fill_diagonal(correlations, -np.inf)
    expected = set()
    for row, values in enumerate(correlations):
        expected |= {tuple(sorted((row, int(other)))) for other in np.argsort(-values)[:7]}
    found = near_duplicates(fingerprints, threshold=-1, candidates=7)
    assert {(pair.first, pair.second) for pair in found} == expected


def test_sessions_of_a_field_pair_up_and_others_do_not(sessions):
    fingerprints, numbers = sessions
    found = {(pair.first, pair.second) for pair in near_duplicates(fingerprints)}
    true = {
        (i, j)
        for i, j in itertools.combinations(range(len(numbers)), 2)
        if numbers[i] == numbers[j]
    }
    assert len(true) == 48
    assert found <= true
    assert len(found) >= 0.95 * len(true)


def test_few_or_blank_fingerprints(sessions):
    assert near_duplicates([]) == []
    assert near_duplicates(sessions[0][:1]) == []
    assert near_duplicates([blank_fingerprint()] * 40) == []
    same = near_duplicates([sessions[0][0], blank_fingerprint(), sessions[0][0]])
    assert same == [Pair(0, 2, pytest.approx(1, abs=1e-3))]


def entry(key, mark, name=None, group=None, content=None):
    return Entry(key, name or f"id-{key}", group or f"group-{key}", content or f"hash-{key}", mark)


def cases(marks):
    # marks: sessions 0 to 2 of field 0, 3 to 5 of field 1, and so on.
    return [
        entry("a", marks[0]), entry("b", marks[0], content="hash-a", group="elsewhere"),
        entry("c", marks[0], content="hash-a"), entry("d", marks[3], name="twice"),
        entry("e", marks[6], name="twice"), entry("f", marks[9], group="known"),
        entry("g", marks[10], group="known"), entry("h", marks[1]),
        entry("i", blank_fingerprint()),
    ]  # fmt: skip


def test_resolution(sessions):
    resolved = resolve_duplicates(cases(sessions[0]))
    assert resolved.left_out == {"b": "exact copy of a", "c": "exact copy of a"}
    assert resolved.duplicates == (("a", "b"), ("a", "c"))
    pairs = [(pair.first, pair.second, pair.same_group) for pair in resolved.near_duplicates]
    assert pairs == [("a", "h", False), ("f", "g", True)]
    assert all(SIMILARITY_THRESHOLD <= p.similarity < 1 for p in resolved.near_duplicates)
    assert set(resolved.remarks) == {"a", "d", "e", "h"}
    assert resolved.remarks["d"] == ("the id 'twice' is also that of e",)
    same = [
        entry(key, mark, name="mean", group="mean")
        for key, mark in zip("xy", sessions[0][::3], strict=False)
    ]
    assert "count as one tissue" in resolve_duplicates(same[:2]).remarks["x"][0]
    assert "as h" in resolved.remarks["a"][0]
    assert "give them the same group" in resolved.remarks["h"][0]


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_resolution_does_not_depend_on_the_order(sessions, data):
    expected = resolve_duplicates(cases(sessions[0]))
    shuffled = data.draw(st.permutations(cases(sessions[0])))
    assert resolve_duplicates(shuffled) == expected
