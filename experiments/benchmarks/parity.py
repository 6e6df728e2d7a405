"""Is fluxseg right on a GPU? Gradients, a step, a checkpoint and a field against the CPU."""

import dataclasses
import importlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from fluxseg.config import ModelConfig, SimulatorConfig

DTYPES = ("float32", "bfloat16")


def in_dtype(config: ModelConfig, dtype: Any) -> ModelConfig:
    """Return a network that is computed in another dtype."""
    return dataclasses.replace(config, dtype=dtype)


def check_parity() -> dict[str, Any]:
    """Compare the GPU with the CPU, and ways to run the step with each other.

    Returns:
        Each check with its `deviation`, its `limit` and whether it is `passed`.
    """
    import jax

    checks: Any = importlib.import_module("tests.training.device_check")

    gradient = jax.jit(checks.compute_gradients)
    report: dict[str, Any] = {}

    def check(name: str, found: float, limit: float) -> None:
        report[name] = {"deviation": float(found), "limit": limit, "passed": bool(found <= limit)}

    cpu, state, batch = jax.devices("cpu")[0], checks.make_state(), checks.make_batch(size=8)
    with jax.default_matmul_precision("highest"):
        there = jax.device_get(gradient(state, batch))
        for count in {1, jax.device_count()}:
            for name, found in checks.check_gradients((count,)).items():
                check(f"gradient, {name}", found["gradient"], 1e-4)
                check(f"confusion, {name}", found["confusion"], 0)
    by_default = jax.device_get(gradient(state, batch))
    with jax.default_device(cpu):
        here = jax.device_get(gradient(*jax.device_put((state, batch), cpu)))
    apart = checks.deviation
    check("gradient against the CPU, highest precision", apart(here[0], there[0]), 1e-4)
    check("gradient against the CPU, as it comes", apart(here[0], by_default[0]), 2e-2)
    check("a checkpoint of the CPU, resumed", resume_checkpoint(cpu, state, batch), 1e-3)
    check("probabilities, bfloat16 against float32, mean", compare_dtypes(), 1e-2)
    return report


def resume_checkpoint(cpu: Any, state: Any, batch: Any) -> float:
    """Save a state that lies on the CPU, go on with it here and there; return how losses differ."""
    import jax

    from fluxseg.training.checkpoints import open_checkpoints, restore_checkpoint, save_checkpoint
    from fluxseg.training.sharding import make_mesh, replicate
    from fluxseg.training.steps import train_step

    with jax.default_device(cpu), tempfile.TemporaryDirectory() as folder:
        there = jax.jit(train_step)(*jax.device_put((state, batch), cpu))[0]
        checkpoints = open_checkpoints(Path(folder))
        save_checkpoint(checkpoints.last, there, {})
        checkpoints.wait()
        here = restore_checkpoint(checkpoints.last, replicate(state, make_mesh()))[0]
        checkpoints.close()
        last = jax.jit(train_step)(there, jax.device_put(batch, cpu))[1]
    jax.tree.map(np.testing.assert_array_equal, *jax.device_get((there.params, here.params)))
    found = jax.jit(train_step)(here, batch)[1]
    return abs(float(found.loss_sum) / float(last.loss_sum) - 1)


def compare_dtypes() -> float:
    """Return the mean difference of probabilities on a field, bfloat16 against float32."""
    from fluxseg.inference.run_model import load_model
    from fluxseg.simulation.sessions import simulate_recording

    model = load_model()
    image = simulate_recording(SimulatorConfig(size=128), 0).image
    models = [dataclasses.replace(model, config=in_dtype(model.config, dtype)) for dtype in DTYPES]
    first, second = (m.predict(image, diameter=m.diameter_px, tta=False) for m in models)
    return float(np.abs(first - second).mean())
