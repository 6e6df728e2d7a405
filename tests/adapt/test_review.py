"""Disagreements between a model and labels, against brute force; corrections that are read back."""

import dataclasses
import json

import numpy as np
import pytest
from scipy import ndimage

from fluxseg.adapt.review.apply import apply_review, merge_masks_into
from fluxseg.adapt.review.disagreements import (
    MAX_OVERLAP,
    ReviewedRecording,
    cut_patch,
    find_disagreements,
    keep_surest,
)
from fluxseg.adapt.review.files import COLUMNS, create_rows, judge_model, select
from fluxseg.data.recording import Recording
from fluxseg.errors import ConfigError, FluxsegError, RecordingError
from fluxseg.formats.imagej import write_imagej
from fluxseg.formats.labels import merge_labels
from fluxseg.formats.npz import read_npz, write_npz
from fluxseg.formats.pixels import read_pixels, write_image_tiff
from fluxseg.inference.objects.rois import find_rois
from fluxseg.report.review import write_review_page
from tests.data.fields import disc


def cell(centre, radius):
    return disc((64, 64), centre, radius)


def soft(masks, inside=0.95, outside=0.02):
    """A probability as a good model would give it: the truth with soft edges."""
    truth = masks.any(0).astype(float)
    return np.clip(outside + (inside - outside) * ndimage.gaussian_filter(truth, 0.7), 0, 1)


def brute(masks, probability, rois, least=0.7):
    """The documented rules by loops over everything."""
    found = set()
    cells = [rois.labels == number + 1 for number in range(len(rois))]
    labelled, predicted = masks.any(0), rois.labels > 0
    for number, cell in enumerate(cells):
        sure = probability[cell].mean()
        shares = [(cell & mask).sum() / mask.sum() for mask in masks if mask.any()]
        if (
            (cell & labelled).sum() / cell.sum() <= MAX_OVERLAP
            and max(shares, default=0) <= MAX_OVERLAP
            and sure >= least
        ):
            found.add(("missed", (number,)))
    for number, mask in enumerate(masks):
        if not mask.any():
            continue
        shares = [(cell & mask).sum() / cell.sum() for cell in cells]
        if (
            (mask & predicted).sum() / mask.sum() <= MAX_OVERLAP
            and max(shares, default=0) <= MAX_OVERLAP
            and 1 - probability[mask].mean() >= least
        ):
            found.add(("doubtful", (number,)))
    return found


def named(found):
    return {(one.kind, one.rois if one.kind == "missed" else one.labels) for one in found}


def find(masks, probability):
    return find_disagreements(masks, probability, find_rois(probability))


@pytest.mark.parametrize("seed", range(4))
def test_all_kinds_agree_with_brute_force_on_random_fields(seed):
    rng = np.random.default_rng(seed)
    draw = lambda count: np.array(  # noqa: E731
        [cell(rng.uniform(0, 64, 2), rng.uniform(2, 9)) for _ in range(count)]
    )
    predicted, masks = draw(14), draw(12)
    # Some are the same on both sides, one label is empty.
    masks[:4] = predicted[:4]
    masks[5] = False
    probability = soft(predicted, rng.uniform(0.7, 1), rng.uniform(0, 0.2))
    rois = find_rois(probability)
    found = find_disagreements(masks, probability, rois)
    assert named(found) == brute(masks, probability, rois)
    for one in found:
        assert one.area == one.mask.sum()
        assert 0.7 <= one.confidence <= 1
        whole = one.full_mask(probability.shape)
        np.testing.assert_allclose(one.centre, np.argwhere(whole).mean(0))
        if one.kind == "missed":
            np.testing.assert_array_equal(whole, rois.labels == one.rois[0] + 1)
    confidences = [one.confidence for one in found]
    assert confidences == sorted(confidences, reverse=True)


def test_what_lies_outside_of_the_field_is_neither_missed_nor_doubtful():
    masks = np.array([cell((12, 12), 6)])
    probability = soft(masks * False)
    probability[:20] = np.nan
    assert find(masks, probability) == []
    assert find(masks[:0], soft(masks[:0])) == []
    found = find(np.zeros((0, 64, 64), bool), soft(masks))
    assert [one.kind for one in found] == ["missed"]


