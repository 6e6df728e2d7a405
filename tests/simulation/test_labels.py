import dataclasses

import numpy as np
import pytest

from fluxseg.simulation.fields import simulate_field
from fluxseg.simulation.grids import patch_index
from fluxseg.simulation.labels import ALLEN, LabelRules, create_labels, paint
from fluxseg.simulation.ranges import FAMILIES, Range, Ranges
from fluxseg.simulation.visibility import measure_visibility

CROWDED = Ranges(
    families=(dataclasses.replace(FAMILIES[0], brightness=Range(1.5, 2.0)),),
    um_per_px=Range(0.8, 1.0),
)


def rng(seed=0):
    return np.random.default_rng(seed)


def split_labels(labels):
    """One mask for each label, none of which overlap."""
    return labels.instances == np.arange(1, len(labels.cells) + 1)[:, None, None]


@pytest.fixture(scope="module")
def fields():
    return [simulate_field(rng(seed), CROWDED, (200, 180)) for seed in range(6)]


def test_where_footprints_overlap_the_least_order_shows():
    corner = np.array([[0, 0], [0, 2], [-1, 7]])
    index = patch_index((4, 9), corner, 4)
    inside = np.ones((3, 4, 4), bool)
    painted = paint((4, 9), index, inside, np.array([1.0, 0.5, 0.7])[:, None, None] * inside)
    np.testing.assert_array_equal(painted[0], [1, 1, 2, 2, 2, 2, 0, 3, 3])
    np.testing.assert_array_equal(painted[3], [1, 1, 2, 2, 2, 2, 0, 0, 0])


def test_labels_are_numbered_and_lie_on_their_cells(fields):
    for field in fields:
        labels = create_labels(field, LabelRules(), rng())
        assert labels.instances.shape == labels.ignore.shape == field.image.shape
        np.testing.assert_array_equal(np.unique(labels.instances), np.arange(len(labels.cells) + 1))
        assert not (labels.ignore & (labels.instances > 0)).any()
        masks = split_labels(labels)
        assert (masks.sum(0) <= 1).all()
        side = field.outline.shape[1]
        for mask, cell in zip(masks, labels.cells, strict=True):
            top, left = field.corner[cell]
            rows, columns = np.nonzero(mask)
            assert ((rows >= top) & (rows < top + side)).all()
            assert ((columns >= left) & (columns < left + side)).all()
        assert (field.visibility[labels.cells] >= LabelRules().visible[1]).all()


def test_cells_cut_off_their_middle_are_outlined_towards_the_whole_of_them(fields):
    rules = LabelRules(visible=(0.5, 0.5), least_section=(0.0, 0.0), least_shown=0.0)
    grown = []
    for field in fields:
        exact = create_labels(field, rules, rng())
        fuller = create_labels(field, dataclasses.replace(rules, fuller=0.7), rng())
        assert ((fuller.instances > 0) | ~(exact.instances > 0)).all()
        assert (exact.cells == fuller.cells).all()
        for number, cell in enumerate(exact.cells, 1):
            areas = [(labels.instances == number).sum() for labels in (exact, fuller)]
            # Never beyond the whole cell, its margin and the waves of its outline.
            assert areas[1] < np.pi * (1.35 * field.radius_px[cell] + 1.5) ** 2
            grown.append((field.section[cell], areas[1] / areas[0]))
    section, ratio = np.array(grown).T
    assert ratio[section > 0.97].max() < 1.1
    assert np.median(ratio[section < 0.8]) > 1.2


def test_a_stricter_cut_labels_fewer_cells_and_between_the_two_they_are_ignored(fields):
    for field in fields:
        lax = create_labels(
            field, LabelRules(visible=(0.5, 0.5), least_section=(0.0, 0.0), least_shown=0.0), rng()
        )
        strict = create_labels(
            field, LabelRules(visible=(0.5, 2.5), least_section=(0.0, 0.0), least_shown=0.0), rng()
        )
        assert set(strict.cells) <= set(lax.cells)
        assert not lax.ignore.any()
        np.testing.assert_array_equal(lax.instances > 0, (strict.instances > 0) | strict.ignore)


