"""Prediction of a 512 x 512 field: from the image as it was recorded to probabilities.

What: normalisation by percentiles, the network, the probability of a neuron as an array of the
    host. fluxseg's `Predictor.predict` against the same network and the same normalisation in
    PyTorch, both as they come and with the same allocator settings.
Command: python -m experiments.benchmarks.predict_field
"""

import argparse

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
from experiments.benchmarks.train_step import time_steps
from fluxseg.data.transforms import normalize_image

SIDE = 512
CONTESTANTS = ("torch-eager", "torch-channels-last", "fluxseg")


def create_field() -> np.ndarray:
    """Create an image `[512, 512]` uint16 of noise; its content costs nobody time."""
    return np.random.default_rng(0).poisson(400, (SIDE, SIDE)).astype(np.uint16)


def time_fluxseg(model: str, seconds: float) -> float:
    """Return the duration of a prediction by fluxseg, in seconds."""
    import jax

    from fluxseg.inference.predict import Predictor
    from fluxseg.model.unet import create_unet

    config = MODELS[model]
    image = np.zeros((1, SIDE, SIDE, 1), np.float32)
    params = jax.jit(create_unet(config).init)(jax.random.key(0), image)["params"]
    predictor, field = Predictor(config, params), create_field()
    return time_steps(lambda: predictor.predict(field).sum(), seconds)


def time_torch(model: str, channels_last: bool, seconds: float) -> float:
    """Return the duration of a prediction by PyTorch, in seconds."""
    import torch

    from experiments.benchmarks.torch_unet import TorchUNet

    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = TorchUNet(MODELS[model]).eval().to(memory_format=layout)
    field = create_field()

    def predict() -> None:
        normalized = normalize_image(field, 1.0, 99.5)
        image = torch.from_numpy(normalized)[None, None].contiguous(memory_format=layout)
        with torch.inference_mode():
            torch.softmax(network(image), dim=1)[0, 1].numpy().sum()

    return time_steps(predict, seconds)


def main() -> None:
    """Run the benchmark, or one worker of it."""
    parser = create_parser(__doc__, "predict_field", 5)
    parser.add_argument("--models", nargs="+", default=["reference/4", "classic-16", "fluxseg"])
    parser.add_argument("--seconds", type=float, default=3.0, help="of measuring in each process")
    arguments = parser.parse_args()
    if arguments.worker:
        _work(arguments)
        return
    results: Results = {}
    summary: dict[str, list[Row]] = {}
    module = "experiments.benchmarks.predict_field"
    options = ("--seconds", str(arguments.seconds))
    for model in arguments.models:
        variants = [
            Variant(
                f"{model}, {contestant}, {allocator} allocator",
                ("-m", module, "--worker", contestant, "--models", model, *options),
                environment,
            )
            for allocator, environment in (("default", {}), ("tuned", MALLOC_SETTINGS))
            for contestant in CONTESTANTS
        ]
        found = run_interleaved(variants, arguments.rounds)
        rows = summarise(found, "fields_per_second", variants[-2].name)
        print_table(f"Prediction of a field, {model}", rows, "fields/s")
        results |= found
        summary[model] = rows
    write_results(arguments.output, results, summary)


def _work(arguments: argparse.Namespace) -> None:
    (model,), seconds = arguments.models, arguments.seconds
    if arguments.worker == "fluxseg":
        duration = time_fluxseg(model, seconds)
    else:
        duration = time_torch(model, arguments.worker == "torch-channels-last", seconds)
    print_json({"fields_per_second": 1 / duration})


if __name__ == "__main__":
    main()