def test_bad_arguments_are_named():
    masks = np.array([cell((12, 12), 6)])
    with pytest.raises(RecordingError, match="masks"):
        find(masks, np.zeros((32, 32)))
    with pytest.raises(ConfigError, match="min_confidence"):
        find_disagreements(masks, soft(masks), find_rois(soft(masks)), min_confidence=1.5)


def make_reviewed(identity="one", **changes):
    masks = np.array([cell((12, 12), 6), cell((45, 45), 6)])
    recording = Recording(identity, np.zeros((64, 64)), masks, ("=1+1", "b"), **changes)
    probability = soft(np.array([masks[0], cell((12, 45), 6)]))
    found = find(masks, probability)
    patches = {number: cut_patch(recording, one) for number, one in enumerate(found)}
    names = recording.roi_ids
    one = ReviewedRecording("one", "one.npz", identity, names, tuple(found), (), patches)
    return one, recording


def test_rows_are_ranked_within_their_kind_and_name_the_labels():
    rows = create_rows([make_reviewed()[0], make_reviewed("two")[0]])
    assert [(row["kind"], row["rank"]) for row in rows] == [
        ("missed", 1), ("missed", 2), ("doubtful", 1), ("doubtful", 2),
    ]  # fmt: skip
    assert [row["labels"] for row in rows] == [[], [], ["b"], ["b"]]
    assert set(rows[0]) == set(COLUMNS)


def test_merging_adds_what_is_new_and_nothing_twice():
    a, b, c = cell((12, 12), 6), cell((45, 45), 6), cell((12, 45), 6)
    masks, names, added = merge_masks_into(
        np.array([a, b]), ("1", "review-1"), np.array([a, c, c, c * False])
    )
    assert added == 1
    assert names == ("1", "review-1", "review-2")
    np.testing.assert_array_equal(masks, [a, b, c])
    same = merge_masks_into(np.array([a]), ("1",), np.zeros((0, 64, 64), bool))
    assert same[1:] == (("1",), 0)


@pytest.fixture
def reviewed_folder(tmp_path):
    """A folder as a review leaves it, and the source it is of."""
    one, recording = make_reviewed(metadata={"donor_name": "d"}, group="donor_name=d")
    source, folder = tmp_path / "source", tmp_path / "review"
    write_npz(source / "one.npz", recording)
    folder.mkdir()
    missed = select(one.found, "missed", recording).masks
    write_image_tiff(folder / "one_missed_labels.tif", merge_labels(missed), compress=True)
    values = {
        "source": str(source),
        "recordings": [{"name": "one", "key": "one.npz", "files": ["one_missed_labels.tif"]}],
    }
    (folder / "review.json").write_text(json.dumps(values))
    return (one, recording), folder, values


def test_a_corrected_review_becomes_new_recordings(reviewed_folder, tmp_path):
    (one, recording), folder, _ = reviewed_folder
    rows, remarks = apply_review(folder, tmp_path / "new")
    assert not remarks
    assert [(row["labels"], row["added"], row["labels_now"]) for row in rows] == [(2, 1, 3)]
    new = read_npz(tmp_path / "new" / "one.npz")
    np.testing.assert_array_equal(new.masks[:2], recording.masks)
    np.testing.assert_array_equal(new.masks[2], select(one.found, "missed", recording).masks[0])
    assert (new.id, new.group) == (recording.id, recording.group)
    # What the user deleted is not added.
    path = folder / "one_missed_labels.tif"
    write_image_tiff(path, np.zeros_like(read_pixels(path)[0]), compress=True)
    assert apply_review(folder, tmp_path / "again")[0][0]["added"] == 0


def test_a_deleted_roi_set_means_that_nothing_was_missed(reviewed_folder, tmp_path):
    _, folder, values = reviewed_folder
    values["recordings"][0]["files"] = ["one_missed.zip", "one_missed_labels.tif"]
    (folder / "review.json").write_text(json.dumps(values))
    assert apply_review(folder, tmp_path / "new")[0][0]["added"] == 0
    assert apply_review(folder, tmp_path / "new", from_tiff=True)[0][0]["added"] == 1


