import dataclasses

import numpy as np
import pytest

from fluxseg.errors import ConfigError
from fluxseg.simulation.kinds import AVERAGES, MESOSCOPE, MODERATE
from fluxseg.simulation.ranges import (
    DEFAULT,
    FAMILIES,
    MODES,
    Range,
    draw_parameters,
)


def ranges_of(owner):
    pairs = ((field.name, getattr(owner, field.name)) for field in dataclasses.fields(owner))
    return {name: value for name, value in pairs if isinstance(value, Range)}


def test_every_value_that_is_drawn_lies_in_its_range():
    families = {family.name: family for family in FAMILIES}
    for number in range(200):
        values = draw_parameters(np.random.default_rng(number), DEFAULT)
        documented = ranges_of(DEFAULT) | ranges_of(families[values["family"]])
        assert set(values) == {*documented, "family", "mode"}
        for name, expected in documented.items():
            assert values[name] in expected, name


def test_families_and_modes_are_drawn_by_their_weights():
    drawn = [draw_parameters(np.random.default_rng(i), DEFAULT) for i in range(3000)]
    for number, mode in enumerate(MODES):
        share = np.mean([values["mode"] == mode for values in drawn])
        assert share == pytest.approx(DEFAULT.modes[number], abs=0.04)
    whole = sum(family.weight for family in FAMILIES)
    for family in FAMILIES:
        share = np.mean([values["family"] == family.name for values in drawn])
        assert share == pytest.approx(family.weight / whole, abs=0.04)


@pytest.mark.parametrize(
    "part", [MESOSCOPE, AVERAGES, MODERATE], ids=["mesoscope", "averages", "moderate"]
)
def test_the_ranges_of_an_instrument_are_part_of_the_default(part):
    for name, narrow in ranges_of(part).items():
        wide = ranges_of(DEFAULT)[name]
        assert wide.low <= narrow.low <= narrow.high <= wide.high, name
    families = {family.name: family for family in FAMILIES}
    for family in part.families:
        for name, narrow in ranges_of(family).items():
            wide = ranges_of(families[family.name])[name]
            assert wide.low <= narrow.low <= narrow.high <= wide.high, (family.name, name)


@pytest.mark.parametrize(("low", "high", "log"), [(2.0, 1.0, False), (0.0, 1.0, True)])
def test_a_range_that_cannot_be_drawn_from_is_refused(low, high, log):
    with pytest.raises(ConfigError, match="range"):
        Range(low, high, log)
