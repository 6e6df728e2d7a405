"""Training steps a second: fluxseg, the naive formulation of the same maths in Flax, PyTorch.

What: one step is forward, backward and Adam on a batch of 16 random crops of 256 x 256 px, with
    weighted cross-entropy and channel dropout of 0.1. Each contestant is run as it comes and
    with the same allocator settings.
Command: python -m experiments.benchmarks.train_step
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from experiments.benchmarks.measure import (
    MALLOC_SETTINGS,
    Results,
    Row,
    Variant,
    create_parser,
    print_json,
    print_table,
    run_interleaved,
    summarise,
    write_results,
)
from experiments.benchmarks.models import MODELS

CONTESTANTS = ("flax-naive", "fluxseg", "torch-eager", "torch-channels-last")
TILE = 256


def time_steps(step: Callable[[], None], seconds: float) -> float:
    """Return the median duration of a step, after two that are not counted, in seconds."""
    for _ in range(2):
        step()
    durations: list[float] = []
    while sum(durations) < seconds or len(durations) < 2:
        began = time.perf_counter()
        step()
        durations.append(time.perf_counter() - began)
    return statistics.median(durations)


def create_batch(size: int) -> dict[str, np.ndarray]:
    """Create a batch of random crops with a tenth of the pixels neuron."""
    rng = np.random.default_rng(0)
    return {
        "image": rng.normal(size=(size, TILE, TILE, 1)).astype(np.float32),
        "label": (rng.random((size, TILE, TILE)) < 0.1).astype(np.uint8),
        "valid": np.ones((size, TILE, TILE), np.uint8),
    }


def time_jax(model: str, naive: bool, batch_size: int, parts: int, seconds: float) -> float:
    """Return the duration of fluxseg's own step, or of the same maths written naively."""
    import jax

    from fluxseg.config import Config, LossConfig, TrainConfig
    from fluxseg.model.unet import create_unet
    from fluxseg.training.sharding import make_mesh, make_train_step, replicate
    from fluxseg.training.state import create_train_state

    config = Config(
        model=MODELS[model],
        loss=LossConfig(dice=0.0),
        train=TrainConfig(batch_size=batch_size, weight_decay=0.0, clip_norm=0.0),
    )
    mesh = make_mesh()
    state = replicate(create_train_state(config, np.array([1.0, 3.0]), 1000, tile=TILE), mesh)
    if naive:
        state = state.replace(apply_fn=create_unet(MODELS[model], formulation="plain").apply)
    train = make_train_step(mesh, parts)
    batch = create_batch(batch_size)

    def step() -> None:
        nonlocal state
        state, metrics = train(state, batch)
        jax.block_until_ready((state, metrics))

    return time_steps(step, seconds)


def time_torch(model: str, channels_last: bool, batch_size: int, seconds: float) -> float:
    """Return the duration of PyTorch's step."""
    import torch

    from experiments.benchmarks.torch_unet import TorchUNet

    torch.manual_seed(0)
    network = TorchUNet(MODELS[model])
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = network.to(memory_format=layout)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    batch = create_batch(batch_size)
    image = torch.from_numpy(batch["image"].transpose(0, 3, 1, 2).copy())
    image = image.contiguous(memory_format=layout)
    label = torch.from_numpy(batch["label"]).long()
    weights = torch.tensor([1.0, 3.0])

    def step() -> None:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(image), label, weights)
        loss.backward()
        optimizer.step()
        loss.item()

    return time_steps(step, seconds)


def main() -> None:
    """Run the benchmark, or one worker of it."""
    parser = create_parser(__doc__, "train_step", 5)
    parser.add_argument("--models", nargs="*", default=["classic-16", "fluxseg"])
    parser.add_argument(
        "--brief",
        nargs="*",
        default=["classic-32", "reference/4"],
        help="models of which only fluxseg and PyTorch at its best are measured",
    )
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS))
    parser.add_argument("--batch", type=int, default=16, help="crops in a step")
    parser.add_argument("--micro", type=int, default=2, help="crops at once in fluxseg's step")
    parser.add_argument("--seconds", type=float, default=8.0, help="of measuring in each process")
    parser.add_argument("--allocators", nargs="+", default=["default", "tuned"])
    arguments = parser.parse_args()
    if arguments.worker:
        _work(arguments)
        return
    results: Results = {}
    summary: dict[str, list[Row]] = {}
    all_of_them = (arguments.contestants, arguments.allocators)
    brief = (["torch-channels-last", "fluxseg"], ["tuned"])
    plans = dict.fromkeys(arguments.models, all_of_them) | dict.fromkeys(arguments.brief, brief)
    for model, (contestants, allocators) in plans.items():
        variants = [
            _variant(arguments, model, contestant, allocator)
            for allocator in allocators
            for contestant in contestants
        ]
        found = run_interleaved(variants, arguments.rounds)
        reference = variants[0].name
        rows = summarise(found, "crops_per_second", reference)
        print_table(f"Training step, {model}", rows, "crops/s")
        results |= found
        summary[model] = rows
        memory = summarise(found, "peak_mb", reference, larger_is_better=False)
        print_table(f"Peak memory, {model}", memory, "MB")
        summary[f"{model}, peak memory"] = memory
        write_results(arguments.output, results, summary)


def _variant(arguments: argparse.Namespace, model: str, contestant: str, allocator: str) -> Variant:
    command: tuple[str, ...] = ("-m", "experiments.benchmarks.train_step", "--worker", contestant)
    options = {"models": model, **{n: getattr(arguments, n) for n in ("batch", "micro", "seconds")}}
    command += tuple(text for name, value in options.items() for text in (f"--{name}", str(value)))
    environment = MALLOC_SETTINGS if allocator == "tuned" else {}
    return Variant(f"{model}, {contestant}, {allocator} allocator", command, environment)


def _work(arguments: argparse.Namespace) -> None:
    (model,), batch, seconds = arguments.models, arguments.batch, arguments.seconds
    if arguments.worker.startswith("torch"):
        duration = time_torch(model, arguments.worker == "torch-channels-last", batch, seconds)
    else:
        naive = arguments.worker == "flax-naive"
        parts = 1 if naive else max(batch // arguments.micro, 1)
        duration = time_jax(model, naive, batch, parts, seconds)
    print_json({"crops_per_second": batch / duration, "step_seconds": duration})


if __name__ == "__main__":
    main()