def test_labels_like_allens_have_errors_and_only_active_cells(fields):
    exact, noisy, wrong = 0, 0, 0
    for number, field in enumerate(fields):
        clean = create_labels(field, LabelRules(), rng())
        allen = create_labels(field, ALLEN, rng(number))
        again = create_labels(field, ALLEN, rng(number))
        np.testing.assert_array_equal(allen.instances, again.instances)
        assert field.active[allen.cells].all()
        assert (field.border[allen.cells] >= ALLEN.border_um).all()
        exact, noisy = exact + len(clean.cells), noisy + len(allen.cells)
        both = (clean.instances > 0) & (allen.instances > 0)
        wrong += ((clean.instances > 0) != (allen.instances > 0))[
            both | (allen.instances > 0)
        ].sum()
    assert noisy < 0.9 * exact
    assert wrong > 0


def test_merging_joins_touching_cells_only(fields):
    for field in fields:
        rules = LabelRules(merged=1.0)
        joined = create_labels(field, rules, rng())
        clean = create_labels(field, LabelRules(), rng())
        assert len(joined.cells) <= len(clean.cells)
        np.testing.assert_array_equal(joined.instances > 0, clean.instances > 0)
        beside = (
            (joined.instances[:, :-1] != joined.instances[:, 1:])
            & (joined.instances[:, :-1] > 0)
            & (joined.instances[:, 1:] > 0)
        )
        assert not beside.any()


def look(strengths, hole=0.0, noise=0.0):
    """Visibility and contrast of discs that shine so; the first has a hole darker by so much."""
    corner = np.array([[20, 20], [20, 60], [60, 20]])[: len(strengths)]
    distance = np.hypot(*(np.mgrid[:15, :15] - 7)) / 5
    outline = np.repeat(distance[None], len(corner), 0).astype(np.float32)
    light = (outline < 1).astype(np.float32)
    light[0, distance < 0.5] = hole == 0
    bodies = np.zeros((100, 100), np.float32)
    image = (rng().normal(10, 0.5, (100, 100)) + rng(1).normal(0, noise, (100, 100))).astype("f4")
    for (row, column), shown, strength in zip(corner, light, strengths, strict=True):
        part = np.s_[row : row + 15, column : column + 15]
        image[part] += strength * shown
        bodies[part] += distance < 1
    image[20:35, 20:35] -= hole * (distance < 0.5)
    index = patch_index((100, 100), corner, 15)
    return measure_visibility(image, index, light, outline, bodies, 5.0)


def test_brighter_cells_are_more_visible_and_noise_hides_them():
    visible, contrast = look((8.0, 2.0, 0.0))
    assert visible[0] > visible[1] > 1.2
    assert visible[2] < 0.5
    assert contrast[0] > contrast[1] > contrast[2]
    assert look((8.0, 2.0, 0.0), noise=8.0)[0][1] < 0.7 * visible[1]


def test_a_ring_is_also_seen_by_its_hole():
    visible, contrast = look((2.0, 2.0), hole=2.0)
    # Equally bright, yet the ring stands out more.
    np.testing.assert_allclose(*contrast, rtol=0.1)
    assert visible[0] > 1.2 * visible[1]


def test_whole_masks_are_the_footprints_that_the_labels_share_out(fields):
    shared = 0
    for number, field in enumerate(fields):
        labels = create_labels(field, dataclasses.replace(ALLEN, border_um=0.0), rng(number))
        masks, whole = split_labels(labels), labels.whole_masks()
        assert masks.shape == whole.shape
        np.testing.assert_array_equal(whole & masks, masks)
        # Only a cell that is not labelled takes pixels away.
        assert not (whole.any(0) & ~masks.any(0) & ~labels.ignore).any()
        shared += (whole.sum(0) > 1).sum()
    assert shared > 100
