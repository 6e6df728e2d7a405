"""A sweep: combinations of settings, and their runs, one after the other, each in its workdir."""

import ast
import dataclasses
import hashlib
import logging
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fluxseg.config import Config, config_from_dict, config_to_dict
from fluxseg.errors import ConfigError, FluxsegError, InterruptedRunError
from fluxseg.io.files import read_json
from fluxseg.io.names import distinct_name, safe_name

logger = logging.getLogger(__name__)

MOST_RUNS = 10_000
LONGEST_NAME = 120


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A base config and what is varied."""

    base: Config  # settings of all runs
    vary: Mapping[str, Sequence[Any]]  # dotted name -> values; all combinations are run
    random: int = 0  # run so many of the combinations, drawn at random; 0: all
    random_seed: int = 0  # another seed draws others


@dataclasses.dataclass(frozen=True)
class Member:
    """One run of a sweep."""

    name: str  # name of its folder
    settings: Mapping[str, Any]  # the varied settings, by dotted name
    config: Config  # all its settings


def parse_vary(texts: Iterable[str]) -> dict[str, tuple[Any, ...]]:
    """Parse varied settings of the command line, each `train.learning_rate=1e-3,2e-3`.

    Commas within brackets do not divide. Returns dotted name -> values. Raises `ConfigError` if a
    text is not of that form, or a setting comes twice.
    """
    found: dict[str, tuple[Any, ...]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        name = name.strip().removeprefix("config.")
        if not (name and equals and values.strip()):
            raise ConfigError(f"--vary {text!r} must be SETTING=VALUE,VALUE,...")
        if name in found:
            raise ConfigError(f"--vary {name} is given twice; write all its values after one =")
        # A comma that no bracket closes behind, before another one opens.
        parts = re.split(r",(?![^(\[]*[)\]])", values)
        found[name] = tuple(_parse_value(part.strip()) for part in parts)
    return found


def _parse_value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def plan_sweep(sweep: Sweep) -> list[Member]:
    """List the runs of a sweep: the last setting varies fastest, also of a random choice.

    Raises `ConfigError`, naming the setting, if one is unknown, has no value or an impossible one,
    or a value comes twice.
    """
    if not sweep.vary:
        raise ConfigError("a sweep needs at least one setting to vary (--vary SETTING=VALUE,...)")
    for name, values in sweep.vary.items():
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise ConfigError(f"{name}: a sweep needs a list of values to vary, got {values!r}")
        if any(value in values[:place] for place, value in enumerate(values)):
            raise ConfigError(f"{name}: a value comes twice among {list(values)}")
    shape = tuple(map(len, sweep.vary.values()))
    count = math.prod(shape)
    chosen: Iterable[int] = range(count)
    if sweep.random < 0 or sweep.random > count:
        raise ConfigError(f"random must be 0 to {count}, the combinations, got {sweep.random}")
    if sweep.random:
        rng = np.random.default_rng(sweep.random_seed)
        chosen = sorted(rng.choice(count, sweep.random, replace=False).tolist())
    elif count > MOST_RUNS:
        raise ConfigError(f"{count} combinations are too many; choose some with --random N")
    taken, members = set[str](), dict[Config, Member]()
    for number in chosen:
        places = zip(sweep.vary.items(), np.unravel_index(number, shape), strict=True)
        settings = {name: values[int(place)] for (name, values), place in places}
        config = _change_settings(sweep.base, settings)
        # As the config has them: a rate that was given as 1 is 1.0.
        settings = {name: operator.attrgetter(name)(config) for name in settings}
        name = distinct_name(_name_run(settings), taken)
        if config in members:
            raise ConfigError(f"{members[config].name} and {name} are the same run")
        members[config] = Member(name, settings, config)
    return list(members.values())


def _change_settings(config: Config, settings: Mapping[str, Any]) -> Config:
    values = config_to_dict(config)
    for name, value in settings.items():
        section, _, field = name.partition(".")
        if field not in values.get(section, {}):
            raise ConfigError(
                f"unknown setting {name}; it must be one of `fluxseg train --help`, such as "
                "train.learning_rate"
            )
        values[section][field] = value
    return config_from_dict(values)


def _name_run(settings: Mapping[str, Any]) -> str:
    """Name a run by what is varied: `learning_rate=0.001,seed=0`."""
    lasts = [name.rpartition(".")[2] for name in settings]
    texts = []
    for (name, value), last in zip(settings.items(), lasts, strict=True):
        shown = "x".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        texts.append(f"{last if lasts.count(last) == 1 else name}={shown}")
    name = safe_name(",".join(texts).replace("[", "(").replace("]", ")"))
    if len(name) > LONGEST_NAME:
        digest = hashlib.blake2b(",".join(texts).encode(), digest_size=4).hexdigest()
        name = f"{name[: LONGEST_NAME - 9]}-{digest}"
    return name


def run_sweep(
    members: Sequence[Member], folder: Path, run: Callable[[Config, Path], object]
) -> dict[str, str]:
    """Run all members of a sweep that are not finished; return why some have failed, by name.

    The folder gets `runs/NAME` for each, and the prepared crops that they share. `run` trains,
    scores and reports a config in a workdir, or goes on with it. `InterruptedRunError` after SIGINT
    or SIGTERM, when everything is saved.
    """
    failures: dict[str, str] = {}
    waiting = [member for member in members if not _is_finished(member, folder)]
    if done := len(members) - len(waiting):
        logger.info("%d of %d runs are finished already", done, len(members))
    for member in waiting:
        logger.info("Run %s", member.name)
        try:
            run(_share_cache(member.config, folder), run_folder(folder, member))
        except InterruptedRunError:
            raise
        except FluxsegError as error:
            failures[member.name] = str(error)
            logger.warning("%s has failed: %s", member.name, error)
    return failures


def run_folder(folder: Path, member: Member) -> Path:
    """Return the workdir of a run."""
    return folder / "runs" / member.name


def _is_finished(member: Member, folder: Path) -> bool:
    workdir = run_folder(folder, member)
    # The report is written last.
    if not all((workdir / name).is_file() for name in ("scores.json", "report.html")):
        return False
    saved = config_from_dict(read_json(workdir / "config.json"))
    return saved == _share_cache(member.config, folder)


def _share_cache(config: Config, folder: Path) -> Config:
    """Let runs of equal data share their prepared crops, unless the config names a cache."""
    if config.data.cache:
        return config
    values = config_to_dict(dataclasses.replace(config.data, threads=0, workers=0))
    text = repr((values, config_to_dict(config.simulator)))
    digest = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
    cache = str(folder.resolve() / "caches" / digest)
    return dataclasses.replace(config, data=dataclasses.replace(config.data, cache=cache))
