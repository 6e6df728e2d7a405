"""How small can the network be for the score? The frontier of score against cost.

What: variants of the network that ships (stem, width, convolutions of a level, normalisation,
    separable convolutions), each trained from random weights for a few hundred steps on the
    simulated crops of `experiments.pretrained.crops`. Scored on held-out simulated crops (neuron
    IoU), and on real fields with human labels at their true diameter: F1 at the best cut of the
    confidence, averaged over sources (row `main` of `experiments.pretrained.real_fields`). Cost:
    a training step of eight crops of 256 px and a prediction of 512 x 512 px, the variants in turn,
    relative to the preset.
Result: docs/results-real.md. Short trainings order the variants; where each ends they do not say.
Hardware: 1 CPU core, about 5 minutes for a variant and seed; what is there is not done again.
Command: python -m experiments.studies.frontier --data FOLDER --pool runs/crops
    --workdir runs/frontier --steps 300
"""

import argparse
import dataclasses
import functools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from experiments.pretrained.crops import Crops
from experiments.pretrained.ranking import compare_objects, score_ranking
from experiments.pretrained.real_fields import LabelledField, read_fields, summarise
from experiments.pretrained.train import DIAMETER_PX, pretrained_config
from experiments.studies.few_labels import describe
from fluxseg.allocator import tune_allocator
from fluxseg.compilation import enable_compilation_cache
from fluxseg.data.pipeline import make_batches
from fluxseg.data.resample import choose_zoom, median_diameter, resample_image, zoomed_shape
from fluxseg.data.transforms import normalize_image
from fluxseg.inference.objects.rois import find_rois
from fluxseg.inference.probability import neuron_probability, predict_probability
from fluxseg.io.files import write_json
from fluxseg.model import layers
from fluxseg.model.local import normalise_locally
from fluxseg.training.sharding import count_micro_batches, make_mesh, make_train_step, replicate
from fluxseg.training.state import create_train_state

