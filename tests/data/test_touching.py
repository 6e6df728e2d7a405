"""Pixels where neurons touch, against loops; and that caches of two and three classes never mix."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxseg.config import AugmentConfig, DataConfig
from fluxseg.data.augment import augment_crop
from fluxseg.data.cache import cache_difference, read_crops, read_index, source_stamps
from fluxseg.data.crops import create_crops, crop_settings, decode_crop, encode_crop
from fluxseg.data.prepare import prepare_cache
from fluxseg.data.tiles import crop_grid, uncrop_grid
from fluxseg.data.touching import NEURON, TOUCHING, find_touching, touching_label
from fluxseg.data.transforms import merge_masks, turn
from fluxseg.errors import RecordingError
from tests.data.test_cache import Cells

TWO = DataConfig(tile=32, workers=1)
THREE = dataclasses.replace(TWO, touching=True)


def random_masks(seed, count, height, width):
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, height, width), bool)
    for mask in masks:
        row, column = rng.integers(-2, height), rng.integers(-2, width)
        mask[max(row, 0) : row + 4, max(column, 0) : column + 3] = rng.random() < 0.9
        mask &= rng.random(mask.shape) < 0.8
    return masks


@given(
    st.integers(0, 10**6),
    st.integers(0, 5),
    st.integers(1, 12),
    st.integers(1, 12),
    st.sampled_from([0.0, 1.0, 1.5, 2.0, 3.0]),
)
@settings(max_examples=60, deadline=None)
def test_touching_pixels_are_those_of_loops(seed, count, height, width, radius):
    masks = random_masks(seed, count, height, width)
    expected = np.zeros((height, width), bool)
    for row, column in np.ndindex(height, width):
        near = 0
        for mask in masks:
            away = (np.argwhere(mask) - (row, column)) ** 2
            near += bool(len(away)) and away.sum(1).min() <= radius**2
        expected[row, column] = near >= 2
    np.testing.assert_array_equal(find_touching(masks, radius), expected)
    np.testing.assert_array_equal(find_touching(masks.astype(np.float32), radius), expected)
    label = touching_label(masks, radius)
    assert label.dtype == np.uint8
    np.testing.assert_array_equal(label & NEURON, merge_masks(masks))
    np.testing.assert_array_equal(label & TOUCHING > 0, expected)


@given(st.integers(0, 10**6), st.integers(0, 7))
@settings(max_examples=40, deadline=None)
def test_the_label_turns_with_the_masks(seed, symmetry):
    masks = random_masks(seed, 6, 14, 11)
    turned = np.stack([turn(mask, symmetry) for mask in masks])
    expected = turn(touching_label(masks), symmetry)
    np.testing.assert_array_equal(touching_label(turned), expected)
    np.testing.assert_array_equal(touching_label(masks[::-1]), touching_label(masks))


def test_two_cells_side_by_side_and_with_gaps():
    for gap, expected in ((0, 4), (1, 3), (2, 2), (3, 1), (4, 0)):
        masks = np.zeros((2, 9, 24), bool)
        masks[0, :, 2:8] = masks[1, :, 8 + gap : 14 + gap] = True
        assert find_touching(masks)[4].sum() == expected
    with pytest.raises(RecordingError, match=r"masks.*\[N, H, W\]"):
        find_touching(np.zeros((4, 4), bool))


@pytest.mark.parametrize("tile", [16, 17])
def test_the_bits_survive_cutting_packing_and_turning(tile):
    rng = np.random.default_rng(3)
    label = touching_label(random_masks(5, 40, 40, 30))
    assert set(np.unique(label)) == {0, 1, 2, 3}
    image = rng.normal(size=label.shape).astype(np.float32)
    parts = create_crops(image, label, crop_settings(dataclasses.replace(THREE, tile=tile)))
    back = [decode_crop(encode_crop(*crop), tile) for crop in zip(*parts, strict=True)]
    for (_, found, valid), expected, owned in zip(back, *parts[1:], strict=True):
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(valid, owned)
    np.testing.assert_array_equal(uncrop_grid(np.stack([b[1] for b in back]), (40, 30)), label)
    generator = np.random.default_rng(1)
    turned = augment_crop(*back[0], generator, AugmentConfig())[1]
    assert any(np.array_equal(turned, turn(back[0][1], s)) for s in range(8))
    padded = crop_grid(label[:10, :10], 16, "constant")[0]
    assert not padded[10:].any()


def test_a_cache_holds_the_third_class_only_if_it_is_asked_for(tmp_path):
    source = Cells(count=4)
    two = prepare_cache(source, tmp_path / "two", TWO)
    three = prepare_cache(source, tmp_path / "three", THREE)
    assert "touching" not in two.settings
    assert set(two.shards).isdisjoint(three.shards)
    stamps = source_stamps(source)
    assert not cache_difference(two, stamps, TWO)
    assert not cache_difference(three, stamps, THREE)
    assert "touching: None -> 1" in cache_difference(two, stamps, THREE)
    assert "touching: 1 -> None" in cache_difference(three, stamps, TWO)
    some = 0
    for entry, other in zip(two.entries, three.entries, strict=True):
        assert dataclasses.replace(other, shard=entry.shard, touching_pixels=()) == entry
        masks = source.read(entry.key).masks
        pairs = zip(read_crops(two, entry), read_crops(three, other), strict=True)
        label = []
        for number, (binary, bits) in enumerate(pairs):
            np.testing.assert_array_equal(binary[0], bits[0])
            np.testing.assert_array_equal(binary[1], bits[1] & NEURON)
            np.testing.assert_array_equal(binary[2], bits[2])
            assert other.touching_pixels[number] == ((bits[1] >= TOUCHING) & (bits[2] > 0)).sum()
            label.append(bits[1])
        np.testing.assert_array_equal(
            uncrop_grid(np.stack(label), entry.shape), touching_label(masks)
        )
        some += sum(other.touching_pixels)
    assert some > 0
    assert read_index(tmp_path / "three") == three


def test_the_same_folder_is_made_again_when_the_switch_changes(tmp_path):
    first = prepare_cache(Cells(count=3), tmp_path, TWO)
    prepare_cache(Cells(count=3), tmp_path, THREE)
    again = prepare_cache(Cells(count=3), tmp_path, TWO)
    assert again == first
    assert {path.name for path in tmp_path.glob("*.array_record")} == set(first.shards)
