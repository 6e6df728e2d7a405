"""Every setting of a run, as frozen dataclasses; the docstrings are the command line's help.

This file is long as all of that is to be found, and read, in one place.

A config file is a Python file with `get_config() -> Config`; any field can be overridden on the
command line by its dotted name, such as `--config.train.epochs 5`.
"""

import dataclasses
import json
import typing
from collections.abc import Mapping
from typing import Any, Literal

from fluxseg.errors import ConfigError
from fluxseg.io.schema import from_plain

FREE = {"resume": "free"}
"""Metadata of the fields that may differ when a run is resumed; all others must be equal."""
CLASSES = ("background", "neuron")
"""Names of the classes that a network learns, in the order of its logits."""
REMOVED = {
    "data.touching": False,
    "loss.ignore_rim": 0,
    "loss.soften": 0,
    "loss.truncate": 0.0,
    "loss.focal_gamma": 0.0,
    "loss.neuron_weight": 1.0,
    "model.dropout_kind": "channel",
    "train.encoder_weights": "",
    "train.repeats": 1,
}
"""Settings of earlier versions with the value that changes nothing: files of runs that were made
with it are still read."""
WITHOUT_EFFECT = (
    "model.remat", "train.checkpoint_every", "train.log_every", "train.shard_optimizer",
)  # fmt: skip
"""Settings of earlier versions that changed no result, whatever their value."""
LEVELS = {
    ("shuffle", "first", 2, "skip"): "shuffle",
    ("shuffle", "first", 4, "skip"): "shuffle",
    ("transposed", "first", 2, "skip"): "transposed",
    ("transposed", "last", 4, "keep"): "reference",
}
"""What earlier versions said by `up`, `pool`, `up_kernel` and `up_features` -> `model.up`."""


def _check(condition: bool, field: str, value: object, rule: str) -> None:
    if not condition:
        raise ConfigError(f"{field} must be {rule}, got {value!r}")


def _check_least(section: str, config: object, **least: float) -> None:
    for name, limit in least.items():
        value = getattr(config, name)
        _check(value >= limit, f"{section}.{name}", value, f">= {limit}")


