import dataclasses
import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxseg.config import ModelConfig
from fluxseg.data.resample import resample_image
from fluxseg.data.transforms import normalize_image, rotate
from fluxseg.errors import ConfigError, FluxsegError, RecordingError
from fluxseg.inference.evaluate import load_run
from fluxseg.inference.model_file import read_model, write_model
from fluxseg.inference.objects.rois import find_rois
from fluxseg.inference.predict import Predictor
from fluxseg.inference.probability import neuron_probability, predict_probability
from fluxseg.inference.run_model import load_model
from fluxseg.inference.tiling import blend_tiles, blend_weights, cut_tiles, pad_image, plan_tiles
from tests.commands import run_python
from tests.inference.models import random_params

CONFIG = ModelConfig(features=(4, 8), convs=1, stem=1, norm="none")
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def predictor():
    params = random_params(CONFIG, seed=1)
    return Predictor(CONFIG, params, threshold=0.4, um_per_px=0.8, info={"seed": 1})


@given(
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
    st.integers(16, 128),
    st.integers(0, 60),
    st.sampled_from([8, 32]),
)
@settings(max_examples=60, deadline=None)
def test_cutting_and_blending_gives_the_image_back(shape, tile, overlap, multiple):
    overlap = min(overlap, tile // 2)
    plan = plan_tiles(shape, tile, overlap, multiple)
    image = np.random.default_rng(0).random(shape).astype(np.float32)
    tiles = list(cut_tiles(pad_image(image, plan.padded), plan))
    assert all(part.shape == plan.tile for part in tiles)
    np.testing.assert_allclose(blend_tiles(tiles, plan), image, atol=1e-6)
    for weights, starts in (
        (blend_weights(plan.rows, plan.tile[0]), plan.rows),
        (blend_weights(plan.columns, plan.tile[1]), plan.columns),
    ):
        total = np.zeros(starts[-1] + weights.shape[1])
        for start, row in zip(starts, weights, strict=True):
            total[start : start + len(row)] += row
        np.testing.assert_allclose(total, 1, atol=1e-6)


def test_overlaps_that_do_not_fit_are_refused(predictor):
    with pytest.raises(ConfigError, match="overlap"):
        plan_tiles((100, 100), 32, 20, 8)
    with pytest.raises(ConfigError, match="16 px"):
        predictor.predict(np.zeros((20, 20)), tile=3)


def test_tiles_predict_what_the_whole_image_does(predictor):
    # Without group norm the network sees less far than the overlap: there is no seam at all.
    image = RNG.random((200, 333)).astype(np.float32)
    whole = predictor.predict(image, tile=512)
    tiled = predictor.predict(image, tile=96, overlap=48)
    np.testing.assert_allclose(tiled, whole, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((1, 1), "uint8"), ((3, 50), "float64"), ((37, 53), "bool"), ((130, 64), "int32")],
)
def test_any_size_and_dtype(predictor, shape, dtype):
    image = (100 * RNG.random(shape)).astype(dtype)
    probability = predictor.predict(image)
    assert probability.shape == shape
    assert probability.dtype == np.float32
    assert (probability >= 0).all()
    assert (probability <= 1).all()


def test_what_is_no_image_is_refused(predictor):
    for wrong in (np.zeros((2, 3, 4)), np.zeros(5), np.zeros((0, 3)), np.zeros((2, 2), complex)):
        with pytest.raises(RecordingError, match="image"):
            predictor.predict(wrong)
    holes = np.full((40, 40), np.nan)
    assert np.isfinite(predictor.predict(holes)).all()


def test_augmented_predictions_turn_with_the_image(predictor):
    image = RNG.random((64, 64))
    reference = predictor.predict(image, tta=True)
    assert not np.allclose(reference, predictor.predict(image), atol=1e-4)
    for symmetry in range(8):
        turned = predictor.predict(rotate(image, symmetry), tta=True)
        np.testing.assert_allclose(turned, rotate(reference, symmetry), atol=1e-5)


def test_a_model_that_averages_by_itself_can_be_told_not_to(predictor):
    image = RNG.random((40, 44))
    averaging = dataclasses.replace(predictor, tta=True)
    expected = predictor.predict(image, tta=True)
    np.testing.assert_array_equal(averaging.predict(image), expected)
    np.testing.assert_array_equal(averaging.predict(image, tta=False), predictor.predict(image))


def test_an_image_is_brought_to_the_size_of_cells_that_the_model_knows(predictor):
    image = RNG.random((64, 96)).astype(np.float32)
    knowing = dataclasses.replace(predictor, diameter_px=10.0)
    np.testing.assert_array_equal(knowing.predict(image, diameter=11), predictor.predict(image))
    normal = normalize_image(image)
    half = predict_probability(
        functools.partial(neuron_probability, predictor.apply_fn),
        predictor.params,
        resample_image(normal, (32, 48)),
        multiple=32,
    )
    found = knowing.predict(image, diameter=20)
    np.testing.assert_array_equal(found, resample_image(half, (64, 96)))


