import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fluxseg.data.recording import Recording
from fluxseg.errors import RecordingError, WorkdirError
from fluxseg.formats.sources import FolderSource
from fluxseg.formats.suite2p import create_stat, read_suite2p, write_suite2p

RNG = np.random.default_rng(0)
STAT_KEYS = (
    "ypix", "xpix", "lam", "med", "footprint", "npix", "npix_soma", "soma_crop", "npix_norm",
    "npix_norm_no_crop", "radius", "aspect_ratio", "compact", "mrs", "mrs0", "overlap", "skew",
    "std", "snr",
)  # fmt: skip


def field(masks, **fields):
    height, width = masks.shape[1:]
    image = RNG.integers(0, 4000, (height, width), np.uint16)
    ids = tuple(f"roi {i}" for i in range(len(masks)))
    values = {"id": "a/b", "group": "mouse=1", "metadata": {"um_per_px": 0.78, "depth": 175}}
    return Recording(masks=masks, roi_ids=ids, **({"image": image} | values | fields))


def two_cells():
    masks = np.zeros((2, 40, 50), bool)
    y, x = np.mgrid[:40, :50]
    masks[0] = np.hypot(y - 12, x - 14) < 6.5
    masks[1] = np.hypot((y - 14) / 2, x - 22) < 4
    return masks


@settings(max_examples=15, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 5), st.just(7), st.just(9))))
def test_a_round_trip_loses_no_pixel_id_group_or_scale(tmp_path_factory, masks):
    masks[:, 0, 0] = True
    folder = tmp_path_factory.mktemp("s") / "plane0"
    recording = field(masks)
    write_suite2p(folder, recording)
    again = read_suite2p(folder)
    np.testing.assert_array_equal(again.masks, masks)
    np.testing.assert_array_equal(again.image, recording.image)
    assert (again.id, again.group, again.roi_ids) == ("a/b", "mouse=1", recording.roi_ids)
    assert again.metadata["um_per_px"] == 0.78
    assert again.metadata["depth"] == 175


def test_statistics_follow_their_definitions():
    stat = create_stat(two_cells())
    assert all(tuple(entry) == STAT_KEYS for entry in stat)
    disc, oval = stat
    assert disc["med"] == [12.0, 14.0]
    assert disc["npix"] == two_cells()[0].sum() == len(disc["ypix"]) == len(disc["lam"])
    assert disc["compact"] == pytest.approx(1, abs=0.02)
    assert oval["compact"] > 1.05
    assert disc["radius"] == pytest.approx(6.5, rel=0.12)
    assert disc["aspect_ratio"] == pytest.approx(1, abs=0.02)
    assert oval["aspect_ratio"] == pytest.approx(4 / 3, abs=0.05)
    assert disc["npix_norm"] + oval["npix_norm"] == pytest.approx(2)
    both = two_cells().all(0)
    assert disc["overlap"].sum() == oval["overlap"].sum() == both.sum() > 0
    assert disc["lam"].sum() == pytest.approx(1)
    assert disc["lam"].dtype == np.float32


def test_roiextractors_reads_what_we_wrote(tmp_path):
    from roiextractors import Suite2pSegmentationExtractor

    recording = field(two_cells())
    remarks = write_suite2p(tmp_path / "suite2p" / "plane0", recording)
    assert any("zeros" in remark for remark in remarks)
    extractor = Suite2pSegmentationExtractor(tmp_path / "suite2p")
    assert extractor.get_num_rois() == 2
    found = extractor.get_roi_image_masks() > 0
    # Its masks are [H, W, N].
    np.testing.assert_array_equal(np.moveaxis(found, -1, 0), recording.masks)


def test_files_have_the_shapes_that_the_gui_asks_for(tmp_path):
    quality = [0.25, 0.75]
    metadata = {"roi_quality": quality}
    write_suite2p(tmp_path, field(two_cells(), metadata=metadata))
    iscell = np.load(tmp_path / "iscell.npy")
    np.testing.assert_allclose(iscell, [[1, 0.25], [1, 0.75]])
    for name in ("F", "Fneu", "spks"):
        traces = np.load(tmp_path / f"{name}.npy")
        assert traces.shape == (2, 1)
        assert traces.dtype == np.float32
    ops = np.load(tmp_path / "ops.npy", allow_pickle=True).item()
    assert (ops["Ly"], ops["Lx"]) == ops["max_proj"].shape == ops["meanImg"].shape
    assert read_suite2p(tmp_path).metadata["roi_quality"] == quality


