import json

import numpy as np
import pytest

from experiments.studies.fidelity import (
    compare,
    compare_labels,
    main,
    power_spectrum,
    read_masks,
    read_real,
    two_sample_test,
    write_figure,
)
from tests.conftest import REPOSITORY

REAL = REPOSITORY.parent / "shared" / "realdata"


def noise(seed, count=6, blurred=False):
    images = np.random.default_rng(seed).normal(100, 10, (count, 128, 128))
    if blurred:
        images = (images + np.roll(images, 1, 1) + np.roll(images, 2, 1)) / 3
        images = (images + np.roll(images, 1, 2) + np.roll(images, 2, 2)) / 3
    return list(images)


def test_the_spectrum_of_white_noise_is_flat_and_of_blurred_noise_falls():
    white = np.mean([power_spectrum(image) for image in noise(0)], 0)[20:]
    blurred = np.mean([power_spectrum(image) for image in noise(0, blurred=True)], 0)[20:]
    assert np.ptp(white) < 0.3
    assert blurred[-1] < blurred[0] - 0.5


def test_images_of_one_kind_are_alike_and_of_two_are_not():
    same = compare(noise(0), noise(1))
    other = compare(noise(0), noise(1, blurred=True))
    assert same["spectrum_distance"] < 0.1 < other["spectrum_distance"]
    assert same["spectrum_inside"] > 0.6 > other["spectrum_inside"]
    assert same["histogram_distance"] < 0.02


@pytest.mark.slow
def test_the_classifier_tells_two_kinds_apart_and_one_kind_not():
    small = {"folds": 2, "steps": 60, "crops": 8, "scored": 48}
    same = two_sample_test(noise(0), noise(1), **small)
    other = two_sample_test(noise(0), noise(1, blurred=True), **small)
    assert np.mean(same) < 0.65
    assert np.mean(other) > 0.9


def test_without_real_images_the_figure_is_drawn_and_nothing_is_measured(tmp_path, capsys):
    figure, record = tmp_path / "figure.png", tmp_path / "record.json"
    main(["--real", str(tmp_path), "--figure", str(figure), "--json", str(record)])
    assert "no real images, so nothing is measured" in capsys.readouterr().err
    assert 20_000 < figure.stat().st_size < 300_000
    assert not record.exists()


def test_the_figure_is_the_committed_one(tmp_path):
    from PIL import Image

    write_figure(tmp_path / "figure.png")
    committed = REPOSITORY / "docs" / "figures" / "simulator.png"
    drawn, stored = (
        np.asarray(Image.open(path).convert("RGB"), float)
        for path in (tmp_path / "figure.png", committed)
    )
    assert drawn.shape == stored.shape
    # Other processors round other digits, which may flip a grey level here and there.
    assert np.abs(drawn - stored).mean() < 2


def test_real_images_and_labels_are_read():
    if not read_real(REAL):
        pytest.skip(f"no real images in {REAL}")
    kinds = read_real(REAL)
    assert {kind: len(images) for kind, images in kinds.items()} == {
        "mesoscope maxima": 8,
        "averages": 6,
    }
    image, masks = read_masks(REAL)[0]
    found = compare_labels([(image, masks[:40])], [(image, masks[:40])])
    assert found["real contrast"] == found["simulated contrast"]
    assert found["real cells"] == [40.0] * 5
    json.dumps(found)
