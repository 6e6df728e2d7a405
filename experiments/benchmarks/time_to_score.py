"""Time to a held-out score: fluxseg's preset against the reference model and protocol in PyTorch.

What: both train on the same prepared crops of the embedded simulator (37 fields of view, 296
    crops) and are scored on its test split after every epoch. PyTorch trains the reference
    protocol (`experiments/configs/reference.py`: 12,443,458 parameters, 18 epochs, batches of
    16, Adam at 1e-4, weighted cross-entropy, no augmentation) at its best: channels_last, tuned
    allocator, float32. fluxseg trains its defaults. What counts is the time spent in training
    steps, data included and scoring excluded, until the neuron IoU of the test split is first
    reached. The test split chooses nothing here: a time to a given score is read off the curve.
Command: python -m experiments.benchmarks.time_to_score --workdir runs/time_to_score
    (about 90 minutes on 2 CPU cores; run again, it goes on after the last epoch)
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.benchmarks import measure
from experiments.configs.reference import get_config as reference_config
from fluxseg.config import Config
from fluxseg.data.pipeline import CropSource, iterate_evaluation, make_batches, steps_per_epoch
from fluxseg.io.files import atomic_path, read_json
from fluxseg.model.losses import class_weights
from fluxseg.model.metrics import scores_from_confusion
from fluxseg.training.dataset import Dataset, prepare_dataset

PYTORCH = "PyTorch"
FLUXSEG = "fluxseg"
GOAL = 0.60
"""Neuron IoU that is asked for besides the reference's final one."""


