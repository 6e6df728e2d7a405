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
import importlib
import importlib.metadata
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

from experiments.benchmarks.epoch import open_cache
from experiments.benchmarks.measure import create_parser, write_results
from experiments.benchmarks.models import MODELS, classic_unet
from experiments.benchmarks.train_step import create_batch
from fluxseg.config import AugmentConfig, Config, ModelConfig, SimulatorConfig, TrainConfig

CONTESTED = {
    "reference": MODELS["reference"],
    "classic-64": classic_unet(64),
    "preset": MODELS["fluxseg"],
}
DTYPES = ("float32", "bfloat16")
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
            features = tuple(max(width // self.narrow, 2) for width in config.features)
            narrow = dataclasses.replace(config, features=features)
            yield f"{name}, {dtype}", in_dtype(narrow, dtype)


def in_dtype(config: ModelConfig, dtype: Any) -> ModelConfig:
    """Return a network that is computed in another dtype."""
    return dataclasses.replace(config, dtype=dtype)


def memory_mb(compiled: Any) -> float:
    """Return what a compiled program needs beside its arguments and results, MB."""
    return float(compiled.memory_analysis().temp_size_in_bytes / 1e6)


SCALES = {
    False: Scale(256, (16, 64, 128), 1.5, 1),
    True: Scale(32, (2,), 0.02, 16),
}
"""What a run on a card measures, and what a dry run does."""


def measure_rate(step: Callable[[], Any], wait: Callable[[Any], Any], seconds: float) -> float:
    """Return how often a second a step is done, after two that are not counted."""
    for _ in range(2):
        wait(step())
    began, count = time.perf_counter(), 0
    while count < 2 or time.perf_counter() - began < seconds:
        last = step()
        count += 1
        # Not so many that what has been asked for but not done takes long.
        if count % 8 == 0:
            wait(last)
    wait(last)
    return count / (time.perf_counter() - began)


def try_batches(scale: Scale, measure: Callable[[ModelConfig, int], Report]) -> Report:
    """Measure every network at every batch size that fits; keep the best of each figure.

    Args:
        scale: what to measure.
        measure: gives figures of a network at a batch size; those named `*_per_second` are rates.
    """
    report: Report = {}
    for name, config in scale.networks():
        tried: Report = {}
        for batch in scale.batches:
            if time.time() > scale.deadline:
                tried[str(batch)] = {"skipped": "no time was left"}
                continue
            try:
                tried[str(batch)] = measure(config, batch)
            except Exception as error:  # What a card has no memory for has many names.
                tried[str(batch)] = {"error": f"{type(error).__name__}: {error}"[:300]}
                break
        best = {
            key: max(figures.get(key, 0.0) for figures in tried.values())
            for key in ("train_per_second", "predict_per_second")
        }
        report[name] = {"best": best, "batches": tried}
        print(f"{name}: {best}", file=sys.stderr, flush=True)
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
    steps = jax.jit(train_step, donate_argnums=0, compiler_options=compiler_options())

    def measure(config: ModelConfig, size: int) -> Report:
        settings = Config(model=config, train=TrainConfig(batch_size=size))
        state = create_train_state(settings, np.ones(2), 1000, tile=scale.tile)
        batch = jax.device_put(cut_batch(size, scale.tile))
        predicting = neuron_probability.lower(
            state.apply_fn, state.params, batch["image"]
        ).compile()
        predict = measure_rate(
            lambda: predicting(state.params, batch["image"]), jax.block_until_ready, scale.seconds
        )
        training = steps.lower(state, batch).compile()

        def step() -> Any:
            nonlocal state
            state, metrics = training(state, batch)
            return metrics

        train = measure_rate(step, jax.block_until_ready, scale.seconds)
        return {
            "train_per_second": train * size,
            "predict_per_second": predict * size,
            "train_mb": memory_mb(training),
            "predict_mb": memory_mb(predicting),
        }

    return try_batches(scale, measure)


def measure_torch(scale: Scale) -> Report:
    """Measure the same networks in PyTorch at its best."""
    try:
        import torch
    except ImportError:
        return {"skipped": "PyTorch is not installed"}
    from experiments.benchmarks.torch_unet import TorchUNet

    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    torch.backends.cudnn.benchmark = True

    def wait(_: Any) -> None:
        if on_gpu:
            torch.cuda.synchronize()

    def measure(config: ModelConfig, size: int) -> Report:
        network = TorchUNet(config).to(device, memory_format=torch.channels_last)
        compiled: Any = torch.compile(network) if on_gpu else network
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
        batch = cut_batch(size, scale.tile)
        image = torch.from_numpy(batch["image"].transpose(0, 3, 1, 2).copy()).to(device)
        image = image.contiguous(memory_format=torch.channels_last)
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
        figures = {"train_per_second": size * measure_rate(step, wait, scale.seconds)}
        if on_gpu:
            figures["train_mb"] = torch.cuda.max_memory_allocated() / 1e6
        network.eval()
        figures["predict_per_second"] = size * measure_rate(predict, wait, scale.seconds)
        return figures

    return try_batches(scale, measure) | {"version": torch.__version__, "device": str(device)}


def check_parity(_: Scale) -> Report:
    """Compare the GPU with the CPU, and ways to run the step with each other.

    Returns:
        Each check with its `deviation`, its `limit` and whether it is `passed`.
    """
    import jax

    checks: Any = importlib.import_module("tests.training.device_check")
    gradient = jax.jit(checks.compute_gradients)
    report: Report = {}

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

    from fluxseg.training.checkpoints import open_checkpoints, restore_state, save_checkpoint
    from fluxseg.training.sharding import make_mesh, replicate
    from fluxseg.training.steps import train_step

    with jax.default_device(cpu), tempfile.TemporaryDirectory() as folder:
        there = jax.jit(train_step)(*jax.device_put((state, batch), cpu))[0]
        checkpoints = open_checkpoints(Path(folder))
        save_checkpoint(checkpoints.last, there, {})
        checkpoints.wait()
        here = restore_state(checkpoints.last, replicate(state, make_mesh()))
        checkpoints.close()
        last = jax.jit(train_step)(there, jax.device_put(batch, cpu))[1]
    for one, other in zip(jax.tree.leaves(there.params), jax.tree.leaves(here.params), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    found = jax.jit(train_step)(here, batch)[1]
    return abs(float(found.loss_sum) / float(last.loss_sum) - 1)


def compare_dtypes() -> float:
    """Return the mean difference of probabilities on a field, bfloat16 against float32."""
    from fluxseg.inference.run_model import load_model
    from fluxseg.simulation.sessions import simulate_recording

    model = load_model()
    image = simulate_recording(SimulatorConfig(size=128), 0).image
    first, second = (
        dataclasses.replace(model, config=config).predict(
            image, diameter=model.diameter_px, tta=False
        )
        for config in (in_dtype(model.config, dtype) for dtype in DTYPES)
    )
    return float(np.abs(first - second).mean())


def measure_loader(scale: Scale) -> Report:
    """Train the preset with its loader, on one batch alone, and run the loader alone."""
    import jax

    from fluxseg.data.pipeline import make_batches
    from fluxseg.data.prepare import prepare_cache
    from fluxseg.formats.sources import open_source
    from fluxseg.training.sharding import make_mesh, make_train_step, replicate
    from fluxseg.training.state import create_train_state

    size = scale.batches[-1] // jax.device_count() * jax.device_count() or jax.device_count()
    config = Config(simulator=SimulatorConfig(containers=2, sessions=1, size=4 * scale.tile))
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, tile=scale.tile),
        model=dict(scale.networks())["preset, bfloat16"],
    )
    mesh = make_mesh()
    state = replicate(create_train_state(config, np.ones(2), 1000, tile=scale.tile), mesh)
    train = make_train_step(mesh)
    with tempfile.TemporaryDirectory() as folder:
        prepare_cache(open_source(config), Path(folder), config.data)
        crops = open_cache(Path(folder), 4716)
        batches = iter(make_batches(crops, size, augment=AugmentConfig(), seed=0, epochs=None))
        fixed = next(batches)

        def step(batch: Any) -> Any:
            nonlocal state
            state, metrics = train(state, batch)
            return metrics

        wait, seconds = jax.block_until_ready, 2 * scale.seconds
        figures = {
            "loader alone": measure_rate(lambda: next(batches), lambda _: None, seconds),
            "training on one batch": measure_rate(lambda: step(fixed), wait, seconds),
            "training with the loader": measure_rate(lambda: step(next(batches)), wait, seconds),
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
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - began
        if process.returncode != 0:
            raise RuntimeError(process.stdout[-1000:] + process.stderr[-1000:])
        scores = json.loads((Path(folder) / "scores.json").read_text())
        splits = {split: row["scores"] for split, row in scores["splits"].items()}
        kept = ("macro_iou", "neuron_iou")
        return {
            "seconds": seconds,
            "report": (Path(folder) / "report.html").exists(),
            "scores": {split: {name: row[name] for name in kept} for split, row in splits.items()},
        }


def cut_batch(size: int, tile: int) -> dict[str, np.ndarray]:
    """Create a batch of random crops `[size, tile, tile]`."""
    return {name: array[:, :tile, :tile] for name, array in create_batch(size).items()}


SECTIONS: dict[str, Callable[[Scale], Report]] = {
    "parity": check_parity,
    "speed": measure_speed,
    "torch": measure_torch,
    "loader": measure_loader,
    "job": run_job,
}


def describe_cards() -> Report:
    """Describe the cards, their driver, and the versions of JAX's plugins."""
    report: Report = {}
    for name in ("jax-cuda12-plugin", "jax-cuda13-plugin", "nvidia-cudnn-cu12"):
        try:
            report[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        report["cards"] = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        report["cards"] = "none that nvidia-smi knows"
    return report


def run_section(name: str, tiny: bool, deadline: float) -> Report:
    """Run a section in a process of its own; what goes wrong is its report."""
    left = deadline - time.time()
    if left <= 0:
        return {"skipped": "no time was left"}
    command = [sys.executable, "-m", "experiments.benchmarks.gpu", "--worker", name]
    command += ["--deadline", str(deadline), *(["--tiny"] if tiny else [])]
    began = time.time()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=left + 60, check=False
        )
    except subprocess.TimeoutExpired:
        return {"error": "it took longer than was left"}
    if done.returncode != 0:
        return {"error": done.stderr[-2000:]}
    report: Report = json.loads(done.stdout.splitlines()[-1])
    return report | {"section_seconds": round(time.time() - began, 1)}


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
    parser = create_parser(__doc__, "gpu", 1)
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
        write_results(arguments.output, {}, more=more)


if __name__ == "__main__":
    main()
