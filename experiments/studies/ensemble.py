"""Does an ensemble pay? Three networks and their mean on fields that none has seen.

What: a small network is trained with three seeds on 24 simulated fields of 128 px (a sweep over
    train.seed), and scored on 12 fields of another simulation: each network alone, with the
    temperature and threshold of its own validation, and the mean of their probabilities with the
    mean of their thresholds. Calibration is over all pixels (see `fluxseg.model.calibration`);
    F1 is that of separate neurons at IoU 0.5. Also the share of wrong pixels among the 5 % with
    the most disagreement (mutual information), against the share among all.
Result: WORKDIR/ensemble.md, which this writes and prints. ECE, NLL, Brier, neuron IoU, F1:
    0.0153, 0.1435, 0.0380, 0.385, 0.445 for the mean of the three networks and 0.0157, 0.1368,
    0.0368, 0.391, 0.431 for the ensemble, which is below the best of the three. Little, and for
    one ensemble only. Wrong are 26 % of the pixels with the most disagreement, and 4.7 % of all.
Hardware: 2 CPU cores, some minutes.
Command: python -m experiments.studies.ensemble --workdir runs/ensemble
    Run again, it goes on where it stopped; finished runs are kept.
"""

import argparse
import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fluxseg.compilation import enable_compilation_cache
from fluxseg.config import Config, DataConfig, ModelConfig, SimulatorConfig, TrainConfig
from fluxseg.data.simulator import simulate_recording
from fluxseg.io.files import write_text
from fluxseg.launch import tune_allocator

FIELDS = 12
SEEDS = (0, 1, 2)
SCORES = ("ece", "nll", "brier", "neuron_iou", "object_f1")


def create_config() -> Config:
    """Return settings of a small run."""
    return Config(
        data=DataConfig(tile=64),
        simulator=SimulatorConfig(containers=24, sessions=1, size=128),
        model=ModelConfig(features=(8, 16, 32), convs=1),
        train=TrainConfig(epochs=25, learning_rate=5e-3, checkpoint_every=25),
    )


def score_probabilities(
    probabilities: Sequence[np.ndarray], masks: Sequence[np.ndarray], threshold: float
) -> dict[str, float]:
    """Score probabilities of neuron on labelled fields.

    Args:
        probabilities: `[H, W]` of each field.
        masks: `[N, H, W]` bool, the neurons of each field.
        threshold: least probability of a neuron pixel.

    Returns:
        Expected calibration error, negative log-likelihood (nats), Brier score, neuron IoU, and
        F1 of separate neurons at IoU 0.5.
    """
    import jax.numpy as jnp

    from fluxseg.inference.objects.counts import ObjectCounts
    from fluxseg.inference.objects.scores import score_objects
    from fluxseg.model.calibration import (
        LEVELS,
        calibration_scores,
        log_odds_histogram,
        sum_reliability,
    )
    from fluxseg.model.metrics import scores_from_confusion

    histogram = np.zeros((2, LEVELS), np.int64)
    confusion, counts = np.zeros((2, 2), np.int64), ObjectCounts()
    for probability, mask in zip(probabilities, masks, strict=True):
        truth = np.asarray(mask.any(0))
        inner = np.clip(probability.astype(np.float64), 1e-7, 1 - 1e-7)
        log_odds = jnp.asarray(np.log(inner / (1 - inner))[None], jnp.float32)
        found = log_odds_histogram(log_odds, jnp.asarray(truth[None]), jnp.ones(log_odds.shape))
        histogram += np.asarray(found[0], np.int64)
        both = 2 * truth + (probability >= threshold)
        confusion += np.bincount(both.ravel(), minlength=4).reshape(2, 2)
        counts = counts.merge(score_objects(mask, probability, threshold)["counts"])
    scores: dict[str, Any] = {
        **calibration_scores(sum_reliability(histogram)),
        **scores_from_confusion(confusion),
        **counts.scores(),
    }
    return {name: float(scores[name]) for name in SCORES}


def score_disagreement(information: np.ndarray, wrong: np.ndarray) -> tuple[float, float]:
    """Return the share of wrong pixels among the 5 % with the most disagreement, and among all."""
    most = information >= np.quantile(information, 0.95)
    return float(wrong[most].mean()), float(wrong.mean())


def format_table(rows: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """Return rows of a name and scores as Markdown."""
    lines = ["| | ECE | NLL | Brier | neuron IoU | F1 |", "|---|---|---|---|---|---|"]
    for name, scores in rows:
        lines.append(f"| {name} | " + " | ".join(f"{scores[s]:.4f}" for s in SCORES) + " |")
    return "\n".join(lines) + "\n"


def run(workdir: Path, config: Config, fields: int = FIELDS) -> str:
    """Train, score, write and return the table."""
    from fluxseg.inference.ensemble import Ensemble, ensemble_probability
    from fluxseg.inference.run_model import load_model
    from fluxseg.main import score_and_report
    from fluxseg.training.loop import train_and_evaluate
    from fluxseg.training.sweep import run_folder, run_sweep
    from fluxseg.training.sweep_plan import Sweep, plan_sweep

    members = plan_sweep(Sweep(config, {"train.seed": SEEDS}))

    def train(config: Config, workdir: Path) -> None:
        score_and_report(config, workdir, train_and_evaluate(config, workdir))

    if failures := run_sweep(members, workdir, train):
        raise SystemExit(str(failures))
    models = [load_model(run_folder(workdir, member)) for member in members]
    simulated = dataclasses.replace(config.simulator, seed=config.simulator.seed + 1000)
    recordings = [simulate_recording(simulated, number) for number in range(fields)]
    masks = [np.asarray(recording.masks) > 0 for recording in recordings]
    rows = []
    for seed, model in zip(SEEDS, models, strict=True):
        alone = [model.predict(recording.image) for recording in recordings]
        rows.append((f"seed {seed}", score_probabilities(alone, masks, model.threshold)))
    means = {score: float(np.mean([row[score] for _, row in rows])) for score in SCORES}
    maps = [ensemble_probability(models, recording.image) for recording in recordings]
    threshold = Ensemble(tuple(models)).threshold
    together = score_probabilities([found.mean for found in maps], masks, threshold)
    text = format_table([*rows, ("mean of the three", means), ("ensemble", together)])
    wrong = [(m.mean >= threshold) != mask.any(0) for m, mask in zip(maps, masks, strict=True)]
    shares = score_disagreement(np.stack([m.information for m in maps]), np.stack(wrong))
    text += f"\nWrong among the 5 % with the most disagreement: {shares[0]:.1%}; "
    text += f"among all pixels: {shares[1]:.1%}\n"
    write_text(workdir / "ensemble.md", text)
    return text


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    enable_compilation_cache()
    print(run(arguments.workdir, create_config()))


if __name__ == "__main__":
    tune_allocator()
    main()
