"""Run by test_devices.py in a process with 8 virtual devices; prints the deviations as JSON."""

import dataclasses
import json

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from fluxseg.training.sharding import AXIS, make_mesh, put_batch, replicate
from fluxseg.training.steps import compute_gradients, eval_step
from tests.training.test_steps import (
    CONFIG,
    TOUCHING,
    make_batch,
    make_state,
    make_touching_batch,
    make_touching_state,
)


def deviation(reference, other):
    """Largest difference of two trees of gradients, relative to the largest gradient."""
    scale = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(reference))
    pairs = zip(jax.tree.leaves(reference), jax.tree.leaves(other), strict=True)
    return max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in pairs) / scale


def main():
    assert CONFIG.model.dropout > 0
    state = make_state()
    # Unequal weights: the last device gets padding, or examples without a neuron.
    batch = make_batch(size=16, padded=3)
    batch["label"][:5] = 0
    no_dropout = make_state(
        CONFIG.__class__(model=CONFIG.model.__class__(features=(4, 8), convs=1, stem=1, dropout=0))
    )
    result = {}
    for count in (1, 2, 4, 8):
        mesh = make_mesh(jax.devices()[:count])
        whole, divided = NamedSharding(mesh, PartitionSpec()), PartitionSpec(AXIS)
        split = {k: v.reshape(count, -1, *v.shape[1:]) for k, v in batch.items()}
        jitted = jax.jit(compute_gradients, out_shardings=whole)(
            replicate(state, mesh), put_batch(batch, mesh)
        )
        pmapped = jax.pmap(
            lambda s, b: compute_gradients(s, b, axis_name="d"),
            axis_name="d",
            in_axes=(None, 0),
            out_axes=(None, 0),
            devices=jax.devices()[:count],
        )
        mapped = jax.shard_map(
            lambda s, b: compute_gradients(s, b, axis_name=AXIS),
            mesh=mesh,
            in_specs=(PartitionSpec(), divided),
            out_specs=PartitionSpec(),
        )
        pmap_grads, pmap_metrics = pmapped(no_dropout, split)
        grads = {
            "jit": jitted,
            "pmap": (pmap_grads, jax.tree.map(lambda leaf: leaf[0], pmap_metrics)),
            "shard_map": jax.jit(mapped)(no_dropout, batch),
        }
        for name, (gradient, metrics) in grads.items():
            like = state if name == "jit" else no_dropout
            reference, expected = jax.jit(compute_gradients)(like, batch)
            result[f"{name}-{count}"] = {
                "gradient": deviation(reference, gradient),
                "loss": abs(float(metrics.loss_sum / expected.loss_sum) - 1),
                "weight": float(metrics.weight_sum) - float(expected.weight_sum),
                "confusion": int(np.abs(metrics.confusion - expected.confusion).max()),
            }
        each = jax.jit(eval_step, out_shardings=whole)(
            replicate(state, mesh), put_batch(batch, mesh)
        )[1]
        alone = jax.jit(eval_step)(state, batch)[1]
        result[f"eval-{count}"] = {"confusion": int(np.abs(each - alone).max())}
    result["touching"] = check_touching()
    print(json.dumps(result))


def check_touching():
    """Compare `jax.pmap` on 8 devices with one device, for three classes."""
    model = dataclasses.replace(TOUCHING.model, dropout=0.0)
    state = make_touching_state(dataclasses.replace(TOUCHING, model=model))
    batch = make_touching_batch(size=16)
    pmapped = jax.pmap(
        lambda s, b: compute_gradients(s, b, axis_name="d"),
        axis_name="d",
        in_axes=(None, 0),
        out_axes=(None, 0),
    )
    gradient, metrics = pmapped(state, {k: v.reshape(8, 2, *v.shape[1:]) for k, v in batch.items()})
    reference, expected = jax.jit(compute_gradients)(state, batch)
    return {
        "gradient": deviation(reference, gradient),
        "confusion": int(np.abs(metrics.confusion[0] - expected.confusion).max()),
    }


if __name__ == "__main__":
    main()
