import matplotlib

matplotlib.use("agg")

import numpy as np
import pytest
from matplotlib import pyplot

import fluxseg
from fluxseg import plot
from fluxseg.inference.features import layer_features
from tests.inference.models import tiny_model

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    pyplot.close("all")


def drawings():
    image = RNG.random((20, 30))
    masks = np.zeros((2, 20, 30), bool)
    masks[0, 2:9, 2:9] = masks[1, 10:18, 12:22] = True
    found = fluxseg.find_rois(masks.any(0).astype(np.float32))
    history = [{"epoch": e, "train_loss": 1 / e, "val_loss": None} for e in range(1, 5)]
    return {
        "recording": (fluxseg.Recording("a", image, masks, ("1", "2")),),
        "rois": (image, found),
        "probability": (image,),
        "mistakes": (image, masks[0], masks[1]),
        "curves": (history, "loss"),
        "confusion": (np.array([[90, 2], [3, 5]]),),
        "features": (RNG.random((20, 30, 5)),),
    }


@pytest.mark.parametrize("name", list(drawings()))
def test_each_function_returns_the_axes_it_drew_into(name):
    arguments = drawings()[name]
    before = dict(matplotlib.rcParams)
    made = getattr(plot, name)(*arguments)
    assert made.has_data()
    _, given = pyplot.subplots()
    assert getattr(plot, name)(*arguments, ax=given) is given
    assert given.has_data()
    assert dict(matplotlib.rcParams) == before


def test_mistakes_have_a_colour_for_each_kind():
    image, truth, prediction = np.zeros((1, 4)), np.array([[0, 0, 1, 1]]), np.array([[0, 1, 0, 1]])
    shown = plot.mistakes(image, truth == 1, prediction == 1).images[0].get_array()
    expected = [(0, 0, 0), *(matplotlib.colors.to_rgb(plot.ERRORS[k]) for k in
                ("False alarm (FP)", "Missed (FN)", "Found (TP)"))]  # fmt: skip
    np.testing.assert_allclose(shown[0], expected)


def test_neighbouring_rois_are_told_apart_by_colour():
    image = np.zeros((10, 20))
    probability = np.zeros((10, 20), np.float32)
    probability[1:9, 1:9] = probability[1:9, 11:19] = 1
    found = fluxseg.find_rois(probability)
    assert len(found) == 2
    shown = plot.rois(image, found).images[0].get_array()
    assert np.abs(shown[5, 5] - shown[5, 15]).max() > 0.2


def test_layer_features_end_in_the_probability_that_is_predicted():
    model = tiny_model()
    image = RNG.random((32, 64))
    layers = layer_features(model, image)
    assert all(values.ndim == 3 and values.dtype == np.float32 for values in layers.values())
    first = next(iter(layers))
    assert first.startswith("encoder_0")
    assert list(layers)[-1] == "head"
    assert layers["head"].shape == (32, 64, 2)
    difference = layers["head"][..., 1] - layers["head"][..., 0]
    np.testing.assert_allclose(1 / (1 + np.exp(-difference)), model.predict(image), atol=1e-5)
