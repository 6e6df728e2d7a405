"""Which labelled fields learn, in which order, and which score."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxseg.adapt.fields import curve_sizes, explain_groups, group_folds, order_fields
from fluxseg.errors import ConfigError

FIELDS = st.dictionaries(
    st.text("abcdefgh", min_size=1, max_size=4), st.sampled_from("tuvwxyz"), min_size=1, max_size=20
)


@settings(max_examples=60, deadline=None)
@given(FIELDS, st.integers(0, 5))
def test_fields_are_ordered_so_that_each_beginning_covers_the_most_groups(fields, seed):
    order = order_fields(fields, seed)
    assert sorted(order) == sorted(fields)
    assert order == order_fields(dict(reversed(fields.items())), seed)
    for size in range(1, len(order) + 1):
        counts = [
            sum(fields[key] == group for key in order[:size]) for group in set(fields.values())
        ]
        assert sum(c > 0 for c in counts) == min(size, len(set(fields.values())))


@settings(max_examples=60, deadline=None)
@given(FIELDS, st.integers(2, 5), st.integers(0, 3))
def test_folds_hold_every_field_once_and_share_no_group(fields, folds, seed):
    if len(set(fields.values())) < folds:
        with pytest.raises(ConfigError, match="folds"):
            group_folds(fields, folds, seed)
        return
    parts = group_folds(fields, folds, seed)
    assert len(parts) == folds
    assert all(parts)
    assert sorted(key for part in parts for key in part) == sorted(fields)
    groups = [{fields[key] for key in part} for part in parts]
    assert sum(map(len, groups)) == len(set(fields.values()))


@pytest.mark.parametrize(
    ("most", "sizes"),
    [
        (0, []), (1, [1]), (2, [1, 2]), (3, [1, 3]), (4, [1, 3, 4]), (10, [1, 3, 10]),
        (11, [1, 3, 11]), (15, [1, 3, 10, 15]), (200, [1, 3, 10, 30, 100, 200]),
    ],
)  # fmt: skip
def test_the_sizes_of_a_curve(most, sizes):
    assert curve_sizes(most) == sizes


def test_too_few_groups_are_explained():
    assert "no honest score" in explain_groups(["a", "a"])
    assert "2 groups" in explain_groups(["a", "b", "b"])
    assert explain_groups(["a", "b", "c"]) == ""
