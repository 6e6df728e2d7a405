"""What `experiments/studies/recipe.py` changes of the default settings, one thing at a time."""

import dataclasses
from collections.abc import Callable
from typing import Any

from experiments.configs.reference import get_config as reference_config
from fluxseg.config import AugmentConfig, Config, DataConfig, SimulatorConfig

RECIPE, TIME, STEPS = "recipe", "reference, equal time", "reference, equal steps"
Change = Callable[[Config], Config]


def create_recipe(small: bool = False, data: str = "", split_by: str = "group") -> Config:
    """Return the default settings, on the benchmark, its small form, or labelled recordings.

    Args:
        small: whether it is the small form.
        data: folder of recordings; empty: the benchmark.
        split_by: see `DataConfig`; the benchmark is divided by group.
    """
    # What is compared begins alike: changes of the network could not start from another one.
    config = change_part(TRAIN, start="random")(Config())
    if data:
        return change_part(DATA, source=data, split_by=split_by)(config)
    if not small:
        return config
    return dataclasses.replace(
        config,
        simulator=SimulatorConfig(containers=24, sessions=1, size=256),
        data=DataConfig(tile=128, train_fraction=0.6, val_fraction=0.2),
        train=dataclasses.replace(config.train, epochs=16, steps=0),
    )


def change_part(part: str, **values: Any) -> Change:
    """Make the change of some settings of one part of a config, such as "loss"."""

    def change(config: Config) -> Config:
        new = dataclasses.replace(getattr(config, part), **values)
        return dataclasses.replace(config, **{part: new})

    return change


def _no_augmentation(config: Config) -> Config:
    none = AugmentConfig(flips=False, gain=0, offset=0, gamma=0, noise=0, blur=0)
    return dataclasses.replace(config, augment=none)


def _turns_only(config: Config) -> Config:
    none = AugmentConfig(gain=0, offset=0, gamma=0, noise=0, blur=0)
    return dataclasses.replace(config, augment=none)


def use_reference(config: Config, epochs: int | None = None) -> Config:
    """Return the reference protocol on the data of a config.

    Args:
        config: the recipe.
        epochs: how many; None for the recipe's steps, which are its epochs and its batches.
    """
    reference, ours = reference_config(), config.train
    train = dataclasses.replace(reference.train, seed=ours.seed, steps=ours.steps)
    if epochs is None:
        train = dataclasses.replace(train, epochs=ours.epochs, batch_size=ours.batch_size)
    else:
        # An epoch shows each crop as often as the recipe's does.
        crops = ours.steps * ours.batch_size * epochs // ours.epochs
        train = dataclasses.replace(train, epochs=epochs, steps=crops // train.batch_size)
    return dataclasses.replace(reference, simulator=config.simulator, data=config.data, train=train)


LOSS, MODEL, TRAIN, DATA = "loss", "model", "train", "data"
CHANGES: dict[str, Change] = {
    RECIPE: lambda config: config,
    STEPS: use_reference,
    "no augmentation": _no_augmentation,
    "no normalisation layers": change_part(MODEL, norm="none"),
    "cross-entropy alone": change_part(LOSS, dice=0.0),
    "weights of the reference": change_part(LOSS, class_weights="reference"),
    "average of weights 0.98": change_part(TRAIN, ema_decay=0.98),
    "constant learning rate": change_part(TRAIN, schedule="constant"),
    "twice as wide": change_part(MODEL, features=(32, 64, 128, 192, 256)),
    "half as wide": change_part(MODEL, features=(8, 16, 32, 48, 64)),
    "four levels": change_part(MODEL, features=(16, 32, 64, 96)),
    "one convolution a level": change_part(MODEL, convs=1),
    "transposed convolutions": change_part(MODEL, up="transposed"),
    "no dropout": change_part(MODEL, dropout=0.0),
    "turns and flips only": _turns_only,
    "percentiles 0 and 100": change_part(DATA, low_percentile=0.0, high_percentile=100.0),
    "percentiles 5 and 99.9": change_part(DATA, low_percentile=5.0, high_percentile=99.9),
    "balanced weights": change_part(LOSS, class_weights="balanced"),
    "three times the Dice": change_part(LOSS, dice=3.0),
    "half the learning rate": change_part(TRAIN, learning_rate=1e-3),
    "bfloat16": change_part(MODEL, dtype="bfloat16"),
}
"""What is changed; the reference protocol at equal time needs a measurement, see `find_config`."""
ROWS: tuple[tuple[str, str, str], ...] = (
    (RECIPE, RECIPE, "chosen"),
    (TIME, TIME, "half"),
    (f"{TIME}, threshold chosen", TIME, "chosen"),
    (STEPS, STEPS, "half"),
    (f"{STEPS}, threshold chosen", STEPS, "chosen"),
    ("threshold 0.5", RECIPE, "half"),
    ("8 turns and flips at test time", RECIPE, "turned"),
    *((name, name, "chosen") for name in CHANGES if name not in (RECIPE, STEPS)),
)
"""Title of a row of the table, its runs, and which of their scores."""
