"""Prediction of a 512 x 512 field: from the image as it was recorded to probabilities.

What: normalisation by percentiles, the network, the probability of a neuron as an array of the
    host. fluxseg's `Predictor.predict` against the same network and the same normalisation in
    PyTorch, both as they come and with the same allocator settings.
Command: python -m experiments.benchmarks.predict_field
"""

import json

import numpy as np

from experiments.benchmarks import measure
from experiments.benchmarks.models import MODELS
from experiments.benchmarks.train_step import ALLOCATORS
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
    return measure.time_steps(lambda: predictor.predict(field).sum(), seconds)


def time_torch(model: str, channels_last: bool, seconds: float) -> float:
    """Return the duration of a prediction by PyTorch, in seconds."""
    import torch

    from experiments.benchmarks.torch_unet import TorchUNet, to_torch

    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = TorchUNet(MODELS[model]).eval().to(memory_format=layout)
    field = create_field()

    def predict() -> None:
        image = to_torch(normalize_image(field, 1.0, 99.5)[None, ..., None], layout)
        with torch.inference_mode():
            torch.softmax(network(image), dim=1)[0, 1].numpy().sum()

    return measure.time_steps(predict, seconds)


def main() -> None:
    """Run the benchmark, or one worker of it."""
    parser = measure.create_parser(__doc__, "predict_field", 5, seconds=3.0)
    parser.add_argument("--models", nargs="+", default=["reference/4", "classic-16", "fluxseg"])
    arguments = parser.parse_args()
    if worker := arguments.worker:
        model, seconds = arguments.models[0], arguments.seconds
        if worker == "fluxseg":
            duration = time_fluxseg(model, seconds)
        else:
            duration = time_torch(model, worker == "torch-channels-last", seconds)
        print(json.dumps({"fields_per_second": 1 / duration}))
        return
    results: measure.Results = {}
    summary: dict[str, list[measure.Row]] = {}
    for model in arguments.models:
        options = {"models": model, "seconds": arguments.seconds}
        variants = [
            measure.make_worker(
                f"{model}, {name}, {allocator} allocator",
                "predict_field",
                name,
                settings,
                **options,
            )
            for allocator, settings in ALLOCATORS.items()
            for name in CONTESTANTS
        ]
        found = measure.run_interleaved(variants, arguments.rounds)
        results |= found
        summary |= measure.compare(found, model, "fields_per_second", variants[-2].name, "fields/s")
    measure.write_results(arguments.output, results, summary)


if __name__ == "__main__":
    main()
