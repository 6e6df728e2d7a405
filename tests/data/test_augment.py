import numpy as np
import pytest

from fluxseg.config import AugmentConfig
from fluxseg.data.augment import augment_crop, augment_intensity, draw_noise
from fluxseg.data.transforms import rotate

NONE = AugmentConfig(flips=False, gain=0, offset=0, gamma=0, noise=0, blur=0)


def crop(seed=0, size=16):
    rng = np.random.default_rng(seed)
    image = rng.random((size, size)).astype(np.float32)
    return image, (image > 0.7).astype(np.uint8), (image > 0.1).astype(np.uint8)


def test_without_strengths_nothing_changes():
    found = augment_crop(*crop(), np.random.default_rng(0), NONE)
    for before, after in zip(crop(), found, strict=True):
        np.testing.assert_array_equal(after, before)


def test_mask_and_image_are_turned_alike():
    image, label, valid = crop()
    config = AugmentConfig(flips=True, gain=0, offset=0, gamma=0, noise=0, blur=0)
    seen = set()
    for seed in range(60):
        out = augment_crop(image, label, valid, np.random.default_rng(seed), config)
        np.testing.assert_array_equal(out[1], out[0] > 0.7)
        np.testing.assert_array_equal(out[2], out[0] > 0.1)
        matches = [s for s in range(8) if np.array_equal(rotate(image, s), out[0])]
        assert len(matches) == 1
        seen.add(matches[0])
    assert seen == set(range(8))


def test_the_same_generator_gives_the_same_crop():
    arrays = crop()
    first, second, other = (
        augment_crop(*arrays, np.random.default_rng(seed), AugmentConfig())[0] for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("config", "low", "high"),
    [
        (AugmentConfig(False, 0.5, 0, 0, 0, 0), 0.5 * np.exp(-0.5), 0.5 * np.exp(0.5)),
        (AugmentConfig(False, 0, 0.3, 0, 0, 0), 0.2, 0.8),
        (AugmentConfig(False, 0, 0, 0.5, 0, 0), 0.5 ** np.exp(0.5), 0.5 ** np.exp(-0.5)),
    ],
    ids=["gain", "offset", "gamma"],
)
def test_each_strength_covers_its_range_and_no_more(config, low, high):
    image = np.full((2, 2), 0.5, np.float32)
    values = [
        augment_intensity(image, np.random.default_rng(seed), config)[0, 0] for seed in range(300)
    ]
    assert low - 1e-5 <= min(values) < low + 0.1 * (high - low)
    assert high + 1e-5 >= max(values) > high - 0.1 * (high - low)


def test_noise_is_gaussian_but_for_its_steps():
    from scipy.stats import norm

    noise = draw_noise((1000, 1000), np.random.default_rng(0))
    assert noise.dtype == np.float32
    assert abs(noise.mean()) < 0.005
    assert abs(noise.std() - 1) < 0.005
    step = 1 / np.sqrt(8)
    for level in step * np.arange(-9, 10):
        # Half a step further is where the steps of the two distributions meet.
        assert abs((noise <= level + 1e-6).mean() - norm.cdf(level + step / 2)) < 0.004


def test_dark_pixels_survive_gamma():
    image = np.array([[-0.25, 0.25]], np.float32)
    config = AugmentConfig(False, 0, 0, 0.5, 0, 0)
    out = augment_intensity(image, np.random.default_rng(0), config)
    assert out[0, 0] == -out[0, 1] < 0


def test_blur_of_tiny_and_of_constant_images_changes_nothing():
    config = AugmentConfig(flips=False, gain=0, offset=0, gamma=0, noise=0, blur=5)
    for shape in ((1, 5), (1, 1), (8, 8)):
        image = np.full(shape, 0.5, np.float32)
        out = augment_intensity(image, np.random.default_rng(0), config)
        np.testing.assert_allclose(out, image, rtol=1e-5)
        assert out.dtype == np.float32
