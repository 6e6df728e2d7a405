"""An epoch with its data, and what the loader could deliver.

What: crops a second while fluxseg's preset trains on prepared crops of the simulator through the
    Grain loader, augmentation included; and the same loader alone, all with tuned allocator
    settings.
Command: python -m experiments.benchmarks.epoch
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from experiments.benchmarks import measure
from experiments.benchmarks.models import make_trainer
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
}


def open_batches(cache: Path, size: int, augment: bool = True) -> Iterator[Any]:
    """Open endless batches of the crops of a cache, repeated until they are as many as `CROPS`."""
    index = read_index(cache)
    assert index is not None
    crops = [(e.key, n) for e in index.entries for n in range(len(e.valid_pixels))]
    source = CropSource(index, (crops * CROPS)[:CROPS])
    settings = AugmentConfig() if augment else None
    return iter(make_batches(source, size, augment=settings, seed=0, epochs=None))


def make_consumer(worker: str) -> Callable[[Any], Any]:
    """Make what takes batches: training as the main job does it, or nothing."""
    if worker != "train":
        return lambda batch: None
    import jax

    train = make_trainer(Config())
    return lambda batch: jax.block_until_ready(train(batch))


def main() -> None:
    """Run the benchmark, or one worker of it."""
    parser = measure.create_parser(__doc__, "epoch", 5, seconds=6.0)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS))
    parser.add_argument("--containers", type=int, default=6, help="fields of view to read")
    arguments = parser.parse_args()
    if arguments.worker:
        batches = open_batches(arguments.cache, BATCH, arguments.worker != "load-plain")
        consume = make_consumer(arguments.worker)
        rate = measure.rate_of(lambda: consume(next(batches)), arguments.seconds)
        print(json.dumps({"crops_per_second": BATCH * rate}))
        return
    with tempfile.TemporaryDirectory() as folder:
        config = Config(simulator=SimulatorConfig(containers=arguments.containers, sessions=1))
        prepare_cache(open_source(config), Path(folder), config.data)
        options = {"cache": folder, "seconds": arguments.seconds}
        settings = measure.MALLOC_SETTINGS
        variants = [
            measure.make_worker(name, "epoch", CONTESTANTS[name], settings, **options)
            for name in arguments.contestants
        ]
        results = measure.run_interleaved(variants, arguments.rounds)
    summary = measure.compare(results, "crops a second", "crops_per_second", FLUXSEG, "crops/s")
    measure.write_results(arguments.output, results, summary)


if __name__ == "__main__":
    main()
