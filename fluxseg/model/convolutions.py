"""3x3 convolutions as XLA computes them fast on CPUs: the same sums, taken in another order.

XLA's CPU convolution is at its best where the products have many columns, and computes gradients
of kernels as convolutions with windows as large as the image, which is slow. Both change if a
3x3 kernel is taken apart into its rows: three products side by side, shifted and summed. Gains are
1.2 to 1.9 times for the convolution and 1.5 to 4 for the gradient of the kernel, measured by
`experiments/benchmarks/convolutions.py`.
"""

import functools

import jax
import jax.numpy as jnp

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
LEAST_PIXELS = 4096
"""Below it (B * H * W) the plain forms are as fast."""
LEAST_CHANNELS = 24
"""With fewer input channels the plain convolution is faster."""


def convolve_plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolve `[B, H, W, C]` with `[K, K, C, D]` as XLA does, stride 1, zeros at the border."""
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=DIMENSIONS)


@jax.custom_vjp
def convolve_fast(inputs: tuple[jax.Array, ...], kernel: jax.Array) -> jax.Array:
    """Convolve inputs with a 3x3 kernel as if they were concatenated by channel.

    Inputs `[B, H, W, C_n]` and a kernel `[3, 3, sum of C_n, D]` of one floating dtype give
    `[B, H, W, D]`. Only reverse-mode derivatives are defined.
    """
    return _convolve_each(inputs, kernel)


def _convolve_each(inputs: tuple[jax.Array, ...], kernel: jax.Array) -> jax.Array:
    parts = [_convolve(x, part) for x, part in zip(inputs, _divide(kernel, inputs), strict=True)]
    return sum(parts[1:], start=parts[0])


def _forward(
    inputs: tuple[jax.Array, ...], kernel: jax.Array
) -> tuple[jax.Array, tuple[tuple[jax.Array, ...], jax.Array]]:
    return convolve_fast(inputs, kernel), (inputs, kernel)


def _backward(
    residuals: tuple[tuple[jax.Array, ...], jax.Array], cotangent: jax.Array
) -> tuple[tuple[jax.Array, ...], jax.Array]:
    inputs, kernel = residuals
    if _pixels(cotangent) < LEAST_PIXELS:
        return jax.vjp(_convolve_each, inputs, kernel)[1](cotangent)
    # Without the barrier what comes before (ReLU, normalisation) is computed anew for each shift;
    # see `compiler_options`.
    inputs, cotangent = jax.lax.optimization_barrier((inputs, cotangent))
    # The gradient of an input is a convolution with the kernel turned round.
    turned = [part[::-1, ::-1].swapaxes(2, 3) for part in _divide(kernel, inputs)]
    return tuple(_convolve(cotangent, part) for part in turned), kernel_gradient(inputs, cotangent)


convolve_fast.defvjp(_forward, _backward)


def _divide(kernel: jax.Array, inputs: tuple[jax.Array, ...]) -> list[jax.Array]:
    starts = [sum(x.shape[-1] for x in inputs[:n]) for n in range(len(inputs))]
    return [kernel[:, :, s : s + x.shape[-1]] for s, x in zip(starts, inputs, strict=True)]


def _convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    if x.shape[-1] == 1:
        return _convolve_by_taps(x, kernel)
    if x.shape[-1] < LEAST_CHANNELS or _pixels(x) < LEAST_PIXELS:
        return convolve_plain(x, kernel)
    return _convolve_by_columns(x, kernel)


def _convolve_by_columns(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolve with the three columns of the kernel side by side, then shift and sum."""
    width, features = x.shape[2], kernel.shape[-1]
    columns = kernel.transpose(0, 2, 1, 3).reshape(3, 1, -1, 3 * features)
    padded = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0)))
    products = jax.lax.conv_general_dilated(
        padded, columns, (1, 1), ((1, 1), (0, 0)), dimension_numbers=DIMENSIONS
    )
    parts = [
        products[:, :, column : column + width, column * features : (column + 1) * features]
        for column in range(3)
    ]
    return parts[0] + parts[1] + parts[2]


