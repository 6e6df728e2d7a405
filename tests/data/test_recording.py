import numpy as np
import pytest

from fluxseg.data.recording import Recording, group_of
from fluxseg.errors import RecordingError

IMAGE = np.zeros((4, 6), np.uint16)
MASKS = np.zeros((2, 4, 6), bool)


def test_a_valid_recording():
    recording = Recording("a", IMAGE, MASKS, ("1", "2"), "g")
    assert recording.group == "g"
    assert Recording("a", IMAGE).group == "a"
    assert Recording("a", IMAGE, MASKS[:0]).masks.shape == (0, 4, 6)


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("id", {"id": ""}),
        ("id", {"id": 3}),
        ("image", {"image": IMAGE[0]}),
        ("image", {"image": IMAGE[:0]}),
        ("image", {"image": IMAGE.astype(complex)}),
        ("image", {"image": IMAGE.astype(object)}),
        ("image", {"image": [[1]]}),
        ("masks", {"masks": MASKS[0]}),
        ("masks", {"masks": MASKS[:, :3]}),
        ("masks", {"masks": MASKS.astype(np.uint8)}),
        ("masks", {"masks": "none"}),
        ("roi_ids", {"roi_ids": ("1",)}),
        ("roi_ids", {"masks": None}),
    ],
)
def test_every_fault_names_its_field(field, arguments):
    good = {"id": "a", "image": IMAGE, "masks": MASKS, "roi_ids": ("1", "2")}
    with pytest.raises(RecordingError) as caught:
        Recording(**{**good, **arguments})
    assert caught.value.field == field


def test_the_group_is_the_first_key_that_is_there():
    metadata = {"donor_name": "d", "specimen_name": "s", "experiment_container_id": 5}
    assert group_of(metadata, "x") == "experiment_container_id=5"
    del metadata["experiment_container_id"]
    assert group_of(metadata, "x") == "specimen_name=s"
    assert group_of({"specimen_name": " ", "donor_name": None}, "x") == "x"
