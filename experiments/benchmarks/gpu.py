"""fluxseg on a GPU: is it right, how fast is it, is the card idle; one record of it all.

What: sections that can be run alone, each a process of its own; one that fails or has no time left
    says why, and the others go on.
    parity: gradients and one step on the GPU against the CPU; jit, pmap and shard_map; bfloat16
    against float32 on a field; a checkpoint of the CPU, resumed on the GPU.
    speed: images a second and memory of training step and prediction: the reference protocol's
    model, the classic U-Net (64 channels) and the preset, at the best of several batches, in
    float32 and bfloat16.
    torch: the same networks in PyTorch (channels_last, torch.compile, autocast) on the same card.
    loader: training with data against training on one batch that stays on the card.
    job: the default main job from the command to its report.
Needs: fluxseg and its GPU libraries (`pip install '.[cuda]'`), for `torch` also PyTorch for the
    card's CUDA. On a machine without network, install from wheels that you bring along: beforehand
    `pip download -d wheels '.[cuda]' torch` with the same Python (3.12), and there
    `pip install --no-index --find-links wheels '.[cuda]' torch`.
Takes: less than 8 minutes; what does not fit in `--minutes` is left out, and the record says so.
Command: python -m experiments.benchmarks.gpu [--sections parity speed] [--tiny]
"""

import argparse
import dataclasses
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks import measure
from experiments.benchmarks.epoch import open_batches
from experiments.benchmarks.measure import rate_of
from experiments.benchmarks.models import (
    MODELS,
    classic_unet,
    create_batch,
    divide_width,
    make_trainer,
)
from experiments.benchmarks.parity import DTYPES, check_parity, in_dtype
from fluxseg.allocator import SWITCH
from fluxseg.config import Config, DataConfig, ModelConfig, SimulatorConfig, TrainConfig

CONTESTED = {
    "reference": MODELS["reference"],
    "classic-64": classic_unet(64),
    "preset": MODELS["fluxseg"],
}
PLUGINS = ("jax-cuda12-plugin", "jax-cuda13-plugin", "nvidia-cudnn-cu12")
Report = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Scale:
    """How much is measured: a real run, or a dry one.

    Attributes:
        tile: side of the crops, px.
        batches: batch sizes that are tried.
        seconds: of measuring each.
        narrow: what the widths of the networks are divided by.
        deadline: `time.time()` after which nothing new is begun.
    """

    tile: int
    batches: tuple[int, ...]
    seconds: float
    narrow: int
    deadline: float = 0.0

    def networks(self) -> Iterator[tuple[str, ModelConfig]]:
        """Give the networks in both dtypes, each with its name."""
        for (name, config), dtype in itertools.product(CONTESTED.items(), DTYPES):
            yield f"{name}, {dtype}", in_dtype(divide_width(config, self.narrow), dtype)


SCALES = {
    False: Scale(256, (16, 64, 128), 1.5, 1),
    True: Scale(32, (2,), 0.02, 16),
}
"""What a run on a card measures, and what a dry run does."""


def try_batches(scale: Scale, try_one: Callable[[ModelConfig, int], Report]) -> Report:
    """Measure every network at every batch size that fits; keep the best of both rates."""
    report: Report = {}
    for name, config in scale.networks():
        tried: Report = {}
        for batch in scale.batches:
            if time.time() > scale.deadline:
                tried[str(batch)] = {"skipped": "no time was left"}
                continue
            try:
                tried[str(batch)] = try_one(config, batch)
            except Exception as error:  # What a card has no memory for has many names.
                tried[str(batch)] = {"error": f"{type(error).__name__}: {error}"[:300]}
                break
        best = {
            key: max(figures.get(key, 0.0) for figures in tried.values())
            for key in ("train_per_second", "predict_per_second")
        }
        report[name] = {"best": best, "batches": tried}
    return report


