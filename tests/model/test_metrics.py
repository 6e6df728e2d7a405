"""Counts and scores against loops and scikit-learn, exactness, and the bootstrap."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as reference

from fluxseg.errors import FluxsegError
from fluxseg.model.metrics import (
    SCORE_NAMES,
    Totals,
    bootstrap_intervals,
    confusion_matrix,
    confusion_per_example,
    scores_from_confusion,
)


def _batch(seed, classes=2, shape=(3, 7, 5)):
    rng = np.random.default_rng(seed)
    return (
        rng.integers(classes, size=shape),
        rng.integers(classes, size=shape),
        rng.random(shape) < 0.7,
    )


@pytest.mark.parametrize("classes", [2, 3])
def test_confusion_is_that_of_scikit_learn(classes):
    label, prediction, valid = _batch(0, classes)
    each = jax.jit(confusion_per_example, static_argnums=3)(label, prediction, valid, classes)
    assert (each.shape, each.dtype) == ((3, classes, classes), jnp.int32)
    for i in range(3):
        expected = reference.confusion_matrix(
            label[i][valid[i]], prediction[i][valid[i]], labels=range(classes)
        )
        np.testing.assert_array_equal(each[i], expected)
    pooled = confusion_matrix(*map(jnp.asarray, (label, prediction, valid)), classes)
    assert pooled.dtype == jnp.int32
    np.testing.assert_array_equal(pooled, each.sum(0))
    assert pooled.sum() == valid.sum()


def test_more_pixels_than_int32_counts_are_refused():
    def run(pixels):
        spec = jax.ShapeDtypeStruct((1, 1, pixels), jnp.uint8)
        return jax.eval_shape(confusion_matrix, spec, spec, spec)

    assert run(2**31 - 1).shape == (2, 2)
    with pytest.raises(FluxsegError, match="2147483648 pixels"):
        run(2**31)


def test_shapes_must_agree():
    with pytest.raises(FluxsegError, match=r"\[1, 2, 2\], \[1, 2, 3\]"):
        confusion_matrix(jnp.zeros((1, 2, 2), int), jnp.zeros((1, 2, 3), int), jnp.ones((1, 2, 2)))


@given(hnp.arrays(np.int64, (2, 2), elements=st.integers(1, 40)))
@settings(max_examples=40, deadline=None)
def test_scores_are_those_of_scikit_learn(confusion):
    truth = np.repeat([0, 0, 1, 1], confusion.ravel())
    predicted = np.repeat([0, 1, 0, 1], confusion.ravel())
    expected = {
        "macro_iou": reference.jaccard_score(truth, predicted, average="macro"),
        "neuron_iou": reference.jaccard_score(truth, predicted),
        "background_iou": reference.jaccard_score(truth, predicted, pos_label=0),
        "dice": reference.f1_score(truth, predicted),
        "precision": reference.precision_score(truth, predicted),
        "recall": reference.recall_score(truth, predicted),
        "accuracy": reference.accuracy_score(truth, predicted),
    }
    scores = scores_from_confusion(confusion)
    assert tuple(scores) == SCORE_NAMES
    assert scores == pytest.approx(expected, rel=1e-12)


def test_scores_of_the_published_confusion_matrix():
    scores = scores_from_confusion(np.array([[26_470_910, 1_912_264], [351_390, 1_674_140]]))
    rounded = {name: round(value, 3) for name, value in scores.items()}
    assert rounded == {
        "macro_iou": 0.673, "neuron_iou": 0.425, "background_iou": 0.921, "dice": 0.597,
        "precision": 0.467, "recall": 0.827, "accuracy": 0.926,
    }  # fmt: skip


def test_zero_by_zero_is_nan_without_a_warning():
    scores = scores_from_confusion(np.array([[5, 0], [0, 0]]))
    undefined = {name for name, value in scores.items() if np.isnan(value)}
    assert undefined == {"macro_iou", "neuron_iou", "dice", "precision", "recall"}
    assert scores["background_iou"] == scores["accuracy"] == 1
    assert all(np.isnan(v) for v in scores_from_confusion(np.zeros((2, 2), int)).values())


@pytest.mark.parametrize("bad", [np.zeros((3, 3), int), np.zeros(2, int), np.zeros((2, 2))])
def test_only_integer_two_by_two_is_scored(bad):
    with pytest.raises(FluxsegError, match="confusion must"):
        scores_from_confusion(bad)


@given(hnp.arrays(np.int32, (3, 2, 2), elements=st.integers(0, 2**31 - 1)))
@settings(max_examples=30, deadline=None)
def test_scores_on_the_device_are_those_of_the_host(confusions):
    alone = [scores_from_confusion(confusion) for confusion in confusions]
    together = scores_from_confusion(confusions)
    on_device = jax.jit(scores_from_confusion)(jnp.asarray(confusions))
    mapped = jax.vmap(scores_from_confusion)(jnp.asarray(confusions))
    assert list(together) == sorted(on_device, key=SCORE_NAMES.index) == list(SCORE_NAMES)
    for name in SCORE_NAMES:
        np.testing.assert_array_equal(together[name], [scores[name] for scores in alone])
        assert on_device[name].dtype == jnp.float32
        for found in (on_device[name], mapped[name]):
            np.testing.assert_allclose(found, together[name], rtol=1e-6)


def test_totals_are_exact_beyond_32_bits():
    part = Totals.from_device(
        jnp.float32(0.1), jnp.float32(3), jnp.full((2, 2), 2**31 - 1, jnp.int32)
    )
    total = Totals()
    for _ in range(5):
        total = total.merge(part)
    assert total.confusion.dtype == np.int64
    np.testing.assert_array_equal(total.confusion, 5 * (2**31 - 1))
    odd = Totals(0.0, 0.0, np.array([[2**60 + 1, 1], [1, 2**55 + 1]]))
    np.testing.assert_array_equal(
        odd.merge(odd).confusion, [[2**61 + 2, 2], [2, 2**56 + 2]], strict=True
    )
    assert total.mean_loss == pytest.approx(0.1 / 3)
    assert total.scores()["accuracy"] == 0.5


@given(
    st.floats(allow_nan=False), st.floats(allow_nan=False),
    hnp.arrays(np.int64, (2, 2), elements=st.integers(0, 2**62)),
)  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_totals_survive_json_to_the_last_bit(loss_sum, weight_sum, confusion):
    before = Totals(loss_sum, weight_sum, confusion)
    after = Totals.from_json(json.loads(json.dumps(before.to_json())))
    assert (after.loss_sum, after.weight_sum) == (loss_sum, weight_sum)
    np.testing.assert_array_equal(after.confusion, confusion, strict=True)


def test_totals_refuse_counts_that_are_no_integers():
    with pytest.raises(FluxsegError, match="integers"):
        Totals.from_device(0.0, 1.0, jnp.ones((2, 2)))


def _recordings(seed, groups, per_group=2):
    rng = np.random.default_rng(seed)
    skill = np.repeat(rng.uniform(0.5, 0.95, groups), per_group)
    true = rng.integers(500, 1500, groups * per_group)
    tp = rng.binomial(true, skill)
    fp = rng.binomial(true, 0.2)
    confusions = np.stack([np.stack([9000 - fp, fp], -1), np.stack([true - tp, tp], -1)], -2)
    return confusions, [f"g{i}" for i in range(groups) for _ in range(per_group)], tp, true


def test_bootstrap_is_the_loop_with_the_same_draws():
    confusions, groups, _, _ = _recordings(0, 12)
    order = np.random.default_rng(5).permutation(len(groups))
    intervals = bootstrap_intervals(
        confusions[order], [groups[i] for i in order], np.random.default_rng(1), samples=50
    )
    names = sorted(set(groups))
    draws = np.random.default_rng(1).integers(12, size=(50, 12))
    rows = []
    for draw in draws:
        chosen = [
            c for g in draw for c, name in zip(confusions, groups, strict=True) if name == names[g]
        ]
        rows.append(scores_from_confusion(np.sum(chosen, axis=0)))
    for name in SCORE_NAMES:
        values = [row[name] for row in rows]
        assert intervals[name] == pytest.approx(np.quantile(values, [0.025, 0.975]), rel=1e-12)


def test_bootstrap_covers_the_true_recall_about_as_often_as_it_says():
    """Recall of a group is uniform in [0.5, 0.95], so 0.725 pooled; 40 groups, 90 %."""
    hits = 0
    for seed in range(150):
        confusions, groups, _, _ = _recordings(seed, 40)
        low, high = bootstrap_intervals(
            confusions, groups, np.random.default_rng(seed), samples=300, confidence=0.9
        )["recall"]
        hits += low <= 0.725 <= high
    assert 0.82 <= hits / 150 <= 0.96


def test_bootstrap_draws_groups_not_recordings():
    # Two alike recordings in a group are one piece of evidence: they narrow nothing.
    confusions, groups, _, _ = _recordings(3, 6, per_group=1)
    once = bootstrap_intervals(confusions, groups, np.random.default_rng(0))
    doubled = np.concatenate([confusions, confusions])
    assert bootstrap_intervals(doubled, groups * 2, np.random.default_rng(0)) == once


def test_bootstrap_needs_two_groups_and_defined_scores():
    confusions = np.array([[[5, 0], [0, 0]]] * 3)
    rng = np.random.default_rng(0)
    assert bootstrap_intervals(confusions, ["a"] * 3, rng) == dict.fromkeys(SCORE_NAMES)
    intervals = bootstrap_intervals(confusions, ["a", "b", "b"], rng)
    assert intervals["recall"] is None
    assert intervals["accuracy"] == (1.0, 1.0)
    with pytest.raises(FluxsegError, match="2 groups for 3"):
        bootstrap_intervals(confusions, ["a", "b"], rng)


def test_bootstrap_is_exact_beyond_2_to_the_53():
    confusions = np.array([[[2**56 + 1, 1], [1, 1]], [[2**56 + 3, 1], [1, 1]]])
    intervals = bootstrap_intervals(confusions, ["a", "b"], np.random.default_rng(0), samples=20)
    assert intervals["recall"] == (0.5, 0.5)