def test_a_real_folder_with_a_cropped_projection_and_rejected_rois(tmp_path):
    projection = RNG.random((30, 36), np.float32)
    stat = np.empty(3, object)
    for n in range(3):
        stat[n] = {"ypix": np.array([n, n + 1]), "xpix": np.array([4, 5]), "lam": np.ones(2)}
    ops = {
        "Ly": 40, "Lx": 50, "max_proj": projection, "meanImg": np.zeros((40, 50), np.float32),
        "yrange": [4, 34], "xrange": [6, 42], "data_path": ["somewhere"], "fs": 30.0,
    }  # fmt: skip
    np.save(tmp_path / "ops.npy", ops, allow_pickle=True)
    np.save(tmp_path / "stat.npy", stat, allow_pickle=True)
    np.save(tmp_path / "iscell.npy", np.array([[1, 0.9], [0, 0.2], [1, 0.8]]))
    found = read_suite2p(tmp_path)
    assert found.image.shape == (40, 50)
    np.testing.assert_array_equal(found.image[4:34, 6:42], projection)
    assert np.isnan(found.image).sum() == 40 * 50 - 30 * 36
    assert found.roi_ids == ("0", "2")
    assert found.masks[1, 2, 4]
    assert found.masks[1, 3, 5]
    assert any("1 of 3" in remark for remark in found.remarks)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda ops, stat: ops.pop("Ly"), "Ly"),
        (lambda ops, stat: ops.update(max_proj=np.zeros((3, 3)), yrange=[0, 9]), "yrange"),
        (lambda ops, stat: stat[1].update(ypix=np.array([99, 1])), "entry 1, ypix"),
        (lambda ops, stat: stat[0].update(xpix=np.array([1.5])), "entry 0, xpix"),
        (lambda ops, stat: stat[0].update(xpix=np.array([1])), "entry 0"),
        (lambda ops, stat: stat.__setitem__(1, 5), "entry 1"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, change, words):
    write_suite2p(tmp_path, field(two_cells()))
    ops = np.load(tmp_path / "ops.npy", allow_pickle=True).item()
    stat = np.load(tmp_path / "stat.npy", allow_pickle=True)
    change(ops, stat)
    np.save(tmp_path / "ops.npy", ops, allow_pickle=True)
    np.save(tmp_path / "stat.npy", stat, allow_pickle=True)
    with pytest.raises(RecordingError, match=words):
        read_suite2p(tmp_path)


def test_of_several_planes_one_must_be_named(tmp_path):
    for number in range(2):
        write_suite2p(tmp_path / "suite2p" / f"plane{number}", field(two_cells()))
    with pytest.raises(RecordingError, match=r"2 planes \(plane0, plane1\); choose .* --plane"):
        read_suite2p(tmp_path)
    found = read_suite2p(tmp_path / "suite2p" / "plane1")
    assert len(found.masks) == 2
    assert len(read_suite2p(tmp_path, plane="plane1").masks) == 2
    # The planes of a session never lie on both sides of a split.
    assert found.group == read_suite2p(tmp_path / "suite2p" / "plane0").group != found.id


def test_the_combined_folder_is_no_recording_of_its_own(tmp_path):
    for name in ("plane0", "plane1", "combined"):
        write_suite2p(tmp_path / "m" / "suite2p" / name, field(two_cells()))
    source = FolderSource(str(tmp_path))
    assert source.keys() == ["m/suite2p/plane0", "m/suite2p/plane1"]
    with pytest.raises(RecordingError, match="shows the planes beside it once more"):
        read_suite2p(tmp_path / "m" / "suite2p" / "combined")


def test_pixels_outside_come_back_and_empty_rois_are_named(tmp_path):
    masks = np.concatenate([two_cells(), np.zeros((1, 40, 50), bool)])
    image = RNG.random((40, 50), np.float32)
    image[:3] = image[20, 20] = np.nan
    remarks = write_suite2p(tmp_path, field(masks, image=image))
    assert any(remark.endswith("left out: roi 2") for remark in remarks)
    ops = np.load(tmp_path / "ops.npy", allow_pickle=True).item()
    assert (ops["yrange"], ops["xrange"]) == ([3, 40], [0, 50])
    assert ops["max_proj"].shape == ops["Vcorr"].shape == (37, 50)
    assert np.isfinite(ops["max_proj"]).all()
    found = read_suite2p(tmp_path)
    np.testing.assert_array_equal(found.image, image)
    np.testing.assert_array_equal(found.masks, two_cells())


