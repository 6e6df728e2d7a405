"""The weights that ship with fluxseg: trained on simulated fields alone.

What: the preset network, a little wider at its coarse levels, begins with a local normalisation
    over 28 px, two diameters of a cell, and learns from crops that `fluxseg.simulation` has drawn
    (`experiments.pretrained.crops`), each seen in many displays (gamma, logarithm, local
    normalisation, equalised), turns, sharpness and noise. Between two cells that touch, the pixels
    on either side of the border are background and weigh more, so that cells come apart. No real
    image is learnt from; which of these choices to take, and the threshold and least confidence,
    was decided on real fields (`experiments.pretrained.real_fields`).
Result: `docs/results-real.md` and the model card, `fluxseg/pretrained/card.md`. FIRST is the first
    network that shipped, made by its own script at that commit:
    `git show 02df772:fluxseg/pretrained/model.safetensors > FIRST`.
Hardware: one CPU core (AMD EPYC), 0.71 s a step, 71 minutes.
Command: python -m experiments.pretrained.train --workdir runs/pretrained --pool runs/crops
    --crops 3200 --seed 3 --steps 6000 --rate 1e-3 --start FIRST
"""

import argparse
import contextlib
import dataclasses
import json
import time
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import numpy as np

from experiments.pretrained.crops import Crops
from fluxseg.allocator import tune_allocator
from fluxseg.compilation import enable_compilation_cache
from fluxseg.config import (
    AugmentConfig,
    Config,
    DataConfig,
    LossConfig,
    ModelConfig,
    TrainConfig,
    config_to_dict,
)
from fluxseg.data.pipeline import make_batches
from fluxseg.inference.model_file import read_model, write_model
from fluxseg.inference.predict import Predictor, create_predictor
from fluxseg.io.files import write_json
from fluxseg.model.metrics import Totals
from fluxseg.training.checkpoints import open_checkpoints, restore_newest, save_checkpoint
from fluxseg.training.sharding import count_micro_batches, make_mesh, make_train_step, replicate
from fluxseg.training.state import create_train_state

Norm = Literal["group", "weights"]
DIAMETER_PX = 14.0
"""What other images are resampled to: the median diameter of outlines, bodies being 14 px then."""
SAVE_EVERY = 250


def pretrained_config(rate: float = 1e-3, seed: int = 1, norm: Norm = "group") -> Config:
    """Return the settings; the number of steps and the data are given elsewhere."""
    return Config(
        # A second thread would take the cores from the steps by turns: 0.62 s a step, not 0.57.
        data=DataConfig(tile=256, threads=1),
        augment=AugmentConfig(gain=0.3, offset=0.1, gamma=0.2, noise=0.05, blur=1.8),
        model=ModelConfig(norm=norm, local_px=28.0, dropout=0.05),
        loss=LossConfig(dice=1.0),
        train=TrainConfig(
            batch_size=8, learning_rate=rate, warmup_steps=100, ema_decay=0.999, seed=seed
        ),
    )


def train(
    workdir: Path,
    config: Config,
    steps: int,
    pool: Path,
    count: int,
    start: Path | None = None,
    stop_at: int | None = None,
) -> Any:
    """Train, or go on with it.

    Args:
        workdir: folder for checkpoints and the log.
        config: the settings.
        steps: steps of the whole run, for the schedule.
        pool: folder of simulated crops.
        count: number of different crops.
        start: model file whose parameters the run starts from; random ones by default.
        stop_at: step to stop at, for tests; by default the last.

    Returns:
        The train state.
    """
    mesh = make_mesh()
    state = create_train_state(config, np.ones(2, np.float32), steps)
    if start is not None:
        params = jax.tree.map(jax.numpy.asarray, read_model(start).params)
        state = state.replace(params=params, ema_params=jax.tree.map(jax.numpy.copy, params))
    state = replicate(state, mesh)
    step_fn = make_train_step(mesh, count_micro_batches(config, mesh))
    batches = make_batches(
        Crops(config.train.seed, pool, count, config.data.tile),
        config.train.batch_size,
        augment=config.augment,
        seed=config.train.seed,
        threads=config.data.threads,
    )
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(workdir / "config.json", {**config_to_dict(config), "steps": steps})
    checkpoints = open_checkpoints(workdir, tidy=True)
    seconds = 0.0
    if found := restore_newest(checkpoints.last, state):
        state, progress = found
        batches.set_state(progress["iterator"])
        seconds = float(progress["seconds"])
    began, losses = time.monotonic() - seconds, []
    for step in range(int(state.step) + 1, min(steps, stop_at or steps) + 1):
        state, metrics = step_fn(state, next(batches))
        losses.append(metrics)
        if step % 50 == 0:
            totals = Totals()
            for one in jax.device_get(losses):
                totals = totals.merge(
                    Totals.from_device(one.loss_sum, one.weight_sum, one.confusion)
                )
            losses = []
            row = {
                "step": step,
                "loss": round(totals.mean_loss, 4),
                "neuron_iou": round(totals.scores()["neuron_iou"], 4),
                "seconds": round(time.monotonic() - began, 1),
            }
            print(json.dumps(row), flush=True)
            with (workdir / "log.jsonl").open("a") as log:
                log.write(json.dumps(row) + "\n")
        if step % SAVE_EVERY == 0 or step == steps:
            values = {"iterator": batches.get_state(), "seconds": time.monotonic() - began}
            save_checkpoint(checkpoints.last, state, values)
            model = describe_model(state, config, step, values["seconds"])
            write_model(workdir / f"model_{step:05d}.safetensors", model)
    checkpoints.close()
    return state


def describe_model(state: Any, config: Config, steps: int, seconds: float) -> Predictor:
    """Return the averaged parameters of a run as a model, with how it was made."""
    info = {
        "data": {"source": "fluxseg.simulation"},
        "steps": steps,
        "crops": steps * config.train.batch_size,
        "hours": round(seconds / 3600, 2),
        "seed": config.train.seed,
    }
    model = create_predictor(jax.device_get(state), config, threshold=0.3, info=info)
    return dataclasses.replace(model, diameter_px=DIAMETER_PX, licence="Apache-2.0")


def main() -> None:
    """Train; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--pool", type=Path, required=True, help="folder of simulated crops")
    parser.add_argument("--crops", type=int, default=1200, help="number of different crops")
    parser.add_argument("--start", type=Path, help="model file to start from")
    parser.add_argument("--seed", type=int, default=1, help="of the crops and all that is random")
    parser.add_argument("--norm", choices=get_args(Norm), default="group")
    parser.add_argument("--rate", type=float, default=1e-3, help="largest learning rate")
    arguments = parser.parse_args()
    tune_allocator()
    enable_compilation_cache()
    with contextlib.suppress(KeyboardInterrupt):
        config = pretrained_config(arguments.rate, arguments.seed, arguments.norm)
        train(
            arguments.workdir, config, arguments.steps,
            arguments.pool, arguments.crops, arguments.start,
        )  # fmt: skip


if __name__ == "__main__":
    main()
