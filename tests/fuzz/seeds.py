"""Whole files of every format, by our own writers, from which the fuzzer starts."""

import io
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np

from fluxseg.data.recording import Recording
from fluxseg.formats.convert import write_recording
from fluxseg.formats.pixels import write_image_tiff
from tests.formats.malicious import greedy, npy, unsafe
from tests.formats.test_microscope_xml import prairie, thor
from tests.fuzz.folders import Files, read_folder

CANARY = "canary"
RUN_FILES = ("config.json", "data.json", "metrics.jsonl", "scores.json", "split.json",
             "versions.json")  # fmt: skip


def create_recording() -> Recording:
    """A small field with overlapping ROIs, one with a hole, and metadata of all kinds."""
    rng = np.random.default_rng(0)
    masks = np.zeros((4, 24, 32), bool)
    masks[0, 2:9, 3:10] = masks[1, 6:14, 8:20] = masks[2, 15:22, 20:30] = True
    masks[2, 17:19, 23:26] = False
    masks[3, 0:2, 0:2] = masks[3, 20:24, 0:3] = True
    image = (rng.integers(0, 200, (24, 32)) + 900 * masks.any(0)).astype(np.uint16)
    metadata = {"donor_name": "m1", "um_per_px": 0.78, "imaging_depth_um": 175, "tags": ["a", None]}
    return Recording("field 1", image, masks, ("11", "b", "=c", "d/e"), "donor_name=m1", metadata)


def _written(write: Callable[[Path], object]) -> Files:
    folder = Path(tempfile.mkdtemp())
    try:
        write(folder)
        return read_folder(folder)
    finally:
        shutil.rmtree(folder)


def of_format(name: str, kind: str) -> Files:
    """The recording in a format that `fluxseg convert` writes."""
    return _written(lambda folder: write_recording(folder / name, create_recording(), kind))  # type: ignore[arg-type]


def array_files() -> list[Files]:
    """`.npy` files of numbers, texts and dates."""
    arrays = (
        np.arange(12.0).reshape(3, 4), np.array(["a", "bc"]), np.array([b"a"]),
        np.zeros(3, "M8[s]"), np.asfortranarray(np.eye(3, dtype=">f4")), np.zeros((2, 0), bool),
        np.float16(3),
    )  # fmt: skip
    found = []
    for array in arrays:
        buffer = io.BytesIO()
        np.save(buffer, array)
        found.append({"a.npy": buffer.getvalue()})
    return found


def pickled_files() -> list[Files]:
    """A recording as pickled dict; and pickles that would run code, or take all memory."""
    bad = [content for _, content in unsafe(CANARY)[::17]]
    bad += [content for content in greedy().values() if len(content) < 20_000]
    return [of_format("a.npy", "allen"), *({"a.npy": npy(content)} for content in bad)]


def picture_files(ending: str) -> list[Files]:
    """Images with masks beside them: of 8 bits, 16, palettes, and pages and tiles for TIFF."""
    from PIL import Image

    image = create_recording().image
    small = (image >> 4).astype(np.uint8)

    def save(folder: Path, array: np.ndarray, **options: object) -> None:
        picture = Image.fromarray(array)
        if options.pop("palette", False):
            picture = picture.convert("P")
        picture.save(folder / f"a{ending}", **options)

    found = [_written(lambda folder: save(folder, small))]
    if ending == ".png":
        found.append(_written(lambda folder: save(folder, image)))
        found.append(_written(lambda folder: save(folder, small, palette=True)))
        found.append(_written(lambda folder: save(folder, np.stack([small] * 3, -1))))
    else:
        found.append(_written(lambda folder: save(folder, small, progressive=True, quality=50)))
    return found


