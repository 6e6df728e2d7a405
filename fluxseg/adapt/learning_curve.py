"""Held-out score against the number of labelled fields: does more labelling pay?"""

import dataclasses
import itertools
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fluxseg.adapt.few_shot import FewShot, create_config, field_units, set_length, train_on
from fluxseg.adapt.fields import FEWEST_GROUPS, curve_sizes, group_folds, order_fields
from fluxseg.config import Config, config_to_dict
from fluxseg.data.cache import CacheIndex
from fluxseg.data.splits import Manifest, ManifestItem
from fluxseg.errors import ConfigError
from fluxseg.formats.sources import open_source
from fluxseg.inference.field_scores import SHOWN, pool_scores, score_fields
from fluxseg.inference.predict import Predictor
from fluxseg.io.files import read_json, write_json
from fluxseg.io.progress import Progressed, tracked
from fluxseg.training.dataset import open_cache

logger = logging.getLogger(__name__)

FOLDS = 3
NEGLIGIBLE = 0.01  # a smaller gain is taken for none


@dataclasses.dataclass(frozen=True)
class CurvePlan:
    """Which fields learn and which score."""

    held_out: Sequence[Sequence[str]]  # keys of each fold, which score; none share a group
    pools: Sequence[Sequence[str]]  # for each fold the others, in the order of learning
    sizes: Sequence[int]  # numbers of fields to learn from, ascending; all pools are large enough


def plan_curve(units: Mapping[str, str], folds: int = FOLDS, seed: int = 0) -> CurvePlan:
    """Plan a learning curve: k-fold over groups, nested subsets of the fields that remain.

    `units` is key -> group of every labelled field. There are no more folds than groups. Raises
    `ConfigError` if there are too few groups to say anything.
    """
    count = len(set(units.values()))
    if count < FEWEST_GROUPS:
        raise ConfigError(f"a learning curve takes {FEWEST_GROUPS} groups, there are {count}")
    held_out = group_folds(units, min(folds, count), seed)
    pools = [
        order_fields({key: unit for key, unit in units.items() if key not in held}, seed)
        for held in map(set, held_out)
    ]
    return CurvePlan(held_out, pools, curve_sizes(min(map(len, pools))))


def compute_curve(
    model: Predictor,
    data: str,
    output: Path,
    settings: FewShot,
    folds: int = FOLDS,
    progress: Progressed | None = None,
) -> dict[str, Any]:
    """Fine-tune on more and more fields, each time scored on groups that were held out.

    Finished parts are kept in the folder `curve` and not computed again. The model as it came is
    the entry n = 0. `output` is the folder of the fine-tuning; it gets `curve.json`, which is
    returned. Raises `ConfigError` if
    there are too few groups; and `FluxsegError` as `fluxseg.training.train.train` does.
    """
    config = create_config(model, data, output, settings)
    index = open_cache(open_source(config), output / "cache", config.data)
    units, groups = (field_units(index, by) for by in (settings.split_by, "group"))
    plan = plan_curve(units, folds, settings.seed)
    parts: list[dict[str, Any]] = []
    both = list(itertools.product(range(len(plan.held_out)), (0, *plan.sizes)))
    for fold, size in tracked(both, progress):
        held, keys = plan.held_out[fold], list(plan.pools[fold][:size])
        folder = output / "curve" / f"fold{fold + 1}-fields{size}"
        rows = tune_part(model, config, index, keys, held, folder, settings.share)
        n_groups = len({groups[key] for key in keys})
        part = {"fold": fold + 1, "n": size, "n_groups": n_groups, "scores": pool_scores(rows)}
        parts.append({**part, "learnt_from": keys, "held_out": list(held)})
    curve = {"split_by": settings.split_by, "steps": settings.steps, **summarise_curve(parts)}
    write_json(output / "curve.json", curve)
    return curve


