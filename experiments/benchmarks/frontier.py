"""Score against speed for variants of the network: which one is the preset, and why.

What: every candidate is trained with the default recipe on the same prepared crops of the
    embedded simulator (12 epochs, one seed) and scored on validation, which chooses, and on the
    test split. Its speed is that of the training step, measured in turn with the others.
Command: python -m experiments.benchmarks.frontier --workdir runs/frontier
    (about 3 minutes a candidate on 2 CPU cores; run again, it goes on where it stopped)
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.benchmarks.measure import (
    FIGURES,
    MALLOC_SETTINGS,
    Row,
    Variant,
    create_parser,
    run_interleaved,
    summarise,
    write_results,
)
from experiments.benchmarks.models import CANDIDATES
from fluxseg.config import Config
from fluxseg.io.files import read_json

PRESET = "preset"
"""The candidate that speeds are ratios to."""


def train_candidate(name: str, folder: Path, epochs: int, seed: int) -> dict[str, Any]:
    """Train a candidate, or go on with it, in a process of its own; return its scores."""
    workdir = folder / f"{name.replace(' ', '_').replace('/', '-')}_seed{seed}"
    config = Config()
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, cache=str((folder / "cache").resolve())),
        model=CANDIDATES[name],
        train=dataclasses.replace(config.train, epochs=epochs, seed=seed),
    )
    if not (workdir / "scores.json").exists():
        program = (
            "import json, sys; from fluxseg.config import config_from_dict; "
            "from fluxseg.training.loop import train_and_evaluate; "
            "train_and_evaluate(config_from_dict(json.loads(sys.argv[1])), sys.argv[2])"
        )
        subprocess.run(
            [sys.executable, "-c", program, json.dumps(dataclasses.asdict(config)), str(workdir)],
            check=True,
            env={**os.environ, **MALLOC_SETTINGS},
        )
    splits = read_json(workdir / "scores.json")["splits"]
    return {
        split: {
            "neuron_iou": splits[split]["scores"]["neuron_iou"],
            "interval": splits[split]["intervals"]["neuron_iou"],
        }
        for split in ("val", "test")
    }


def draw_frontier(path: Path, speeds: list[Row], scores: dict[str, Any]) -> None:
    """Draw score against speed, with the candidates that no other beats in both joined."""
    import matplotlib.pyplot as plt

    points = sorted((row.ratio, scores[row.name]["val"]["neuron_iou"], row.name) for row in speeds)
    figure, axes = plt.subplots(figsize=(8, 5), dpi=110, layout="constrained")
    best = [p for p in points if not any(q[0] > p[0] and q[1] > p[1] for q in points)]
    axes.plot([p[0] for p in best], [p[1] for p in best], color="0.7", zorder=1)
    for speed, score, name in points:
        axes.scatter(speed, score, color="C3" if name == PRESET else "C0", zorder=2)
        axes.annotate(name, (speed, score), (5, 5), textcoords="offset points", fontsize=8)
    axes.margins(x=0.15)
    axes.set_xlabel("crops a second in training, times the preset's")
    axes.set_ylabel("neuron IoU on validation")
    figure.savefig(path)
    plt.close(figure)


def _measure_speeds(names: list[str], rounds: int) -> dict[str, Any]:
    module = "experiments.benchmarks.train_step"
    options = ("--batch", "8", "--micro", "4", "--seconds", "4")
    variants = [
        Variant(
            name,
            ("-m", module, "--worker", "fluxseg", "--models", name, *options),
            MALLOC_SETTINGS,
        )
        for name in names
    ]
    return run_interleaved(variants, rounds)


def main() -> None:
    """Train all candidates, measure their speed, draw the plot, print the table."""
    parser = create_parser(__doc__, "frontier", 3)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--candidates", nargs="+", default=list(CANDIDATES))
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train-only", action="store_true")
    arguments = parser.parse_args()
    scores: dict[str, Any] = {}
    for name in arguments.candidates:
        scores[name] = train_candidate(name, arguments.workdir, arguments.epochs, arguments.seed)
        print(name, scores[name], flush=True)
    if arguments.train_only:
        return
    _report(arguments, scores)


def _report(arguments: argparse.Namespace, scores: dict[str, Any]) -> None:
    results = _measure_speeds(arguments.candidates, arguments.rounds)
    speeds = summarise(results, "crops_per_second", PRESET)
    draw_frontier(FIGURES / "frontier.png", speeds, scores)
    table = Table(title=f"{arguments.epochs} epochs, times the preset's speed")
    for heading in ("candidate", "speed", "validation", "test"):
        table.add_column(heading)
    for row in speeds:
        values = [f"{scores[row.name][split]['neuron_iou']:.3f}" for split in ("val", "test")]
        table.add_row(row.name, f"{row.ratio:.2f}", *values)
    Console(width=100).print(table)
    write_results(arguments.output, results, {"speed": speeds}, more={"scores": scores})


if __name__ == "__main__":
    main()
