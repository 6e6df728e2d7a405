"""The building blocks of the U-Net, each as plain operations and as an equal form fast on CPUs.

XLA has no fast path on CPUs for transposed convolutions, nor for the gradient of a concatenation
in front of a convolution. The fast forms compute the same sums with dense layers, ordinary
convolutions and reshapes. The parameters are those of `flax.linen.Conv` and
`flax.linen.ConvTranspose` either way, so that a checkpoint does not depend on the form.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from fluxseg.model.convolutions import convolve_fast, convolve_plain

MAX_GROUPS = 8
EPSILON = 1e-6
"""Added to the variance of a group, or of a kernel's weights."""
RELU_GAIN = math.sqrt(2 / (1 - 1 / math.pi))
"""Restores the variance that a ReLU leaves of a normal input."""


class Compute(NamedTuple):
    """Compute dtype (parameters are float32), and whether to use the forms fast on CPUs."""

    dtype: jnp.dtype = jnp.dtype(jnp.float32)
    fast: bool = False


class Rows(struct.PyTreeNode):
    """Which rows, by number `[B]` int32, of a larger batch of `total` rows a batch holds."""

    numbers: jax.Array
    total: int = struct.field(pytree_node=False)


def pixel_unshuffle(x: jax.Array, factor: int) -> jax.Array:
    """Move blocks of `factor` x `factor` pixels into channels, ordered (row, column, C).

    From `[B, H, W, C]` of any dtype to `[B, H / factor, W / factor, factor * factor * C]`.
    """
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // factor, factor, width // factor, factor, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(*x.shape[:2], x.shape[3], -1)


def pixel_shuffle(x: jax.Array, factor: int) -> jax.Array:
    """Move channels into blocks of `factor` x `factor` pixels; the inverse of `pixel_unshuffle`.

    From `[B, H, W, factor * factor * C]` to `[B, H * factor, W * factor, C]`. Shi et al.,
    "Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional
    Neural Network", CVPR 2016.
    """
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, factor, factor, channels // factor**2)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, height * factor, width * factor, -1)


