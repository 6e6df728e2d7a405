import dataclasses

import pytest

from fluxseg.arguments import read_sweep_file
from fluxseg.config import Config
from fluxseg.errors import ConfigError
from fluxseg.training.sweep import LONGEST_NAME, Sweep, parse_vary, plan_sweep


def plan(**options):
    vary = options.pop("vary", {"train.learning_rate": (1e-3, 2e-3), "train.seed": (0, 1, 2)})
    return plan_sweep(Sweep(Config(), vary, **options))


def test_all_combinations_in_order():
    members = plan()
    found = [(m.config.train.learning_rate, m.config.train.seed) for m in members]
    assert found == [(rate, seed) for rate in (1e-3, 2e-3) for seed in (0, 1, 2)]
    assert members[1].name == "learning_rate=0.001,seed=1"
    assert members[1].settings == {"train.learning_rate": 1e-3, "train.seed": 1}
    train = dataclasses.replace(Config().train, learning_rate=1e-3, seed=1)
    assert members[1].config == dataclasses.replace(Config(), train=train)


def test_a_random_choice_is_a_part_and_depends_on_the_seed_alone():
    everything = [member.name for member in plan()]
    chosen = [[m.name for m in plan(random=3, random_seed=seed)] for seed in (0, 0, 1, 2, 3, 4)]
    assert chosen[0] == chosen[1]
    assert len({tuple(names) for names in chosen}) > 1
    for names in chosen:
        assert len(set(names)) == 3
        assert [name for name in everything if name in names] == names


def test_the_command_line_is_parsed():
    texts = ["train.learning_rate=1e-3,2e-3", "model.features=(8,16),[4,8]", "augment.flips=true"]
    assert parse_vary([*texts, "config.loss.class_weights=none, balanced"]) == {
        "train.learning_rate": (1e-3, 2e-3),
        "model.features": ((8, 16), [4, 8]),
        "augment.flips": (True,),
        "loss.class_weights": ("none", "balanced"),
    }


def test_names_are_those_of_folders_and_distinct():
    vary = {"model.features": ((8, 16), (4, 8)), "data.source": ("simulator", "../a/b", "../a:b")}
    names = [member.name for member in plan(vary=vary)]
    assert names[0] == "features=8x16,source=simulator"
    assert len({name.casefold() for name in names}) == 6
    assert not any("/" in name or ":" in name for name in names)
    long = plan(vary={"data.source": ("x" * 300 + "a", "x" * 300 + "b")})
    assert len({member.name for member in long}) == 2
    assert all(len(member.name) <= LONGEST_NAME for member in long)


@pytest.mark.parametrize(
    ("vary", "message"),
    [
        ({}, "at least one setting"),
        ({"train.learning_rat": (1,)}, "unknown setting train.learning_rat"),
        ({"nothing.seed": (1,)}, "unknown setting nothing.seed"),
        ({"train": (1,)}, "unknown setting train"),
        ({"train.seed.x": (1,)}, "unknown setting train.seed.x"),
        ({"train.learning_rate": ("fast",)}, r"train\.learning_rate: expected `float`"),
        ({"train.learning_rate": (-1.0,)}, r"train\.learning_rate must be > 0"),
        ({"train.seed": ()}, r"train\.seed: a sweep needs a list"),
        ({"train.seed": "01"}, r"train\.seed: a sweep needs a list"),
        ({"train.seed": (1, 1)}, r"train\.seed: a value comes twice"),
        ({"train.seed": tuple(range(20_000))}, "too many"),
    ],
)
def test_bad_settings_are_named(vary, message):
    with pytest.raises(ConfigError, match=message):
        plan(vary=vary)


@pytest.mark.parametrize("number", [-1, 7])
def test_a_random_choice_of_an_impossible_size_is_refused(number):
    with pytest.raises(ConfigError, match="random must be 0 to 6"):
        plan(random=number)


@pytest.mark.parametrize("texts", [["train.seed"], ["=1"], ["train.seed="], ["a=1", "a=2"]])
def test_a_bad_command_line_is_refused(texts):
    with pytest.raises(ConfigError, match="--vary"):
        parse_vary(texts)


def test_a_sweep_file(tmp_path):
    path = tmp_path / "sweep.py"
    path.write_text(
        "from fluxseg.config import Config\n"
        "from fluxseg.training.sweep import Sweep\n"
        "def get_sweep():\n    return Sweep(Config(), {'train.seed': (4, 5)})\n"
    )
    assert [member.config.train.seed for member in plan_sweep(read_sweep_file(path))] == [4, 5]
    path.write_text("def get_sweep(): return 1")
    with pytest.raises(ConfigError, match="must return"):
        read_sweep_file(path)
    with pytest.raises(ConfigError, match="no such sweep file"):
        read_sweep_file(tmp_path / "absent.py")