def _convolve_by_taps(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolve a single channel as nine products and sums, which become one loop."""
    # At least in float32, as the gradient of a weight is a sum over all pixels.
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    taps = _shift(x.astype(dtype), ((0, 1, 2), (0, 1, 2)))
    products = [
        tap * weights[None, None]
        for tap, weights in zip(taps, kernel.astype(dtype).reshape(9, 1, -1), strict=True)
    ]
    return sum(products[1:], start=products[0]).astype(x.dtype)


def kernel_gradient(inputs: tuple[jax.Array, ...], cotangent: jax.Array) -> jax.Array:
    """Compute the gradient of a 3x3 kernel as one matrix product for each input.

    With the input shifted by each column of the kernel, side by side, and the cotangent by each
    row, the product over all pixels has each of the nine taps once. Inputs `[B, H, W, C_n]` and the
    gradient of the output `[B, H, W, D]` give `[3, 3, sum of C_n, D]`.
    """
    features = cotangent.shape[-1]
    rows: jax.Array | None = None
    gradients = []
    for x in inputs:
        channels = x.shape[-1]
        if channels == 1:
            # All nine shifts of the input are less than three of the cotangent.
            taps = _side_by_side(_shift(x, ((0, 1, 2), (0, 1, 2))))
            gradients.append(_multiply(taps, cotangent).reshape(3, 3, 1, features))
            continue
        if rows is None:
            rows = _side_by_side(_shift(cotangent, ((2, 1, 0), (1,))))
        product = _multiply(_side_by_side(_shift(x, ((1,), (0, 1, 2)))), rows)
        gradients.append(product.reshape(3, channels, 3, features).transpose(2, 0, 1, 3))
    return jnp.concatenate(gradients, axis=2)


def _multiply(first: jax.Array, second: jax.Array) -> jax.Array:
    """Sum the products of all pairs of channels over all pixels."""
    left, right = (x.reshape(-1, x.shape[-1]) for x in (first, second))
    product = jax.lax.dot_general(
        left,
        right,
        (((0,), (0,)), ((), ())),
        preferred_element_type=jnp.promote_types(left.dtype, jnp.float32),
    )
    return product.astype(first.dtype)


def _shift(x: jax.Array, starts: tuple[tuple[int, ...], tuple[int, ...]]) -> list[jax.Array]:
    """Shift x with zeros at the border to each place of a window of 3 x 3; 1 is the middle."""
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return [
        padded[:, row : row + height, column : column + width]
        for row in starts[0]
        for column in starts[1]
    ]


def _side_by_side(parts: list[jax.Array]) -> jax.Array:
    """Concatenate by channel."""
    channels = parts[0].shape[-1]
    # A sum of padded arrays becomes one loop; a concatenation does not.
    room = [(place * channels, (len(parts) - 1 - place) * channels) for place in range(len(parts))]
    padded = [
        jnp.pad(part, ((0, 0), (0, 0), (0, 0), around))
        for part, around in zip(parts, room, strict=True)
    ]
    return sum(padded[1:], start=padded[0])


def _pixels(x: jax.Array) -> int:
    return x.shape[0] * x.shape[1] * x.shape[2]


@functools.cache
def compiler_options() -> dict[str, str]:
    """Options for `jax.jit` that make a training step fast on CPUs; they change no result.

    XLA takes optimisation barriers out before it joins loops, and so joins what they are to keep
    apart. With that pass left out a step takes about two thirds of the time. There are none on
    other devices than CPUs, and if this version of XLA cannot compile a barrier.
    """
    if jax.default_backend() != "cpu":
        return {}
    options = {"xla_disable_hlo_passes": "cse_barrier_expander"}
    probe = jax.jit(jax.lax.optimization_barrier, compiler_options=options)
    try:
        probe.lower(jax.ShapeDtypeStruct((2,), jnp.float32)).compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return options
