"""What devices tell each other, read from compiled programs; many devices need only a compiler."""

import functools

import pytest

from experiments.studies import scaling
from experiments.studies.scaling import Collective, list_collectives

inspect_step = functools.cache(scaling.inspect_step)

TINY = ("--model", "tiny", "--tile", "32")
HLO = """
  %all-reduce.1 = s32[2,2]{1,0} all-reduce(%a), channel_id=1, to_apply=%add
  %b = (f32[3,4]{1,0}, /*index=1*/f32[]) all-reduce-start(%x, %y), channel_id=2
  %c = f32[3,4]{1,0} all-reduce-done(%b)
  ROOT %d.2 = bf16[8]{0} all-gather(%c), dimensions={0}
  %e = f32[5]{0} add(%all-reduce.7, %all-gather.8), metadata={op_name="all-reduce(x)"}
"""


def test_collectives_are_found_in_a_program():
    assert list_collectives(HLO) == [
        Collective("all-reduce", "s32", 4),
        Collective("all-reduce", "f32", 13),
        Collective("all-gather", "bf16", 8),
    ]
    assert [c.bytes for c in list_collectives(HLO)] == [16, 52, 16]


@pytest.mark.parametrize("count", [8, 64])
def test_a_step_holds_one_all_reduce_of_gradients_and_one_of_counts(count):
    step = inspect_step(count, *TINY)
    # The compiler sends gradients and the three sums of the loss together; integers stay integers.
    sums = Collective("all-reduce", "f32", step["parameters"] + 3)
    counts = Collective("all-reduce", "s32", 4)
    assert sorted(step["collectives"]["step"]) == [sums, counts]
    # One matrix for each example, and their sums.
    assert sorted(step["collectives"]["evaluation"]) == [
        Collective("all-gather", "s32", 4 * count),
        Collective("all-reduce", "f32", 3),
        counts,
    ]
