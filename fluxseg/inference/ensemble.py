"""Several models on one image: their mean, and where they disagree.

Networks from different random starts err in different places: their mean is a better probability
than that of one, and their disagreement says where not to trust it (Lakshminarayanan et al.,
"Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles", NeurIPS 2017).
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fluxseg.errors import ConfigError
from fluxseg.inference.predict import Predictor
from fluxseg.inference.run_model import load_model


@dataclasses.dataclass(frozen=True, eq=False)
class Ensemble(Predictor):
    """Models that predict together; made by `combine_models`."""

    models: tuple[Predictor, ...] = ()

    def find_diameter(self, image: Any) -> float | None:
        """See `Predictor.find_diameter`; the first model tells."""
        return self.models[0].find_diameter(image)

    def predict(self, image: Any, **settings: Any) -> np.ndarray:
        """Return the mean of what the models predict; see `Predictor.predict`."""
        return self.predict_maps(image, **settings)["probability"]

    def predict_maps(self, image: Any, **settings: Any) -> dict[str, np.ndarray]:
        """Return mean ("probability") and standard deviation ("std") of what the models predict.

        Both are `[H, W]` float32, 0 to 1 and 0 to 0.5; see `Predictor.predict` for the rest.
        """
        members = np.stack([model.predict(image, **settings) for model in self.models])
        mean, std = members.mean(0, dtype=np.float64), members.std(0, dtype=np.float64)
        return {"probability": mean.astype(np.float32), "std": std.astype(np.float32)}


def combine_models(models: Sequence[Predictor]) -> Ensemble:
    """Let several models predict together, with the mean of what was chosen for each of them.

    Raises `ConfigError` if they do not bring images to one size of cells.
    """
    if len({model.diameter_px for model in models}) > 1:
        raise ConfigError(
            "the models of an ensemble must bring images to one size of cells; these do not"
        )
    sizes = {model.um_per_px for model in models}
    return Ensemble(
        config=models[0].config,
        params=[model.params for model in models],
        threshold=float(np.mean([model.threshold for model in models])),
        um_per_px=sizes.pop() if len(sizes) == 1 else None,
        diameter_px=models[0].diameter_px,
        tta=any(model.tta for model in models),
        min_confidence=float(np.mean([model.min_confidence for model in models])),
        models=tuple(models),
    )


def load_models(paths: Sequence[str | Path]) -> Predictor:
    """Load one model, or several as an ensemble; each path as for `load_model`.

    Raises `ConfigError` if there is none, or one comes twice; and `FluxsegError`, naming the path,
    if it holds no model.
    """
    if not paths:
        raise ConfigError("give at least one model")
    whole = [Path(path).resolve() for path in paths]
    for path, resolved in zip(paths, whole, strict=True):
        if whole.count(resolved) > 1:
            raise ConfigError(f"{path} is named twice; an ensemble needs different models")
    models = [load_model(path) for path in paths]
    return models[0] if len(models) == 1 else combine_models(models)