def tune_part(
    model: Predictor,
    config: Config,
    index: CacheIndex,
    keys: Sequence[str],
    held: Sequence[str],
    folder: Path,
    share: float = 0.0,
) -> list[dict[str, Any]]:
    """Tune a model on some of the fields and score it on others, or read what that gave.

    Learns from the fields `keys` of the index (none: the model is scored as it came) with the
    config of `create_config` and `share` (see `train_on`), and returns a row of `score_field` for
    each of the fields `held`. The folder gets `held_out.json`; the states of the training are not
    kept.
    """
    items = {entry.key: entry.split_item for entry in index.entries}
    chosen = {
        key: ManifestItem(
            group=items[key].group, digest=items[key].digest, splits=["train"] * items[key].n_crops
        )
        for key in keys
    }
    manifest = Manifest(config.data.split_by, 1.0, 0.0, config.data.split_seed, chosen)
    path = folder / "manifest.json"
    data = dataclasses.replace(config.data, manifest=str(path))
    config = set_length(dataclasses.replace(config, data=data), len(keys))
    done = folder / "held_out.json"
    digests = {key: items[key].digest for key in held}
    wanted = {
        "config": config_to_dict(config), "hash": manifest.content_hash, "held_out": digests,
        "share": share,
    }  # fmt: skip
    if done.exists() and (saved := read_json(done)).get("made_with") == wanted:
        return list(saved["rows"])
    tuned = model
    if keys:
        write_json(path, manifest.to_json())
        # What training says of each part stays out of the log: the same lines a dozen times.
        training = logging.getLogger("fluxseg.training")
        before = training.level
        training.setLevel(logging.ERROR)
        try:
            tuned = train_on(model, config, folder, share=share)[1]
        finally:
            training.setLevel(before)
    rows = score_fields(tuned, open_source(config), held)
    write_json(done, {"made_with": wanted, "rows": rows})
    # The scores are all that a part is for; its states would take a hundred times the space.
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return rows


def summarise_curve(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Summarise the models of a curve: fold, n, n_groups and scores of each.

    Returns "rows": for each n the least number of groups among its fields, and of each score of
    `SHOWN` its "values" over the folds, their "mean", "low" and "high" (None if all are undefined);
    "folds": their number; "parts": as given.
    """
    rows: list[dict[str, Any]] = []
    for size in sorted({part["n"] for part in parts}):
        these = [part for part in parts if part["n"] == size]
        row: dict[str, Any] = {"n": size, "n_groups": min(part["n_groups"] for part in these)}
        for name in SHOWN:
            values = [part["scores"].get(name) for part in these]
            kept = [float(value) for value in values if value is not None]
            row[name] = {
                "values": kept,
                "mean": sum(kept) / len(kept) if kept else None,
                "low": min(kept, default=None),
                "high": max(kept, default=None),
            }
        rows.append(row)
    folds = len({part["fold"] for part in parts})
    return {"folds": folds, "rows": rows, "parts": [dict(part) for part in parts]}


def format_curve(curve: Mapping[str, Any]) -> list[str]:
    """Format a curve as the lines of a table, and a last line on what the latest step brought."""
    head = "  ".join(f"{title:>24}" for title in SHOWN.values())
    lines = [f"fields  groups  {head}"]
    for row in curve["rows"]:
        cells = [
            "undefined"
            if row[name]["mean"] is None
            else "{mean:8.3f} ({low:.3f}-{high:.3f}) ".format(**row[name])
            for name in SHOWN
        ]
        groups = "-" if row["n"] == 0 else row["n_groups"]
        lines.append(f"{row['n']:>6}  {groups:>6}  " + "  ".join(f"{c:>24}" for c in cells))
    what = "groups" if curve.get("split_by", "group") == "group" else "recordings"
    lines.append(
        f"Mean and range over {curve['folds']} folds of held-out {what}; "
        "0 fields: the model as it came."
    )
    verdict = judge_curve(curve)
    return [*lines, verdict] if verdict else lines


def judge_curve(curve: Mapping[str, Any]) -> str:
    """Say by neuron IoU whether more labelling pays: what the latest doubling of fields brought.

    Empty if there is nothing to compare.
    """
    sizes = [row["n"] for row in curve["rows"]]
    earlier = [size for size in sizes if size <= sizes[-1] / 2]
    if not earlier:
        return ""
    first, last = (
        {p["fold"]: p["scores"].get("neuron_iou") for p in curve["parts"] if p["n"] == size}
        for size in (earlier[-1], sizes[-1])
    )
    defined = [fold for fold in last if None not in (last[fold], first.get(fold))]
    if not defined:
        return ""
    gains = np.array([last[fold] - first[fold] for fold in defined])
    text = (
        f"From {earlier[-1]} to {sizes[-1]} fields the {SHOWN['neuron_iou']} changed by "
        f"{gains.mean():+.3f} ({gains.min():+.3f} to {gains.max():+.3f} over the folds): "
    )
    if gains.min() > NEGLIGIBLE:
        return text + "every fold gained; more labelling is likely to pay."
    if gains.max() <= NEGLIGIBLE:
        end = "no fold gained more than 0.01; more labels of this kind are unlikely to help."
        return text + end
    return text + "the folds disagree; it cannot be told yet whether more labelling pays."
