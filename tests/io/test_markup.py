import base64
import io

import numpy as np
from PIL import Image

import fluxseg
from fluxseg.io.markup import MAX_SIDE, picture_address, render_table
from fluxseg.model.score_table import score_table
from tests.inference.models import tiny_model

SCRIPT = "<script>alert(1)</script>"


def test_every_value_is_escaped_and_long_ones_are_cut():
    page = render_table(
        [(SCRIPT, "x" * 5000)], [SCRIPT], title=SCRIPT, picture="data:,", alt=SCRIPT
    )
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 4
    assert "x" * 201 not in page


def test_a_picture_survives_as_png_and_large_ones_are_thinned():
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)
    content = base64.b64decode(picture_address(pixels).split(",")[1])
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content))), pixels)
    large = base64.b64decode(picture_address(np.zeros((3000, 1000), np.uint8)).split(",")[1])
    assert max(Image.open(io.BytesIO(large)).size) <= MAX_SIDE


def test_rois_show_their_measures_and_how_many_more_there_are():
    probability = np.zeros((200, 200), np.float32)
    for number in range(12):
        y, x = divmod(number, 4)
        probability[10 + 50 * y : 24 + 50 * y, 10 + 45 * x : 24 + 45 * x] = 0.9
    page = fluxseg.find_rois(probability)._repr_html_()
    assert "12 neurons in 200 x 200 px" in page
    assert "and 2 more" in page
    assert "0.90" in page


def test_a_model_shows_its_size_threshold_and_scores():
    page = tiny_model(threshold=0.375, info={"scores": {"test": {"neuron_iou": 0.625}}})
    assert len(repr(page)) < 1000
    assert "0.375" in page._repr_html_()
    assert "0.625" in page._repr_html_()


def test_scores_are_a_table_as_text_and_as_html():
    split = {
        "scores": {"macro_iou": 0.75, "neuron_iou": None},
        "intervals": {"macro_iou": [0.5, 0.875]},
        "objects": {"scores": {"object_f1": 0.5}, "intervals": {}},
        "n_recordings": 4, "n_groups": 2,
    }  # fmt: skip
    table = score_table({"splits": {"val": split, "test": split}})
    text = str(table)
    assert "0.750 [0.500, 0.875]" in text
    assert "Validation" in text
    assert "–" in text
    lines = text.splitlines()
    assert len(lines) == 1 + 5 + 3 + 2
    assert lines[6].split()[-1] == "0.500"
    assert table._repr_html_().count("<tr>") == len(lines)
