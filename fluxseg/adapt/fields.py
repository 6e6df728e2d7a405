"""Which labelled fields learn, in which order, and which score: pure functions of their groups."""

import collections
import hashlib
from collections.abc import Mapping, Sequence

from fluxseg.errors import ConfigError

FEWEST_GROUPS = 3  # a curve from fewer would rest on one or two tissues and say nothing


def order_fields(fields: Mapping[str, str], seed: int = 0) -> list[str]:
    """Order labelled fields, key -> group, so that beginnings of any length cover many groups.

    Every group gives one field before any gives its second. Within that, a hash of the names and
    the seed decides, so that the order does not depend on that of the files.
    """

    def mixed(*names: str) -> str:
        text = "\0".join((str(seed), *names)).encode("utf-8", "surrogatepass")
        return hashlib.blake2b(text, digest_size=8).hexdigest()

    turns: list[tuple[int, str, str]] = []
    for group in sorted(set(fields.values())):
        keys = sorted((k for k, g in fields.items() if g == group), key=lambda k: mixed(group, k))
        turns += [(turn, mixed(group), key) for turn, key in enumerate(keys)]
    return [key for _, _, key in sorted(turns)]


def curve_sizes(most: int) -> list[int]:
    """Return the numbers of fields of a learning curve: 1, 3, 10, 30, ... and `most` itself."""
    sizes = [s for power in range(9) for s in (10**power, 3 * 10**power) if s < most]
    # A last step that adds a field or two would cost as much as the others and tell nothing.
    kept = [s for s in sizes if s * 1.25 < most or s == 1]
    return [*kept, most] if most >= 1 else []


def group_folds(fields: Mapping[str, str], folds: int, seed: int = 0) -> list[list[str]]:
    """Divide fields into folds that never share a group: the sorted keys of each.

    Groups are dealt out, the largest first, else in the order of a hash, each to the fold with the
    fewest fields. Raises `ConfigError` if there are too few groups for that many folds, or one fold
    alone.
    """
    groups = sorted(set(fields.values()))
    if not 2 <= folds <= len(groups):
        raise ConfigError(f"{len(groups)} group(s) cannot be divided into {folds} folds")
    sizes = collections.Counter(fields.values())
    parts: list[list[str]] = [[] for _ in range(folds)]
    one_each = order_fields({group: group for group in groups}, seed)
    for group in sorted(one_each, key=lambda group: -sizes[group]):
        min(parts, key=len).extend(key for key, g in fields.items() if g == group)
    return [sorted(part) for part in parts]


def explain_groups(groups: Sequence[str]) -> str:
    """Say what cannot be said with so few groups; empty if there are enough for a curve."""
    count = len(set(groups))
    if count >= FEWEST_GROUPS:
        return ""
    fields = f"{len(groups)} labelled field{'' if len(groups) == 1 else 's'}"
    if count == 1:
        show = f"The {fields} shows" if len(groups) == 1 else f"All {fields} show"
        return (
            f"{show} the tissue of one group ({groups[0]}), so none can be held out "
            "that the model would not have been tuned on: there is no honest score before and "
            "after, and no learning curve. Label at least a field of another animal or place."
        )
    return (
        f"The {fields} are of {count} groups: with one held out, one is left to learn from. Its "
        "scores before and after are those of a single tissue; how much they would vary, and "
        f"whether more labelling pays, takes {FEWEST_GROUPS} groups or more."
    )
