"""The `fluxseg` command in real processes."""

import json
import re

import numpy as np
import pytest
import tifffile
from PIL import Image

from fluxseg.data.transforms import crop_quarters, merge_masks
from fluxseg.formats.allen import read_allen_npy
from fluxseg.formats.sources import FolderSource
from fluxseg.inference.field_scores import score_readable
from tests.commands import run
from tests.conftest import TINY, as_arguments, with_data, with_train, write_simulated
from tests.data.test_label_checks import field


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eight recordings as .npy files, two of them unusable, one a copy."""
    path = tmp_path_factory.mktemp("recordings with blanks and umläuts")
    run("simulate", path, "--simulator.containers", 8, "--simulator.sessions", 1,
        "--simulator.size", 64)  # fmt: skip
    (path / "sim-copy.npy").write_bytes((path / "sim-0000-0.npy").read_bytes())
    (path / "text.npy").write_text("this is no array")
    truncated = (path / "sim-0001-0.npy").read_bytes()
    (path / "truncated.npy").write_bytes(truncated[: len(truncated) // 2])
    return path


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained")
    config = with_train(with_data(TINY, source=str(folder)), epochs=2)
    return workdir, run("train", "--workdir", workdir, *as_arguments(config))


def test_help_explains_every_verb_and_every_option():
    text = run("--help")
    verbs = (
        *("train", "check", "prepare", "evaluate", "compare", "predict", "export", "report"),
        *("simulate", "convert", "project", "finetune", "review"),
    )
    for verb in verbs:
        assert verb in text
        options = run(verb, "--help")
        assert "options" in options
        chunks = re.split(r"(?m)^│ (?=-)", options[options.index("╭") :])[1:]
        assert len(chunks) >= 1
        for chunk in chunks:
            # Every option has a sentence beside it.
            assert len(re.findall(r"[a-z]{2,}", chunk)) >= 5, chunk
    assert "Share of the groups in the training split" in run("train", "--help")
    run("nonsense", code=2)


def test_shell_completion_is_printed():
    script = run("--tyro-print-completion", "bash")
    assert "complete -F" in script
    assert "evaluate" in script


def test_check_prints_a_line_for_every_file(folder):
    lines = run("check", folder, code=1).splitlines()
    assert len([line for line in lines if line.startswith("sim-000")]) == 8
    by_name = {line.split(":")[0]: line for line in lines}
    assert "unusable" in by_name["text.npy"]
    assert "unusable" in by_name["truncated.npy"]
    assert "copy of sim-0000-0.npy" in by_name["sim-copy.npy"]
    assert "64 x 64 uint16" in by_name["sim-0003-0.npy"]
    assert lines[-1].startswith("11 recordings: ")
    assert "3 unusable" in lines[-1]


def test_check_as_json(folder):
    report = json.loads(run("check", folder, "--json", "--workers", 2, code=1))
    assert report["counts"]["unusable"] == 3
    assert len(report["recordings"]) == 11
    assert report["duplicates"] == [["sim-0000-0.npy", "sim-copy.npy"]]


def test_check_of_good_files_succeeds(folder, tmp_path):
    (tmp_path / "a.npy").write_bytes((folder / "sim-0002-0.npy").read_bytes())
    assert "0 unusable" in run("check", tmp_path)
    run("check", tmp_path / "absent", code=2)
    (tmp_path / "empty").mkdir()
    run("check", tmp_path / "empty", code=2)


def test_training_on_files_tells_what_was_left_out(trained):
    workdir, output = trained
    assert "8 of 11 recordings are used; 3 left out" in output
    assert "left out: text.npy" in output
    assert "epoch 2/2  loss " in output
    data = json.loads((workdir / "data.json").read_text())
    for row in data["remarks"]:
        assert f": {row['remark']}" in " ".join(output.split())
    assert data["remarks"]
    assert {row["key"] for row in data["left_out"]} == {
        "sim-copy.npy", "text.npy", "truncated.npy"
    }  # fmt: skip
    page = (workdir / "report.html").read_text()
    assert "truncated.npy" in page
    assert list((workdir / "examples").glob("*.npz"))
    assert "no recordings" in run("check", workdir / "examples", code=2)


def test_evaluate_other_data_and_notice_what_was_trained_on(trained, folder, tmp_path):
    workdir, _ = trained
    split = json.loads((workdir / "split.json").read_text())["items"]
    seen = next(key for key, item in split.items() if set(item["splits"]) == {"train"})
    write_simulated(tmp_path, 3, seed=9)
    (tmp_path / "seen.npy").write_bytes((folder / seen).read_bytes())
    output = run("evaluate", "--workdir", workdir, "--data", tmp_path)
    assert "seen.npy shows a field of view that the run was trained on" in output
    folder_out = workdir / "evaluations" / tmp_path.name
    scores = json.loads((folder_out / "scores.json").read_text())["splits"]["external"]
    assert scores["n_recordings"] == 4
    assert (folder_out / "report.html").exists()
    run("evaluate", "--workdir", tmp_path, code=2)


def test_a_model_is_scored_on_whole_fields_and_says_which_it_could_not_read(
    trained, folder, tmp_path
):
    workdir, _ = trained
    for name in ("sim-0000-0.npy", "sim-0001-0.npy", "text.npy"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    command = ("evaluate", "--model", workdir / "model.safetensors", "--data", tmp_path)
    output = run(*command, "--output", tmp_path / "out", code=1)
    assert "no score: text.npy" in output
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert [row["key"] for row in scores["recordings"]] == ["sim-0000-0.npy", "sim-0001-0.npy"]
    assert list(scores["failed"]) == ["text.npy"]
    pooled = np.sum([row["confusion"] for row in scores["recordings"]], 0)
    expected = pooled[1, 1] / (pooled.sum() - pooled[0, 0])
    assert scores["scores"]["neuron_iou"] == pytest.approx(expected)
    assert f"{expected:.4f}" in output
    assert "all 2 fields, 2 groups" in output
    (tmp_path / "text.npy").unlink()
    run(*command)


def test_the_network_does_not_run_on_images_without_labels(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", field()[0])
    rows, failed = score_readable(None, FolderSource(str(tmp_path)))
    assert not rows
    assert "is not annotated" in failed["a.tif"]


def test_labels_that_seem_flipped_are_told_beside_their_scores(trained, tmp_path):
    image, labels = field()
    tifffile.imwrite(tmp_path / "a.tif", image)
    tifffile.imwrite(tmp_path / "a_masks.tif", labels[::-1])
    (tmp_path / "notes.txt").write_text("")
    text = run("evaluate", "--model", trained[0] / "model.safetensors", "--data", tmp_path)
    assert "a.tif: remark: the ROIs would fit the image better flipped upside down" in text
    assert "not used: 1 (.txt 1)" in text


def test_a_model_and_a_run_are_not_scored_at_once_nor_on_nothing(trained, tmp_path):
    workdir, _ = trained
    both = ("--workdir", workdir, "--model", "pretrained")
    assert "exclude each other" in run("evaluate", *both, "--data", tmp_path, code=2)
    assert "--data is missing" in run("evaluate", code=2)
    assert "no recording" in run("evaluate", "--data", tmp_path, code=2)


def test_report_is_written_again(trained):
    workdir, _ = trained
    (workdir / "report.html").unlink()
    assert "report.html" in run("report", workdir)
    assert (workdir / "report.html").exists()


def test_a_run_is_compared_with_an_evaluation(trained, tmp_path):
    workdir, _ = trained
    (tmp_path / "copy").mkdir()
    for name in ("config.json", "scores.json", "metrics.jsonl"):
        (tmp_path / "copy" / name).write_bytes((workdir / name).read_bytes())
    page = tmp_path / "compare.html"
    assert "compare.html" in run("compare", workdir, tmp_path / "copy", "--output", page)
    assert "+0.000" in page.read_text()
    run("compare", workdir, "--output", page, code=2)


def test_prepared_crops_are_used_by_the_main_job(folder, tmp_path):
    output = run("prepare", folder, "--output", tmp_path / "cache", "--data.tile", 64)
    assert "8 recordings prepared" in output
    assert "left out: text.npy" in output
    config = with_train(
        with_data(TINY, source=str(folder), cache=str(tmp_path / "cache")), epochs=1
    )
    output = run("train", "--workdir", tmp_path / "run", *as_arguments(config))
    assert "Using the crops prepared in" in output


@pytest.mark.parametrize(("image", "mask"), [("png", "png"), ("jpg", "png"), ("jpg", "jpg")])
def test_prepare_writes_the_files_of_the_reference_protocol(tmp_path, image, mask):
    data = write_simulated(tmp_path / "data", 1)
    (key,) = (path.stem for path in data.iterdir())
    recording = read_allen_npy(data / f"{key}.npy")
    for quarters in (False, True):
        out = tmp_path / f"out-{quarters}"
        flags = ["--quarters"] if quarters else []
        run("prepare", data, "--output", out, "--format", image, "--mask-format", mask, *flags)
        names = [f"{key}_{i}" for i in range(4)] if quarters else [key]
        masks = [np.asarray(Image.open(out / "masks" / f"{name}.{mask}")) for name in names]
        expected = merge_masks(recording.masks)
        expected = crop_quarters(expected) if quarters else expected[None]
        if mask == "png":
            np.testing.assert_array_equal(np.stack(masks), expected * 255)
        else:
            assert ((np.stack(masks) > 127) == expected).mean() > 0.99
        images = [np.asarray(Image.open(out / "images" / f"{name}.{image}")) for name in names]
        brightness = recording.image.astype(float)
        whole = images[0] if not quarters else np.block([images[:2], images[2:]])
        # Bright stays bright: nothing has wrapped around.
        assert (
            np.corrcoef(
                whole.ravel(), np.minimum(brightness, np.percentile(brightness, 99.5)).ravel()
            )[0, 1]
            > 0.97
        )