@dataclasses.dataclass(frozen=True)
class SimulatorConfig:
    """Synthetic recordings: containers (one field of view each) imaged in several sessions."""

    containers: int = 48
    """Number of fields of view."""
    sessions: int = 2
    """Recordings of each field of view; other cells are active in each."""
    size: int = 512
    """Height and width of a field, px."""
    seed: int = 0
    """Seed of everything that is drawn."""

    def __post_init__(self) -> None:
        _check_least("simulator", self, containers=1, sessions=1)
        _check(32 <= self.size <= 4096, "simulator.size", self.size, "32 to 4096 px")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where recordings come from, how they are cut into crops, and how they are split."""

    source: str = "simulator"
    """A folder of recordings, or "simulator"."""
    pick: str = ""
    """Of files that hold several: what is read, such as "channel=2 plane=1" or "key=mean"."""
    cache: str = dataclasses.field(default="", metadata=FREE)
    """Folder of the prepared crops; empty: `cache` in the workdir."""
    tile: int = 256
    """Side of a crop, px. A 512 x 512 recording gives four quarters of 256."""
    low_percentile: float = 1.0
    """This percentile of a recording's pixels becomes 0."""
    high_percentile: float = 99.5
    """This percentile of a recording's pixels becomes 1."""
    diameter_px: float = 0.0
    """Resample each recording so that the median diameter of its ROIs becomes this, px, by at most
    4 times; a difference below 25 % is left. The model then estimates the size of cells in new
    images and resamples these alike; the scores of a run know it from the labels. 0: take
    recordings and images as they are."""
    split_by: Literal["group", "recording", "crop"] = "group"
    """What is never divided between splits; "recording" and "crop" leak, on purpose."""
    train_fraction: float = 0.7
    """Share of the groups in the training split; the rest after validation is the test split."""
    val_fraction: float = 0.15
    """Share of the groups in the validation split."""
    split_seed: int = 0
    """Another seed gives another split."""
    manifest: str = ""
    """A `split.json` of an earlier run to use again; recordings it does not name are left out."""
    workers: int = dataclasses.field(default=0, metadata=FREE)
    """Processes that read recordings when the cache is made; 0: one per CPU core."""
    threads: int = dataclasses.field(default=-1, metadata=FREE)
    """Threads that read and augment crops while training; -1: one per CPU core, at most 8; 0: none,
    a batch is read when it is asked for."""

    def __post_init__(self) -> None:
        _check(bool(self.source), "data.source", self.source, 'a folder or "simulator"')
        _check(16 <= self.tile <= 4096, "data.tile", self.tile, "16 to 4096 px")
        low, high = self.low_percentile, self.high_percentile
        _check(0 <= low < high <= 100, "data.low_percentile", low, "in 0 <= low < high <= 100")
        wanted = self.diameter_px
        _check(wanted == 0 or 1 <= wanted <= 1000, "data.diameter_px", wanted, "0 or 1 to 1000 px")
        train, val = self.train_fraction, self.val_fraction
        _check(0 < train <= 1, "data.train_fraction", train, "in (0, 1]")
        _check(0 <= val <= 1, "data.val_fraction", val, "in [0, 1]")
        _check(train + val <= 1 + 1e-9, "data.val_fraction", val, f"<= {1 - train:.6g}")
        _check_least("data", self, workers=0, threads=-1)


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Random changes of the training crops; image and mask are rotated alike."""

    flips: bool = True
    """Flip and rotate by quarter turns, all 8 symmetries of the square."""
    gain: float = 0.2
    """Contrast is multiplied by exp(u), u uniform in [-gain, gain]."""
    offset: float = 0.1
    """A brightness uniform in [-offset, offset] is added; the normalised range is 0 to 1."""
    gamma: float = 0.2
    """Intensities are raised to exp(u), u uniform in [-gamma, gamma]."""
    noise: float = 0.05
    """Standard deviation of Gaussian noise, uniform in [0, noise]."""
    blur: float = 0.7
    """Standard deviation of a Gaussian blur, uniform in [0, blur], px."""

    def __post_init__(self) -> None:
        for field in ("gain", "offset", "gamma", "noise", "blur"):
            value = getattr(self, field)
            _check(0 <= value <= 10, f"augment.{field}", value, "in [0, 10]")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The U-Net; experiments/configs/reference.py is the classic.

    The default is that of the model that comes with fluxseg, which training can so start from.
    """

    features: tuple[int, ...] = (16, 32, 64, 112, 160)
    """Channels of each level, from the finest to the coarsest; each level halves the sides. With
    an encoder_kind those of the decoder; the coarsest level has as many as the encoder gives."""
    convs: int = 2
    """3x3 convolutions per level and side."""
    stem: int = 2
    """Pixel-unshuffle factor in front of the first level (and shuffle behind the last); 1: none."""
    local_px: float = 0.0
    """Begin with a local normalisation over a Gaussian window of this standard deviation, px, so
    that dim cells beside bright ones are seen; 0: none. A run without settings has 28, two
    diameters of a cell."""
    bottleneck_convs: int = 0
    """Further convolutions at the coarsest level."""
    up: Literal["shuffle", "transposed", "reference"] = "shuffle"
    """Up-sampling to the channels of the skip connection: 1x1 convolution and pixel shuffle, or
    2x2 transposed convolution. reference: as that protocol has it, 4x4 transposed convolution that
    keeps the channels; the encoder then pools behind the convolutions of a level, not before."""
    norm: Literal["none", "group", "weights"] = "group"
    """What keeps the size of activations. group: each convolution is followed by group
    normalisation. weights: the weights of each are standardised (Brock et al. 2021), which costs
    less and learns faster from random weights."""
    dropout: float = 0.1
    """Probability that a channel is dropped in training."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute dtype; parameters stay float32. auto: bfloat16 on GPU and TPU, float32 on CPU."""
    encoder_kind: Literal["unet", "resnet18", "resnet34", "resnet50", "efficientnet_lite0"] = "unet"
    """The encoder: the U-Net's own, or a network whose weights from ImageNet can be loaded, see
    train.start; convs and norm then are the decoder's, and stem must be 2."""
    encoder_norm: Literal["trained", "frozen", "group"] = "trained"
    """Normalisation in an encoder_kind. Its batch normalisation uses stored statistics, in
    training too; its scale and bias are trained, or frozen with them. group: group normalisation,
    for a start from random weights."""

    def __post_init__(self) -> None:
        _check(len(self.features) >= 1, "model.features", self.features, "at least one level")
        _check(all(f >= 1 for f in self.features), "model.features", self.features, ">= 1 each")
        _check_least("model", self, convs=1, bottleneck_convs=0)
        _check(self.stem in (1, 2, 4), "model.stem", self.stem, "1, 2 or 4")
        _check(0 <= self.local_px < 1e4, "model.local_px", self.local_px, "0 or more")
        _check(0 <= self.dropout < 1, "model.dropout", self.dropout, "in [0, 1)")
        if self.encoder_kind != "unet":
            kind = f"with model.encoder_kind {self.encoder_kind}"
            _check(len(self.features) == 5, "model.features", self.features, f"five levels {kind}")
            _check(self.stem == 2, "model.stem", self.stem, f"2 {kind}")


