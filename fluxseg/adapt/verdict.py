"""Is a tuned model better than the one that it began from? Said in words."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fluxseg.inference.field_scores import DETAILS, pool_scores

JUDGED = ("object_f1", "macro_iou")  # these say whether a tuned model is better
NOTICED = 0.005  # a smaller change of their mean is called none


def judge(
    before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]], name: str
) -> tuple[bool | None, str]:
    """Say whether a tuned model is better than the one that it began from, which is called `name`.

    `before` and `after` are rows of `score_field` of the same fields. Returns False if the mean of
    `JUDGED`, pooled, has fallen by `NOTICED` or more, None if nothing tells, else True; and a
    sentence.
    """
    pooled = [pool_scores(rows) for rows in (before, after)]
    values = [[scores.get(key) for key in JUDGED] for scores in pooled]
    if not before or any(value is None for part in values for value in part):
        return None, (
            "Nothing tells whether the tuned model is better than the one that it began from: "
            "look at what both find before you use it."
        )
    old, new = (np.mean([float(value or 0) for value in part]) for part in values)
    changes = ", ".join(
        f"{DETAILS[key]} {one:.3f} -> {two:.3f}"
        for key, one, two in zip(JUDGED, *values, strict=True)
    )
    where = f"on the {len(before)} field(s) held out"
    if abs(new - old) < NOTICED:
        return True, f"No change worth mentioning {where} ({changes})."
    if new < old:
        return False, f"The tuned model is WORSE {where} ({changes}): keep using {name}."
    return True, f"The tuned model is better {where} ({changes})."


def format_scores(entry: Mapping[str, Any]) -> list[str]:
    """Format the scores before and after, if there are any, and the verdict of `finetune`."""
    before, after = entry["before"], entry["after"]
    if before is None or after is None:
        return ["No scores, as nothing was held out.", entry["verdict"]]
    lines = [
        f"Scores on {len(after['recordings'])} field(s) of {after['n_groups']} group(s) held out, "
        "before -> after:"
    ]
    for name, title in DETAILS.items():
        values = [part["scores"][name] for part in (before, after)]
        shown = ["undefined" if value is None else f"{value:.4f}" for value in values]
        lines.append(f"  {title:<11} {shown[0]} -> {shown[1]}")
    return [*lines, entry["verdict"]]
