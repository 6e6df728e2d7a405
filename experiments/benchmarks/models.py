"""The networks that benchmarks compare, batches of nothing, and the training step of fluxseg."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fluxseg.config import Config, ModelConfig, reference_model

Batch = Mapping[str, np.ndarray]


def classic_unet(base: int) -> ModelConfig:
    """Return the classic U-Net: five levels of two 3x3 convolutions, 2x2 transposed convolutions.

    Ronneberger et al., MICCAI 2015, with "SAME" padding and channel dropout of 0.1.

    Args:
        base: channels of the finest level; each level doubles them.
    """
    return ModelConfig(
        features=tuple(base * 2**level for level in range(5)),
        convs=2,
        stem=1,
        up="transposed",
        norm="none",
        dtype="float32",
    )


def divide_width(model: ModelConfig, divisor: int) -> ModelConfig:
    """Return a network with a part of the channels at each level, at least 2."""
    features = tuple(max(width // divisor, 2) for width in model.features)
    return dataclasses.replace(model, features=features)


MODELS = {
    "reference/4": divide_width(reference_model(), 4),
    "classic-16": classic_unet(16),
    "classic-32": classic_unet(32),
    "fluxseg": ModelConfig(dtype="float32"),
    "reference": reference_model(),
}
"""Name -> architecture."""


def create_batch(size: int, tile: int = 256) -> dict[str, np.ndarray]:
    """Create a batch of random crops with a tenth of the pixels neuron."""
    rng = np.random.default_rng(0)
    return {
        "image": rng.normal(size=(size, tile, tile, 1)).astype(np.float32),
        "label": (rng.random((size, tile, tile)) < 0.1).astype(np.uint8),
        "valid": np.ones((size, tile, tile), np.uint8),
    }


def make_trainer(config: Config, parts: int = 0, naive: bool = False) -> Callable[[Batch], Any]:
    """Make fluxseg's training step: takes a batch and returns state and metrics, not waited for.

    Args:
        config: the settings; the batch has crops of its tile.
        parts: micro-batches; 0: as the main job chooses them.
        naive: whether the network is the same maths in plain Flax.
    """
    from fluxseg.model.unet import create_unet
    from fluxseg.training.sharding import count_micro_batches, make_mesh, make_train_step, replicate
    from fluxseg.training.state import create_train_state

    mesh = make_mesh()
    tile, weights = config.data.tile, np.array([1.0, 3.0])
    state = replicate(create_train_state(config, weights, 1000, tile=tile), mesh)
    if naive:
        state = state.replace(apply_fn=create_unet(config.model, formulation="plain").apply)
    step = make_train_step(mesh, parts or count_micro_batches(config, mesh))

    def train(batch: Batch) -> Any:
        nonlocal state
        state, metrics = step(state, batch)
        return state, metrics

    return train
