"""What the layers of a network compute for an image."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from fluxseg.inference.predict import Predictor
from fluxseg.model.unet import create_unet


def layer_features(model: Predictor, image: np.ndarray) -> dict[str, np.ndarray]:
    """Compute the output of every layer for an image `[H, W]`, which must fit in memory as a whole.

    Returns the name of the layer -> `[h, w, C]` float32, in the order of computation; h and w are
    the sides at the layer's level. Convolutions come before their ReLU. Layers of a block are named
    "block/layer", and the block, which follows them, gives what it hands on. Raises
    `RecordingError` if it is not a 2-D array of real numbers.
    """
    _, captured = create_unet(model.config).apply(
        {"params": model.params},
        model.normalize(image)[None, ..., None],
        False,
        capture_intermediates=True,
        mutable=["intermediates"],
    )
    return dict(_outputs(captured["intermediates"]))


def _outputs(captured: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, np.ndarray]]:
    for name, values in captured.items():
        if not isinstance(values, Mapping) or name.endswith("dropout"):
            continue
        yield from _outputs(values, f"{above}{name}/")
        output = values["__call__"][0]
        # An encoder of blocks gives those of several levels again.
        if not isinstance(output, tuple):
            yield above + name, np.asarray(output[0], np.float32)
