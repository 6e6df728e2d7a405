"""The runs of a sweep, one after the other, each in a workdir of its own."""

import dataclasses
import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from fluxseg.config import Config, config_from_dict, config_to_dict
from fluxseg.errors import FluxsegError, InterruptedRunError
from fluxseg.io.files import read_json
from fluxseg.training.sweep_plan import Member

logger = logging.getLogger(__name__)


def run_sweep(
    members: Sequence[Member], folder: Path, run: Callable[[Config, Path], object]
) -> dict[str, str]:
    """Run all members of a sweep that are not finished.

    Args:
        members: the runs.
        folder: gets `runs/NAME` for each, and the prepared crops that they share.
        run: trains, scores and reports a config in a workdir, or goes on with it.

    Returns:
        Name -> why it has failed, of those that have.

    Raises:
        InterruptedRunError: after SIGINT or SIGTERM, when everything is saved.
    """
    failures: dict[str, str] = {}
    waiting = [member for member in members if not is_finished(member, folder)]
    if done := len(members) - len(waiting):
        logger.info("%d of %d runs are finished already", done, len(members))
    for member in waiting:
        logger.info("Run %s", member.name)
        try:
            run(share_cache(member.config, folder), run_folder(folder, member))
        except InterruptedRunError:
            raise
        except FluxsegError as error:
            failures[member.name] = str(error)
            logger.warning("%s has failed: %s", member.name, error)
    return failures


def run_folder(folder: Path, member: Member) -> Path:
    """Return the workdir of a run."""
    return folder / "runs" / member.name


def is_finished(member: Member, folder: Path) -> bool:
    """Tell whether a run has its scores and its report, which is written last."""
    workdir = run_folder(folder, member)
    if not all((workdir / name).is_file() for name in ("scores.json", "report.html")):
        return False
    saved = config_from_dict(read_json(workdir / "config.json"))
    return saved == share_cache(member.config, folder)


def share_cache(config: Config, folder: Path) -> Config:
    """Let runs of equal data share their prepared crops, unless the config names a cache."""
    if config.data.cache:
        return config
    values = config_to_dict(dataclasses.replace(config.data, threads=0, workers=0))
    text = repr((values, config_to_dict(config.simulator)))
    digest = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
    cache = str(folder.resolve() / "caches" / digest)
    return dataclasses.replace(config, data=dataclasses.replace(config.data, cache=cache))
