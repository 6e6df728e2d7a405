"""Cost against size: epochs against crops, prediction against the area of the image.

What: time and peak memory of a process that trains one epoch on 16 to 256 crops, and of one that
    predicts a field of 256 x 256 to 4096 x 4096 px, each without what it takes on the smallest
    size to start; and the exponent of a power law fitted to each.
Command: python -m experiments.benchmarks.growth
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks.epoch import make_fluxseg, open_cache
from experiments.benchmarks.measure import (
    FIGURES,
    MALLOC_SETTINGS,
    Results,
    Variant,
    create_parser,
    print_json,
    run_interleaved,
    write_results,
)
from fluxseg.config import Config, SimulatorConfig
from fluxseg.data.pipeline import make_batches
from fluxseg.data.prepare import prepare_cache
from fluxseg.formats.sources import open_source

CROPS = (16, 32, 64, 128, 256)
SIDES = (256, 512, 1024, 2048, 4096)


def time_epoch(cache: Path, count: int) -> float:
    """Return the duration of an epoch on so many crops, after one step, in seconds."""
    source = open_cache(cache, count)
    consume = make_fluxseg()
    batches = make_batches(source, 8, augment=Config().augment, seed=0, epochs=2)
    consume(next(batches))
    steps = count // 8
    began = time.perf_counter()
    for _ in range(steps):
        consume(next(batches))
    return time.perf_counter() - began


def time_prediction(side: int) -> float:
    """Return the duration of the second prediction of a square image, in seconds."""
    import jax

    from fluxseg.inference.predict import Predictor
    from fluxseg.model.unet import create_unet

    config = Config().model
    params = jax.jit(create_unet(config).init)(
        jax.random.key(0), np.zeros((1, 256, 256, 1), np.float32)
    )["params"]
    predictor = Predictor(config, params)
    image = np.random.default_rng(0).poisson(400, (side, side)).astype(np.uint16)
    predictor.predict(image)
    began = time.perf_counter()
    predictor.predict(image)
    return time.perf_counter() - began


def fit_exponent(sizes: list[float], values: list[float]) -> float:
    """Return the exponent of the power law that fits best, on logarithmic axes."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def draw_growth(path: Path, curves: dict[str, Any]) -> None:
    """Draw time and memory of each curve against its size, with the exponents."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 4), dpi=100, layout="constrained")
    for axis, (title, curve) in zip(axes, curves.items(), strict=True):
        sizes = curve["sizes"]
        label = f"time, exponent {curve['exponent_seconds']:.2f}"
        (line,) = axis.loglog(sizes, curve["seconds"], "o-", label=label)
        axis.set_xlabel(title)
        axis.set_ylabel("seconds")
        memory = axis.twinx()
        label = f"peak memory, exponent {curve['exponent_peak_mb']:.2f}"
        (other,) = memory.loglog(sizes, curve["peak_mb"], "s--", color="C1", label=label)
        memory.set_ylim(100, 20000)
        memory.set_ylabel("MB")
        # Only now: the second curve sets the scale anew.
        axis.set_xticks(sizes, [f"{size:.3g}" for size in sizes], fontsize=8)
        axis.set_xticks([], minor=True)
        axis.legend(handles=[line, other], loc="upper left")
    figure.savefig(path)
    plt.close(figure)


def main() -> None:
    """Run the benchmark, or one worker of it."""
    parser = create_parser(__doc__, "growth", 3)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker == "epoch":
        print_json({"seconds": time_epoch(arguments.cache, arguments.size)})
    elif arguments.worker == "predict":
        print_json({"seconds": time_prediction(arguments.size)})
    else:
        _compare(arguments)


def _compare(arguments: argparse.Namespace) -> None:
    module = "experiments.benchmarks.growth"
    with tempfile.TemporaryDirectory() as folder:
        config = Config(simulator=SimulatorConfig(containers=6, sessions=1))
        prepare_cache(open_source(config), Path(folder), config.data)
        epochs = {
            f"epoch, {size} crops": (size, ("--worker", "epoch", "--cache", folder))
            for size in CROPS
        }
        fields = {f"prediction, {size} px": (size**2, ("--worker", "predict")) for size in SIDES}
        variants = [
            Variant(
                name,
                ("-m", module, *options, "--size", name.split(", ")[1].split()[0]),
                MALLOC_SETTINGS,
            )
            for name, (_, options) in {**epochs, **fields}.items()
        ]
        results = run_interleaved(variants, arguments.rounds)
    curves = {
        "training crops": _curve(results, {name: size for name, (size, _) in epochs.items()}),
        "pixels of the image": _curve(results, {name: size for name, (size, _) in fields.items()}),
    }
    for title, curve in curves.items():
        print(title, {name: value for name, value in curve.items() if "exponent" in name})
    draw_growth(FIGURES / "growth.png", curves)
    write_results(arguments.output, results, more={"curves": curves})


def _curve(results: Results, sizes: dict[str, int]) -> dict[str, Any]:
    curve: dict[str, Any] = {"sizes": list(sizes.values())}
    for figure in ("seconds", "peak_mb"):
        values = [statistics.median(row[figure] for row in results[name]) for name in sizes]
        curve[figure] = values
        curve[f"exponent_{figure}"] = fit_exponent(curve["sizes"], values)
    return curve


if __name__ == "__main__":
    main()
