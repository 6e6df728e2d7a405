"""The page of all predicted images."""

from pathlib import Path

import numpy as np

from fluxseg.formats.own import is_prediction
from fluxseg.inference.predict_files import Outcome
from fluxseg.inference.shown import draw_overlay, write_overlay
from fluxseg.report.predictions import write_predictions_page


def test_the_page_shows_every_image_and_holds_its_pictures(tmp_path):
    labels = np.zeros((50, 40), np.uint16)
    labels[10:20, 10:20] = 1
    image = np.arange(2000).reshape(50, 40)
    write_overlay(tmp_path / "a_overlay.png", draw_overlay(image, labels, numbers=True))
    outcomes = [
        Outcome("x/a.tif", "", "a", ("a_overlay.png",), 1, 12.34),
        Outcome("<b>.tif", "", "b", (), 0, 9.0, ("no neuron was <found>",)),
        Outcome("c.tif", "", "c", error="is damaged"),
    ]
    unused = {Path("d.xyz"): "ending that is not read"}
    page = write_predictions_page(tmp_path, outcomes, unused, "pretrained")
    text = page.read_text()
    assert is_prediction(page)
    assert text.count("data:image/jpeg;base64,") == 1
    assert "1 neuron in 2 images" in text
    assert "12.3 px" in text
    assert "&lt;b&gt;.tif" in text
    assert "no neuron was &lt;found&gt;" in text
    assert "is damaged" in text
    assert "not used: 1 (.xyz 1): ending that is not read" in text
    for forbidden in ("<script", "http://", "https://", "<b>.tif"):
        assert forbidden not in text
