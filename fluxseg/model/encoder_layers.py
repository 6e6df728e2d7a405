"""Layers of encoders that were trained elsewhere: strided, depthwise, with batch normalisation.

As in `layers`, some have an equal form that is fast on CPUs, where XLA has none for strided and
depthwise convolutions nor for their gradients.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from fluxseg.model import layers
from fluxseg.model.convolutions import DIMENSIONS

EncoderNorm = Literal["frozen", "trained", "group"]


def symmetric_padding(size: int) -> tuple[int, int]:
    """Return what PyTorch's models pad before and after each side, px."""
    return size // 2, size // 2


def same_padding(size: int, stride: int) -> tuple[int, int]:
    """Return what TensorFlow's "SAME" pads before and after a side that the stride divides, px."""
    missing = max(size - stride, 0)
    return missing // 2, missing - missing // 2


def take_taps(x: jax.Array, size: int, stride: int, padding: tuple[int, int]) -> list[jax.Array]:
    """Return what each tap of a kernel of so many px meets, row-major: arrays `[B, h, w, C]`.

    `padding` are the zeros before and after each side of the image `[B, H, W, C]`, px.
    """
    batch, height, width, channels = x.shape
    padded = jnp.pad(x, ((0, 0), padding, padding, (0, 0)))
    rows, columns = ((side + sum(padding) - size) // stride + 1 for side in (height, width))
    return [
        jax.lax.slice(
            padded,
            (0, row, column, 0),
            (batch, row + (rows - 1) * stride + 1, column + (columns - 1) * stride + 1, channels),
            (1, stride, stride, 1),
        )
        for row in range(size)
        for column in range(size)
    ]


def convolve_strided(
    x: jax.Array, kernel: jax.Array, stride: int, padding: tuple[int, int], fast: bool = False
) -> jax.Array:
    """Convolve `[B, H, W, C]` by a kernel `[K, K, C, D]` with a stride, to `[B, h, w, D]`.

    `padding` are the zeros before and after each side, px. The fast form is one matrix product of
    the taps side by side.
    """
    size, _, channels, features = kernel.shape
    if stride == 1 and padding == symmetric_padding(size):
        return layers.convolve((x,), kernel, fast)
    if size == 1:
        return layers.dense(x[:, ::stride, ::stride], kernel[0, 0])
    if fast:
        taps = jnp.concatenate(take_taps(x, size, stride, padding), axis=-1)
        return layers.dense(taps, kernel.reshape(size * size * channels, features))
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), (padding, padding), dimension_numbers=DIMENSIONS
    )


def convolve_depthwise(
    x: jax.Array, kernel: jax.Array, stride: int, padding: tuple[int, int], fast: bool = False
) -> jax.Array:
    """Convolve each channel of `[B, H, W, C]` with its own kernel of `[K, K, 1, C]`.

    As `convolve_strided`, to `[B, h, w, C]`. The fast form are products and sums of the taps, which
    become one loop.
    """
    size, channels = kernel.shape[0], kernel.shape[-1]
    if fast:
        taps = take_taps(x, size, stride, padding)
        weights = kernel.reshape(size * size, 1, 1, 1, channels)
        products = [tap * weight for tap, weight in zip(taps, weights, strict=True)]
        return sum(products[1:], start=products[0])
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), (padding, padding),
        dimension_numbers=DIMENSIONS, feature_group_count=channels,
    )  # fmt: skip


def max_pool_overlapping(x: jax.Array) -> jax.Array:
    """Take the maximum of each 3 x 3 window, in steps of 2, one pixel of padding before each side.

    `[B, H, W, C]`, not negative, H and W even, becomes `[B, H / 2, W / 2, C]`. Where values tie the
    gradient is divided between them; behind a ReLU these are zeros, which pass on none.
    """
    # A window is an even row (or column), the odd one after it and the odd one before it. Zeros do
    # for the padding as no value is below them.
    even, odd = x[:, ::2], x[:, 1::2]
    before = jnp.pad(odd, ((0, 0), (1, 0), (0, 0), (0, 0)))[:, :-1]
    x = jnp.maximum(jnp.maximum(before, even), odd)
    even, odd = x[:, :, ::2], x[:, :, 1::2]
    before = jnp.pad(odd, ((0, 0), (0, 0), (1, 0), (0, 0)))[:, :, :-1]
    return jnp.maximum(jnp.maximum(before, even), odd)


