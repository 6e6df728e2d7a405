"""Find recordings that a data set holds twice: exact copies, equal ids, the same field of view."""

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import groupby

import numpy as np

from fluxseg.data.fingerprint import THUMBNAIL, Fingerprint

MAX_SHIFT = 8  # largest shift along each axis that is looked for, thumbnail pixels
CANDIDATES = 32  # recordings with similar spectra that each is compared closely with
SIMILARITY_THRESHOLD = 0.3  # correlation from which two show the same field of view

_PADDED = THUMBNAIL + MAX_SHIFT
_SPECTRA = 256
_CACHED = 32  # transforms that are handled at once, as they fit into a cache
_NAMED = 3


@dataclasses.dataclass(frozen=True, order=True)
class Pair:
    """Two recordings that show the same field of view."""

    first: int  # position of one
    second: int  # position of the other, above `first`
    similarity: float  # correlation of their thumbnails at the best shift, up to 1


@dataclasses.dataclass(frozen=True, eq=False)
class Entry:
    """What is compared of one usable recording."""

    key: str  # unique name of the recording within its source
    id: str  # name that the recording gives itself
    group: str  # recordings with the same group are known to show the same tissue
    digest: str  # hash of its content, see `fluxseg.data.fingerprint.digest`
    fingerprint: Fingerprint  # of its image


@dataclasses.dataclass(frozen=True, order=True)
class NearDuplicate:
    """Two recordings, neither a copy of the other, that show the same field of view."""

    first: str  # key of one
    second: str  # key of the other, sorted behind `first`
    similarity: float  # see `Pair`
    same_group: bool  # whether the groups say so too; if not, a split may leak


@dataclasses.dataclass(frozen=True)
class Resolution:
    """What follows from the comparison of recordings."""

    left_out: Mapping[str, str]  # key -> reason, of the exact copies
    duplicates: tuple[tuple[str, str], ...]  # (key that stays, key of its copy), sorted
    near_duplicates: tuple[NearDuplicate, ...]  # sorted; of the recordings that stay
    # key -> remarks, of the recordings that stay. Sessions of one group look alike as expected,
    # which is no remark.
    remarks: Mapping[str, tuple[str, ...]]


def resolve_duplicates(entries: Sequence[Entry]) -> Resolution:
    """Decide which usable recordings are left out as copies, and what to remark on the others.

    Of recordings with equal content the one with the first key stays. The result does not depend on
    the order of `entries`.
    """
    entries = sorted(entries, key=lambda entry: entry.key)
    firsts: dict[str, Entry] = {}
    for entry in entries:
        firsts.setdefault(entry.digest, entry)
    kept = list(firsts.values())
    duplicates = [(firsts[e.digest].key, e.key) for e in entries if firsts[e.digest] is not e]
    pairs = tuple(
        NearDuplicate(
            kept[pair.first].key,
            kept[pair.second].key,
            pair.similarity,
            kept[pair.first].group == kept[pair.second].group,
        )
        for pair in near_duplicates([entry.fingerprint for entry in kept])
    )
    remarks: dict[str, list[str]] = {}
    _remark_equal_ids(kept, remarks)
    _remark_unknown_kinship(pairs, remarks)
    return Resolution(
        left_out={copy: f"exact copy of {first}" for first, copy in duplicates},
        duplicates=tuple(sorted(duplicates)),
        near_duplicates=pairs,
        remarks={key: tuple(texts) for key, texts in sorted(remarks.items())},
    )


def near_duplicates(
    fingerprints: Sequence[Fingerprint],
    threshold: float = SIMILARITY_THRESHOLD,
    candidates: int = CANDIDATES,
) -> list[Pair]:
    """Find the pairs of recordings, as positions, that show the same field of view.

    Each is compared closely with the `candidates` others whose spectra are the most similar, so up
    to `candidates + 1` recordings are compared without exception, and the costly part of the work
    grows only linearly: 10,000 recordings take seconds and 0.2 GB, reading them takes minutes. Of a
    field with more sessions than that some pairs may be missing.
    """
    if len(fingerprints) < 2:
        return []
    pairs = _candidate_pairs(np.stack([f.spectrum for f in fingerprints]), candidates)
    similarities = _best_correlations(np.stack([f.thumbnail for f in fingerprints]), pairs)
    return [
        Pair(int(first), int(second), round(float(similarity), 3))
        for (first, second), similarity in zip(pairs, similarities, strict=True)
        if similarity >= threshold
    ]