def test_hostile_or_damaged_reviews_are_refused(reviewed_folder, tmp_path):
    _, folder, values = reviewed_folder
    with pytest.raises(ConfigError, match="folder of its own"):
        apply_review(folder, tmp_path / "source")
    values["recordings"][0]["name"] = "../../outside"
    (folder / "review.json").write_text(json.dumps(values))
    apply_review(folder, tmp_path / "deep" / "er" / "new")
    assert not list(tmp_path.rglob("outside*"))
    values["recordings"][0]["key"] = "../one.npz"
    (folder / "review.json").write_text(json.dumps(values))
    with pytest.raises(RecordingError, match="not a path below"):
        apply_review(folder, tmp_path / "new")
    (folder / "review.json").write_text("{}")
    with pytest.raises(FluxsegError, match="no review"):
        apply_review(folder, tmp_path / "new")


def test_the_sheets_of_an_earlier_review_are_gone(tmp_path):
    one, _ = make_reviewed()
    page = write_review_page([one], create_rows([one]), ["a & b"], tmp_path).read_text()
    assert "a &amp; b" in page
    names = sorted(path.name for path in tmp_path.glob("*.png"))
    assert names == ["sheet-doubtful-1.png", "sheet-missed-1.png"]
    write_review_page([dataclasses.replace(one, found=())], [], [], tmp_path)
    assert not list(tmp_path.glob("*.png"))


def test_patches_lie_around_their_place_and_only_the_surest_are_kept(monkeypatch):
    one, recording = make_reviewed()
    for number, found in enumerate(one.found):
        patch = cut_patch(recording, found, side=20)
        assert patch.image.shape == patch.mask.shape == (20, 20)
        assert patch.mask.sum() == found.area
        assert len(patch.labels) == (1 if found.kind == "doubtful" else 0)
        assert number in one.patches
    assert cut_patch(recording, one.found[0], side=100).image.shape == (64, 64)
    monkeypatch.setattr("fluxseg.adapt.review.disagreements.PICTURED", 1)
    other, _ = make_reviewed("two")
    other = dataclasses.replace(other, key="zwei.npz")
    kept = keep_surest([other, one])
    # Of equals the first by its key stays, for each of both kinds.
    assert [len(row.patches) for row in kept] == [0, 2]


def test_a_model_that_doubts_most_labels_is_itself_in_doubt():
    one, _ = make_reviewed()
    assert "hardly suits" in judge_model([one])[0]
    assert judge_model([dataclasses.replace(one, labels=("a", "b", "c"))]) == []
    assert judge_model([]) == []


def test_a_roi_set_corrected_in_imagej_is_read_back(tmp_path):
    masks = np.array([cell((12, 12), 6), cell((45, 45), 6)])
    recording = Recording("one", np.zeros((64, 64)), masks, ("a", "b"))
    source, folder = tmp_path / "source", tmp_path / "review"
    write_npz(source / "one.npz", recording)
    # Missed are three, of which the user deletes one; of two doubtful labels one is right.
    missed = np.array([cell((12, 45), 6), cell((45, 12), 5), cell((30, 30), 4)])
    folder.mkdir()
    files = ["one_missed.zip", "one_doubtful.zip"]
    write_imagej(
        folder / files[0], dataclasses.replace(recording, masks=missed[[0, 2]], roi_ids=("x", "z"))
    )
    write_imagej(
        folder / files[1], dataclasses.replace(recording, masks=masks[1:], roi_ids=("doubtful",))
    )
    values = {
        "source": str(source),
        "recordings": [{"name": "one", "key": "one.npz", "files": files}],
    }
    (folder / "review.json").write_text(json.dumps(values))
    rows, _ = apply_review(folder, tmp_path / "new", remove_doubtful=True)
    assert (rows[0]["added"], rows[0]["removed"], rows[0]["labels_now"]) == (2, 1, 3)
    new = read_npz(tmp_path / "new" / "one.npz")
    np.testing.assert_array_equal(new.masks, [masks[0], missed[0], missed[2]])
    assert new.roi_ids == ("a", "review-1", "review-2")
    (folder / "one_missed.zip").write_bytes(b"PK\x03\x04 damaged")
    with pytest.raises(RecordingError, match="one_missed"):
        apply_review(folder, tmp_path / "new")