def reference_model() -> ModelConfig:
    """Return the classic U-Net of the reference protocol, 12,443,458 parameters."""
    return ModelConfig(
        features=(64, 128, 128, 256, 512),
        convs=1,
        stem=1,
        bottleneck_convs=1,
        up="reference",
        norm="none",
        dropout=0.1,
        dtype="float32",
    )


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Weighted cross-entropy and what may be added to it."""

    class_weights: Literal["reference", "balanced", "none"] = "none"
    """Weight of the neuron class, background being 1: reference = (background/neuron)/3, balanced
    = background/neuron, both counted over the training masks; none = 1."""
    dice: float = 1.0
    """Weight of the soft Dice loss that is added, per image."""

    def __post_init__(self) -> None:
        _check_least("loss", self, dice=0)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Optimiser, schedule, length of the run, and what is kept of it."""

    epochs: int = dataclasses.field(default=12, metadata=FREE)
    """Passes over the training crops; after each the validation split is scored."""
    steps: int = dataclasses.field(default=400, metadata=FREE)
    """Least steps of the whole run: with few crops each of them is seen several times in an epoch,
    changed anew each time. 0: once."""
    start: str = "auto"
    """What training begins with: "pretrained", the model that comes with fluxseg; "random"; a model
    file or workdir; or, with an encoder_kind, a .safetensors file of its weights from ImageNet.
    auto: pretrained if its architecture and percentiles are those of this run, else random."""
    batch_size: int = 8
    """Crops per step over all devices and processes."""
    micro_batch: int = dataclasses.field(default=0, metadata=FREE)
    """Crops that go through the network at once on each device; a step adds up the gradients of
    as many micro-batches as it needs. 0: on CPUs those that fill 512 x 512 px, else all."""
    learning_rate: float = 2e-3
    """Peak learning rate of Adam."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """Learning rate over the run, after the warm-up."""
    warmup_steps: int = 20
    """Steps over which the learning rate rises linearly from 0."""
    weight_decay: float = 1e-4
    """Decoupled weight decay (AdamW); 0 is plain Adam."""
    clip_norm: float = 1.0
    """Gradients are scaled down to this global norm; 0: never."""
    ema_decay: float = 0.0
    """Decay per step of the averaged parameters that are evaluated; 0: no average."""
    monitor: Literal["val_neuron_iou", "val_macro_iou", "val_loss"] = "val_neuron_iou"
    """Validation figure that chooses the best checkpoint and stops early."""
    encoder: Literal["free", "discounted", "frozen"] = "free"
    """How the encoder learns: like the rest, at a tenth of its rate, or not at all; for
    fine-tuning."""
    patience: int = dataclasses.field(default=0, metadata=FREE)
    """Stop after this many epochs without a better `monitor`; 0: never."""
    score_test_each_epoch: bool = dataclasses.field(default=False, metadata=FREE)
    """Also show the test split's figures after every epoch; they choose nothing."""
    seed: int = 0
    """Seed of the parameters, the order of the crops, augmentation and dropout."""

    def __post_init__(self) -> None:
        _check_least("train", self, epochs=1, batch_size=1, steps=0, micro_batch=0)
        _check_least("train", self, warmup_steps=0, weight_decay=0, clip_norm=0, patience=0)
        _check(self.learning_rate > 0, "train.learning_rate", self.learning_rate, "> 0")
        _check(bool(self.start), "train.start", self.start, "auto, pretrained, random or a file")
        _check(0 <= self.ema_decay < 1, "train.ema_decay", self.ema_decay, "in [0, 1)")

    def repeats(self, crops: int) -> int:
        """Return how often an epoch shows each of so many training crops."""
        return max(1, -(-self.steps * self.batch_size // (self.epochs * max(crops, 1))))


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole run."""

    data: DataConfig = DataConfig()
    simulator: SimulatorConfig = SimulatorConfig()
    augment: AugmentConfig = AugmentConfig()
    # The network that ships, so that a run without settings starts from it.
    model: ModelConfig = ModelConfig(local_px=28.0)
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()


def config_to_dict(config: Any) -> dict[str, Any]:
    """Return a config as nested plain values that JSON can hold."""
    return typing.cast(dict[str, Any], json.loads(json.dumps(dataclasses.asdict(config))))


def config_from_dict(values: Mapping[str, Any]) -> Config:
    """Build a config from nested plain values; the inverse of `config_to_dict`.

    Fields that are missing take their defaults, and settings that earlier versions had are left
    out where they changed nothing.

    Raises:
        ConfigError: naming the field, if one is unknown, of a wrong type, or out of its range.
    """
    return from_plain(_known(values, Config, ""), Config, error=ConfigError)


def _known(values: Any, cls: type, where: str) -> Any:
    """Return the values without settings of earlier versions; refuse those of no version."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where or 'config'} must be a table of settings, got {values!r}")
    if cls is ModelConfig:
        values = _known_levels(values)
    hints = typing.get_type_hints(cls)
    known = {}
    for key, value in values.items():
        name = f"{where}{key}"
        if key in hints:
            nested = dataclasses.is_dataclass(hints[key])
            known[key] = _known(value, hints[key], f"{name}.") if nested else value
        elif name not in REMOVED and name not in WITHOUT_EFFECT:
            raise ConfigError(f"unknown setting {name}; known: {', '.join(hints)}")
        elif value != REMOVED.get(name, value):
            raise ConfigError(
                f"{name} = {value!r} is a setting of earlier versions that was "
                "removed; use the version that wrote this"
            )
    return known


def _known_levels(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Translate what earlier versions said in four settings in place of `model.up`."""
    old = ("pool", "up_kernel", "up_features")
    if not set(old) & set(values):
        return values
    found = tuple(values.get(name) for name in ("up", *old))
    if found not in LEVELS:
        raise ConfigError(
            f"model.up, pool, up_kernel, up_features = {found!r} is a network of earlier versions; "
            "use the version that wrote this"
        )
    return {key: v for key, v in values.items() if key not in old} | {"up": LEVELS[found]}


def resume_difference(saved: Config, current: Config) -> list[str]:
    """List the settings that differ and must not when a run is resumed, one text each."""
    differences: list[str] = []

    def compare(old: Any, new: Any, path: str) -> None:
        for field in dataclasses.fields(old):
            before, after = getattr(old, field.name), getattr(new, field.name)
            if dataclasses.is_dataclass(before):
                compare(before, after, f"{path}{field.name}.")
            elif before != after and field.metadata.get("resume") != "free":
                differences.append(f"{path}{field.name}: {before!r} -> {after!r}")

    compare(saved, current, "")
    return differences