def test_a_model_that_knows_no_size_refuses_one(predictor):
    with pytest.raises(ConfigError, match="diameter"):
        predictor.predict(np.zeros((32, 32)), diameter=12)
    assert predictor.find_diameter(np.zeros((32, 32))) is None
    knowing = dataclasses.replace(predictor, diameter_px=10.0)
    with pytest.raises(ConfigError, match="diameter"):
        knowing.predict(np.zeros((32, 32)), diameter=0)
    assert knowing.find_diameter(np.zeros((32, 32))) == 10


def test_segmenting_is_predicting_and_finding(predictor):
    image = RNG.random((64, 64))
    found = predictor.segment(image, threshold=0.5)
    expected = find_rois(predictor.predict(image), threshold=0.5, um_per_px=0.8)
    np.testing.assert_array_equal(found.labels, expected.labels)
    knowing = dataclasses.replace(predictor, diameter_px=10.0, um_per_px=None)
    found = knowing.segment(image, threshold=0.5, diameter=20)
    expected = find_rois(knowing.predict(image, diameter=20), threshold=0.5, diameter=20)
    np.testing.assert_array_equal(found.labels, expected.labels)


def test_of_several_images_of_a_field_the_largest_probability_counts(predictor):
    image = RNG.random((64, 72))
    images = [image, image[::-1], image**2]
    each = [predictor.predict(image) for image in images]
    np.testing.assert_array_equal(predictor.predict(images), np.max(each, axis=0))
    np.testing.assert_array_equal(predictor.predict(images[:1]), each[0])
    rois = predictor.segment(images, threshold=0.5)
    np.testing.assert_array_equal(
        rois.labels, find_rois(np.max(each, 0), threshold=0.5, um_per_px=0.8).labels
    )
    # A nested list of numbers is one image.
    np.testing.assert_array_equal(predictor.predict(image.tolist()), each[0])
    with pytest.raises(RecordingError, match="must be of one shape, got"):
        predictor.predict([image, image[1:]])


def test_outside_of_a_field_is_what_no_image_of_it_shows(predictor):
    first, second = RNG.random((2, 64, 72))
    first[:20], second[:10] = np.nan, np.nan
    always = dataclasses.replace(predictor, threshold=1e-6)
    assert not always.segment(first).labels[:20].any()
    found = always.segment([first, second]).labels
    assert found[10:20].any()
    assert not found[:10].any()


def test_a_large_image_needs_few_tiles_in_memory(predictor):
    sizes = []

    def apply_fn(variables, images, train):
        sizes.append(images.shape)
        return predictor.apply_fn(variables, images, train)

    network = functools.partial(neuron_probability, apply_fn)
    predict_probability(network, predictor.params, np.zeros((700, 700), np.float32), tile=128)
    assert max(shape[0] * shape[1] * shape[2] for shape in sizes) <= 4 * 128 * 128


def test_a_model_file_gives_the_same_model(predictor, tmp_path):
    write_model(tmp_path / "m.safetensors", predictor)
    again = read_model(tmp_path / "m.safetensors")
    for field in dataclasses.fields(Predictor):
        if field.name != "params":
            assert getattr(again, field.name) == getattr(predictor, field.name)
    jax.tree.map(np.testing.assert_array_equal, again.params, predictor.params)
    image = RNG.random((50, 70))
    np.testing.assert_array_equal(again.predict(image), predictor.predict(image))


def test_damage_to_a_model_file_is_always_noticed(predictor, tmp_path):
    path = tmp_path / "m.safetensors"
    write_model(path, predictor)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    broken = [content[: int(cut)] for cut in rng.integers(0, len(content), 30)]
    for position in rng.integers(0, len(content), 60):
        flipped = bytearray(content)
        flipped[position] ^= 1 << rng.integers(8)
        broken.append(bytes(flipped))
    broken += [b"", b"no model", (2**60).to_bytes(8, "little") + b"{}", content + b"more"]
    for wrong in broken:
        path.write_bytes(wrong)
        with pytest.raises(FluxsegError, match=r"m\.safetensors"):
            read_model(path)
    with pytest.raises(FluxsegError, match="absent"):
        read_model(tmp_path / "absent.safetensors")


def test_a_model_that_is_not_finite_is_not_written(predictor, tmp_path):
    params = jax.tree.map(lambda leaf: leaf * np.nan, predictor.params)
    with pytest.raises(FluxsegError, match="not finite"):
        write_model(tmp_path / "m", dataclasses.replace(predictor, params=params))
    assert list(tmp_path.iterdir()) == []


def test_a_run_and_its_model_file_predict_alike(finished):
    workdir, path = finished[0], finished[1].model
    image = RNG.random((100, 90))
    from_run, from_file = load_model(workdir), load_model(path)
    np.testing.assert_array_equal(from_run.predict(image), from_file.predict(image))
    assert from_run.threshold == from_file.threshold
    state = load_run(workdir).state
    jax.tree.map(np.testing.assert_array_equal, from_file.params, state.eval_params)
    assert from_file.info["data"]["source"] == "simulator"


def test_a_model_file_needs_neither_orbax_nor_grain(finished):
    path = finished[1].model
    code = (
        "import sys; from fluxseg.inference.run_model import load_model; import numpy as np; "
        f"load_model({str(path)!r}).predict(np.eye(40)); "
        "assert not {'orbax.checkpoint', 'grain', 'optax'} & set(sys.modules)"
    )
    run_python("-c", code)
