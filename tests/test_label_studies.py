"""The studies on few labels and on the reference protocol's defects: what they choose and count."""

import numpy as np
import pytest

from experiments.studies import few_labels, reference_defects
from fluxseg.io.files import write_json
from tests.data.fields import disc

MICE = {f"{mouse}{number}": mouse for mouse in "abcd" for number in range(2)}


@pytest.mark.parametrize(("size", "seed"), [(1, 0), (3, 1), (4, 2), (6, 3)])
def test_fields_of_a_mouse_that_is_learnt_from_are_not_scored(size, seed):
    learnt, held = few_labels.choose_fields(MICE, size, seed)
    assert len(learnt) == size
    assert held
    assert len(held) <= few_labels.MOST
    assert not {MICE[key] for key in learnt} & {MICE[key] for key in held}
    assert learnt[0].startswith("abcd"[seed])


def test_the_table_of_few_labels_has_means_over_fields_then_seeds(tmp_path):
    for seed, value in enumerate((0.6, 0.8)):
        before, after = ({"object_f1": v, "macro_iou": 0.5} for v in (0.5, value))
        other = {"object_f1": value + 0.1, "macro_iou": 0.5}
        fields = {"x": {"before": before, "after": after}, "y": {"before": before, "after": other}}
        write_json(tmp_path / f"princeton-1-{seed}.json", {"fields": fields})
    rows = few_labels.read_rows(tmp_path)
    text = few_labels.write_table(tmp_path / "table.md", rows)
    assert "| princeton | 1 | 0.500 ± 0.000 | 0.750 ± 0.141 |" in text
    few_labels.draw_curves(tmp_path / "curves.png", rows)
    assert (tmp_path / "curves.png").stat().st_size > 5000


def test_eight_bits_wrap_and_jpg_eats_the_rims_of_masks():
    wide = np.array([[0, 255, 256, 4095]], np.uint16)
    np.testing.assert_allclose(reference_defects.wrap_image(wide) * 255, [[0, 255, 0, 255]])
    narrow = np.array([[0, 15, 16, 255]], np.uint8)
    np.testing.assert_allclose(reference_defects.wrap_image(narrow) * 255, [[0, 240, 0, 240]])
    mask = disc((64, 64), (30, 33), 6.9)
    kept = reference_defects.jpg_mask(mask)
    assert not kept[~mask].any()
    assert 0.3 < kept.sum() / mask.sum() < 0.95


@pytest.mark.parametrize("kind", ["mended", "crops"])
def test_only_the_split_by_crop_divides_a_field(kind):
    each = reference_defects.PER_SIDE**2
    tested = set()
    for seed in range(3):
        splits = reference_defects.divide(10, kind, seed)
        numbers = np.concatenate(list(splits.values()))
        assert len(set(numbers.tolist())) == len(numbers) == 10 * each
        assert [len(part) for part in splits.values()] == [6 * each, 2 * each, 2 * each]
        shared = set(splits["train"] // each) & set(splits["test"] // each)
        assert bool(shared) == (kind == "crops")
        tested |= set(splits["test"].tolist())
    assert kind == "crops" or len(tested) == 3 * 2 * each
