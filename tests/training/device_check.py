"""Run by test_devices.py and experiments/studies/scaling.py with 8 virtual devices; prints JSON.

Named parts alone can be asked for: `python -m tests.training.device_check gradients curves`.
"""

import dataclasses
import json
import sys

import jax
import numpy as np
from jax.sharding import PartitionSpec

from fluxseg.training.checkpoints import (
    arrays_of,
)
from fluxseg.training.sharding import (
    AXIS,
    make_eval_step,
    make_mesh,
    make_train_step,
    put_batch,
    replicate,
)
from fluxseg.training.state import create_train_state
from fluxseg.training.steps import eval_step
from tests.training.test_steps import CONFIG, compute_gradients, make_batch, make_state

COUNTS = (1, 2, 4, 8)
FEW = (8,)
"""Devices of the quick tests: each number takes three compilations of a gradient."""
STEPS = 6


def deviation(reference, other):
    """Largest difference of two trees of arrays, relative to the largest value."""
    scale = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(reference))
    pairs = zip(jax.tree.leaves(reference), jax.tree.leaves(other), strict=True)
    return max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in pairs) / scale


def largest_deviation(reference, other):
    """As `deviation`, of each array alone; counters must be equal."""
    pairs = zip(jax.tree.leaves(reference), jax.tree.leaves(other), strict=True)
    return max(deviation(a, b) if np.any(a) else float(np.abs(b).max()) for a, b in pairs)


def with_model(config, **changes):
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **changes))


def unequal_batch():
    """The last device gets padding, others no neuron."""
    batch = make_batch(size=16, padded=3)
    batch["label"][:5] = 0
    return batch


def formulations(count):
    """The gradient of a whole batch, as three functions of a state and a batch."""
    mesh = make_mesh(jax.devices()[:count])
    pmapped = jax.pmap(
        lambda s, b: compute_gradients(s, b, axis_name="d"),
        axis_name="d",
        in_axes=(None, 0),
        out_axes=(None, 0),
        devices=jax.devices()[:count],
    )
    mapped = jax.jit(
        jax.shard_map(
            lambda s, b: compute_gradients(s, b, axis_name=AXIS),
            mesh=mesh,
            in_specs=(PartitionSpec(), PartitionSpec(AXIS)),
            out_specs=PartitionSpec(),
        )
    )
    jitted = jax.jit(compute_gradients)

    def by_pmap(state, batch):
        split = {k: v.reshape(count, -1, *v.shape[1:]) for k, v in batch.items()}
        gradient, metrics = pmapped(state, split)
        return gradient, jax.tree.map(lambda leaf: leaf[0], metrics)

    return {
        "jit": lambda s, b: jitted(replicate(s, mesh), put_batch(b, mesh)),
        "pmap": by_pmap,
        "shard_map": mapped,
    }


def compare(reference, other):
    (gradient, metrics), (found, found_metrics) = reference, other
    return {
        "gradient": deviation(gradient, found),
        "loss": abs(float(found_metrics.loss_sum / metrics.loss_sum) - 1),
        "weight": float(found_metrics.weight_sum) - float(metrics.weight_sum),
        "confusion": int(np.abs(found_metrics.confusion - metrics.confusion).max()),
    }


def check_gradients(counts):
    """Gradient and metrics of the same batch, with dropout, by numbers of devices."""
    result = {}
    batch = unequal_batch()
    without = jax.jit(compute_gradients)(make_state(with_model(CONFIG, dropout=0.0)), batch)
    state = make_state(with_model(CONFIG, dropout=0.3))
    reference = jax.jit(compute_gradients)(state, batch)
    # Else the dropout would be shown to be the same without being there.
    assert deviation(reference[0], without[0]) > 0.01
    for count in counts:
        for name, gradient in formulations(count).items():
            result[f"{name}-{count}"] = compare(reference, gradient(state, batch))
    return result


def check_evaluation():
    result = {}
    state, batch = make_state(), unequal_batch()
    total, alone = jax.jit(eval_step)(state, batch)
    for count in (2, 8):
        mesh = make_mesh(jax.devices()[:count])
        metrics, each = make_eval_step(mesh)(replicate(state, mesh), put_batch(batch, mesh))
        result[str(count)] = {
            "confusion": int(np.abs(each - alone).max()),
            "total": int(np.abs(metrics.confusion - total.confusion).max()),
        }
    return result


CURVE = dataclasses.replace(
    with_model(CONFIG, dropout=0.3),
    train=dataclasses.replace(
        CONFIG.train, batch_size=16, learning_rate=1e-3, clip_norm=1.0, ema_decay=0.9
    ),
)


def train(count, micro_batches=1, steps=STEPS, state=None):
    """Take some steps; return the loss and the confusion of each, and the last state."""
    mesh = make_mesh(jax.devices()[:count])
    if state is None:
        state = replicate(create_train_state(CURVE, np.array([1.0, 4.0]), 100, tile=16), mesh)
    step = make_train_step(mesh, micro_batches)
    losses, confusions = [], []
    for number in range(steps):
        batch = make_batch(seed=number, size=16, padded=3 * (number == 2))
        state, metrics = step(state, batch)
        losses.append(float(metrics.loss_sum / metrics.weight_sum))
        confusions.append(np.asarray(metrics.confusion).tolist())
    return losses, confusions, state


def check_curves():
    """Curves of the loss: any devices, micro-batches."""
    result = {}
    losses, confusions, reference = train(1)
    whole = jax.device_get(arrays_of(reference))
    runs = {
        "1, 4 micro-batches": (1, 4), "2": (2, 1), "4, 2 micro-batches": (4, 2), "8": (8, 1),
        "8, 2 micro-batches": (8, 2),
    }  # fmt: skip
    for name, arguments in runs.items():
        found, counted, state = train(*arguments)
        arrays = jax.device_get(arrays_of(state))
        result[name] = {
            "loss": float(np.abs(np.divide(found, losses) - 1).max()),
            "pixels": sum(map(np.sum, counted)) - sum(map(np.sum, confusions)),
            "first_confusion": int(np.abs(np.subtract(counted[0], confusions[0])).max()),
            "parameters": largest_deviation(whole["params"], arrays["params"]),
            "optimizer": largest_deviation(whole["opt_state"], arrays["opt_state"]),
            "average": largest_deviation(whole["ema_params"], arrays["ema_params"]),
        }
        result[name] = {key: float(value) for key, value in result[name].items()}
    result["moved"] = {"parameters": deviation(whole["params"], make_state(CURVE).params)}
    return result


PARTS = {
    "few": lambda: check_gradients(FEW),
    "gradients": lambda: check_gradients(COUNTS),
    "evaluation": check_evaluation,
    "curves": check_curves,
}

if __name__ == "__main__":
    names = sys.argv[1:] or PARTS
    print(json.dumps({name: PARTS[name]() for name in names}))