def train_torch(folder: Path, epochs: int, bfloat16: bool) -> None:
    """Train the reference protocol in PyTorch, one line an epoch into `torch.jsonl`; resumes."""
    import torch

    from experiments.benchmarks.torch_unet import TorchUNet, to_torch

    config = reference_config()
    dataset = prepare_dataset(Config(), folder / "data")
    torch.manual_seed(config.train.seed)
    network = TorchUNet(config.model).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), lr=config.train.learning_rate)
    log, saved = folder / "torch.jsonl", folder / "torch.pt"
    rows = _read_rows(log)
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        rows = rows[: state["epoch"]]
    weights = torch.from_numpy(class_weights(config.loss, *dataset.pixel_counts("train")))
    size = config.train.batch_size
    source = CropSource(dataset.index, dataset.crops("train"))
    for epoch in range(len(rows), epochs):
        network.train()
        began, cpu = time.perf_counter(), time.process_time()
        batches = make_batches(source, size, seed=epoch, epochs=1)
        for _ in range(steps_per_epoch(len(source), size)):
            batch = next(batches)
            # -1 is not learnt.
            label = np.where(batch["valid"] > 0, batch["label"].astype(np.int64), -1)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
                logits = network(to_torch(batch["image"])).float()
            loss = torch.nn.functional.cross_entropy(
                logits, torch.from_numpy(label), weights, ignore_index=-1
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            print(f"{time.perf_counter() - began:.1f} s, loss {loss.item():.4f}", flush=True)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        row = {"epoch": epoch + 1, "train_seconds": seconds, "cpu_seconds": cpu}
        row |= {f"{s}_neuron_iou": _score_torch(network, dataset, s) for s in ("val", "test")}
        rows.append(row)
        # The log is written after the state: a row without its state would be lost work.
        parts = {"network": network, "optimizer": optimizer}
        states: dict[str, Any] = {name: part.state_dict() for name, part in parts.items()}
        with atomic_path(saved) as temporary:
            torch.save({**states, "epoch": epoch + 1}, temporary)
        log.write_text("".join(json.dumps(row) + "\n" for row in rows))
        print(json.dumps(row), flush=True)


def _score_torch(network: Any, dataset: Dataset, split: str) -> float:
    import torch

    from experiments.benchmarks.torch_unet import to_torch

    network.eval()
    confusion = np.zeros((2, 2), np.int64)
    with torch.inference_mode():
        for batch in iterate_evaluation(CropSource(dataset.index, dataset.crops(split)), 8):
            found = network(to_torch(batch["image"])).argmax(1).numpy()
            inside = batch["valid"] > 0
            pairs = 2 * batch["label"][inside].astype(int) + found[inside]
            confusion += np.bincount(pairs, minlength=4).reshape(2, 2)
    return scores_from_confusion(confusion)["neuron_iou"]


def train_fluxseg(folder: Path) -> None:
    """Train fluxseg's defaults on the same crops by the main job itself; it resumes as always."""
    settings = (
        f"--config.data.cache={(folder / 'data' / 'cache').resolve()}",
        "--config.train.score-test-each-epoch",
    )
    subprocess.run(
        [sys.executable, "-m", "fluxseg.main", "--workdir", str(folder / "fluxseg"), *settings],
        check=True,
        env={**os.environ, **measure.MALLOC_SETTINGS},
    )


def measure_steps(rounds: int) -> dict[str, float]:
    """Measure crops a second of both in turn, for times that no other load disturbs."""
    settings = measure.MALLOC_SETTINGS
    variants = [
        measure.make_worker(
            PYTORCH, "train_step", "torch-channels-last", settings,
            models="reference", batch=16, seconds=5.0,
        ),
        measure.make_worker(
            FLUXSEG, "train_step", "fluxseg", settings,
            models="fluxseg", batch=8, micro=4, seconds=5.0,
        ),
    ]  # fmt: skip
    results = measure.run_interleaved(variants, rounds)
    title = "Training steps"
    rows = measure.compare(results, title, "crops_per_second", PYTORCH, "crops/s")[title]
    return {row.name: row.median for row in rows}


def find_times(
    curves: Mapping[str, Sequence[float]], rates: Mapping[str, float], crops: int
) -> dict[str, dict[str, float | None]]:
    """Find the training time after which each first has the goal, and the reference's final score.

    Args:
        curves: neuron IoU of the test split after each epoch, for "PyTorch" and "fluxseg".
        rates: crops a second of each.
        crops: training crops of an epoch.

    Returns:
        The seconds of each and their ratio; None where a score is never reached.
    """
    final = curves[PYTORCH][-1]
    times: dict[str, dict[str, float | None]] = {}
    for title, goal in ((f"neuron IoU {GOAL:.2f}", GOAL), ("the reference's final", final)):
        row: dict[str, float | None] = {"score": goal}
        for name, curve in curves.items():
            epoch = next((n for n, score in enumerate(curve, 1) if score >= goal), None)
            row[name] = None if epoch is None else epoch * crops / rates[name]
        slow, fast = row[PYTORCH], row[FLUXSEG]
        row["times faster"] = None if slow is None or fast is None else slow / fast
        times[title] = row
    # The reference is trained for all its epochs; that an earlier one scored as well is chance.
    whole = len(curves[PYTORCH]) * crops / rates[PYTORCH]
    fast = times["the reference's final"][FLUXSEG]
    times["the reference's final"] |= {
        PYTORCH: whole,
        "times faster": None if fast is None else whole / fast,
    }
    return times


def draw_curves(
    path: Path, curves: Mapping[str, Sequence[float]], rates: Mapping[str, float], crops: int
) -> None:
    """Draw the scores against the time in training steps."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), dpi=110, layout="constrained")
    for name, curve in curves.items():
        seconds = (np.arange(len(curve)) + 1) * crops / rates[name]
        axes.plot(seconds, curve, "o-", label=name, ms=4)
    axes.set_xscale("log")
    axes.set_xlabel("seconds of training steps")
    axes.set_ylabel("neuron IoU of the test split")
    axes.axhline(curves[PYTORCH][-1], color="0.8", zorder=0)
    axes.legend()
    figure.savefig(path)
    plt.close(figure)


def _read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def main() -> None:
    """Run both, or one worker, and print the table."""
    parser = measure.create_parser(__doc__, "time_to_score", 3)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=18, help="of the reference protocol")
    parser.add_argument(
        "--bfloat16", action="store_true", help="train the reference in bfloat16, to save time"
    )
    arguments = parser.parse_args()
    folder = arguments.workdir
    folder.mkdir(parents=True, exist_ok=True)
    if arguments.worker == "torch":
        train_torch(folder, arguments.epochs, arguments.bfloat16)
        return
    command = ["-m", "experiments.benchmarks.time_to_score", *sys.argv[1:], "--worker", "torch"]
    subprocess.run(
        [sys.executable, *command], check=True, env={**os.environ, **measure.MALLOC_SETTINGS}
    )
    train_fluxseg(folder)
    _report(arguments)


def _report(arguments: argparse.Namespace) -> None:
    folder = arguments.workdir
    paths = {
        PYTORCH: folder / "torch.jsonl",
        FLUXSEG: folder / "fluxseg" / "metrics.jsonl",
    }
    curves = {
        name: [row["test_neuron_iou"] for row in _read_rows(path)] for name, path in paths.items()
    }
    crops = read_json(folder / "data" / "data.json")["splits"]["train"]["crops"]
    rates = measure_steps(arguments.rounds)
    times = find_times(curves, rates, crops)
    table = Table(title="Seconds of training steps until the test split has a score")
    for heading in ("", "score", PYTORCH, FLUXSEG, "times faster"):
        table.add_column(heading)
    for title, row in times.items():
        shown = ["never" if value is None else f"{value:.3g}" for value in row.values()]
        table.add_row(title, *shown)
    Console(width=100).print(table)
    draw_curves(measure.FIGURES / "time_to_score.png", curves, rates, crops)
    note = "The scores of the reference were trained in " + (
        "bfloat16 with float32 parameters; its time is that of its steps in float32."
        if arguments.bfloat16
        else "float32."
    )
    measure.write_results(
        arguments.output,
        {},
        note=note,
        more={"curves": curves, "crops_per_second": rates, "times": times},
    )


if __name__ == "__main__":
    main()
