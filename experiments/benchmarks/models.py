"""The networks that benchmarks compare."""

import dataclasses

from fluxseg.config import ModelConfig, reference_model


def classic_unet(base: int) -> ModelConfig:
    """Return the classic U-Net: five levels of two 3x3 convolutions, 2x2 transposed convolutions.

    Ronneberger et al., MICCAI 2015, with "SAME" padding and channel dropout of 0.1.

    Args:
        base: channels of the finest level; each level doubles them.
    """
    return ModelConfig(
        features=tuple(base * 2**level for level in range(5)),
        convs=2,
        stem=1,
        up="transposed",
        norm="none",
        dtype="float32",
    )


def narrow_reference() -> ModelConfig:
    """Return the reference protocol's model at a quarter of its width."""
    model = reference_model()
    return dataclasses.replace(model, features=tuple(width // 4 for width in model.features))


MODELS = {
    "reference/4": narrow_reference(),
    "classic-16": classic_unet(16),
    "classic-32": classic_unet(32),
    "fluxseg": ModelConfig(dtype="float32"),
    "reference": reference_model(),
}
"""Name -> architecture."""

CANDIDATES = {
    "preset": ModelConfig(),
    "one conv a level": ModelConfig(convs=1),
    "narrow": ModelConfig(features=(8, 16, 32, 64, 96)),
    "wide": ModelConfig(features=(24, 48, 96, 128, 160)),
    "stem 1": ModelConfig(features=(8, 16, 32, 64, 96, 128), stem=1),
    "stem 4": ModelConfig(features=(32, 64, 96, 128), stem=4),
    "stem 4, wide": ModelConfig(features=(64, 96, 128), stem=4),
    "stem 4, one conv": ModelConfig(features=(64, 96, 128, 160), stem=4, convs=1),
}
"""Variants of fluxseg's own network, name -> architecture."""
MODELS |= CANDIDATES