def measure_speed(scale: Scale) -> Report:
    """Measure fluxseg's training step and prediction."""
    import jax

    from fluxseg.compilation import enable_compilation_cache
    from fluxseg.inference.probability import neuron_probability
    from fluxseg.model.convolutions import compiler_options
    from fluxseg.training.state import create_train_state
    from fluxseg.training.steps import train_step

    enable_compilation_cache()
    wait = jax.block_until_ready
    steps = jax.jit(train_step, donate_argnums=0, compiler_options=compiler_options())

    def try_one(config: ModelConfig, size: int) -> Report:
        settings = Config(model=config, train=TrainConfig(batch_size=size))
        state = create_train_state(settings, np.ones(2), 1000, tile=scale.tile)
        batch = jax.device_put(create_batch(size, scale.tile))
        image = batch["image"]
        predicting = neuron_probability.lower(state.apply_fn, state.params, image).compile()
        predict = rate_of(lambda: predicting(state.params, image), scale.seconds, wait)
        training = steps.lower(state, batch).compile()

        def step() -> Any:
            nonlocal state
            state, metrics = training(state, batch)
            return metrics

        train = rate_of(step, scale.seconds, wait)
        # What a program needs beside its arguments and results.
        programs: dict[str, Any] = {"train_mb": training, "predict_mb": predicting}
        return {
            "train_per_second": train * size,
            "predict_per_second": predict * size,
            **{k: p.memory_analysis().temp_size_in_bytes / 1e6 for k, p in programs.items()},
        }

    return try_batches(scale, try_one)


def measure_torch(scale: Scale) -> Report:
    """Measure the same networks in PyTorch at its best."""
    try:
        import torch
    except ImportError:
        return {"skipped": "PyTorch is not installed"}
    from experiments.benchmarks.torch_unet import TorchUNet, to_torch

    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    torch.backends.cudnn.benchmark = True

    def wait(_: Any) -> None:
        if on_gpu:
            torch.cuda.synchronize()

    def try_one(config: ModelConfig, size: int) -> Report:
        network = TorchUNet(config).to(device, memory_format=torch.channels_last)
        compiled: Any = torch.compile(network) if on_gpu else network
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
        batch = create_batch(size, scale.tile)
        image = to_torch(batch["image"]).to(device)
        label = torch.from_numpy(batch["label"]).long().to(device)
        half = torch.autocast(device.type, torch.bfloat16, enabled=config.dtype == "bfloat16")

        def step() -> None:
            optimizer.zero_grad()
            with half:
                loss = torch.nn.functional.cross_entropy(compiled(image).float(), label)
            loss.backward()
            optimizer.step()

        def predict() -> Any:
            with torch.inference_mode(), half:
                return torch.softmax(compiled(image).float(), 1)[:, 1]

        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        figures = {"train_per_second": size * rate_of(step, scale.seconds, wait)}
        if on_gpu:
            figures["train_mb"] = torch.cuda.max_memory_allocated() / 1e6
        network.eval()
        figures["predict_per_second"] = size * rate_of(predict, scale.seconds, wait)
        return figures

    return try_batches(scale, try_one) | {"version": torch.__version__, "device": str(device)}


def measure_loader(scale: Scale) -> Report:
    """Train the preset with its loader, on one batch alone, and run the loader alone."""
    import jax

    from fluxseg.data.prepare import prepare_cache
    from fluxseg.formats.sources import open_source

    size = scale.batches[-1] // jax.device_count() * jax.device_count() or jax.device_count()
    config = Config(
        data=DataConfig(tile=scale.tile),
        model=dict(scale.networks())["preset, bfloat16"],
        simulator=SimulatorConfig(containers=2, sessions=1, size=4 * scale.tile),
    )
    train, wait, seconds = make_trainer(config, 1), jax.block_until_ready, 2 * scale.seconds
    with tempfile.TemporaryDirectory() as folder:
        prepare_cache(open_source(config), Path(folder), config.data)
        batches = open_batches(Path(folder), size)
        fixed = next(batches)
        figures = {
            "loader alone": rate_of(lambda: next(batches), seconds),
            "training on one batch": rate_of(lambda: train(fixed), seconds, wait),
            "training with the loader": rate_of(lambda: train(next(batches)), seconds, wait),
        }
    idle = 1 - figures["training with the loader"] / figures["training on one batch"]
    rates = {f"{name}, crops per second": rate * size for name, rate in figures.items()}
    return rates | {"batch": size, "share of the time that the card waits for data": idle}


