"""Random changes of training crops, with the generator passed in."""

import math

import numpy as np

from fluxseg.config import AugmentConfig
from fluxseg.data.transforms import CLIP, turn


def augment_crop(
    image: np.ndarray,
    label: np.ndarray,
    valid: np.ndarray,
    rng: np.random.Generator,
    config: AugmentConfig,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Turn and flip a square crop with its mask, and change the intensities of the image alone.

    Args:
        image: `[H, H]` float32, normalised (see `normalize_image`).
        label: `[H, H]`, any dtype.
        valid: `[H, H]`, any dtype; false where a pixel must not count.
        rng: source of all randomness.
        config: strengths of the changes.

    Returns:
        `(image, label, valid)`, the image as float32 within the normalised range.
    """
    if config.flips:
        symmetry = int(rng.integers(8))
        image, label, valid = (turn(array, symmetry) for array in (image, label, valid))
    return augment_intensity(image, rng, config), label, valid


def augment_intensity(
    image: np.ndarray, rng: np.random.Generator, config: AugmentConfig
) -> np.ndarray:
    """Change gain, offset, gamma, sharpness and noise of an image.

    Gain and gamma are log-uniform, so that each strength is as likely as its inverse.

    Args:
        image: `[H, W]` float32, normalised.
        rng: source of all randomness.
        config: strengths of the changes; a strength of 0 leaves its aspect as it is.

    Returns:
        A new `[H, W]` float32 array within the normalised range.
    """
    # All strengths are drawn first: the same generator gives the same crop parameters
    # whichever of the changes are switched on.
    blur, gain, offset, gamma, noise = rng.uniform(
        (0, -config.gain, -config.offset, -config.gamma, 0),
        (config.blur, config.gain, config.offset, config.gamma, config.noise),
    )
    low, high = CLIP
    out = np.array(image, np.float32)
    if config.blur:
        out = blur_image(out, blur)
    if config.gamma:
        # Pixels darker than the low percentile are negative; they keep their sign.
        magnitude = np.abs(out)
        np.power(magnitude, np.float32(np.exp(gamma)), out=magnitude)
        out = np.copysign(magnitude, out, out=out)
    out *= np.float32(np.exp(gain))
    out += np.float32(offset)
    if config.noise:
        out += np.float32(noise) * draw_noise(out.shape, rng)
    return np.clip(out, low, high, out=out)


def draw_noise(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Draw noise of mean 0 and standard deviation 1 that is Gaussian to the eye.

    The number of heads of 32 coins, in steps of a third: eight times as fast as normal variates,
    which took a third of the loader's time.

    Args:
        shape: of the result.
        rng: source of the coins.

    Returns:
        `[*shape]` float32.
    """
    count = math.prod(shape)
    words = rng.integers(0, 2**64, -(-count // 2), np.uint64)
    heads = np.bitwise_count(words.view(np.uint32)[:count]).astype(np.float32)
    heads -= np.float32(16)
    heads *= np.float32(1 / math.sqrt(8))
    return heads.reshape(shape)


def blur_image(image: np.ndarray, sigma: float) -> np.ndarray:
    """Blur by a Gaussian with mirrored borders, as two passes of a short kernel.

    Args:
        image: `[H, W]` float32.
        sigma: standard deviation, px; the kernel is cut at 3 sigma.

    Returns:
        `[H, W]` float32.
    """
    radius = min(int(np.ceil(3 * sigma)), *(side - 1 for side in image.shape))
    if sigma <= 0 or radius < 1:
        return image
    half = np.exp(-0.5 * (np.arange(radius + 1) / sigma) ** 2)
    half /= 2 * half.sum() - half[0]
    # Views of the columns first, then of the rows; the array itself is never transposed.
    return _blur_rows(_blur_rows(image.T, half).T, half)


def _blur_rows(image: np.ndarray, half: np.ndarray) -> np.ndarray:
    radius, length = len(half) - 1, len(image)
    padded = np.empty_like(image, shape=(length + 2 * radius, image.shape[1]))
    padded[radius : radius + length] = image
    padded[:radius] = image[radius:0:-1]
    padded[radius + length :] = image[-2 : -radius - 2 : -1]
    out = image * np.float32(half[0])
    pair = np.empty_like(out)
    for i in range(1, radius + 1):
        # The kernel is symmetric: one multiplication serves both sides.
        before, after = padded[radius - i :][:length], padded[radius + i :][:length]
        np.add(before, after, out=pair)
        pair *= np.float32(half[i])
        out += pair
    return out