def max_pool(x: jax.Array, fast: bool = False) -> jax.Array:
    """Take the maximum of each 2 x 2 block: `[B, H, W, C]` becomes `[B, H / 2, W / 2, C]`.

    The fast form takes it over reshaped views. Where values tie, it divides the gradient between
    them; the plain form gives it to the first one. Behind a ReLU ties are between zeros, which
    pass on no gradient.
    """
    if not fast:
        pooled: jax.Array = nn.max_pool(x, (2, 2), (2, 2))
        return pooled
    batch, height, width, channels = x.shape
    rows = x.reshape(batch, height // 2, 2, width, channels)
    x = jnp.maximum(rows[:, :, 0], rows[:, :, 1]).reshape(batch, height // 2, width // 2, 2, -1)
    return jnp.maximum(x[:, :, :, 0], x[:, :, :, 1])


def convolve(inputs: tuple[jax.Array, ...], kernel: jax.Array, fast: bool = False) -> jax.Array:
    """Convolve inputs as if they were concatenated by channel; stride 1, zeros at the border.

    Inputs `[B, H, W, C_n]` and a kernel `[K, K, sum of C_n, D]` give `[B, H, W, D]`. The fast form
    is `convolve_fast` for 3x3 kernels, and a matrix product for 1x1 kernels.
    """
    if fast and kernel.shape[:2] == (3, 3):
        return convolve_fast(inputs, kernel)
    if fast and kernel.shape[:2] == (1, 1) and len(inputs) == 1:
        return dense(inputs[0], kernel[0, 0])
    return convolve_plain(jnp.concatenate(inputs, axis=-1), kernel)


def dense(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Multiply each pixel's channels `[B, H, W, C]` by a matrix `[C, D]`: `[B, H, W, D]`."""
    # One axis of pixels: over three of them XLA transposes x for the gradient of the kernel.
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:3], -1)


def convolve_transposed(x: jax.Array, kernel: jax.Array, fast: bool = False) -> jax.Array:
    """Double the sides by a transposed convolution with stride 2 and "SAME" padding.

    With a 2x2 kernel each output pixel sees one input pixel, hence a dense layer to the four
    phases of the output grid. With a 4x4 kernel each phase is a 2x2 convolution of the input; the
    four of them read the same windows, shifted by at most one, so four dense layers, one per
    corner of the window, compute them. (As a 2x2 convolution the gradient of the kernel is a
    hundred times slower.)

    `[B, H, W, C]` and a kernel `[K, K, C, D]`, K = 2 or 4, as `flax.linen.ConvTranspose` keeps it,
    give `[B, 2 H, 2 W, D]`. The plain form convolves a dilated input.
    """
    if not fast:
        return jax.lax.conv_transpose(x, kernel, (2, 2), "SAME")
    size, _, channels, features = kernel.shape
    if size == 2:
        phases = kernel[::-1, ::-1].transpose(2, 0, 1, 3).reshape(channels, 4 * features)
        return pixel_shuffle(dense(x, phases), 2)
    # Even outputs see the pixels (i - 1, i) through taps 0 and 2, odd ones (i, i + 1) through
    # taps 1 and 3: tap = 2 * neighbour + phase.
    kernel = kernel.reshape(2, 2, 2, 2, channels, features)
    kernel = kernel.transpose(0, 2, 4, 1, 3, 5).reshape(2, 2, channels, 4 * features)
    batch, height, width, _ = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    corners = [(a, b) for a in (0, 1) for b in (0, 1)]
    products = [padded[:, a : a + height + 1, b : b + width + 1] @ kernel[a, b] for a, b in corners]
    windows = products[0] + products[1] + products[2] + products[3]
    windows = windows.reshape(batch, height + 1, width + 1, 2, 2, features)
    rows = [
        jnp.stack([windows[:, a : a + height, b : b + width, a, b] for b in (0, 1)], axis=3)
        for a in (0, 1)
    ]
    return jnp.stack(rows, axis=2).reshape(batch, 2 * height, 2 * width, features)


def normalise_groups(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """Give each group of channels of each image mean 0 and variance 1, then scale and shift.

    There are as many groups (8 at most) as divide C. Wu and He, "Group Normalization", ECCV 2018.
    The variance is that of the centred values: the shortcut E[x^2] - E[x]^2 loses all digits where
    the mean is far above the spread. All arrays are float32: x and the result `[B, H, W, C]`, scale
    and bias `[C]`.
    """
    batch, _, _, channels = x.shape
    groups = max(g for g in range(1, MAX_GROUPS + 1) if channels % g == 0)

    def group_mean(values: jax.Array) -> jax.Array:
        # Rows first, then columns: sums of few terms each keep their digits.
        mean = values.mean(1).mean(1).reshape(batch, groups, -1).mean(-1)
        return jnp.repeat(mean, channels // groups, axis=-1)[:, None, None, :]

    mean = group_mean(x)
    # The variance does not change with the mean to first order, so nothing is lost by cutting
    # that gradient, and one pass over the image is saved.
    variance = group_mean(jnp.square(x - jax.lax.stop_gradient(mean)))
    slope = jax.lax.rsqrt(variance + EPSILON) * scale[None, None, None]
    return (x - mean) * slope + bias[None, None, None]


def standardise_weights(kernel: jax.Array, gain: jax.Array) -> jax.Array:
    """Give the weights of each output mean 0 and one variance, such that ReLUs keep theirs.

    Brock et al., "Characterizing signal propagation to close the performance gap in unnormalized
    ResNets", ICLR 2021. Float32, the kernel and the result `[K, K, C, D]`, gain `[D]`.
    """
    centred = kernel - kernel.mean((0, 1, 2))
    variance = jnp.square(centred).mean((0, 1, 2))
    fan_in = kernel[..., 0].size
    return centred * (gain * RELU_GAIN * jax.lax.rsqrt((variance + EPSILON) * fan_in))


def parameter(
    module: nn.Module, name: str, init: nn.initializers.Initializer, shape: tuple[int, ...]
) -> jax.Array:
    """Return a parameter as `module.param` does, in less time.

    To compare shapes Flax traces the initialiser of each parameter anew whenever a network is
    applied, which is a quarter of the time that tracing it takes.
    """
    value: jax.Array | None = module.get_variable("params", name)
    if value is not None and value.shape == shape:
        return value
    created: jax.Array = module.param(name, init, shape)
    return created


class Conv(nn.Module):
    """Convolution of one or several inputs taken as concatenated, with "SAME" padding."""

    features: int  # channels of the output
    size: int = 3  # side of the kernel, px
    compute: Compute = Compute()
    # Variance of the initial weights times their fan-in; 2 keeps the variance through a ReLU (He et
    # al., ICCV 2015).
    scale: float = 2.0
    use_bias: bool = True  # a normalisation that follows brings its own
    standardise: bool = False  # the weights, see `standardise_weights`

    @nn.compact
    def __call__(self, *inputs: jax.Array) -> jax.Array:
        """Map inputs `[B, H, W, C_n]` to `[B, H, W, features]` of the compute dtype."""
        init = nn.initializers.variance_scaling(self.scale, "fan_in", "uniform")
        channels = sum(x.shape[-1] for x in inputs)
        kernel = parameter(self, "kernel", init, (self.size, self.size, channels, self.features))
        if self.standardise:
            gain = parameter(self, "gain", nn.initializers.ones, (self.features,))
            kernel = standardise_weights(kernel, gain)
        cast = tuple(x.astype(self.compute.dtype) for x in inputs)
        y = convolve(cast, kernel.astype(self.compute.dtype), self.compute.fast)
        if not self.use_bias:
            return y
        bias = parameter(self, "bias", nn.initializers.zeros, (self.features,))
        return _add_bias(y, bias)


class ConvTranspose(nn.Module):
    """Transposed convolution with bias that doubles the sides; attributes as of `Conv`."""

    features: int
    size: int = 2
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[B, H, W, C]` to `[B, 2 H, 2 W, features]` of the compute dtype."""
        # Of the kernel's taps only a quarter meets any one output pixel.
        init = nn.initializers.variance_scaling(4.0, "fan_in", "uniform")
        kernel = parameter(self, "kernel", init, (self.size, self.size, x.shape[-1], self.features))
        bias = parameter(self, "bias", nn.initializers.zeros, (self.features,))
        dtype, fast = self.compute
        y = convolve_transposed(x.astype(dtype), kernel.astype(dtype), fast)
        return _add_bias(y, bias)


def _add_bias(y: jax.Array, bias: jax.Array) -> jax.Array:
    # In float32, as the gradient of the bias is a sum over all pixels.
    return (y.astype(jnp.float32) + bias[None, None, None]).astype(y.dtype)


class GroupNorm(nn.Module):
    """Group normalisation with scale and bias, see `normalise_groups`."""

    dtype: jnp.dtype = jnp.dtype(jnp.float32)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[B, H, W, C]` to the same shape, of the compute dtype; statistics in float32."""
        scale = parameter(self, "scale", nn.initializers.ones, x.shape[-1:])
        bias = parameter(self, "bias", nn.initializers.zeros, x.shape[-1:])
        return normalise_groups(x.astype(jnp.float32), scale, bias).astype(self.dtype)


class Dropout(nn.Module):
    """Dropout of whole channels, whose draws depend on a row's number in the batch.

    A batch may be computed in pieces, one after the other or on several devices: each row gets
    what it would get in the whole batch.

    Attributes:
        rate: probability to be dropped; what is kept is divided by 1 - rate (Srivastava et al.,
            JMLR 2014; of channels: Tompson et al., CVPR 2015).
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, rows: Rows | None = None) -> jax.Array:
        """Map `[B, H, W, C]` to the same shape and dtype; `train` needs an rng named "dropout"."""
        if not train or self.rate == 0:
            return x
        key, kept = self.make_rng("dropout"), 1 - self.rate
        total = x.shape[0] if rows is None else rows.total
        # All rows of the whole batch are drawn: they are few numbers.
        mask = jax.random.bernoulli(key, kept, (total, 1, 1, x.shape[-1]))
        mask = mask if rows is None else mask[rows.numbers]
        return jax.lax.select(jnp.broadcast_to(mask, x.shape), x / kept, jnp.zeros_like(x))
