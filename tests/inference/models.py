"""Small untrained models for tests."""

import dataclasses

import jax
import numpy as np

from fluxseg.config import ModelConfig
from fluxseg.inference.predict import Predictor
from fluxseg.model.unet import create_unet


def tiny_model(**fields):
    """A model of two levels with random parameters."""
    config = ModelConfig(features=(8, 16), convs=1, stem=1, dtype="float32")
    image = np.zeros((1, 32, 32, 1), np.float32)
    params = create_unet(config).init(jax.random.key(0), image)["params"]
    return dataclasses.replace(Predictor(config, params), **fields)
