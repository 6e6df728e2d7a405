"""Splits into training, validation and test that do not leak, and the record of them."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from fluxseg.errors import ConfigError
from fluxseg.io.schema import from_plain

SPLITS = ("train", "val", "test")  # names of the splits, in this order everywhere

SplitBy = Literal["group", "recording", "crop"]


class ManifestItem(TypedDict):
    """What a manifest says of a recording; `splits` names the split of each of its crops."""

    group: str
    digest: str
    splits: list[str]


@dataclasses.dataclass(frozen=True)
class SplitItem:
    """What the split needs to know of one recording."""

    key: str  # unique name of the recording within its source
    group: str  # recordings of one group show the same tissue
    digest: str  # hash of its content
    n_crops: int  # number of crops it gives


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Which recording, or crop, belongs to which split, and how that was decided."""

    split_by: SplitBy  # what is never divided
    train_fraction: float  # share of the training split that was asked for
    val_fraction: float  # share of the validation split that was asked for
    seed: int  # seed of the hash
    items: Mapping[str, ManifestItem]  # key -> group, digest and splits, see `ManifestItem`
    moved: tuple[str, ...] = ()  # what was moved lest a split be empty

    def __post_init__(self) -> None:
        unknown = {name for item in self.items.values() for name in item["splits"]} - set(SPLITS)
        if unknown:
            raise ConfigError(f"items: there is no split {min(unknown)!r}")

    @property
    def content_hash(self) -> str:
        """Hash of what is in which split: equal if and only if the splits are."""
        lines = [
            f"{key}\t{item['digest']}\t{','.join(item['splits'])}"
            for key, item in sorted(self.items.items())
        ]
        return hashlib.blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()

    def crops(self, split: str) -> list[tuple[str, int]]:
        """List the (key, crop number) pairs of a split, sorted by key."""
        return [
            (key, number)
            for key, item in sorted(self.items.items())
            for number, name in enumerate(item["splits"])
            if name == split
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as plain values."""
        values = dataclasses.asdict(self)
        return {**values, "moved": list(self.moved), "content_hash": self.content_hash}


def manifest_from_json(values: Any, name: str = "manifest") -> Manifest:
    """Read a manifest from the plain values of `Manifest.to_json`.

    Raises `ConfigError`, naming the field at fault, or that the content hash does not fit.
    """
    advice = "take a split.json that a run has written"
    manifest = from_plain(values, Manifest, name, advice, ConfigError)
    if manifest.content_hash != values.get("content_hash"):
        raise ConfigError(f"{name}: was changed by hand: its content hash does not fit its items")
    return manifest


def hash_fraction(name: str, seed: int) -> float:
    """Map a name to a number in [0, 1) that looks random and depends on nothing else."""
    digest = hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def create_manifest(
    items: Sequence[SplitItem],
    split_by: SplitBy = "group",
    train_fraction: float = 0.8,
    val_fraction: float = 0.1,
    seed: int = 0,
) -> Manifest:
    """Divide recordings, in any order, into training, validation and test.

    The split of a group (or recording, or crop) follows from a hash of its name and the seed alone:
    it does not depend on the order of the files and stays when others are added. Only if a split
    that was asked for would be empty, the nearest unit of the training split (or of the only split
    that has units to spare) is moved there, which the manifest records.

    "group" never divides a group; "recording" and "crop" let images of the same tissue into several
    splits and exist to reproduce such protocols. The fractions are the expected shares of units;
    the rest is the test split. Raises `ConfigError` if keys repeat, or there are fewer units than
    splits asked for.
    """
    keys = [item.key for item in items]
    if len(set(keys)) != len(keys):
        raise ConfigError("two recordings have the same key")
    borders = (train_fraction, train_fraction + val_fraction)
    names = sorted({_unit(item, n, split_by) for item in items for n in range(item.n_crops)})
    fractions = {name: hash_fraction(name, seed) for name in names}
    units = {name: SPLITS[sum(f >= b for b in borders)] for name, f in fractions.items()}
    shares = zip(SPLITS, (train_fraction, val_fraction, 1 - borders[1]), strict=True)
    wanted = [split for split, share in shares if share > 1e-9]
    if len(units) < len(wanted):
        raise ConfigError(
            f"{len(units)} {split_by}(s) cannot be divided into {', '.join(wanted)}: add "
            "recordings, set data.train_fraction and data.val_fraction so that fewer splits "
            'remain, or, knowing that it leaks, set data.split_by to "recording" or "crop"'
        )
    moved = _fill_empty_splits(units, fractions, wanted, borders)
    divided: dict[str, ManifestItem] = {}
    for item in sorted(items, key=lambda item: item.key):
        splits = [units[_unit(item, n, split_by)] for n in range(item.n_crops)]
        divided[item.key] = {"group": item.group, "digest": item.digest, "splits": splits}
    return Manifest(split_by, train_fraction, val_fraction, seed, divided, tuple(moved))


def _unit(item: SplitItem, number: int, split_by: SplitBy) -> str:
    return {"group": item.group, "recording": item.key, "crop": f"{item.key}\0{number}"}[split_by]


def _fill_empty_splits(
    units: dict[str, str],
    fractions: Mapping[str, float],
    wanted: Sequence[str],
    borders: tuple[float, float],
) -> list[str]:
    centres = {"train": borders[0] / 2, "val": sum(borders) / 2, "test": (borders[1] + 1) / 2}
    moved = []
    for split in wanted:
        if split in units.values():
            continue
        counts = {name: list(units.values()).count(name) for name in wanted}
        donor = max(counts, key=lambda name: counts[name])
        unit = min(
            (name for name, current in units.items() if current == donor),
            key=lambda name: (abs(fractions[name] - centres[split]), name),
        )
        units[unit] = split
        moved.append(unit)
    return moved


def apply_manifest(
    manifest: Manifest, items: Sequence[SplitItem], name: str = "manifest"
) -> tuple[Manifest, list[str]]:
    """Use an earlier manifest again for the recordings at hand.

    Returns it with the keys of recordings that it does not name and that are left out. Raises
    `ConfigError`, calling it `name`, if a recording is missing, or has other content or other
    crops.
    """
    at_hand = {item.key: item for item in items}
    missing = sorted(set(manifest.items) - set(at_hand))
    if missing:
        raise ConfigError(f"{name}: {len(missing)} of its recordings are missing: {missing[0]} ...")
    for key, entry in manifest.items.items():
        item = at_hand[key]
        if item.digest != entry["digest"]:
            raise ConfigError(f"{name}: the content of {key} has changed since it was written")
        if item.n_crops != len(entry["splits"]):
            raise ConfigError(
                f"{name}: {key} had {len(entry['splits'])} crops and has {item.n_crops} now; "
                "was data.tile or data.diameter_px changed?"
            )
    return manifest, sorted(set(at_hand) - set(manifest.items))


def straddling_pairs(
    manifest: Manifest, pairs: Sequence[tuple[str, str, float]]
) -> list[dict[str, Any]]:
    """Audit a split: of the near-duplicates (key, key, similarity) those in different splits.

    Returns a `{"first", "second", "similarity", "splits"}` for each.
    """
    result = []
    for first, second, similarity in pairs:
        if first not in manifest.items or second not in manifest.items:
            continue
        here, there = (set(manifest.items[key]["splits"]) for key in (first, second))
        if here != there or len(here) > 1:
            splits = [split for split in SPLITS if split in here | there]
            result.append(
                {"first": first, "second": second, "similarity": similarity, "splits": splits}
            )
    return result
