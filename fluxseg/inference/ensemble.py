"""Several models on one image: their mean, and where they disagree.

Networks from different random starts err in different places: their mean is a better probability
than that of one, and their disagreement says where not to trust it (Lakshminarayanan et al.,
"Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles", NeurIPS 2017).
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fluxseg.errors import ConfigError
from fluxseg.inference.predict import Predictor
from fluxseg.inference.probability import ApplyFn, neuron_probability, predict_probability
from fluxseg.inference.run_model import load_model


class EnsembleMaps(NamedTuple):
    """What an ensemble says of an image; all `[H, W]` float32.

    Attributes:
        mean: mean of the members' probabilities of "neuron".
        std: their standard deviation, 0 to 0.5.
        entropy: entropy of the mean, in bits, 0 to 1: all that is not known.
        information: the part of it that the members disagree about, in bits: entropy of the mean
            minus the mean of their entropies (Houlsby et al., arXiv:1112.5745). The rest is noise
            that all of them see.
    """

    mean: np.ndarray
    std: np.ndarray
    entropy: np.ndarray
    information: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Ensemble:
    """Models that predict together, as one model does.

    Attributes:
        models: two or more, with one kind of scale (`Predictor.diameter_px`).
    """

    models: tuple[Predictor, ...]

    def __post_init__(self) -> None:
        if len(self.models) < 2:
            raise ConfigError("an ensemble needs two or more models")
        if len({model.diameter_px for model in self.models}) > 1:
            raise ConfigError(
                "the models of an ensemble must bring images to one size of cells; these do not"
            )

    @property
    def threshold(self) -> float:
        """Mean of the thresholds that were chosen for the models."""
        return float(np.mean([model.threshold for model in self.models]))

    @property
    def min_confidence(self) -> float:
        """Mean of the least confidences that were chosen for the models."""
        return float(np.mean([model.min_confidence for model in self.models]))

    @property
    def tta(self) -> bool:
        """Whether one of the models averages over flips and turns unless told otherwise."""
        return any(model.tta for model in self.models)

    @property
    def diameter_px(self) -> float | None:
        """See `Predictor`."""
        return self.models[0].diameter_px

    @property
    def um_per_px(self) -> float | None:
        """Size of the pixels that all were trained on, um; None if it is not one."""
        sizes = {model.um_per_px for model in self.models}
        return self.models[0].um_per_px if len(sizes) == 1 else None

    def find_diameter(self, image: Any) -> float | None:
        """See `Predictor.find_diameter`; the first model tells."""
        return self.models[0].find_diameter(image)

    def predict(self, image: Any, **settings: Any) -> EnsembleMaps:
        """Do as `ensemble_probability` does."""
        return ensemble_probability(self.models, image, **settings)


def load_ensemble(paths: Sequence[str | Path]) -> Ensemble:
    """Load the models of an ensemble.

    Args:
        paths: each as for `load_model`, or the folder of a sweep, for its finished runs.

    Raises:
        ConfigError: if there are fewer than two models, or one comes twice.
        FluxsegError: naming the path, if it holds no model.
    """
    found: list[str | Path] = []
    for path in paths:
        if (Path(path) / "sweep.json").is_file():
            found += sorted(p.parent for p in Path(path).glob("runs/*/model.safetensors"))
        else:
            found.append(path)
    resolved = [Path(path).resolve() for path in found]
    twice = [str(path) for path, whole in zip(found, resolved, strict=True)
             if resolved.count(whole) > 1]  # fmt: skip
    if twice:
        raise ConfigError(f"{twice[0]} is named twice for the ensemble")
    return Ensemble(tuple(load_model(path) for path in found))


def ensemble_probability(
    models: Sequence[Predictor],
    image: Any,
    *,
    tta: bool | None = None,
    tile: int | None = None,
    diameter: float | None = None,
) -> EnsembleMaps:
    """Predict an image with several models.

    Those of one architecture that normalise images alike are one compiled program (`jax.vmap`
    over their stacked parameters); models that resample images are applied in turn.

    Args:
        models: one or more.
        image: see `Predictor.predict`.
        tta: see `Predictor.predict`.
        tile: see `Predictor.predict`.
        diameter: see `Predictor.predict`.

    Returns:
        Mean and disagreement.

    Raises:
        RecordingError: if the image is not a 2-D array of real numbers.
        ConfigError: naming the setting that is out of its range.
    """
    groups: dict[Any, list[Predictor]] = {}
    for number, model in enumerate(models):
        same = (model.config, model.low_percentile, model.high_percentile, model.tta)
        key = same if model.diameter_px is None and diameter is None else number
        groups.setdefault(key, []).append(model)
    parts = []
    for group in groups.values():
        if len(group) > 1:
            parts.append(_predict_stacked(group, image, tta, tile))
        else:
            alone = group[0].predict(image, tta=tta, tile=tile, diameter=diameter)
            parts.append(alone[..., None])
    return combine_members(np.concatenate(parts, -1))


def _predict_stacked(
    models: Sequence[Predictor], image: Any, tta: bool | None, tile: int | None
) -> np.ndarray:
    first = models[0]
    return predict_probability(
        first.apply_fn,
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *(model.params for model in models)),
        first.normalize(image),
        tta=first.tta if tta is None else tta,
        tile=tile,
        multiple=first.side_multiple,
        temperature=np.array([model.temperature for model in models], np.float32),
        kind=member_probabilities,
        channels=(len(models),),
    )


@functools.partial(jax.jit, static_argnames="apply_fn")
def member_probabilities(
    apply_fn: ApplyFn, params: Any, images: jax.Array, temperature: jax.Array
) -> jax.Array:
    """Apply several networks of one architecture to normalised images.

    Args:
        apply_fn: see `predict_probability`.
        params: parameters, each with a first axis for the K networks.
        images: `[B, H, W, 1]` float32.
        temperature: `[K]`, of each network.

    Returns:
        `[B, H, W, K]` float32 probability of "neuron".
    """
    each = jax.vmap(functools.partial(neuron_probability, apply_fn), in_axes=(0, None, 0))
    return jnp.moveaxis(each(params, images, temperature), 0, -1)


def combine_members(probabilities: np.ndarray) -> EnsembleMaps:
    """Compute mean and disagreement of members.

    Args:
        probabilities: `[..., K]`, of K members.

    Returns:
        Maps `[...]` float32.
    """
    members = probabilities.astype(np.float64)
    mean = members.mean(-1)
    entropy = _entropy(mean)
    # Never negative in theory; rounding may make it so.
    information = np.maximum(entropy - _entropy(members).mean(-1), 0)
    maps = (mean, members.std(-1), entropy, information)
    return EnsembleMaps(*(values.astype(np.float32) for values in maps))


def _entropy(probability: np.ndarray) -> np.ndarray:
    inner = np.clip(probability, 1e-12, 1 - 1e-12)
    bits: np.ndarray = -(inner * np.log2(inner) + (1 - inner) * np.log2(1 - inner))
    return bits