def run_job(scale: Scale) -> Report:
    """Run the main job from the command to its report."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "fluxseg.main", "--workdir", folder]
        if scale.narrow > 1:
            from tests.conftest import TINY, as_arguments

            command += as_arguments(TINY)
        began = time.perf_counter()
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - began
        splits = json.loads((Path(folder) / "scores.json").read_text())["splits"]
        return {
            "seconds": seconds,
            "report": (Path(folder) / "report.html").exists(),
            "scores": {split: row["scores"] for split, row in splits.items()},
        }


SECTIONS: dict[str, Callable[[Scale], Report]] = {
    "parity": lambda _: check_parity(),
    "speed": measure_speed,
    "torch": measure_torch,
    "loader": measure_loader,
    "job": run_job,
}


def describe_cards() -> str:
    """Describe the cards and their driver."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "none that nvidia-smi knows"


def run_section(name: str, tiny: bool, deadline: float) -> Report:
    """Run a section in a process of its own; what goes wrong is its report."""
    left = deadline - time.time()
    if left <= 0:
        return {"skipped": "no time was left"}
    # The main job sets the allocator as it does for its users.
    worker = measure.make_worker(name, "gpu", name, {SWITCH: ""}, deadline=deadline)
    command = (*worker.command, "--tiny") if tiny else worker.command
    try:
        return dict(
            measure.run_variant(dataclasses.replace(worker, command=command), timeout=left + 60)
        )
    except RuntimeError as error:
        return {"error": str(error)[-2000:]}


def format_lines(name: str, report: Report) -> list[str]:
    """Format the report of a section as the rows of a short table."""
    rows = []
    for key, value in report.items():
        if isinstance(value, dict) and "best" in value:
            rates = ", ".join(f"{k.split('_')[0]} {v:.1f}/s" for k, v in value["best"].items())
            rows.append(f"| {name} | {key} | {rates} |")
        elif isinstance(value, dict) and "passed" in value:
            told = "passed" if value["passed"] else "FAILED"
            rows.append(f"| {name} | {key} | {told}: {value['deviation']:.2g} |")
        else:
            shown = f"{value:.4g}" if isinstance(value, float) else str(value).strip()[-200:]
            rows.append(f"| {name} | {key} | {shown} |")
    return rows


def main() -> None:
    """Run the sections, or one of them as a worker."""
    parser = measure.create_parser(__doc__, "gpu", 1)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--minutes", type=float, default=8.0, help="in all")
    parser.add_argument("--tiny", action="store_true", help="a dry run, on any device")
    parser.add_argument("--deadline", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        import jax

        scale = dataclasses.replace(SCALES[arguments.tiny], deadline=arguments.deadline)
        report = SECTIONS[arguments.worker](scale)
        if "skipped" not in report and arguments.worker not in ("torch", "job"):
            device = jax.devices()[0]
            report["device"] = f"{jax.device_count()} x {device.platform}: {device.device_kind}"
        print(json.dumps(report))
        return
    deadline = time.time() + 60 * arguments.minutes
    sections: Report = {}
    print("| section | what | result |\n|---|---|---|")
    for name in arguments.sections:
        sections[name] = run_section(name, arguments.tiny, deadline)
        print("\n".join(format_lines(name, sections[name])), flush=True)
        # After each section, as a machine that is lent may be taken back.
        more = {"sections": sections, "cards": describe_cards()}
        more["plugins"] = measure.collect_versions(PLUGINS)
        measure.write_results(arguments.output, {}, more=more)


if __name__ == "__main__":
    main()
