"""Weighted cross-entropy and soft Dice as (sum, weight sum), so that means stay exact.

Over batches, devices and processes the sums are added and divided once at the end; a mean of
weighted means would be another number.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from fluxseg.config import LossConfig
from fluxseg.errors import ConfigError

LossFn = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
"""`loss_fn(logits, label, valid, class_weights) -> (sum, weight_sum)`."""


def class_weights(config: LossConfig, neuron_pixels: int, background_pixels: int) -> np.ndarray:
    """Weights `[2]` float32 of background, which is 1, and neuron in the loss.

    "reference" is (background / neuron) / 3, "balanced" is background / neuron, counted in pixels
    over all training masks, "none" is 1. `ConfigError` if a ratio is asked for and one of the
    classes has no pixel.
    """
    if config.class_weights == "none":
        return np.ones(2, np.float32)
    if neuron_pixels <= 0 or background_pixels <= 0:
        absent = "neuron" if neuron_pixels <= 0 else "background"
        raise ConfigError(
            f"loss.class_weights = {config.class_weights!r} needs both classes, but the training "
            f"masks hold no {absent} pixel; check the masks, or set it to 'none'"
        )
    ratio = background_pixels / neuron_pixels
    return np.array([1.0, ratio / 3 if config.class_weights == "reference" else ratio], np.float32)


def weighted_cross_entropy(
    logits: jax.Array, label: jax.Array, valid: jax.Array, class_weights: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Sum the cross-entropy of all valid pixels, each weighted by the weight of its true class.

    Invalid pixels add exactly nothing to the sums and to the gradient, even if logits there are
    NaN or infinite.

    Args:
        logits: `[B, H, W, C]`, floating.
        label: `[B, H, W]` integer, 0 to C - 1 where valid.
        valid: `[B, H, W]`, bool or a weight >= 0 of each pixel.
        class_weights: `[C]`, floating.

    Returns:
        Sum of weight times loss, and sum of weights; float32 scalars.
    """
    shifted, normaliser = _log_normaliser(_planes(logits, valid))
    chosen = jnp.zeros(label.shape, jnp.float32)
    for c, plane in enumerate(shifted):
        chosen = jnp.where(label == c, plane, chosen)
    loss = normaliser - chosen
    weights = _pixel_weights(label, valid, class_weights)
    return _image_sums(weights * loss).sum(), _image_sums(weights).sum()


def dice_loss(
    logits: jax.Array,
    label: jax.Array,
    valid: jax.Array,
    class_weights: jax.Array,
    smooth: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """Sum over images the soft Dice loss, each times the weight sum of the image's valid pixels.

    Per image and class other than background, 1 - (2 sum(p t) + s) / (sum(p) + sum(t) + s) over
    the valid pixels, p the probability, t 1 where the class is true; then the mean over classes
    (Milletari et al., "V-Net", 3DV 2016, without the squares). Its weights are those of
    `weighted_cross_entropy`, so that both losses are divided by one denominator; so are arguments
    and sums. With `smooth`, s, an image without neurons and with none predicted has no loss.
    """
    shifted, normaliser = _log_normaliser(_planes(logits, valid))
    share = valid.astype(jnp.float32)
    losses = []
    for c in range(1, len(shifted)):
        probability = jnp.exp(shifted[c] - normaliser)
        truth = (label == c).astype(jnp.float32)
        overlap = _image_sums(share * probability * truth)
        sizes = _image_sums(share * (probability + truth))
        losses.append(1 - (2 * overlap + smooth) / (sizes + smooth))
    dice = sum(losses[1:], start=losses[0]) / len(losses)
    weight = _image_sums(_pixel_weights(label, valid, class_weights))
    return (dice * weight).sum(), weight.sum()


def make_loss(config: LossConfig) -> LossFn:
    """Make the loss of a configuration: cross-entropy plus `config.dice` times the Dice loss.

    Arguments and sums are those of `weighted_cross_entropy`.
    """

    def loss_fn(
        logits: jax.Array, label: jax.Array, valid: jax.Array, class_weights: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        total, weight = weighted_cross_entropy(logits, label, valid, class_weights)
        if config.dice > 0:
            total += config.dice * dice_loss(logits, label, valid, class_weights)[0]
        return total, weight

    return loss_fn


def _planes(logits: jax.Array, valid: jax.Array) -> list[jax.Array]:
    # One array per class, as operations along a last axis of two are not vectorised on CPUs.
    # Replacing what is invalid before any arithmetic keeps its NaN out of the gradient too.
    inside = valid > 0
    return [
        jnp.where(inside, logits[..., c].astype(jnp.float32), 0) for c in range(logits.shape[-1])
    ]


def _log_normaliser(planes: list[jax.Array]) -> tuple[list[jax.Array], jax.Array]:
    peak = planes[0]
    for plane in planes[1:]:
        peak = jnp.maximum(peak, plane)
    peak = jax.lax.stop_gradient(peak)
    shifted = [plane - peak for plane in planes]
    exponentials = [jnp.exp(plane) for plane in shifted]
    return shifted, jnp.log(sum(exponentials[1:], start=exponentials[0]))


def _pixel_weights(label: jax.Array, valid: jax.Array, class_weights: jax.Array) -> jax.Array:
    weights = jnp.zeros(label.shape, jnp.float32)
    for c in range(class_weights.shape[0]):
        weights = jnp.where(label == c, class_weights[c].astype(jnp.float32), weights)
    return weights * valid.astype(jnp.float32)


def _image_sums(values: jax.Array) -> jax.Array:
    # In two steps: a float32 sum of few terms each keeps its digits.
    return values.sum(-1).sum(-1)
