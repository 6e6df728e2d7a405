import json

import numpy as np

from fluxseg.data.transforms import merge_masks
from fluxseg.formats.sources import open_source
from fluxseg.inference.evaluate import evaluate_run, load_run, run_index
from fluxseg.inference.examples import choose_examples, write_examples
from tests.conftest import ONE_EPOCH


def rows(*values):
    return [
        {"id": f"r{i}", "key": f"r{i}", "scores": {"neuron_iou": value}}
        for i, value in enumerate(values)
    ]


def test_best_median_and_worst_are_chosen():
    chosen = choose_examples(rows(0.3, 0.9, None, 0.1, 0.5, 0.4))
    assert [(rank, row["id"]) for rank, row in chosen] == [
        ("best", "r1"),
        ("median", "r5"),
        ("worst", "r3"),
    ]
    assert [rank for rank, _ in choose_examples(rows(0.3, 0.9))] == ["best", "median"]
    assert [rank for rank, _ in choose_examples(rows(0.3))] == ["best"]
    assert choose_examples(rows(None)) == []


def test_the_pictures_show_what_was_scored(trained, tmp_path):
    workdir, result = trained
    run = load_run(workdir)
    scores = evaluate_run(run)
    assert scores == result.scores
    written = write_examples(run.state, run_index(run), scores, tmp_path)
    assert written == json.loads((tmp_path / "examples" / "examples.json").read_text())
    by_key = {row["key"]: row for row in scores["splits"]["test"]["recordings"]}
    assert written
    for row in written:
        with np.load(tmp_path / "examples" / row["file"], allow_pickle=False) as arrays:
            label, probability, valid = (arrays[k] for k in ("label", "probability", "valid"))
        recording = open_source(ONE_EPOCH).read(row["key"])
        np.testing.assert_array_equal(label, merge_masks(recording.masks))
        prediction = probability > 0.5
        confusion = [
            [int(((label == t) & (prediction == p) & (valid > 0)).sum()) for p in (0, 1)]
            for t in (0, 1)
        ]
        assert confusion == by_key[row["key"]]["confusion"]
