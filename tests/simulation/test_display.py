"""Displays of an image: all kinds, always normalised, always in order where they must be."""

import numpy as np
import pytest

from fluxseg.simulation import display


@pytest.fixture(scope="module")
def image():
    rng = np.random.default_rng(3)
    dark, bright = rng.random((96, 96)) * 0.2, np.zeros((96, 96))
    bright[20:30, 20:30] = 1
    return (dark + bright).astype(np.float32)


@pytest.mark.parametrize("kind", display.KINDS)
def test_every_kind_gives_a_normalised_image(kind, image, monkeypatch):
    monkeypatch.setattr(display, "SHARES", [float(name == kind) for name in display.KINDS])
    for seed in range(3):
        shown = display.draw_display(np.random.default_rng(seed), image, 12.0)
        assert shown.dtype == np.float32
        assert np.isfinite(shown).all()
        assert shown.min() >= -1
        assert shown.max() <= 3
        if kind in ("linear", "gamma", "logarithm"):
            # What is brighter stays so.
            order = np.argsort(image, axis=None)
            assert (np.diff(shown.ravel()[order]) >= -1e-6).all()
        if kind == "linear":
            np.testing.assert_array_equal(shown, image)
        else:
            low, high = np.percentile(shown, (1, 99.5))
            assert (low, high) == pytest.approx((0, 1), abs=0.02)
