import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fluxseg.config import Config, LossConfig, ModelConfig, TrainConfig
from fluxseg.errors import ConfigError
from fluxseg.training.state import create_schedule, create_train_state
from fluxseg.training.steps import eval_step, mean_gradients, sum_gradients, train_step


def compute_gradients(state, batch, axis_name=None):
    """The gradient that `train_step` applies, before the optimiser hides a factor in it."""
    return mean_gradients(sum_gradients(state, batch, axis_name=axis_name))


gradients = jax.jit(compute_gradients)
step_once = jax.jit(train_step)
evaluate = jax.jit(eval_step)
CONFIG = Config(
    model=ModelConfig(features=(4, 8), convs=1, stem=1),
    loss=LossConfig(dice=0.0),
    train=TrainConfig(learning_rate=1e-2, warmup_steps=0, schedule="constant"),
)


def make_batch(seed=0, size=6, padded=0):
    rng = np.random.default_rng(seed)
    label = np.zeros((size, 16, 16), np.uint8)
    label[:, 4:9, 5:11] = 1
    image = label[..., None] + 0.3 * rng.standard_normal((size, 16, 16, 1)).astype(np.float32)
    valid = np.ones((size, 16, 16), np.uint8)
    valid[:, :, :3] = 0
    if padded:
        valid[-padded:] = 0
    return {"image": image.astype(np.float32), "label": label, "valid": valid}


def make_state(config=CONFIG, weight=4.0):
    return create_train_state(config, np.array([1.0, weight]), 100, tile=16)


def test_a_step_is_pure_and_lowers_the_loss():
    state, batch = make_state(), make_batch()
    first, metrics = step_once(state, batch)
    again, _ = step_once(state, batch)
    jax.tree.map(np.testing.assert_array_equal, first.params, again.params)
    assert int(state.step) == 0
    assert int(first.step) == 1
    losses = []
    for _ in range(30):
        state, metrics = step_once(state, batch)
        losses.append(float(metrics.loss_sum / metrics.weight_sum))
    assert losses[-1] < 0.5 * losses[0]


def test_the_gradient_is_that_of_the_weighted_mean():
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, dropout=0.0))
    state, batch = make_state(config), make_batch(padded=2)

    @jax.jit
    def mean_loss(params):
        logits = state.apply_fn({"params": params}, batch["image"], False)
        logp = jax.nn.log_softmax(logits)
        picked = jnp.take_along_axis(logp, batch["label"][..., None].astype(int), -1)[..., 0]
        weight = jnp.where(batch["label"] == 1, 4.0, 1.0) * batch["valid"]
        return -(picked * weight).sum() / weight.sum()

    expected = jax.jit(jax.grad(mean_loss))(state.params)
    grads, metrics = gradients(state, batch)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), grads, expected
    )
    assert float(metrics.grad_norm) == pytest.approx(float(optax.tree.norm(expected)), rel=1e-4)
    assert float(metrics.loss_sum / metrics.weight_sum) == pytest.approx(
        float(mean_loss(state.params)), rel=1e-5
    )
    assert int(metrics.confusion.sum()) == batch["valid"].sum()


def test_a_batch_of_padding_alone_gives_no_gradient():
    grads, metrics = gradients(make_state(), make_batch(padded=6))
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(grads))
    assert float(metrics.weight_sum) == 0


def test_dropout_differs_between_steps_and_is_off_in_evaluation():
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, dropout=0.5))
    state, batch = make_state(config), make_batch()
    first = gradients(state, batch)[1].loss_sum
    second = gradients(state.replace(step=state.step + 1), batch)[1].loss_sum
    assert float(first) != float(second)
    one, two = (evaluate(s, batch)[0].loss_sum for s in (state, state.replace(step=state.step + 5)))
    assert float(one) == float(two)


def test_evaluation_counts_each_example():
    state, batch = make_state(), make_batch(padded=1)
    metrics, each = evaluate(state, batch)
    logits = state.apply_fn({"params": state.params}, batch["image"], False)
    prediction = np.asarray(logits).argmax(-1)
    for i in range(6):
        for truth in (0, 1):
            for predicted in (0, 1):
                count = (
                    (batch["label"][i] == truth)
                    & (prediction[i] == predicted)
                    & (batch["valid"][i] == 1)
                ).sum()
                assert each[i, truth, predicted] == count
    np.testing.assert_array_equal(each.sum(0), metrics.confusion)


def test_the_average_of_the_parameters_is_evaluated():
    config = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, ema_decay=0.5))
    state, batch = make_state(config), make_batch()
    expected = state.params
    for number in range(1, 4):
        state, _ = step_once(state, batch)
        decay = min(0.5, (1 + number) / (10 + number))
        expected = jax.tree.map(lambda e, p, d=decay: d * e + (1 - d) * p, expected, state.params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        state.eval_params,
        expected,
    )
    assert make_state().ema_params is None


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_the_schedule_rises_and_ends_where_it_should(schedule):
    config = TrainConfig(learning_rate=0.1, warmup_steps=10, schedule=schedule)
    rate = create_schedule(config, 100)
    values = [float(rate(step)) for step in range(101)]
    assert 0 < values[0] < 0.02
    assert values[10] == pytest.approx(0.1)
    assert np.argmax(values) >= 10 or schedule == "constant"
    assert values[100] == pytest.approx(0.001 if schedule == "cosine" else 0.1, rel=1e-3)
    assert float(create_schedule(config, 1)(0)) > 0


def test_as_many_weights_as_classes_are_needed():
    with pytest.raises(ConfigError, match="3 weights for the classes"):
        create_train_state(CONFIG, np.ones(3), 10, tile=16)
