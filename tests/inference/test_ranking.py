"""Ranking scores against a brute-force reference."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.pretrained.ranking import compare_objects, score_ranking

found = st.lists(st.tuples(st.booleans(), st.integers(0, 4)), max_size=12)


@given(found, st.integers(0, 5))
def test_every_cut_is_tried(objects: list[tuple[bool, int]], missed: int) -> None:
    matched = np.array([hit for hit, _ in objects], bool)
    confidence = np.array([sure / 4 for _, sure in objects])
    n_true = int(matched.sum()) + missed
    ranking = score_ranking(matched, confidence, n_true)
    if not n_true:
        assert np.isnan(ranking.average_precision)
        return
    best, area, last = 0.0, 0.0, 0
    for cut in np.unique(confidence)[::-1]:
        kept = confidence >= cut
        hits = int(matched[kept].sum())
        best = max(best, 2 * hits / (int(kept.sum()) + n_true))
        area += (hits - last) * hits / int(kept.sum()) / n_true
        last = hits
    assert ranking.best_f1 == pytest.approx(best)
    assert ranking.average_precision == pytest.approx(area)
    kept = confidence >= ranking.best_cut
    assert 2 * matched[kept].sum() / (kept.sum() + n_true) == pytest.approx(best)


def test_matches_and_sizes() -> None:
    true = np.zeros((3, 20, 20), bool)
    true[0, 2:6, 2:6] = true[1, 10:14, 10:14] = true[2, 15:19, 1:5] = True
    predicted = np.zeros((20, 20), np.int32)
    predicted[2:6, 2:7] = 1  # 20 px over a label of 16
    predicted[10:14, 10:14] = 2
    predicted[0:1, 10:14] = 3
    agreement = compare_objects(true, predicted)
    assert agreement.matched.tolist() == [True, True, False]
    assert agreement.found.tolist() == [True, True, False]
    assert agreement.area_ratio == pytest.approx((20 / 16 + 1) / 2)
    assert np.isnan(compare_objects(true, np.zeros((20, 20), int)).area_ratio)
