import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxseg.data.splits import (
    SplitItem,
    apply_manifest,
    create_manifest,
    manifest_from_json,
    straddling_pairs,
)
from fluxseg.errors import ConfigError


def items(groups, per_group=3, crops=4):
    return [
        SplitItem(f"g{group:03d}/s{session}.npy", f"group-{group}", f"d{group}-{session}", crops)
        for group in range(groups)
        for session in range(per_group)
    ]


def split_of(manifest, key):
    (split,) = set(manifest.items[key]["splits"])
    return split


@given(st.integers(3, 40), st.integers(0, 5), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_no_group_is_divided_and_the_order_does_not_matter(groups, seed, random):
    recordings = items(groups)
    manifest = create_manifest(recordings, seed=seed)
    shuffled = list(recordings)
    random.shuffle(shuffled)
    assert create_manifest(shuffled, seed=seed) == manifest
    for group in range(groups):
        splits = {split_of(manifest, i.key) for i in recordings if i.group == f"group-{group}"}
        assert len(splits) == 1
    counts = {s: len(manifest.crops(s)) for s in ("train", "val", "test")}
    assert min(counts.values()) > 0
    assert sum(counts.values()) == groups * 3 * 4


def test_adding_files_moves_none_of_the_others():
    before = create_manifest(items(60))
    after = create_manifest(items(90))
    assert not before.moved
    for key in before.items:
        assert split_of(before, key) == split_of(after, key)


def test_fractions_are_kept_on_average():
    manifest = create_manifest(items(3000, 1, 1), train_fraction=0.7, val_fraction=0.2)
    shares = [len(manifest.crops(s)) / 3000 for s in ("train", "val", "test")]
    np.testing.assert_allclose(shares, (0.7, 0.2, 0.1), atol=0.03)


def test_a_split_that_was_not_asked_for_stays_empty():
    manifest = create_manifest(items(5), train_fraction=0.8, val_fraction=0.2)
    assert manifest.crops("test") == []
    assert create_manifest(items(1), train_fraction=1, val_fraction=0).crops("train")


def test_too_few_groups_say_what_to_do():
    with pytest.raises(ConfigError, match=r"2 group.*split_by"):
        create_manifest(items(2))


def test_recording_and_crop_splits_divide_groups():
    by_recording = create_manifest(items(40), "recording")
    groups = {}
    for key, item in by_recording.items.items():
        groups.setdefault(item["group"], set()).add(split_of(by_recording, key))
    assert any(len(splits) > 1 for splits in groups.values())
    by_crop = create_manifest(items(40), "crop")
    assert any(len(set(item["splits"])) > 1 for item in by_crop.items.values())
    assert sum(len(by_crop.crops(s)) for s in ("train", "val", "test")) == 480


def test_a_manifest_survives_json_and_is_protected():
    manifest = create_manifest(items(10))
    values = json.loads(json.dumps(manifest.to_json()))
    assert manifest_from_json(values).content_hash == manifest.content_hash
    values["items"]["g000/s0.npy"]["splits"] = ["test"] * 4
    with pytest.raises(ConfigError, match="changed by hand"):
        manifest_from_json(values, "split.json")
    del values["seed"]
    with pytest.raises(ConfigError, match="missing required field `seed`"):
        manifest_from_json(values)
    with pytest.raises(ConfigError, match="expected `object`, got `array`"):
        manifest_from_json([1])
    with pytest.raises(ConfigError, match="items"):
        manifest_from_json({**manifest.to_json(), "items": {"a": {"splits": ["nowhere"]}}})


def test_a_manifest_is_used_again_or_refused():
    manifest = create_manifest(items(10))
    again, unnamed = apply_manifest(manifest, items(11))
    assert again is manifest
    assert unnamed == [f"g010/s{i}.npy" for i in range(3)]
    with pytest.raises(ConfigError, match="missing"):
        apply_manifest(manifest, items(9))
    changed = [SplitItem(i.key, i.group, i.digest + "x", i.n_crops) for i in items(10)]
    with pytest.raises(ConfigError, match=r"content of g000/s0\.npy has changed"):
        apply_manifest(manifest, changed)
    with pytest.raises(ConfigError, match="4 crops and has 9"):
        apply_manifest(manifest, items(10, crops=9))


def test_the_audit_names_pairs_in_different_splits():
    manifest = create_manifest(items(10))
    train = next(k for k in manifest.items if split_of(manifest, k) == "train")
    test = next(k for k in manifest.items if split_of(manifest, k) == "test")
    same = [k for k in manifest.items if split_of(manifest, k) == "train"][1]
    rows = straddling_pairs(
        manifest, [(train, test, 0.9), (train, same, 0.9), (train, "gone", 1.0)]
    )
    assert rows == [
        {"first": train, "second": test, "similarity": 0.9, "splits": ["train", "test"]}
    ]