THRESHOLDS = (0.3, 0.45, 0.6)
"""Tried for each variant, as a short training is not yet sure; the best one counts."""
HELD_OUT = 48
"""Simulated crops that score."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """A network of the frontier.

    Attributes:
        features: channels of each level, from the finest.
        stem: pixel-unshuffle factor.
        convs: convolutions per level and side.
        fine: how many of the finest levels `fine_convs` and `separable` concern.
        fine_convs: convolutions per side there.
        separable: depthwise and pointwise convolutions there.
        norm_from: first level with group normalisation; `len(features)` for none.
        scaled: weights of the levels without normalisation are standardised (Brock et al. 2021).
    """

    features: tuple[int, ...] = (16, 32, 64, 112, 160)
    stem: int = 2
    convs: int = 2
    fine: int = 2
    fine_convs: int = 2
    separable: bool = False
    norm_from: int = 0
    scaled: bool = False


VARIANTS = {
    "preset": Variant(),
    "one convolution at the two finest levels": Variant(fine_convs=1),
    "one convolution everywhere": Variant(convs=1, fine_convs=1),
    "normalised at the three coarsest levels": Variant(norm_from=2),
    "no normalisation, scaled weights": Variant(norm_from=5, scaled=True),
    "separable at the two finest levels": Variant(separable=True),
    "half as wide": Variant(features=(8, 16, 32, 56, 80)),
    "1.5 times as wide": Variant(features=(24, 48, 96, 168, 240)),
    "stem 4": Variant(features=(32, 64, 112, 160), stem=4, fine=1),
}


class Network(nn.Module):
    """The U-Net of a variant, with the local normalisation of the network that ships."""

    variant: Variant
    dropout: float = 0.05

    @nn.compact
    def __call__(
        self, image: jax.Array, train: bool = False, rows: layers.Rows | None = None
    ) -> jax.Array:
        """Map `[B, H, W, 1]`, sides divisible by the strides, to logits `[B, H, W, 2]`."""
        v, compute = self.variant, layers.Compute(fast=jax.default_backend() == "cpu")
        x = layers.pixel_unshuffle(normalise_locally(image, 28.0), v.stem)
        skips: list[jax.Array] = []
        for level in range(len(v.features)):
            x = layers.max_pool(x, compute.fast) if level else x
            x = self._block((x,), f"encoder_{level}", level, train, rows, compute)
            skips.append(x)
        for level in reversed(range(len(v.features) - 1)):
            up = layers.Conv(4 * v.features[level], 1, compute, scale=1.0, name=f"up_{level}")
            inputs = (layers.pixel_shuffle(up(x), 2), skips[level])
            x = self._block(inputs, f"decoder_{level}", level, train, rows, compute)
        head = layers.Conv(2 * v.stem**2, 1, compute, scale=1.0, name="head")
        return layers.pixel_shuffle(head(x), v.stem)

    def _block(
        self, inputs: tuple[jax.Array, ...], name: str, level: int, train: bool,
        rows: layers.Rows | None, compute: layers.Compute,
    ) -> jax.Array:  # fmt: skip
        v = self.variant
        norm, width = level >= v.norm_from, v.features[level]
        for index in range(v.fine_convs if level < v.fine else v.convs):
            at = f"{name}_conv_{index}"
            if v.separable and level < v.fine and name + str(index) != "encoder_00":
                x = Separable(width, compute, name=at)(*inputs)
            else:
                scaled = v.scaled and not norm
                conv = layers.Conv(
                    width, compute=compute, use_bias=not norm, standardise=scaled, name=at
                )
                x = conv(*inputs)
            x = layers.GroupNorm(name=f"{name}_norm_{index}")(x) if norm else x
            inputs = (nn.relu(x),)
        return layers.Dropout(self.dropout, name=f"{name}_dropout")(inputs[0], train, rows)


class Separable(nn.Module):
    """Depthwise 3x3 convolution as nine products, then a pointwise one."""

    features: int
    compute: layers.Compute

    @nn.compact
    def __call__(self, *inputs: jax.Array) -> jax.Array:
        """Map inputs `[B, H, W, C_n]` to `[B, H, W, features]`."""
        x = jnp.concatenate(inputs, -1) if len(inputs) > 1 else inputs[0]
        height, width, channels = x.shape[1:]
        init = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")
        kernel = layers.parameter(self, "kernel", init, (3, 3, 1, channels))
        framed = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        taps = [
            framed[:, row : row + height, column : column + width] * kernel[row, column]
            for row in range(3)
            for column in range(3)
        ]
        x = sum(taps[1:], start=taps[0])
        return layers.Conv(self.features, 1, self.compute, use_bias=False, name="pointwise")(x)


def create_state(variant: Variant, seed: int, steps: int) -> tuple[Any, Any]:
    """Return the config and the train state of a variant."""
    config = pretrained_config(2e-3, seed)
    state = create_train_state(config, np.ones(2, np.float32), steps)
    network = Network(variant)
    image = jnp.zeros((1, 64, 64, 1))
    params = jax.jit(network.init)(jax.random.key(seed), image)["params"]
    state = state.replace(
        params=params, opt_state=state.tx.init(params), apply_fn=network.apply,
        ema_params=jax.tree.map(jnp.copy, params),
    )  # fmt: skip
    return config, state


def train(variant: Variant, seed: int, steps: int, pool: Path, count: int) -> Any:
    """Train a variant on simulated crops; returns the state."""
    config, state = create_state(variant, seed, steps)
    mesh = make_mesh()
    state = replicate(state, mesh)
    step = make_train_step(mesh, count_micro_batches(config, mesh))
    batches = make_batches(
        Crops(3, pool, count), config.train.batch_size, augment=config.augment, seed=seed, threads=1
    )
    for _ in range(steps):
        state, _ = step(state, next(batches))
    return state


def score(state: Any, fields: list[LabelledField], crops: Crops) -> dict[str, float]:
    """Score a state: see the module's docstring."""
    network = functools.partial(neuron_probability, state.apply_fn)
    params = state.eval_params
    rows: dict[float, list[tuple[LabelledField, dict[str, float]]]] = {t: [] for t in THRESHOLDS}
    for field in fields:
        masks, image = field.recording.masks, normalize_image(field.recording.image, 1.0, 99.5)
        assert masks is not None
        diameter = median_diameter(masks)
        assert diameter is not None
        shape = (image.shape[0], image.shape[1])
        zoomed = resample_image(image, zoomed_shape(shape, choose_zoom(diameter, DIAMETER_PX)))
        probability = resample_image(
            predict_probability(network, params, zoomed, multiple=64), shape
        )
        for threshold in THRESHOLDS:
            rois = find_rois(probability, threshold=threshold, diameter=diameter)
            matched = compare_objects(masks, rois.labels).matched
            ranking = score_ranking(matched, rois.confidence, len(masks))
            rows[threshold].append((field, {"f1": ranking.best_f1}))
    real = max(summarise(found)["main"]["f1"] for found in rows.values())
    counts = np.zeros(3)
    for number in range(HELD_OUT):
        image, instances, ignore, _ = crops.read(number)
        probability = predict_probability(
            network, params, normalize_image(image, 1.0, 99.5), multiple=64
        )
        found, truth, valid = probability >= 0.5, instances > 0, ~ignore
        counts += [(found & truth & valid).sum(), ((found | truth) & valid).sum(), 0]
    return {"real_f1": real, "simulated_iou": counts[0] / counts[1]}


