"""What a sweep consists of: combinations of settings, the config and the name of each run."""

import ast
import dataclasses
import hashlib
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fluxseg.config import Config, config_from_dict, config_to_dict
from fluxseg.errors import ConfigError
from fluxseg.io.names import distinct_name, safe_name

MOST_RUNS = 10_000
LONGEST_NAME = 120


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A base config and what is varied.

    Attributes:
        base: settings of all runs.
        vary: dotted name of a setting -> its values; all combinations are run.
        random: run so many of the combinations, drawn at random; 0: all.
        random_seed: another seed draws others.
    """

    base: Config
    vary: Mapping[str, Sequence[Any]]
    random: int = 0
    random_seed: int = 0


@dataclasses.dataclass(frozen=True)
class Member:
    """One run of a sweep.

    Attributes:
        name: name of its folder.
        settings: the varied settings, by dotted name.
        config: all its settings.
    """

    name: str
    settings: Mapping[str, Any]
    config: Config


def parse_vary(texts: Iterable[str]) -> dict[str, tuple[Any, ...]]:
    """Parse what the command line says of varied settings.

    Args:
        texts: each `train.learning_rate=1e-3,2e-3`; commas within brackets do not divide.

    Returns:
        Dotted name -> values.

    Raises:
        ConfigError: if a text is not of that form, or a setting comes twice.
    """
    found: dict[str, tuple[Any, ...]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        name = name.strip().removeprefix("config.")
        if not (name and equals and values.strip()):
            raise ConfigError(f"--vary {text!r} must be SETTING=VALUE,VALUE,...")
        if name in found:
            raise ConfigError(f"--vary {name} is given twice; write all its values after one =")
        found[name] = tuple(_parse_value(part) for part in _divide(values))
    return found


def _divide(text: str) -> list[str]:
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([") - (character in ")]")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def _parse_value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def plan_sweep(sweep: Sweep) -> list[Member]:
    """List the runs of a sweep.

    Args:
        sweep: base and varied settings.

    Returns:
        The runs, the last setting varying fastest; of a random choice in the same order.

    Raises:
        ConfigError: naming the setting, if one is unknown, has no value or an impossible one, or
            a value comes twice.
    """
    if not sweep.vary:
        raise ConfigError("a sweep needs at least one setting to vary (--vary SETTING=VALUE,...)")
    for name, values in sweep.vary.items():
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise ConfigError(f"{name}: a sweep needs a list of values to vary, got {values!r}")
        if any(value in values[:place] for place, value in enumerate(values)):
            raise ConfigError(f"{name}: a value comes twice among {list(values)}")
    count = math.prod(map(len, sweep.vary.values()))
    chosen: Iterable[int] = range(count)
    if sweep.random < 0 or sweep.random > count:
        raise ConfigError(f"random must be 0 to {count}, the combinations, got {sweep.random}")
    if sweep.random:
        rng = np.random.default_rng(sweep.random_seed)
        chosen = sorted(rng.choice(count, sweep.random, replace=False).tolist())
    elif count > MOST_RUNS:
        raise ConfigError(f"{count} combinations are too many; choose some with --random N")
    shape = tuple(map(len, sweep.vary.values()))
    short, taken, members = _short_names(sweep.vary), set[str](), []
    for number in chosen:
        places = np.unravel_index(number, shape)
        settings = {
            name: values[int(place)]
            for (name, values), place in zip(sweep.vary.items(), places, strict=True)
        }
        config = change_settings(sweep.base, settings)
        # As the config has them: a rate that was given as 1 is 1.0.
        settings = {name: _setting(config, name) for name in settings}
        name = name_run({short[key]: value for key, value in settings.items()})
        members.append(Member(distinct_name(name, taken), settings, config))
    for first, second in itertools.pairwise(sorted(members, key=lambda m: repr(m.config))):
        if first.config == second.config:
            raise ConfigError(f"{first.name} and {second.name} are the same run")
    return members


def change_settings(config: Config, settings: Mapping[str, Any]) -> Config:
    """Return a config with some settings replaced.

    Args:
        config: the others.
        settings: values by dotted name, such as `train.seed`.

    Raises:
        ConfigError: naming the setting, if it is unknown, of a wrong type or out of its range.
    """
    values = config_to_dict(config)
    for name, value in settings.items():
        *tables, field = name.split(".")
        table: Any = values
        for part in tables:
            table = table.get(part) if isinstance(table, dict) else None
        if not isinstance(table, dict) or field not in table or isinstance(table[field], dict):
            raise ConfigError(
                f"unknown setting {name}; it must be one of `fluxseg train --help`, such as "
                "train.learning_rate"
            )
        table[field] = value
    return config_from_dict(values)


def name_run(settings: Mapping[str, Any]) -> str:
    """Name a run by what is varied: `learning_rate=0.001,seed=0`."""
    texts = []
    for name, value in settings.items():
        shown = "x".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        texts.append(f"{name}={shown}")
    name = safe_name(",".join(texts).replace("[", "(").replace("]", ")"))
    if len(name) > LONGEST_NAME:
        digest = hashlib.blake2b(",".join(texts).encode(), digest_size=4).hexdigest()
        name = f"{name[: LONGEST_NAME - 9]}-{digest}"
    return name


def _short_names(names: Iterable[str]) -> dict[str, str]:
    lasts = [name.rpartition(".")[2] for name in names]
    return {
        name: last if lasts.count(last) == 1 else name
        for name, last in zip(names, lasts, strict=True)
    }


def _setting(config: Config, name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    return value
