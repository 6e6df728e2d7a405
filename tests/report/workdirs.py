"""What a finished run leaves, as far as reports read it."""

import json

import numpy as np

from fluxseg.config import Config, TrainConfig, config_to_dict
from fluxseg.io.files import write_json
from fluxseg.model.metrics import scores_from_confusion


def example(rng, size):
    """The arrays of an example: pixels of chance, some of them not valid."""
    label = rng.random((size, size)) < 0.2
    valid = np.ones((size, size), bool)
    valid[:, : size // 40] = False
    return {
        "image": rng.random((size, size), np.float32),
        "label": label.astype(np.uint8),
        "probability": np.clip(label + rng.normal(0, 0.4, label.shape), 0, 1).astype(np.float32),
        "valid": valid,
    }


def scores_of(confusion):
    return scores_from_confusion(np.asarray(confusion))


def split_scores(rng, count, groups, first=0):
    rows = []
    for number in range(first, first + count):
        neuron = int(rng.uniform(12000, 24000))
        tp, fp = int(neuron * rng.beta(30, 8)), int(neuron * rng.beta(6, 14))
        confusion = [[262144 - neuron - fp, fp], [neuron - tp, tp]]
        rows.append(
            {
                "id": f"51{number:07d}",
                "key": f"51{number:07d}.npy",
                "group": f"experiment_container_id={5110000 + number % groups}",
                "confusion": confusion,
                "scores": scores_of(confusion),
            }
        )
    total = np.sum([row["confusion"] for row in rows], axis=0)
    scores = scores_of(total)
    return {
        "loss": 0.2241, "confusion": total.tolist(), "scores": scores,
        "intervals": {k: [v - 0.03 * (1.1 - v), v + 0.03] for k, v in scores.items()},
        "confidence": 0.95, "n_groups": groups, "n_recordings": count, "recordings": rows,
    }  # fmt: skip


def epoch_row(epoch):
    row = {"epoch": epoch, "step": epoch * 40, "seconds": epoch * 31.0, "learning_rate": 1e-3}
    for split, gap in (("train", 0), ("val", 0.03)):
        names = ("accuracy", "macro_iou", "neuron_iou")
        row |= {f"{split}_{name}": 0.9 - 0.4 * np.exp(-epoch / 3) - gap for name in names}
        row[f"{split}_loss"] = 0.2 + 0.5 * np.exp(-epoch / 3) + gap
    return row


def create_workdir(folder, *, test=(12, 6), size=96, epochs=12):
    """Write what a finished run leaves."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    changed = TrainConfig(epochs=epochs, learning_rate=1e-3)
    config = config_to_dict(Config(train=changed))
    config["data"]["source"] = "recordings/allen"
    write_json(folder / "config.json", config)
    rows = [json.dumps(epoch_row(epoch)) for epoch in range(1, epochs + 1)]
    (folder / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    splits = {"val": split_scores(rng, 10, 5), "test": split_scores(rng, *test, first=10)}
    checkpoint = {"epoch": 9, "step": 360, "monitor": "val_neuron_iou", "value": 0.561}
    write_json(folder / "scores.json", {"checkpoint": checkpoint, "splits": splits})
    shares = {"recordings": 90, "groups": 42, "crops": 360, "neuron_share": 0.067}
    data = {
        "source": {"kind": "folder", "root": "recordings/allen"},
        "n_files": 114,
        "n_used": 112,
        "left_out": [
            {"key": "511234567.npy", "reason": "masks: are [256, 256] pixels, the image 512 x 512"},
            {"key": "518888888.npy", "reason": "the file ends early: it is truncated"},
        ],
        "remarks": [{"key": "510000003.npy", "remark": "2 ROIs without any pixel"}],
        "splits": {
            "train": shares,
            "val": shares | {"recordings": 10, "groups": 5, "crops": 40},
            "test": shares | {"recordings": test[0], "groups": test[1], "crops": 4 * test[0]},
        },
        "straddling": [],
        "moved": [],
        "split_by": "group",
        "leaks": False,
    }
    write_json(folder / "data.json", data)
    (folder / "examples").mkdir()
    examples = []
    ranked = sorted(splits["test"]["recordings"], key=lambda row: -row["scores"]["neuron_iou"])
    for number, rank in enumerate(("best", "median", "worst")):
        name = f"{number:03d}.npz"
        np.savez_compressed(folder / "examples" / name, **example(rng, size))
        row = ranked[number * (len(ranked) - 1) // 2]
        iou = row["scores"]["neuron_iou"]
        ids = {"id": row["id"], "key": row["key"], "split": "test"}
        examples.append(ids | {"rank": rank, "neuron_iou": iou, "file": name})
    write_json(folder / "examples" / "examples.json", examples)
    return folder


def change(path, edit):
    value = json.loads(path.read_text())
    edit(value)
    # Escaped, so that a test can also write what is no text.
    path.write_text(json.dumps(value))
