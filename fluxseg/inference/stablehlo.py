"""A trained model as a StableHLO program that runs with jax alone, without fluxseg or Flax.

The parameters are part of the program, the temperature too. It takes any number of normalised
images of any size that is a multiple of `side_multiple`, and gives probabilities. A JSON file
beside it says how to normalise, cut and threshold. The program is what `jax.export` serialises
(StableHLO in a portable form), and later versions of jax read it for as long as that promises.

    import jax
    program = jax.export.deserialize(bytearray(open("model.stablehlo", "rb").read()))
    probability = program.call(images)  # [B, H, W] float32 -> [B, H, W] float32
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from fluxseg.config import CLASSES
from fluxseg.data.transforms import CLIP
from fluxseg.inference.predict import Predictor
from fluxseg.inference.probability import neuron_probability
from fluxseg.io.files import atomic_path, write_json
from fluxseg.model.unet import create_unet

PLATFORMS = ("cpu", "cuda", "tpu")
NORMALISATION = (
    "Per image, in float64, over its finite pixels: low and high are the percentiles given here "
    "(linear interpolation, as numpy.percentile); if high <= low they are the least and largest "
    "pixel. normalised = clip((image - low) / (high - low), clip[0], clip[1]) as float32; pixels "
    "that are not finite become 0, and so does an image without contrast."
)
PADDING = (
    "Repeat the last row and column until both sides are multiples of side_multiple, and cut the "
    "result back. Images that are too large for the memory can be cut into overlapping tiles."
)


def export_program(model: Predictor, platforms: tuple[str, ...] = PLATFORMS) -> bytes:
    """Export the network of a model with its parameters and its temperature, serialised.

    The layers are computed in their plain form and in float32 on every platform, so probabilities
    may differ from those of `Predictor.predict` by rounding. None of the platforms needs to be
    present.
    """
    config = dataclasses.replace(model.config, dtype="float32")
    apply_fn = create_unet(config, formulation="plain").apply
    # Host arrays become constants of the program, whatever device holds the parameters.
    params = jax.tree.map(np.asarray, model.params)

    def predict(images: jax.Array) -> jax.Array:
        temperature = jnp.float32(model.temperature)
        return neuron_probability(apply_fn, params, images[..., None], temperature)

    multiple = model.side_multiple
    shape = export.symbolic_shape(f"batch, {multiple}*height, {multiple}*width")
    exported = export.export(jax.jit(predict), platforms=platforms)(
        jax.ShapeDtypeStruct(shape, np.float32)
    )
    return bytes(exported.serialize())


def describe_program(model: Predictor) -> dict[str, Any]:
    """Return as plain values all that the use of an exported program needs."""
    names = (
        "side_multiple", "low_percentile", "high_percentile", "threshold", "temperature",
        "um_per_px", "diameter_px", "licence",
    )  # fmt: skip
    return {
        "input": "[B, H, W] float32, normalised",
        "output": "[B, H, W] float32, probability of neuron, 0 to 1",
        "platforms": list(PLATFORMS),
        "padding": PADDING,
        "clip": list(CLIP),
        "normalisation": NORMALISATION,
        **{name: getattr(model, name) for name in names},
        "temperature_note": "part of the program already",
        "diameter_note": "images are resampled so that cells have it; null: as they are",
        "classes": list(CLASSES),
        "written_with": {"jax": jax.__version__},
        "use": "jax.export.deserialize(bytearray(content)).call(images)",
    }


def write_stablehlo(path: str | Path, model: Predictor) -> tuple[Path, Path]:
    """Write an exported program, usually named `*.stablehlo`, and `NAME.json`, which explains it.

    Returns both paths; `WorkdirError` if a file cannot be written.
    """
    path = Path(path)
    content = export_program(model)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    sidecar = path.with_name(f"{path.name}.json")
    write_json(sidecar, describe_program(model))
    return path, sidecar
