"""A network applied to normalised images: probabilities of any size of image, tile by tile."""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from fluxseg.data.transforms import rotate, rotate_back
from fluxseg.errors import ConfigError
from fluxseg.inference.tiling import blend_tiles, cut_tiles, pad_image, plan_tiles

TILE = 512  # largest side of an image that is predicted as a whole, px
BATCH = 4
"""Tiles that are predicted at once, at most; on CPUs one, which is as fast and needs no further
program: that of a whole field does."""
BUCKET = 32  # sides are padded to a multiple of this, so that few shapes are ever compiled, px

SYMMETRIES = (0, 2, 4, 6, 1, 3, 5, 7)
"""Flips and turns of the square (see `rotate`); the first four keep the shape of an image."""
VIEWS = 8  # how many of them test-time augmentation averages over

ApplyFn = Callable[..., Any]


def predict_probability(
    network: ApplyFn,
    params: Any,
    image: np.ndarray,
    *,
    tta: bool = False,
    tile: int | None = None,
    overlap: int | None = None,
    multiple: int = BUCKET,
    temperature: float = 1.0,
) -> np.ndarray:
    """Apply a network to a normalised image of any size.

    An image that fits in a tile is predicted as a whole; of a larger one, overlapping tiles are
    blended by raised cosines, and no more than two batches of tiles are on the device.

    Args:
        network: `network(params, images [B, H, W, 1], temperature)` -> probabilities `[B, H, W]`.
        params: its parameters.
        image: `[H, W]` float32, normalised.
        tta: average over the first `VIEWS` of `SYMMETRIES`.
        tile: largest side of a tile, px; None for `TILE`.
        overlap: least overlap of two tiles, px; None for a quarter of `tile`.
        multiple: tiles have sides and positions that are multiples of this, px: at least the
            stride of the network's poolings.
        temperature: see `neuron_probability`.

    Returns `[H, W]` float32, probability of "neuron", 0 to 1. Raises `ConfigError` if tile and
    overlap do not fit together.
    """
    tile = TILE if tile is None else tile
    if tile < 16:
        raise ConfigError(f"tile must be 16 px or more, got {tile}")
    overlap = tile // 4 if overlap is None else overlap
    total = np.zeros(image.shape, np.float32)
    symmetries = SYMMETRIES[: VIEWS if tta else 1]
    for symmetry in symmetries:
        rotated = rotate(image, symmetry)
        height, width = rotated.shape
        plan = plan_tiles((height, width), tile, overlap, multiple)
        tiles = cut_tiles(pad_image(rotated, plan.padded), plan)
        predicted = _predict_tiles(
            lambda images: network(params, images, temperature), tiles, len(plan.positions)
        )
        total += rotate_back(blend_tiles(predicted, plan), symmetry)
    # Weights that add up to 1 in theory may exceed it by a rounding error.
    return np.clip(total / len(symmetries), 0, 1)


def _predict_tiles(
    predict: ApplyFn, tiles: Iterable[np.ndarray], count: int
) -> Iterator[np.ndarray]:
    """Predict tiles in batches of one size, the next one computed while one is handed out."""
    most = 1 if jax.default_backend() == "cpu" else BATCH
    size = -(-count // -(-count // most))
    pending: tuple[Any, int] | None = None
    iterator = iter(tiles)
    while group := list(itertools.islice(iterator, size)):
        images = np.stack([*group, *[group[0]] * (size - len(group))])
        following = predict(images[..., None]), len(group)
        if pending is not None:
            yield from np.asarray(pending[0])[: pending[1]]
        pending = following
    if pending is not None:
        yield from np.asarray(pending[0])[: pending[1]]


@functools.partial(jax.jit, static_argnames="apply_fn")
def neuron_probability(
    apply_fn: ApplyFn, params: Any, images: jax.Array, temperature: float | jax.Array = 1.0
) -> jax.Array:
    """Apply a network to normalised images `[B, H, W, 1]` float32.

    `apply_fn({"params": params}, images, False)` gives logits `[B, H, W, C]`; equal functions share
    the compiled program. Log-odds are divided by the temperature; 1 leaves the probability of the
    softmax. Returns `[B, H, W]` float32, the probability of any class but the first: of "neuron".
    """
    return jax.nn.sigmoid(neuron_log_odds(apply_fn, params, images) / temperature)


def neuron_log_odds(apply_fn: ApplyFn, params: Any, images: jax.Array) -> jax.Array:
    """Return `[B, H, W]` float32, log of the probability of any class but the first over its."""
    logits = apply_fn({"params": params}, images, False)
    return jax.nn.logsumexp(logits[..., 1:], -1) - logits[..., 0]
