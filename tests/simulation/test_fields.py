import numpy as np

from fluxseg.simulation.fields import simulate_field
from fluxseg.simulation.optics import Window
from fluxseg.simulation.ranges import DEFAULT, MODES, draw_parameters


def rng(seed=0):
    return np.random.default_rng(seed)


def test_images_are_of_the_detectors_types_and_have_contrast():
    fields = [simulate_field(rng(seed), DEFAULT, (256, 256)) for seed in range(16)]
    for field in fields:
        assert field.image.shape == (256, 256)
        assert field.image.dtype == (np.uint8 if field.metadata["levels"] <= 255 else np.uint16)
        low, high = np.percentile(field.image, (1, 99.5))
        assert high > low + 5
        # More than a few per cent of saturated or empty pixels would be a broken detector.
        assert (field.image == field.image.max()).mean() < 0.06
    assert {field.image.dtype.name for field in fields} == {"uint8", "uint16"}
    assert {field.metadata["mode"] for field in fields} == set(MODES)


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