def measure_cost(rounds: int) -> dict[str, dict[str, float]]:
    """Return by variant the seconds of a training step and of a prediction, variants in turn."""
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.normal(size=(8, 256, 256, 1)).astype(np.float32),
        "label": (rng.random((8, 256, 256)) < 0.1).astype(np.uint8),
        "valid": np.ones((8, 256, 256), np.uint8),
    }
    field = rng.normal(size=(1, 512, 512, 1)).astype(np.float32)
    calls: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {}
    sizes = {}
    for name, variant in VARIANTS.items():
        config, state = create_state(variant, 0, 100)
        sizes[name] = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        mesh = make_mesh()
        held, step = (
            [replicate(state, mesh)],
            make_train_step(mesh, count_micro_batches(config, mesh)),
        )

        def take(held: list[Any] = held, step: Any = step) -> None:
            held[0], metrics = step(held[0], batch)
            jax.block_until_ready((held[0].params, metrics))

        apply, params = state.apply_fn, jax.tree.map(jnp.copy, state.params)

        def predict(apply: Any = apply, params: Any = params) -> None:
            jax.block_until_ready(neuron_probability(apply, params, field))

        calls[name] = (take, predict)
        take()
        predict()
    seconds: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in calls}
    for _ in range(rounds):
        for name, pair in calls.items():
            for call, times in zip(pair, seconds[name], strict=True):
                began = time.perf_counter()
                call()
                times.append(time.perf_counter() - began)
    first = seconds[next(iter(calls))]
    return {
        name: {
            "parameters": sizes[name],
            "step": statistics.median(a / b for a, b in zip(times[0], first[0], strict=True)),
            "predict": statistics.median(a / b for a, b in zip(times[1], first[1], strict=True)),
        }
        for name, times in seconds.items()
    }


def format_rows(workdir: Path, costs: dict[str, dict[str, float]]) -> str:
    """Format what has been found as a Markdown table."""
    lines = [
        "| network | parameters | training step | prediction | F1, real | IoU, simulated | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for number, name in enumerate(VARIANTS):
        found = [json.loads(p.read_text()) for p in sorted(workdir.glob(f"{number}_seed*.json"))]
        if found and name in costs:
            cost = costs[name]
            scores = [describe([one[key] for one in found]) for key in ("real_f1", "simulated_iou")]
            lines.append(
                f"| {name} | {cost['parameters']:,} | {cost['step']:.2f} | {cost['predict']:.2f} | "
                f"{scores[0]} | {scores[1]} | {len(found)} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Run what is missing; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pool", type=Path, required=True, help="folder of simulated crops")
    parser.add_argument("--crops", type=int, default=3200, help="number of different crops")
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=7, help="of the measurement of cost")
    arguments = parser.parse_args()
    tune_allocator()
    enable_compilation_cache()
    fields = read_fields(arguments.data)
    arguments.workdir.mkdir(parents=True, exist_ok=True)
    for seed in arguments.seeds:
        for number, variant in enumerate(VARIANTS.values()):
            path = arguments.workdir / f"{number}_seed{seed}.json"
            if not path.exists():
                state = train(variant, seed, arguments.steps, arguments.pool, arguments.crops)
                found = score(state, fields, Crops(90, arguments.pool, HELD_OUT))
                write_json(path, found)
                print(path.name, found, flush=True)
                jax.clear_caches()
    costs = arguments.workdir / "costs.json"
    if not costs.exists():
        write_json(costs, measure_cost(arguments.rounds))
    print(format_rows(arguments.workdir, json.loads(costs.read_text())))


if __name__ == "__main__":
    main()
