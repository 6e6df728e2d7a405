"""Random changes of training crops: pure functions that are given the random generator."""

import math

import numpy as np
from scipy import ndimage

from fluxseg.config import AugmentConfig
from fluxseg.data.transforms import CLIP, rotate


def augment_crop(
    image: np.ndarray,
    label: np.ndarray,
    valid: np.ndarray,
    rng: np.random.Generator,
    config: AugmentConfig,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rotate and flip a square crop with its mask, and change the intensities of the image alone.

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
        image, label, valid = (rotate(array, symmetry) for array in (image, label, valid))
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
        out = ndimage.gaussian_filter(out, blur, mode="mirror", truncate=3.0)
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

    Each value counts the ones of 32 random bits, scaled: eight times as fast as normal variates,
    which took a third of the loader's time.

    Args:
        shape: of the result.
        rng: source of the bits.

    Returns:
        `[*shape]` float32.
    """
    count = math.prod(shape)
    words = rng.integers(0, 2**64, -(-count // 2), np.uint64)
    ones = np.bitwise_count(words.view(np.uint32)[:count]).astype(np.float32)
    ones -= np.float32(16)
    ones *= np.float32(1 / math.sqrt(8))
    return ones.reshape(shape)