def _remark_equal_ids(kept: Sequence[Entry], remarks: dict[str, list[str]]) -> None:
    by_id = sorted(kept, key=lambda entry: (entry.id, entry.key))
    for name, same in groupby(by_id, key=lambda entry: entry.id):
        entries = list(same)
        keys = [entry.key for entry in entries]
        one = len({entry.group for entry in entries}) == 1 and entries[0].group == name
        told = ": they count as one tissue; if it is not, rename the files" if one else ""
        for key in keys if len(keys) > 1 else ():
            # Not all others: every recording may have the same id.
            others = [other for other in keys[: _NAMED + 1] if other != key]
            named = _list_keys(others, len(keys) - 1)
            remarks.setdefault(key, []).append(f"the id {name!r} is also that of {named}{told}")


def _remark_unknown_kinship(pairs: Sequence[NearDuplicate], remarks: dict[str, list[str]]) -> None:
    partners: dict[str, list[str]] = {}
    for pair in pairs:
        if not pair.same_group:
            partners.setdefault(pair.first, []).append(pair.second)
            partners.setdefault(pair.second, []).append(pair.first)
    for key, others in partners.items():
        remarks.setdefault(key, []).append(
            f"shows the same field of view as {_list_keys(sorted(others), len(others))}, but has "
            "another group: give them the same group, or a split may leak"
        )


def _list_keys(keys: Sequence[str], count: int) -> str:
    more = f" and {count - _NAMED} more" if count > _NAMED else ""
    return ", ".join(keys[:_NAMED]) + more


def _candidate_pairs(spectra: np.ndarray, candidates: int) -> np.ndarray:
    """Pairs `[P, 2]`, first < second, sorted: every recording with its most similar spectra."""
    count = len(spectra)
    candidates = min(candidates, count - 1)
    units = _unit_rows(spectra)
    chosen = []
    for start in range(0, count, _SPECTRA):
        products = units[start : start + _SPECTRA] @ units.T
        rows = np.arange(start, start + len(products))
        products[np.arange(len(products)), rows] = -np.inf
        nearest = np.argpartition(-products, candidates - 1, axis=1)[:, :candidates]
        first, second = np.repeat(rows, candidates), nearest.ravel()
        chosen.append(np.minimum(first, second) * count + np.maximum(first, second))
    return np.stack(np.divmod(np.unique(np.concatenate(chosen)), count), axis=1)


def _unit_rows(values: np.ndarray) -> np.ndarray:
    rows = values.reshape(len(values), -1).astype(np.float32)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9))


def _transforms(thumbnails: np.ndarray) -> np.ndarray:
    transforms = np.empty((len(thumbnails), _PADDED, _PADDED // 2 + 1), np.complex64)
    for start in range(0, len(thumbnails), _CACHED):
        part = thumbnails[start : start + _CACHED]
        units = _unit_rows(part).reshape(part.shape)
        transforms[start : start + _CACHED] = np.fft.rfft2(units, (_PADDED, _PADDED), (1, 2))
    return transforms


def _best_correlations(thumbnails: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Largest correlation over all shifts up to `MAX_SHIFT`, of each pair `[P, 2]`."""
    transforms = _transforms(thumbnails)
    shifts = np.arange(-MAX_SHIFT, MAX_SHIFT + 1)
    best = np.empty(len(pairs), np.float32)
    for start in range(0, len(pairs), _CACHED):
        part = pairs[start : start + _CACHED]
        crossed = transforms[part[:, 0]] * transforms[part[:, 1]].conj()
        # What `irfft2` does, with the rows left out that are no shift of interest.
        shifted = np.fft.ifft(crossed, axis=1)[:, shifts]
        surface = np.fft.irfft(shifted, _PADDED, axis=2)[:, :, shifts]
        best[start : start + _CACHED] = surface.max((1, 2))
    return best
