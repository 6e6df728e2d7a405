"""An epoch with its data, and what the loader could deliver.

What: crops a second while fluxseg's preset trains on prepared crops of the simulator through the
    Grain loader, augmentation included; the same loader alone; and the same loader in front of the
    same network in PyTorch (channels_last), all with tuned allocator settings.
Command: python -m experiments.benchmarks.epoch
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks.measure import (
    MALLOC_SETTINGS,
    Variant,
    create_parser,
    print_json,
    print_table,
    run_interleaved,
    summarise,
    write_results,
)
from fluxseg.config import AugmentConfig, Config, SimulatorConfig
from fluxseg.data.cache import read_index
from fluxseg.data.pipeline import CropSource, make_batches
from fluxseg.data.prepare import prepare_cache
from fluxseg.formats.sources import open_source

BATCH = 8
CROPS = 4716
"""Crops of an epoch, as many as the reference protocol's data have: Grain's shuffle takes 0.7 ms
for an index below 24, and a hundredth of that here."""
FLUXSEG = "fluxseg, data and training"
CONTESTANTS = {
    FLUXSEG: "train",
    "the loader alone": "load",
    "the loader alone, no augmentation": "load-plain",
    "PyTorch, same data and network": "torch",
}


def open_cache(cache: Path, count: int | None = None) -> CropSource:
    """Open the crops of a cache: all of them, or so many, repeated as often as that takes."""
    index = read_index(cache)
    assert index is not None
    crops = [(e.key, n) for e in index.entries for n in range(len(e.valid_pixels))]
    return CropSource(index, crops if count is None else (crops * count)[:count])


def open_batches(cache: Path, augment: bool = True) -> Iterator[Any]:
    """Open the endless batches of all crops of a cache."""
    settings = AugmentConfig() if augment else None
    batches = make_batches(open_cache(cache, CROPS), BATCH, augment=settings, seed=0, epochs=None)
    return iter(batches)


def measure_rate(consume: Callable[[Any], None], batches: Iterator[Any], seconds: float) -> float:
    """Return the crops a second that a consumer takes, after three batches."""
    for batch in itertools.islice(batches, 3):
        consume(batch)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        consume(next(batches))
        count += BATCH
    return count / (time.perf_counter() - began)


def make_fluxseg() -> Callable[[Any], None]:
    """Make a consumer that trains fluxseg's preset, as the main job does."""
    import jax

    from fluxseg.training.sharding import count_micro_batches, make_mesh, make_train_step, replicate
    from fluxseg.training.state import create_train_state

    config, mesh = Config(), make_mesh()
    state = replicate(create_train_state(config, np.array([1.0, 1.0]), 1000), mesh)
    step = make_train_step(mesh, count_micro_batches(config, mesh))

    def consume(batch: Any) -> None:
        nonlocal state
        state, metrics = step(state, batch)
        jax.block_until_ready(metrics)

    return consume


def make_torch() -> Callable[[Any], None]:
    """Make a consumer that trains the same network in PyTorch."""
    import torch

    from experiments.benchmarks.torch_unet import TorchUNet

    network = TorchUNet(Config().model).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)

    def consume(batch: Any) -> None:
        image = torch.from_numpy(batch["image"].transpose(0, 3, 1, 2))
        logits = network(image.contiguous(memory_format=torch.channels_last))
        label = torch.from_numpy(batch["label"]).long()
        loss = torch.nn.functional.cross_entropy(logits, label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()

    return consume


def main() -> None:
    """Run the benchmark, or one worker of it."""
    parser = create_parser(__doc__, "epoch", 5)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=6.0, help="of measuring in each process")
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS))
    parser.add_argument("--containers", type=int, default=6, help="fields of view to read")
    arguments = parser.parse_args()
    if arguments.worker:
        _work(arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        config = Config(simulator=SimulatorConfig(containers=arguments.containers, sessions=1))
        prepare_cache(open_source(config), Path(folder), config.data)
        module = "experiments.benchmarks.epoch"
        options = ("--cache", folder, "--seconds", str(arguments.seconds))
        variants = [
            Variant(name, ("-m", module, "--worker", CONTESTANTS[name], *options), MALLOC_SETTINGS)
            for name in arguments.contestants
        ]
        results = run_interleaved(variants, arguments.rounds)
    rows = summarise(results, "crops_per_second", FLUXSEG)
    print_table("Crops a second", rows, "crops/s")
    write_results(arguments.output, results, {"crops a second": rows})


def _work(arguments: argparse.Namespace) -> None:
    worker = arguments.worker
    batches = open_batches(arguments.cache, worker != "load-plain")
    consume: Callable[[Any], None] = lambda batch: None  # noqa: E731
    if worker == "train":
        consume = make_fluxseg()
    elif worker == "torch":
        consume = make_torch()
    print_json({"crops_per_second": measure_rate(consume, batches, arguments.seconds)})


if __name__ == "__main__":
    main()
