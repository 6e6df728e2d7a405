import numpy as np
import pytest

from fluxseg.simulation.fields import simulate_field
from fluxseg.simulation.kinds import AVERAGES
from fluxseg.simulation.labels import LabelRules, create_labels
from fluxseg.simulation.optics import Window
from fluxseg.simulation.ranges import DEFAULT, MODES, draw_parameters


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def fields():
    return [simulate_field(rng(seed), DEFAULT, (256, 256)) for seed in range(16)]


def test_the_same_generator_gives_the_same_field_and_another_does_not():
    first, again, other = (simulate_field(rng(seed), shape=(96, 120)) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.outline, again.outline)
    assert first.metadata == again.metadata
    assert not np.array_equal(first.image, other.image)


def test_images_are_of_the_detectors_types_and_have_contrast(fields):
    for field in fields:
        assert field.image.shape == (256, 256)
        assert field.image.dtype == (np.uint8 if field.metadata["levels"] <= 255 else np.uint16)
        low, high = np.percentile(field.image, (1, 99.5))
        assert high > low + 5
        # More than a few per cent of saturated or empty pixels would be a broken detector.
        assert (field.image == field.image.max()).mean() < 0.06
    assert {field.image.dtype.name for field in fields} == {"uint8", "uint16"}
    assert {field.metadata["mode"] for field in fields} == set(MODES)


def test_size_and_share_of_labelled_cells_are_as_in_real_fields():
    # Allen's masks: an area of 123 to 249 px at 0.785 um for 90 % of cells, median 183.
    areas, shares = [], []
    for seed in range(24):
        field = simulate_field(rng(seed), AVERAGES, (256, 256))
        labels = create_labels(field, LabelRules(), rng())
        areas.extend(np.bincount(labels.instances.ravel())[1:] * field.metadata["um_per_px"] ** 2)
        shares.append((labels.instances > 0).mean())
    assert 0.75 * 183 * 0.785**2 < np.median(areas) < 1.35 * 183 * 0.785**2
    assert 0.01 < np.mean(shares) < 0.3
    assert max(shares) < 0.5


def test_bright_cells_are_brighter_than_what_surrounds_them(fields):
    differences = []
    for field in fields:
        labels = create_labels(field, LabelRules(visible=(0.5, 2.0)), rng())
        if len(labels.cells):
            image = field.image.astype(float)
            differences.append(
                np.median(image[labels.instances > 0]) > np.median(image[labels.instances == 0])
            )
    assert np.mean(differences) > 0.85


def test_a_part_of_a_field_has_borders_only_where_the_field_has():
    values = draw_parameters(rng(), DEFAULT) | {
        "mode": "mean", "border": 9.0, "um_per_px": 0.8, "line_ends": 0.0, "vignette": 0.0,
    }  # fmt: skip
    inner = Window((64, 64), (512, 512), (128, 128))
    field = simulate_field(rng(1), values, window=inner)
    assert field.image.shape == (64, 64)
    assert field.border.min(initial=np.inf) > 50
    corner = simulate_field(rng(1), values, window=Window((64, 64), (512, 512), (0, 0)))
    assert corner.border.min() < 20


def test_a_field_without_any_cell_is_a_field():
    values = draw_parameters(rng(), DEFAULT) | {"density": 1e-3, "bare": 1e-3}
    field = simulate_field(rng(), values, (64, 64))
    labels = create_labels(field, LabelRules(), rng())
    assert len(field.radius) == len(labels.cells) == 0
    assert not labels.instances.any()
    assert labels.whole_masks().shape == (0, 64, 64)
