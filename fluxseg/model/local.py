"""The local normalisation that a network may begin with: dim cells beside bright ones are seen."""

import jax
import jax.numpy as jnp

CLIP = (-0.2, 1.5)
"""Brighter and darker pixels, relative to the displayed range, do not count for more."""
LEAST_SPREAD = 0.02
"""Local standard deviation, as a share of the displayed range, that is added to every one, so that
the noise of an empty field is not amplified without end."""
LOW, RANGE = -1.6, 5.6
"""What is mapped to 0, and how much more to 1: about the 1st and the 99.5th percentile."""


def normalise_locally(image: jax.Array, sigma: float) -> jax.Array:
    """Subtract the local mean and divide by the local standard deviation, of Gaussian windows.

    At the border the windows are cut off, and their weights still add up to 1. As products with
    matrices: a window is far wider than a kernel of a convolution should be.

    Args:
        image: `[B, H, W, C]` floating, normalised: 0 and 1 are the ends of the displayed range;
            the result is of the same kind, mostly 0 to 1.
        sigma: standard deviation of the windows, px.
    """
    x = jnp.clip(image.astype(jnp.float32), *CLIP)
    rows, columns = (_windows(length, sigma) for length in image.shape[1:3])

    def blur(values: jax.Array) -> jax.Array:
        down = jnp.einsum("ij,bjwc->biwc", rows, values, precision="highest")
        return jnp.einsum("vw,biwc->bivc", columns, down, precision="highest")

    centred = x - blur(x)
    spread = jnp.sqrt(blur(centred * centred))
    return ((centred / (spread + LEAST_SPREAD) - LOW) / RANGE).astype(image.dtype)


def _windows(length: int, sigma: float) -> jax.Array:
    place = jnp.arange(length, dtype=jnp.float32)
    away = (place[:, None] - place[None, :]) / sigma
    weight = jnp.exp(-0.5 * away * away)
    return weight / weight.sum(1, keepdims=True)
