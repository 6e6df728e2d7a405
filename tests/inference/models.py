"""Small untrained models for tests."""

import dataclasses

import jax
import numpy as np

from fluxseg.config import ModelConfig
from fluxseg.inference.predict import Predictor
from fluxseg.model.unet import create_unet


def random_params(config, seed=0, side=32):
    """Random parameters of a network, by one program: layer by layer they take seconds."""
    image = np.zeros((1, side, side, 1), np.float32)
    return jax.jit(create_unet(config).init)(jax.random.key(seed), image)["params"]


def tiny_model(**fields):
    """A model of two levels with random parameters."""
    config = ModelConfig(features=(8, 16), convs=1, stem=1, dtype="float32")
    return dataclasses.replace(Predictor(config, random_params(config)), **fields)