def tiff_files() -> list[Files]:
    """TIFF files: plain, packed, in tiles, in pages, of ImageJ, of floats, and BigTIFF."""
    import tifffile

    recording = create_recording()
    movie = np.stack([recording.image] * 3)
    variants = (
        {"data": movie}, {"data": movie, "imagej": True}, {"data": movie, "bigtiff": True},
        {"data": recording.image, "compression": "zlib", "predictor": True},
        {"data": np.zeros((32, 32), np.float32), "tile": (16, 16)},
        {"data": movie, "metadata": None, "byteorder": ">"},
        {"data": recording.image.astype(np.uint8), "compression": "packbits"},
        {"data": np.stack([recording.image] * 3, -1).astype(np.uint8), "photometric": "rgb"},
        {"data": recording.image, "metadata": None, "description": '{"shape": [3, 24, 32]}'},
        {"data": movie.astype(np.uint8), "ome": True},
        {"data": recording.image.astype(np.uint32), "compression": "lzw"},
        {"data": recording.image.astype(np.uint8), "compression": "jpeg"},
        {"data": recording.image, "compression": "jpeg2000"},
        {"data": recording.image.astype(np.float32), "compression": "zstd", "predictor": True},
        {"data": recording.image.astype(np.uint8), "photometric": "palette",
         "colormap": np.tile(np.arange(256, dtype=np.uint16) * 257, (3, 1))},
    )  # fmt: skip
    found = [of_format("a.tif", "labels")]
    for options in variants:
        data = options.pop("data")
        options.setdefault("photometric", "minisblack")
        buffer = io.BytesIO()
        try:
            tifffile.imwrite(buffer, data, **options)
        except (ImportError, ValueError, KeyError):
            continue  # the compression needs a package that is not here
        found.append({"a.tif": buffer.getvalue()})
    return found


def hdf5_files() -> list[Files]:
    """NWB files of both layouts."""
    from tests.formats.test_allen_nwb import visual_coding

    return [of_format("a.nwb", "nwb"), _written(lambda folder: visual_coding(folder / "a.nwb"))]


def _movie(folder: Path) -> None:
    import h5py

    frames = np.stack([create_recording().image] * 5)
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("mov", data=frames, chunks=(1, 12, 16), compression="gzip")


def _array_movies(folder: Path) -> None:
    frames = np.stack([create_recording().image] * 5).astype(np.int16)
    np.save(folder / "a.npy", frames)
    ops = {"Ly": frames.shape[1], "Lx": frames.shape[2], "nframes": 5, "fs": 7.5}
    np.save(folder / "ops.npy", np.array(ops, dtype=object))
    frames.tofile(folder / "data.bin")


def movie_files() -> list[Files]:
    """Movies in HDF5, TIFF, `.npy` and `data.bin`; of one channel, and of several with planes."""
    import tifffile

    found = [_written(_movie), _written(_array_movies), *tiff_files()[1:4]]
    five = np.tile(create_recording().image[:12, :16], (2, 3, 2, 1, 1))
    scanimage = "scanimage.SI.hChannels.channelSave = [1;2]\nSI.hFastZ.enable = 1\n"
    scanimage += "SI.hStackManager.numSlices = 2\nSI.hFastZ.numFramesPerVolume = 3\n"
    for options in (
        {"imagej": True, "metadata": {"axes": "TZCYX"}},
        {"ome": True, "metadata": {"axes": "TZCYX"}},
        {"metadata": None, "description": scanimage, "photometric": "minisblack"},
    ):
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, five, **options)
        found.append({"a.tif": buffer.getvalue()})
    return found


def microscope_files() -> list[Files]:
    """Folders of ThorImage and PrairieView, with the XML beside their files."""
    movie = np.tile(create_recording().image[:12, :16], (2, 3, 2, 1, 1))
    found = [
        _written(lambda folder: prairie(folder / "a", movie)),
        _written(lambda folder: thor(folder / "a", movie)),
        _written(lambda folder: thor(folder / "a", movie, raw=True)),
    ]
    return [{PurePosixPath(n).name: c for n, c in files.items()} for files in found]


def _mat(folder: Path) -> None:
    from scipy import io as matlab

    recording = create_recording()
    matlab.savemat(folder / "a.mat", {"image": recording.image, "masks": recording.masks,
                                      "note": "text"}, do_compression=True)  # fmt: skip


def _fall(folder: Path) -> None:
    from scipy import io as matlab

    from fluxseg.formats.npy import read_npy

    write_recording(folder / "plane0", create_recording(), "suite2p")
    ops = read_npy(folder / "plane0" / "ops.npy").item()
    ops = {name: ops[name] for name in ("Ly", "Lx", "meanImg", "max_proj", "yrange", "xrange")}
    stat = read_npy(folder / "plane0" / "stat.npy")
    shutil.rmtree(folder / "plane0")
    matlab.savemat(folder / "Fall.mat", {"stat": stat, "ops": ops, "iscell": np.ones((4, 2))})


def mat_files() -> list[Files]:
    """Files of MATLAB, of Suite2p for it, and CaImAn's results."""
    from scipy import sparse

    from tests.formats.test_matlab import PIXELS, save_caiman

    pixels = sparse.csc_matrix(PIXELS.astype(np.float32))
    caiman = _written(lambda folder: save_caiman(folder / "a.h5", pixels, Cn=np.ones((12, 9))))
    return [_written(_mat), _written(_fall), caiman]


