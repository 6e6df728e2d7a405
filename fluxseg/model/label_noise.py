"""What a loss can do about labels that are off along the outlines: leave them out, or blur them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np


def ignore_rim(label: jax.Array, valid: jax.Array, distance: int) -> jax.Array:
    """Make the pixels invalid that have another valid class in a square around them.

    Args:
        label: `[B, H, W]` integer.
        valid: `[B, H, W]`, bool or a weight >= 0 of each pixel; invalid pixels have no class.
        distance: half the side of the square, px.

    Returns:
        `[B, H, W]` like `valid`, 0 along the outlines.
    """
    limits = np.iinfo(label.dtype)
    low = jnp.where(valid > 0, label, limits.max)
    high = jnp.where(valid > 0, label, limits.min)
    for axis in (1, 2):
        low = functools.reduce(jnp.minimum, _neighbours(low, axis, distance))
        high = functools.reduce(jnp.maximum, _neighbours(high, axis, distance))
    return jnp.where(low == high, valid, jnp.zeros_like(valid))


def soften_label(
    label: jax.Array, valid: jax.Array, radius: int, classes: int
) -> tuple[jax.Array, ...]:
    """Return the share of each class among the valid pixels of a square around each pixel.

    Args:
        label: `[B, H, W]` integer.
        valid: `[B, H, W]`, bool or a weight >= 0 of each pixel.
        radius: half the side of the square, px; pixels at a border are repeated beyond it.
        classes: C, their number.

    Returns:
        C times `[B, H, W]` float32; all 0 where no pixel of the square is valid.
    """
    planes = [((label == c) & (valid > 0)).astype(jnp.float32) for c in range(classes)]
    for axis in (1, 2):
        planes = [functools.reduce(jnp.add, _neighbours(p, axis, radius)) for p in planes]
    count = jnp.maximum(functools.reduce(jnp.add, planes), 1)
    return tuple(plane / count for plane in planes)


def _neighbours(array: jax.Array, axis: int, distance: int) -> list[jax.Array]:
    # Shifted views: reduce_window is slow on CPUs.
    padding = [(distance, distance) if axis == a else (0, 0) for a in range(array.ndim)]
    padded, length = jnp.pad(array, padding, mode="edge"), array.shape[axis]
    return [
        jax.lax.slice_in_dim(padded, shift, shift + length, axis=axis)
        for shift in range(2 * distance + 1)
    ]
