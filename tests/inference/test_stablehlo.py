import dataclasses

import jax
import numpy as np
import pytest

from fluxseg.config import ModelConfig, reference_model
from fluxseg.inference.model_file import write_model
from fluxseg.inference.predict import Predictor
from fluxseg.inference.stablehlo import describe_program, export_program, write_stablehlo
from fluxseg.model.unet import create_unet
from tests.commands import run, run_python
from tests.inference.models import random_params, tiny_model

ALONE = """
import json, sys
import jax, numpy as np
from jax import export

folder = sys.argv[1]
program = export.deserialize(bytearray(open(folder + "/m.stablehlo", "rb").read()))
facts = json.load(open(folder + "/m.stablehlo.json"))

def normalise(image):
    image = image.astype(np.float64)
    low, high = np.percentile(image, (facts["low_percentile"], facts["high_percentile"]))
    return np.clip((image - low) / (high - low), *facts["clip"]).astype(np.float32)

for number in range(2):
    images = np.load(f"{folder}/images{number}.npy")
    normalised = np.stack([normalise(image) for image in images])
    np.save(f"{folder}/found{number}.npy", np.asarray(program.call(normalised)))
present = {"fluxseg", "flax", "optax", "scipy.ndimage"} & set(sys.modules)
assert not present, present
"""


def test_the_program_runs_with_jax_alone_and_predicts_the_same(tmp_path):
    model = tiny_model(temperature=1.7, high_percentile=98.0)
    assert [path.name for path in write_stablehlo(tmp_path / "m.stablehlo", model)] == [
        "m.stablehlo",
        "m.stablehlo.json",
    ]
    rng = np.random.default_rng(0)
    shapes = ((1, 64, 96), (3, 160, 32))
    for number, shape in enumerate(shapes):
        np.save(tmp_path / f"images{number}.npy", rng.integers(0, 4000, shape, np.uint16))
    run_python("-c", ALONE, tmp_path, cwd=tmp_path)
    for number, shape in enumerate(shapes):
        images = np.load(tmp_path / f"images{number}.npy")
        found = np.load(tmp_path / f"found{number}.npy")
        assert found.shape == shape
        assert found.dtype == np.float32
        expected = np.stack([model.predict(image) for image in images])
        assert np.ptp(expected) > 0.01
        np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize(
    "config",
    [
        dataclasses.replace(reference_model(), features=(4, 6, 8)),
        ModelConfig(features=(4, 4, 4, 4, 4), convs=1, stem=4, up="transposed"),
    ],
)
def test_every_architecture_can_be_exported(config):
    image = np.random.default_rng(1).random((2, 64, 128)).astype(np.float32)
    unet = create_unet(config)
    params = random_params(config, side=64)
    model = Predictor(config, params)
    multiple = describe_program(model)["side_multiple"]
    assert 64 % multiple == 0
    program = jax.export.deserialize(bytearray(export_program(model)))
    assert program.platforms == ("cpu", "cuda", "tpu")
    expected = jax.nn.softmax(jax.jit(unet.apply)({"params": params}, image[..., None]), -1)[..., 1]
    np.testing.assert_allclose(program.call(image), expected, atol=1e-5)
    with pytest.raises(ValueError, match=r"divi|multiple|height"):
        program.call(image[:, :33])


def test_the_verb_writes_both_files(tmp_path):
    write_model(tmp_path / "m.safetensors", tiny_model())
    text = run("export", "--model", tmp_path / "m.safetensors", "--format", "stablehlo",
               "--output", tmp_path / "out" / "m.stablehlo")  # fmt: skip
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["m.stablehlo", "m.stablehlo.json"]
    assert "m.stablehlo.json" in text