class EncoderConv(nn.Module):
    """Convolution without bias, since a normalisation follows."""

    features: int  # channels of the output
    size: int = 3  # side of the kernel, px
    stride: int = 1  # step of the kernel, px
    # Zeros before and after each side, px; None: as PyTorch's models have it.
    padding: tuple[int, int] | None = None
    depthwise: bool = False  # one kernel for each channel; `features` is their number
    compute: layers.Compute = layers.Compute()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[B, H, W, C]` to `[B, h, w, features]` of the compute dtype."""
        channels = 1 if self.depthwise else x.shape[-1]
        init = nn.initializers.variance_scaling(2.0, "fan_in", "uniform")
        kernel = self.param("kernel", init, (self.size, self.size, channels, self.features))
        padding = symmetric_padding(self.size) if self.padding is None else self.padding
        convolve: Callable[..., jax.Array]
        convolve = convolve_depthwise if self.depthwise else convolve_strided
        dtype, fast = self.compute
        return convolve(x.astype(dtype), kernel.astype(dtype), self.stride, padding, fast)


class EncoderNormalization(nn.Module):
    """Batch normalisation with stored statistics (Ioffe and Szegedy, ICML 2015), or group norm.

    The statistics are parameters like any other, so that they lie in checkpoints, model files and
    running averages, but they get no gradient and so never change (weight decay acts on kernels
    only). Batches' own statistics are not used in training either: those of a batch that is
    computed in parts, or divided among devices, would be others than of the whole.

    Attributes:
        kind: "frozen": statistics, scale and bias stay as they are; "trained": scale and bias are
            learnt; "group": group normalisation, learnt, for an encoder without foreign weights.
        epsilon: added to the variance.
        initial_scale: of all channels. With 0 at the end of a residual branch a network without
            foreign weights begins as its shortcuts, which stored statistics of 0 and 1 leave well
            scaled (Goyal et al. 2017, arXiv:1706.02677; De and Smith, NeurIPS 2020).
        dtype: of the output; computed in float32.
    """

    kind: EncoderNorm
    epsilon: float
    initial_scale: float = 1.0
    dtype: jnp.dtype = jnp.dtype(jnp.float32)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[B, H, W, C]` to the same shape, of the compute dtype."""
        channels = x.shape[-1]
        scale_init = nn.initializers.constant(self.initial_scale)
        scale = self.param("scale", scale_init, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        x = x.astype(jnp.float32)
        if self.kind == "group":
            return layers.normalise_groups(x, scale, bias).astype(self.dtype)
        mean = self.param("mean", nn.initializers.zeros, (channels,))
        var = self.param("var", nn.initializers.ones, (channels,))
        if self.kind == "frozen":
            scale, bias = jax.lax.stop_gradient((scale, bias))
        mean, var = jax.lax.stop_gradient((mean, var))
        slope = jax.lax.rsqrt(var + self.epsilon) * scale
        mean, slope, bias = (vector[None, None, None] for vector in (mean, slope, bias))
        return ((x - mean) * slope + bias).astype(self.dtype)


class NormalizedConv(NamedTuple):
    """Applies a convolution and its normalisation, as the layers of the module that calls it."""

    norm: EncoderNorm  # see `EncoderNormalization`
    epsilon: float
    compute: layers.Compute

    def __call__(
        self,
        x: jax.Array,
        names: tuple[str, str],
        features: int,
        size: int = 1,
        stride: int = 1,
        padding: tuple[int, int] | None = None,
        depthwise: bool = False,
        scale: float = 1.0,
    ) -> jax.Array:
        """Map `[B, H, W, C]` to `[B, h, w, features]`; the layers have the names given."""
        conv, norm = names
        x = EncoderConv(features, size, stride, padding, depthwise, self.compute, name=conv)(x)
        dtype = self.compute.dtype
        return EncoderNormalization(self.norm, self.epsilon, scale, dtype, name=norm)(x)
