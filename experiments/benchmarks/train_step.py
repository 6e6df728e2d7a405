"""Training steps a second: fluxseg, the naive formulation of the same maths in Flax, PyTorch.

What: one step is forward, backward and Adam on a batch of 16 random crops of 256 x 256 px, with
    weighted cross-entropy and channel dropout of 0.1. Each contestant is run as it comes and
    with the same allocator settings, which shows what these are worth (`fluxseg.allocator`).
Command: python -m experiments.benchmarks.train_step
"""

import json

from experiments.benchmarks import measure
from experiments.benchmarks.models import MODELS, create_batch, make_trainer

CONTESTANTS = ("flax-naive", "fluxseg", "torch-eager", "torch-channels-last")
ALLOCATORS = {"default": {}, "tuned": measure.MALLOC_SETTINGS}


def time_jax(model: str, naive: bool, batch_size: int, parts: int, seconds: float) -> float:
    """Return the duration of fluxseg's own step, or of the same maths written naively."""
    import jax

    from fluxseg.config import Config, LossConfig, TrainConfig

    config = Config(
        model=MODELS[model],
        loss=LossConfig(dice=0.0),
        train=TrainConfig(batch_size=batch_size, weight_decay=0.0, clip_norm=0.0),
    )
    train, batch = make_trainer(config, parts, naive), create_batch(batch_size)
    return measure.time_steps(lambda: jax.block_until_ready(train(batch)), seconds)


def time_torch(model: str, channels_last: bool, batch_size: int, seconds: float) -> float:
    """Return the duration of PyTorch's step."""
    import torch

    from experiments.benchmarks.torch_unet import TorchUNet, make_torch_trainer

    torch.manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = TorchUNet(MODELS[model]).to(memory_format=layout)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    train = make_torch_trainer(network, optimizer, layout, torch.tensor([1.0, 3.0]))
    batch = create_batch(batch_size)
    return measure.time_steps(lambda: train(batch), seconds)


def main() -> None:
    """Run the benchmark, or one worker of it."""
    parser = measure.create_parser(__doc__, "train_step", 5, seconds=8.0)
    parser.add_argument("--models", nargs="*", default=["classic-16", "fluxseg"])
    parser.add_argument(
        "--brief",
        nargs="*",
        default=["classic-32", "reference/4"],
        help="models of which only fluxseg and PyTorch at its best are measured",
    )
    parser.add_argument("--contestants", nargs="+", default=CONTESTANTS)
    parser.add_argument("--batch", type=int, default=16, help="crops in a step")
    parser.add_argument("--micro", type=int, default=2, help="crops at once in fluxseg's step")
    parser.add_argument("--allocators", nargs="+", default=list(ALLOCATORS))
    arguments = parser.parse_args()
    size, seconds, worker = arguments.batch, arguments.seconds, arguments.worker
    if worker:
        model = arguments.models[0]
        if worker.startswith("torch"):
            duration = time_torch(model, worker == "torch-channels-last", size, seconds)
        else:
            naive = worker == "flax-naive"
            parts = 1 if naive else max(size // arguments.micro, 1)
            duration = time_jax(model, naive, size, parts, seconds)
        print(json.dumps({"crops_per_second": size / duration, "step_seconds": duration}))
        return
    results: measure.Results = {}
    summary: dict[str, list[measure.Row]] = {}
    all_of_them = (arguments.contestants, arguments.allocators)
    brief = (("torch-channels-last", "fluxseg"), ("tuned",))
    plans = dict.fromkeys(arguments.models, all_of_them) | dict.fromkeys(arguments.brief, brief)
    options = {"batch": size, "micro": arguments.micro, "seconds": seconds}
    for model, (contestants, allocators) in plans.items():
        variants = [
            measure.make_worker(
                f"{model}, {contestant}, {allocator} allocator",
                "train_step",
                contestant,
                ALLOCATORS[allocator],
                models=model,
                **options,
            )
            for allocator in allocators
            for contestant in contestants
        ]
        found, reference = measure.run_interleaved(variants, arguments.rounds), variants[0].name
        results |= found
        summary |= measure.compare(found, model, "crops_per_second", reference, "crops/s")
        title = f"{model}, peak memory"
        summary |= measure.compare(found, title, "peak_mb", reference, "MB", larger_is_better=False)
        measure.write_results(arguments.output, results, summary)


if __name__ == "__main__":
    main()