def suite2p_files() -> list[Files]:
    """A Suite2p folder."""
    return [of_format("a", "suite2p")]


def cellpose_files() -> list[Files]:
    """A `_seg.npy` with its image."""
    return [of_format("a_seg.npy", "cellpose")]


def json_files() -> list[Files]:
    """COCO, Neurofinder's folder and its bare regions."""
    coco = of_format("a.json", "coco")
    folder = of_format("a", "neurofinder")
    regions = next(content for name, content in folder.items() if name.endswith("regions.json"))
    bare = {"a.json": regions, "a.tif": coco["a.tif"]}
    return [coco, folder, bare]


def imagej_files() -> list[Files]:
    """A ROI set with its image, and single ROIs of several kinds."""
    import roifile

    image = {"a.tif": of_format("a.tif", "labels")["a.tif"]}
    found = [{**of_format("a.zip", "imagej"), **image}]
    for kind in (roifile.ROI_TYPE.OVAL, roifile.ROI_TYPE.RECT, roifile.ROI_TYPE.LINE):
        roi = roifile.ImagejRoi()
        roi.roitype, roi.top, roi.left, roi.bottom, roi.right = kind, 2, 3, 12, 14
        found.append({"a.roi": roi.tobytes(), **image})
    return found


def npz_files() -> list[Files]:
    """Recordings in `.npz`, with masks as bits and as arrays, and hostile metadata."""
    recording = create_recording()
    found = [of_format("a.npz", "npz")]
    for metadata in ("{'a': 1}", '{"a": [1, {"b": null}]}', "[" * 60, "-" * 90 + "1"):
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer, image=recording.image, masks=recording.masks, metadata=metadata, id="../../x"
        )
        found.append({"a.npz": buffer.getvalue()})
    return found


def model_files() -> list[Files]:
    """A model file."""
    from fluxseg.inference.model_file import write_model
    from tests.inference.models import tiny_model

    return [_written(lambda folder: write_model(folder / "model.safetensors", tiny_model()))]


def make_run(workdir: Path) -> None:
    """Train a tiny run, whose files the readers of workdirs are tried with."""
    import dataclasses

    from tests.conftest import TINY, train_network, with_data, with_train

    config = with_data(with_train(TINY, epochs=2), tile=32)
    simulator = dataclasses.replace(config.simulator, containers=3, size=64)
    train_network(dataclasses.replace(config, simulator=simulator), workdir)


def run_files(workdir: Path) -> list[Files]:
    """What a run leaves, but for checkpoints and crops; with an example of a recording."""
    import json

    files = {n: (workdir / n).read_bytes() for n in RUN_FILES if (workdir / n).is_file()}
    image = np.zeros((8, 8), np.float32)
    buffer = io.BytesIO()
    np.savez(buffer, image=image, label=image, probability=image, valid=image)
    row = {"id": "a", "key": "a", "split": "test", "rank": "best", "neuron_iou": 0.5}
    examples = json.dumps([{**row, "file": "0.npz"}]).encode()
    return [{**files, "examples/examples.json": examples, "examples/0.npz": buffer.getvalue()}]


def checkpoint_files(workdir: Path) -> list[Files]:
    """The newest checkpoint of a run."""
    steps = sorted((workdir / "checkpoints" / "last").iterdir(), key=lambda p: p.name)
    files = read_folder(steps[-1])
    return [
        {f"checkpoints/last/{steps[-1].name}/{name}": content for name, content in files.items()}
    ]


def cache_files(workdir: Path) -> list[Files]:
    """The prepared crops of a run."""
    return [read_folder(workdir / "cache")]


def review_files(workdir: Path) -> list[Files]:
    """A review as `fluxseg review` leaves it, of recordings in a folder beside."""
    import json

    recording = create_recording()
    files = {f"recordings/{k}": v for k, v in of_format("a.npz", "npz").items()}
    sets = _written(lambda folder: write_recording(folder / "a_missed.zip", recording, "imagej"))
    labels = np.zeros((24, 32), np.uint8)
    labels[3:9, 3:9] = 1
    tiffs = _written(
        lambda folder: write_image_tiff(folder / "b_missed_labels.tif", labels, compress=True)
    )
    rows = [
        {"name": "a", "key": "a.npz", "id": "x", "files": ["a_missed.zip"]},
        {"name": "b", "key": "a.npz", "id": "y", "files": []},
    ]
    review = {"source": "recordings", "simulator": None, "recordings": rows, "disagreements": []}
    return [{**files, **sets, **tiffs, "review.json": json.dumps(review).encode()}]