def test_names_stay_with_their_rois_when_others_change_the_order(tmp_path):
    write_suite2p(tmp_path, field(two_cells()))
    stat = np.load(tmp_path / "stat.npy", allow_pickle=True)
    np.save(tmp_path / "stat.npy", stat[[1, 0, 0]], allow_pickle=True)
    np.save(tmp_path / "iscell.npy", np.ones((3, 2)))
    found = read_suite2p(tmp_path)
    assert found.roi_ids == ("roi 1", "roi 0", "2")
    np.testing.assert_array_equal(found.masks, two_cells()[[1, 0, 0]])


def test_a_roi_that_the_gui_merged_gets_a_number_that_no_name_is(tmp_path):
    masks = np.zeros((3, 8, 8), bool)
    masks[0, :2], masks[1, 3:5], masks[2, 6:] = True, True, True
    folder = tmp_path / "plane0"
    write_suite2p(folder, Recording("a", np.ones((8, 8)), masks, ("1", "2", "3")))
    stat = np.load(folder / "stat.npy", allow_pickle=True)
    merged = {key: value for key, value in stat[0].items() if key != "fluxseg_roi_id"}
    np.save(folder / "stat.npy", np.array([*stat, merged]), allow_pickle=True)
    np.save(folder / "iscell.npy", [[0, 1], [1, 1], [1, 1], [1, 1]])
    assert read_suite2p(folder).roi_ids == ("2", "3", "4")


def test_the_traces_of_a_movie_are_not_replaced(tmp_path):
    write_suite2p(tmp_path, field(two_cells()))
    write_suite2p(tmp_path, field(two_cells()[:1]))
    np.save(tmp_path / "F.npy", np.ones((1, 5), np.float32))
    before = (tmp_path / "stat.npy").read_bytes()
    with pytest.raises(WorkdirError, match="results of Suite2p itself"):
        write_suite2p(tmp_path, field(two_cells()))
    assert (tmp_path / "stat.npy").read_bytes() == before


@pytest.mark.parametrize("count", [0, 1])
def test_few_rois_are_written_and_read(tmp_path, count):
    remarks = write_suite2p(tmp_path, field(two_cells()[:count]))
    assert any("opens no folder without any ROI" in remark for remark in remarks) == (count == 0)
    assert read_suite2p(tmp_path).masks.shape == (count, 40, 50)
    np.save(tmp_path / "iscell.npy", np.ones(count))
    assert len(read_suite2p(tmp_path).masks) == count


def test_newer_folders_have_the_content_of_ops_in_several_files(tmp_path):
    recording = field(two_cells())
    write_suite2p(tmp_path / "plane0", recording)
    ops = np.load(tmp_path / "plane0" / "ops.npy", allow_pickle=True).item()
    (tmp_path / "plane0" / "ops.npy").unlink()
    for name, keys in {
        "db": ["Ly", "Lx"], "settings": ["fs"], "reg_outputs": ["meanImg", "yrange", "xrange"],
        "detect_outputs": ["max_proj"],
    }.items():  # fmt: skip
        values = {key: ops[key] for key in keys}
        np.save(tmp_path / "plane0" / f"{name}.npy", values, allow_pickle=True)
    found = read_suite2p(tmp_path)
    np.testing.assert_array_equal(found.image, recording.image)
    np.testing.assert_array_equal(found.masks, recording.masks)


def test_a_dendrite_is_not_part_of_the_soma():
    masks = np.zeros((1, 60, 60), bool)
    y, x = np.mgrid[:60, :60]
    masks[0] = np.hypot(y - 15, x - 15) < 6.5
    disc = masks[0].copy()
    masks[0, 15, 15:50] = True
    entry = create_stat(masks)[0]
    chosen = np.zeros((60, 60), bool)
    chosen[entry["ypix"][entry["soma_crop"]], entry["xpix"][entry["soma_crop"]]] = True
    assert entry["npix_soma"] == chosen.sum() < entry["npix"] == masks.sum()
    assert not chosen[15, 25:].any()
    assert (chosen & disc).sum() > 0.7 * disc.sum()


def test_declared_sizes_ask_for_no_memory(tmp_path):
    write_suite2p(tmp_path, field(two_cells()))
    ops = np.load(tmp_path / "ops.npy", allow_pickle=True).item()
    ops |= {"Ly": 2**15, "Lx": 2**15, "max_proj": np.ones((1, 1)), "yrange": [0, 1]}
    np.save(tmp_path / "ops.npy", ops | {"xrange": [0, 1]}, allow_pickle=True)
    with pytest.raises(RecordingError, match="Ly, Lx: are 32768 x 32768"):
        read_suite2p(tmp_path)
