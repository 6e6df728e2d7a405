"""With bfloat16 layers, whatever is added up over pixels, examples or devices is float32."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fluxseg.config import ModelConfig, reference_model
from fluxseg.model.unet import create_unet
from fluxseg.training.steps import sum_gradients, train_step, zero_gradients
from tests.training.test_steps import CONFIG, compute_gradients, make_batch, make_state

SUMS = {"reduce_sum", "cumsum", "psum", "psum_invariant", "reduce_window_sum", "argmax"}
PRODUCTS = {"dot_general", "conv_general_dilated"}


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(
            list(equation.params.values()),
            is_leaf=lambda v: isinstance(v, jax.extend.core.ClosedJaxpr | jax.extend.core.Jaxpr),
        ):
            if isinstance(value, jax.extend.core.ClosedJaxpr):
                yield from equations(value.jaxpr)
            elif isinstance(value, jax.extend.core.Jaxpr):
                yield from equations(value)


def state_of(model, formulation):
    state = make_state(dataclasses.replace(CONFIG, model=model))
    unet = create_unet(model, formulation=formulation)
    return state.replace(apply_fn=unet.apply)


MODELS = {
    "own": ModelConfig(features=(4, 8), convs=1, dtype="bfloat16"),
    "classic": dataclasses.replace(reference_model(), features=(4, 6), dtype="bfloat16"),
}


@pytest.mark.parametrize("formulation", ["plain", "fast"])
@pytest.mark.parametrize("model", list(MODELS))
def test_sums_are_float32(model, formulation):
    state, batch = state_of(MODELS[model], formulation), make_batch()
    jaxpr = jax.make_jaxpr(compute_gradients)(state, batch)
    found = list(equations(jaxpr.jaxpr))
    low = [e for e in found if any(v.aval.dtype == jnp.bfloat16 for v in e.invars)]
    # The layers are computed in bfloat16 indeed ...
    assert sum(e.primitive.name in PRODUCTS for e in low) > 5
    # ... but sums over many values are not.
    assert [e for e in low if e.primitive.name in SUMS] == []
    assert sum(e.primitive.name == "reduce_sum" for e in found) > 5


@pytest.mark.parametrize("model", list(MODELS))
def test_parameters_gradients_loss_and_state_are_float32(model):
    state, batch = state_of(MODELS[model], "plain"), make_batch()
    grads, metrics = jax.eval_shape(sum_gradients, state, batch)
    following, _ = jax.eval_shape(train_step, state, batch)
    floats = [
        leaf.dtype
        for leaf in jax.tree.leaves(
            (state.params, grads, zero_gradients(state.params), metrics, following.params,
             following.opt_state)
        )
        if jnp.issubdtype(leaf.dtype, jnp.floating)
    ]  # fmt: skip
    assert len(floats) > 20
    assert set(floats) == {jnp.dtype("float32")}
    assert metrics.confusion.dtype == jnp.int32


@pytest.mark.parametrize("model", ["own", "classic"])
def test_the_gradient_is_near_that_in_float32(model):
    low = MODELS[model]
    high = dataclasses.replace(low, dtype="float32")
    batch = make_batch()
    gradients = jax.jit(compute_gradients)
    found, _ = gradients(state_of(low, "plain"), batch)
    expected, _ = gradients(state_of(high, "plain"), batch)
    flat, right = (
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
        for tree in (found, expected)
    )
    assert 0 < np.linalg.norm(flat - right) < 0.15 * np.linalg.norm(right)
